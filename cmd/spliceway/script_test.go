// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"

	"github.com/spliceway/spliceway/loader"
	"github.com/spliceway/spliceway/userspace/config"
)

// output runs the program in this process.
func output(args ...string) (stdout, stderr string, status int) {
	var out, errs bytes.Buffer
	status = realMain(args, env{stdout: &out, stderr: &errs})
	return out.String(), errs.String(), status
}

// commands are the ones that can be run, from the structs that declare them.
func commands(t *testing.T) (*kong.Kong, []*kong.Node) {
	t.Helper()
	parser, err := kong.New(&cli{}, vars, kong.Writers(io.Discard, io.Discard),
		kong.Exit(func(int) { panic(exited{}) }))
	if err != nil {
		t.Fatal(err)
	}
	leaves := parser.Model.Leaves(true)
	if len(leaves) == 0 {
		t.Fatal("there are no commands")
	}
	return parser, leaves
}

// words lets texts be compared whose lines are broken differently.
func words(s string) string { return strings.Join(strings.Fields(s), " ") }

// A command's help has all of its flags and arguments, and what each is for. A
// flag that it does not have is exit status 2 and a hint, and nothing is done.
func TestHelpAndUsage(t *testing.T) {
	_, leaves := commands(t)
	for _, command := range leaves {
		t.Run(command.Path(), func(t *testing.T) {
			help, stderr, status := output(append(strings.Fields(command.Path()), "--help")...)
			if status != 0 || stderr != "" {
				t.Errorf("--help: exit status %d, standard error %q", status, stderr)
			}
			want := []string{command.Help}
			for _, flag := range slices.Concat(command.AllFlags(true)...) {
				want = append(want, "--"+flag.Name)
				if flag.Help == "" {
					t.Errorf("--%s has no help", flag.Name)
				}
			}
			for _, argument := range command.Positional {
				want = append(want, "<"+argument.Name+">", argument.Help)
			}
			for _, w := range want {
				if !strings.Contains(words(help), words(w)) {
					t.Errorf("the help has no %q:\n%s", w, help)
				}
			}

			stdout, stderr, status := output(append(strings.Fields(command.Path()), "--no-such-flag")...)
			if status != 2 || stdout != "" || stderr != "spliceway: unknown flag --no-such-flag\nTry \"spliceway --help\".\n" {
				t.Errorf("an unknown flag: exit status %d, standard output %q, standard error %q", status, stdout, stderr)
			}
		})
	}
}

// Without --config, each command that reads the file reads the packaged
// service's, and says which one is not there.
func TestDefaultConfigMissing(t *testing.T) {
	if _, err := os.Stat(defaultConfig); err == nil {
		t.Skipf("this host has %s", defaultConfig)
	}
	for _, args := range [][]string{{"run"}, {"routes"}, {"routes", "list"}, {"routes", "test", "a.test"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			stdout, stderr, status := output(args...)
			if status != 1 || stdout != "" || !strings.Contains(stderr, defaultConfig+": no such file") {
				t.Errorf("exit status %d, standard output %q, standard error %q", status, stdout, stderr)
			}
		})
	}
}

func TestVersionJSON(t *testing.T) {
	stdout, stderr, status := output("version", "--json")
	if status != 0 || stderr != "" {
		t.Fatalf("exit status %d, standard error %q", status, stderr)
	}
	var got any
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatalf("%v: %s", err, stdout)
	}
	b := buildInfo()
	want := any(map[string]any{"version": b.Version, "revision": b.Revision, "go": b.GoVersion})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestProbeJSON(t *testing.T) {
	stdout, stderr, status := output("probe", "--json")
	var r loader.Report
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		t.Fatalf("%v: %s", err, stdout)
	}
	if want := map[bool]int{true: 0, false: 1}[r.OK()]; status != want || stderr != "" {
		t.Errorf("exit status %d, want %d: %s; standard error %q", status, want, r.Summary(), stderr)
	}
	// The names of the keys are for others to rely on.
	var top map[string]any
	if err := json.Unmarshal([]byte(stdout), &top); err != nil {
		t.Fatal(err)
	}
	checkKeys(t, "report", top, "kernel", "machine", "features")
	features, _ := top["features"].([]any)
	if len(features) == 0 {
		t.Error("there are no features")
	}
	for _, f := range features {
		feature, _ := f.(map[string]any)
		checkKeys(t, fmt.Sprint(feature["name"]), feature, "name", "for", "since", "status", "?usedBy", "?required", "?without", "?detail")
	}
}

// checkKeys wants each key with a value, those with a question mark if at all,
// and no others.
func checkKeys(t *testing.T, what string, object map[string]any, names ...string) {
	t.Helper()
	known := map[string]bool{}
	for _, name := range names {
		name, optional := strings.CutPrefix(name, "?")
		known[name] = true
		if value := object[name]; !optional && (value == nil || value == "") {
			t.Errorf("%s: no %q", what, name)
		}
	}
	for key := range object {
		if !known[key] {
			t.Errorf("%s: unknown key %q", what, key)
		}
	}
}

