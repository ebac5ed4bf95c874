// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/spliceway/spliceway/userspace/api/v1alpha1"
)

func secret(name string) string {
	return "apiVersion: v1\nkind: Secret\nmetadata: {name: " + name + "}\n"
}

// TestDocuments are found however they are put together, and have their places in the
// file.
func TestDocuments(t *testing.T) {
	asJSON := func(name string) string {
		return `{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "` + name + `"}}`
	}
	for _, tt := range []struct {
		name, text     string
		want, problems []string
	}{
		{"none", "", nil, nil},
		{"comments only", "# a\n---\n# b\n--- # c\n\n---\n", nil, nil},
		{"comments between", "# a\n---\n# b\n---\n" + secret("a") + "---\n# c\n---\n" + secret("b") + "# d\n",
			[]string{"f:5:1 Secret default/a", "f:11:1 Secret default/b"}, nil},
		{"Windows lines", strings.ReplaceAll(secret("a")+"---\n"+secret("b"), "\n", "\r\n"),
			[]string{"f:1:1 Secret default/a", "f:5:1 Secret default/b"}, nil},
		{"old Macintosh lines", strings.ReplaceAll(secret("a")+"---\n"+secret("b"), "\n", "\r"),
			[]string{"f:1:1 Secret default/a", "f:5:1 Secret default/b"}, nil},
		{"byte order marks", "\uFEFF" + secret("a") + "\uFEFF---\n" + secret("b"),
			[]string{"f:1:1 Secret default/a", "f:5:1 Secret default/b"}, nil},
		{"UTF-16", "\xFF\xFE" + strings.Join(strings.Split(secret("a")+"---\n"+secret("b"), ""), "\x00") + "\x00",
			[]string{"f:1:1 Secret default/a", "f:5:1 Secret default/b"}, nil},
		{"ends and directives", "%YAML 1.1\n---\n" + secret("a") + "...\n# c\n%YAML 1.1\n---\n" + secret("b") + "...\n",
			[]string{"f:3:1 Secret default/a", "f:10:1 Secret default/b"}, nil},
		{"ends only", "...\n...\n# c\n...\n" + secret("a"), []string{"f:5:1 Secret default/a"}, nil},
		{"too many values", secret("a") + "---\n" + strings.Repeat("-\n", maxValues) + "---\n" + secret("b"),
			[]string{"f:1:1 Secret default/a", fmt.Sprintf("f:%d:1 Secret default/b", maxValues+6)}, []string{"f:4:1: has more than 4194304 lines and values: split it into several documents"}},
		{"no line at the end", strings.TrimSpace(secret("a")) + "\n---", []string{"f:1:1 Secret default/a"}, nil},
		{"text behind the mark", "--- {apiVersion: v1, kind: Secret, metadata: {name: a}}\n--- {apiVersion: v1, kind: Secret, metadata: {name: b}}",
			[]string{"f:1:5 Secret default/a", "f:2:5 Secret default/b"}, nil},
		{"marks that are none", "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData:\n  a: |\n    ---\n  b: |\n    ...\n  c: >-\n   ---x\n",
			[]string{"f:1:1 Secret default/a"}, nil},
		{"broken ones between", secret("a") + "---\nx: [\n---\n" + secret("b") + "---\n\t- x\n---\n" + secret("c"),
			[]string{"f:1:1 Secret default/a", "f:7:1 Secret default/b", "f:13:1 Secret default/c"},
			[]string{"f:5:1: no YAML from here on to the next document: did not find expected node content", "f:11:1: no YAML from here on to the next document: found character that cannot start any token"}},
		{"JSON", "\uFEFF\n " + asJSON("a"), []string{"f:2:2 Secret default/a"}, nil},
		{"JSON with tabs", "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Secret\",\n\t\"metadata\": {\"name\": \"a\"}\n}\n", []string{"f:1:1 Secret default/a"}, nil},
		{"JSON, one behind the other", asJSON("a") + asJSON("b") + "\n" + asJSON("c") + "\n---\n" + secret("d"),
			[]string{"f:1:1 Secret default/a", "f:1:66 Secret default/b", "f:2:1 Secret default/c", "f:4:1 Secret default/d"}, nil},
		{"something behind JSON", asJSON("a") + "\nx", []string{"f:1:1 Secret default/a"}, []string{"f:2:1: expected an object with apiVersion, kind and metadata"}},
		{"flow style", "{apiVersion: v1, kind: Secret, metadata: {name: a}}\n---\n{apiVersion: v1, kind: Secret, metadata: {name: b}}",
			[]string{"f:1:1 Secret default/a", "f:3:1 Secret default/b"}, nil},
		{"lists in lists", "kind: List\napiVersion: v1\nitems:\n- kind: List\n  apiVersion: v1\n  items:\n  - {apiVersion: v1, kind: Secret, metadata: {name: a}}\n- {kind: List, items: null}\n",
			[]string{"f:7:5 Secret default/a"}, nil},
		{"a list without items", "kind: List\nitmes: []", nil, []string{"f:1:1: items: a List has its objects in the list items"}},
		{"an anchor of another document", "apiVersion: v1\nkind: Secret\nmetadata: &m {name: a}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: *m\n",
			[]string{"f:1:1 Secret default/a"}, []string{"f:4:1: no YAML from here on to the next document: unknown anchor 'm' referenced"}},
		{"an alias of itself", "apiVersion: v1\nkind: Secret\nmetadata: &m {name: a, labels: *m}\n", nil, []string{"f:1:1: nested too deeply: at most 100 levels are taken"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := Parse("f", []byte(tt.text))
			var got []string
			for _, o := range s.Objects {
				got = append(got, o.Pos.String()+" "+o.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			var problems []string
			for _, p := range s.Problems {
				problems = append(problems, p.Error())
			}
			if diff := cmp.Diff(tt.problems, problems); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if broken := len(s.BrokenFiles) > 0; broken != (len(tt.problems) > 0) {
				t.Errorf("broken files %v", s.BrokenFiles)
			}
		})
	}
}

// TestScalars are taken for what the API server takes them for, or not at all.
func TestScalars(t *testing.T) {
	service := func(port string) string {
		return "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 1, targetPort: " + port + "}]}"
	}
	port := func(port string) string {
		return "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: " + port + "}]}"
	}
	data := func(value string) string { return secret("s") + "data: {k: " + value + "}" }
	cloud := func(field string) string {
		return "apiVersion: ngrok.k8s.ngrok.com/v1alpha1\nkind: CloudEndpoint\nmetadata: {name: c}\nspec: {url: x, " + field + "}"
	}
	meta := func(field string) string { return "apiVersion: v1\nkind: Secret\nmetadata: {name: s, " + field + "}" }
	const digits = "a whole number in plain decimal digits"
	for _, tt := range []struct{ name, text, want string }{
		{"octal number", port("0443"), digits + `, found "0443"`},
		{"new octal number", port("0o443"), digits},
		{"hexadecimal number", port("0x1bb"), digits},
		{"number with an underscore", port("1_000"), digits},
		{"number with a fraction", port("443.0"), digits},
		{"number in quotes", port(`"443"`), digits},
		{"number too large", port("4294967739"), digits},
		{"octal number or string", service("010"), digits + `, or a string, found "010"`},
		{"fraction or string", service("1.5"), digits + ", or a string"},
		{"true or string", service("true"), digits + ", or a string"},
		{"list or string", service("[1]"), digits + ", or a string, found a list"},
		{"large number or string", service("4294967739"), digits + ", or a string"},
		{"number for base64", data("12345678"), "expected a string of base64, found something else: put it in quotes"},
		{"true for base64", data("true"), "expected a string of base64"},
		{"base64 with blanks", data("'YWFh YWFh'"), "expected base64"},
		{"binary for base64", data("!!binary YWFhYWFh"), "expected a string of base64"},
		{"yes for true", cloud("poolingEnabled: yes"), `expected true or false, found "yes"`},
		{"text for true", cloud(`poolingEnabled: "true"`), "expected true or false"},
		{"number for text", cloud("description: 1"), `expected a string, found "1": put it in quotes`},
		{"time for text", cloud("description: 2026-01-01"), `expected a string, found "2026-01-01": put it in quotes`},
		{"binary for text", cloud("description: !!binary YQ=="), "expected a string"},
		{"text for a policy", cloud("trafficPolicy: {inline: text}"), `spec.trafficPolicy.inline: CloudEndpoint default/c: expected a mapping, found "text"`},
		{"list for a policy", cloud("trafficPolicy: {inline: []}"), "expected a mapping, found a list"},
		{"number for a policy", cloud("trafficPolicy: {inline: 1}"), `expected a mapping, found "1"`},
		{"tag in a policy", cloud("trafficPolicy: {inline: {a: !env b}}"), "spec.trafficPolicy.inline.a: CloudEndpoint default/c: the tag !env is not supported"},
		{"tag with a wrong value", cloud("trafficPolicy: {inline: {a: !!int b}}"), "expected a value of the kind int"},
		{"infinite number", cloud("metadata: {a: .inf}"), "expected a number that JSON has"},
		{"nothing in a list", cloud("bindings: [null]"), "spec.bindings[0]: CloudEndpoint default/c: a value is needed"},
		{"empty text of several", cloud(`bindings: [""]`), "expected one of public, internal, kubernetes"},
		{"no time", meta("creationTimestamp: yesterday"), `expected a time such as "2006-01-02T15:04:05Z"`},
		{"a day for a time", meta("creationTimestamp: 2026-01-02"), `expected a time such as "2006-01-02T15:04:05Z", found "2026-01-02"`},
		{"time", meta("creationTimestamp: 2026-01-02T03:04:05Z"), ""},
		{"no time yet", meta("creationTimestamp: null"), ""},
		{"aliases as key and value", "apiVersion: v1\nkind: Secret\nmetadata: {&n name: &v s, labels: {*n : *v }}", ""},
		{"empty base64", data("''"), ""},
		{"nothing for base64", data(""), ""},
		{"signed number", port("+443"), ""},
		{"string in another style", port("1") + "\nmetadata2: x", `unknown field "metadata2", did you mean "metadata"?`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := Parse("f.yaml", []byte(tt.text))
			if tt.want == "" && (len(s.Problems) > 0 || len(s.Objects) != 1) || !strings.Contains(s.Problems.Error(), tt.want) {
				t.Errorf("got %v, want %s", s.Problems, tt.want)
			}
		})
	}
}

func TestSurrogates(t *testing.T) {
	s := Parse("f.json", []byte(`{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "\ud83d\uDE00 \\ud83d\\ude00 \u00e9\/"}}`))
	if len(s.Objects) != 1 {
		t.Fatal(s.Problems)
	}
	if got, want := s.Objects[0].Value.(*corev1.ConfigMap).Data["k"], "😀 \\ud83d\\ude00 é/"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestAliases are told where they stand, and read as what they stand for.
func TestAliases(t *testing.T) {
	s := Parse("f.yaml", []byte(`apiVersion: ngrok.k8s.ngrok.com/v1alpha1
kind: AgentEndpoint
metadata:
  name: &k inline
  annotations: {p: &u "tls://b:1"}
spec:
  url: tls://a.test
  upstream: {url: *u}
  trafficPolicy:
    *k : {on_tcp_connect: []}
`))
	if len(s.Objects) != 1 {
		t.Fatal(s.Problems)
	}
	o := s.Objects[0]
	if got := o.Value.(*v1alpha1.AgentEndpoint).Spec.Upstream.URL; got != "tls://b:1" {
		t.Errorf("URL %q", got)
	}
	if got := o.At("spec", "upstream", "url").String(); got != "f.yaml:8:19" {
		t.Errorf("the alias is at %s", got)
	}
	if n := o.Node("spec", "upstream", "url"); n == nil || n.Value != "tls://b:1" {
		t.Errorf("node %v", n)
	}
	if n := o.Node("spec", "trafficPolicy", "inline"); n == nil || n.Line != 10 {
		t.Errorf("node %v", n)
	}
}

// TestWhatIsToldIsBounded, and of one line, whatever is in a file.
func TestWhatIsToldIsBounded(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	var fields strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&fields, "f%d: 1\n", i)
	}
	for _, text := range []string{
		secret(long),
		secret(`"a\nb\e[31m"`),
		"apiVersion: v1\nkind: " + long,
		"apiVersion: v1\nkind: \"a\\nb\"\nmetadata: {name: \"a\\nb\"}",
		"apiVersion: " + long + "\nkind: Secret",
		"apiVersion: gateway.networking.k8s.io/" + long + "\nkind: Gateway\nmetadata: {name: a}",
		secret("a") + fields.String(),
		secret("a") + long + "y: 1\n",
		secret("a") + "\"y\\nz\": 1\n",
		secret("a") + "stringData: {\"y\\n" + long + "\": 1}\n",
		"a: *" + long,
		"apiVersion: ngrok.k8s.ngrok.com/v1alpha1\nkind: AgentEndpoint\nmetadata: {name: a}\nspec: {url: x, upstream: {url: y}, bindings: [" + long + "]}",
	} {
		s := Parse("f.yaml", []byte(text))
		told := 0
		for _, p := range s.Problems {
			told += len(p.Error())
			if strings.ContainsAny(p.Error(), "\n\x1b") {
				t.Errorf("more than a line: %q", p.Error())
			}
		}
		for _, w := range s.Warnings {
			told += len(w.Text)
			if strings.ContainsAny(w.Text, "\n\x1b") {
				t.Errorf("more than a line: %q", w.Text)
			}
		}
		if told == 0 || told > 10_000 {
			t.Errorf("%.60q: %d bytes are told", text, told)
		}
		for _, k := range s.Broken {
			if len(k.Name) > 253 {
				t.Errorf("%.60q is kept as a name", k.Name)
			}
		}
	}
}