func readme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// parseSnippet checks a part of a file; what it lacks is put to it.
func parseSnippet(snippet string) error {
	if !regexp.MustCompile(`(?m)^endpoints:`).MatchString(snippet) {
		snippet += "\nendpoints: [{name: a, url: tls://a.test, upstream: {url: tls://127.0.0.1:1}}]\n"
	}
	_, err := config.Parse("README.md", []byte(snippet))
	return err
}

func TestREADMESnippetsAreRight(t *testing.T) {
	blocks := regexp.MustCompile("(?ms)^```ya?ml\n(.*?)^```$").FindAllStringSubmatch(readme(t), -1)
	if len(blocks) == 0 {
		t.Fatal("no ```yaml block")
	}
	for _, block := range blocks {
		if err := parseSnippet(block[1]); err != nil {
			t.Errorf("%v in:\n%s", err, block[1])
		}
	}
}

// addKeys adds the path of every key of the file below t, such as
// "endpoints.upstream.url".
func addKeys(all map[string]reflect.Kind, prefix string, t reflect.Type) {
	for t.Kind() == reflect.Slice || t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || t.PkgPath() != reflect.TypeFor[config.Config]().PkgPath() {
		return
	}
	for i := range t.NumField() {
		if tag := t.Field(i).Tag.Get("yaml"); tag != "-" {
			all[prefix+tag] = t.Field(i).Type.Kind()
			addKeys(all, prefix+tag+".", t.Field(i).Type)
		}
	}
}

// schema has every key's path.
func schema() map[string]reflect.Kind {
	all := map[string]reflect.Kind{}
	addKeys(all, "", reflect.TypeFor[config.Config]())
	return all
}

// codeSpans are the `...` of a text without blocks.
func codeSpans(text string) []string {
	text = regexp.MustCompile("(?ms)^```.*?^```$").ReplaceAllString(text, "")
	var spans []string
	for _, m := range regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(text, -1) {
		spans = append(spans, m[1])
	}
	return spans
}

// The table of keys has every section of the file, and no key or value that the
// section does not take.
func TestREADMETableOfKeys(t *testing.T) {
	_, table, ok := strings.Cut(readme(t), "| key | what |\n|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	if !ok || table == "" {
		t.Fatal("no table of keys")
	}
	all := schema()
	listed := map[string]bool{}
	for row := range strings.Lines(table) {
		first, second, _ := strings.Cut(strings.TrimPrefix(row, "|"), "|")
		for _, section := range codeSpans(first) {
			listed[section] = true
			for _, span := range codeSpans(second) {
				if !takes(all, section, span) {
					t.Errorf("%s: %q is neither a key below it nor a value of one", section, span)
				}
			}
		}
	}
	for key := range all {
		if !strings.Contains(key, ".") && !listed[key] {
			t.Errorf("%s is not in the table", key)
		}
		delete(listed, key)
	}
	for key := range listed {
		t.Errorf("there is no key %s", key)
	}
}

// takes tells whether a section has a key of that name at some depth, or a
// string of its own that may be that value.
func takes(all map[string]reflect.Kind, section, span string) bool {
	for key, kind := range all {
		rest, ok := strings.CutPrefix(key, section+".")
		switch {
		case !ok:
		case rest == span || strings.HasSuffix(rest, "."+span):
			return true
		case kind == reflect.String && !strings.Contains(rest, ".") && parseSnippet(fmt.Sprintf("%s: {%s: %q}", section, rest, span)) == nil:
			return true
		}
	}
	return false
}

// A key that the text names by its path is there, and takes the value that
// stands behind it: `log.format: text`.
func TestREADMEKeysInTheText(t *testing.T) {
	all := schema()
	for _, span := range codeSpans(readme(t)) {
		path, value, hasValue := strings.Cut(span, ": ")
		section, rest, nested := strings.Cut(path, ".")
		if _, ok := all[section]; !ok || !nested && !hasValue {
			continue
		}
		if _, ok := all[path]; !ok {
			t.Errorf("%s: no such key", span)
			continue
		}
		if nested {
			value = fmt.Sprintf("{%s: %s}", rest, value)
		}
		if !hasValue || section == "endpoints" {
			continue
		}
		if err := parseSnippet(section + ": " + value); err != nil {
			t.Errorf("%s: %v", span, err)
		}
	}
}

// Every command line of the text is one that the program takes.
func TestREADMECommands(t *testing.T) {
	parser, _ := commands(t)
	text := readme(t)
	lines := codeSpans(text)
	for _, m := range regexp.MustCompile(`(?m)^\$ (?:sudo )?(spliceway .*)$`).FindAllStringSubmatch(text, -1) {
		lines = append(lines, m[1])
	}
	for _, line := range lines {
		args, ok := strings.CutPrefix(line, "spliceway ")
		if !ok {
			continue
		}
		args, _, _ = strings.Cut(args, " #")
		if _, err := parse(parser, strings.Fields(args)); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
}