// TestOtherKinds are warned of; one that is meant for this agent by its name.
func TestOtherKinds(t *testing.T) {
	s := Parse("f.yaml", []byte("apiVersion: ngrok.k8s.ngrok.com/v1alpha1\nkind: AgentEndpiont\nmetadata: {name: a}\n---\napiVersion: ngrok.k8s.ngrok.com/v1alpha1\nkind: Domain\nmetadata: {name: a}\n"))
	want := []string{
		`f.yaml:1:1: AgentEndpiont a: objects of apiVersion ngrok.k8s.ngrok.com/v1alpha1 are not used, did you mean "AgentEndpoint"?`,
		"f.yaml:5:1: Domain a: objects of apiVersion ngrok.k8s.ngrok.com/v1alpha1 are not used",
	}
	if diff := cmp.Diff(want, list(s.Warnings)); diff != "" || len(s.Problems) > 0 {
		t.Errorf("-want +got:\n%s%v", diff, s.Problems)
	}
}

// TestAFileIsReadOnce, though several paths lead to it.
func TestAFileIsReadOnce(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.yaml")
	if err := os.WriteFile(file, []byte(secret("a")), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "b.yaml")
	if err := os.Symlink("a.yaml", link); err != nil {
		t.Fatal(err)
	}
	s := Load([]string{file, dir, dir + "/../" + filepath.Base(dir)})
	if len(s.Problems) > 0 || len(s.Objects) != 1 {
		t.Errorf("%d objects, %v", len(s.Objects), s.Problems)
	}
	if diff := cmp.Diff([]string{file, dir, file, link, dir + "/../" + filepath.Base(dir), file, link}, s.Files); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestManyValues of one document are no reason to refuse it: that is for aliases.
func TestManyValues(t *testing.T) {
	data := "apiVersion: v1\nkind: List\nitems:\n" + strings.Repeat("- {apiVersion: v1, kind: Event, metadata: {name: a}}\n", 120_000)
	if s := Parse("f.yaml", []byte(data)); len(s.Problems) > 0 || len(s.Warnings) != 120_000 {
		t.Errorf("%d warnings, %v", len(s.Warnings), s.Problems)
	}
}

// TestAliasesOfAllDocuments are bounded together.
func TestAliasesOfAllDocuments(t *testing.T) {
	one := "a: &a [x, x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: [*c, *c, *c, *c, *c, *c, *c, *c, *c, *c]\n---\n"
	s := Parse("f.yaml", []byte(strings.Repeat(one, 1000)))
	if len(s.Problems) != 1000 || !strings.Contains(s.Problems[999].Msg, "too large once aliases are written out") {
		t.Errorf("%d problems: %v", len(s.Problems), s.Problems[len(s.Problems)-1])
	}
}
