// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
)

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(deploy, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestDashboardMetrics checks that the dashboard asks for metrics that there are, by labels
// that they have.
func TestDashboardMetrics(t *testing.T) {
	labels := map[string][]string{
		"process_open_fds": nil, "process_resident_memory_bytes": nil, // of the process
	}
	row := regexp.MustCompile("(?m)^\\| `(spliceway_[a-z_]+)` \\| (\\w+) \\| ([^|]*) \\|")
	for _, m := range row.FindAllStringSubmatch(read(t, "../docs/metrics.md"), -1) {
		list := strings.FieldsFunc(m[3], func(r rune) bool { return r == ',' || r == ' ' })
		labels[m[1]] = list
		if m[2] == "histogram" {
			labels[m[1]+"_bucket"] = append(list, "le")
		}
	}
	var board struct {
		Panels []struct {
			Title   string
			ID      int
			GridPos struct{ H, W, X, Y int }
			Targets []struct{ Expr string }
		}
		Templating struct {
			List []struct {
				Name  string
				Query any
			}
		}
	}
	if err := json.Unmarshal([]byte(read(t, "grafana/spliceway.json")), &board); err != nil {
		t.Fatal(err)
	}
	metric := regexp.MustCompile(`\b((?:spliceway|process|go)_[a-z_]+)(?:\{([^}]*)\})?`)
	label := regexp.MustCompile(`([a-z_]+)=~?"`)
	by := regexp.MustCompile(`by \(([a-z_, ]+)\)`)
	used := make(map[string]bool)
	check := func(where, expr string) {
		known := []string{"instance", "job"} // of the scrape
		for _, m := range metric.FindAllStringSubmatch(expr, -1) {
			has, ok := labels[m[1]]
			if !ok {
				t.Errorf("%s: docs/metrics.md has no %s", where, m[1])
			}
			used[m[1]] = true
			known = append(known, has...)
			for _, l := range label.FindAllStringSubmatch(m[2], -1) {
				if l[1] != "instance" && l[1] != "job" && !slices.Contains(has, l[1]) {
					t.Errorf("%s: %s has no label %s", where, m[1], l[1])
				}
			}
		}
		for _, m := range by.FindAllStringSubmatch(expr, -1) {
			for l := range strings.SplitSeq(m[1], ", ") {
				if !slices.Contains(known, l) {
					t.Errorf("%s: nothing in %s has a label %s", where, expr, l)
				}
			}
		}
	}
	ids := make(map[int]bool)
	for _, p := range board.Panels {
		if ids[p.ID] {
			t.Errorf("panel %q: its ID is another's", p.Title)
		}
		ids[p.ID] = true
		if p.GridPos.X+p.GridPos.W > 24 || p.GridPos.W == 0 {
			t.Errorf("panel %q: its place is out of the grid", p.Title)
		}
		for _, target := range p.Targets {
			check("panel "+p.Title, target.Expr)
		}
	}
	for _, v := range board.Templating.List {
		if q, ok := v.Query.(map[string]any); ok {
			name, _, _ := strings.Cut(strings.TrimPrefix(q["query"].(string), "label_values("), ",")
			check("variable "+v.Name, name)
		}
	}
	if len(used) < 20 {
		t.Errorf("only %d metrics are used: are the expressions still found?", len(used))
	}
}

// TestContainerfile checks what can be checked without a container engine: what is copied is
// there, all that is built is copied, and the pod's arguments follow the entry point.
func TestContainerfile(t *testing.T) {
	text := strings.ReplaceAll(read(t, "Containerfile"), "\\\n", " ")
	root := filepath.Join(deploy, "..")
	var copied, stages []string
	last := make(map[string]string)
	for line := range strings.SplitSeq(text, "\n") {
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		last[words[0]] = strings.TrimSpace(strings.TrimPrefix(line, words[0]))
		switch words[0] {
		case "FROM":
			stages = append(stages, words[len(words)-1])
		case "COPY":
			if strings.HasPrefix(words[1], "--from=") {
				if stage := strings.TrimPrefix(words[1], "--from="); !slices.Contains(stages, stage) {
					t.Errorf("%s: there is no such stage before it", line)
				}
				continue
			}
			for _, source := range words[1 : len(words)-1] {
				if _, err := os.Stat(filepath.Join(root, source)); err != nil {
					t.Errorf("%s: %v", line, err)
				}
				copied = append(copied, source)
			}
		case "ARG", "RUN", "WORKDIR", "LABEL", "USER", "ENTRYPOINT", "CMD":
		default:
			t.Errorf("what is %s?", words[0])
		}
	}
	if stages[len(stages)-1] != "scratch" || last["USER"] != "0:0" {
		t.Errorf("the image is made from %s, and runs as %s", stages[len(stages)-1], last["USER"])
	}
	out, err := exec.Command("go", "-C", root, "list", "-deps", "-f", "{{with .Module}}{{if .Main}}{{$.Dir}}{{end}}{{end}}", "./cmd/spliceway").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	top, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	for dir := range strings.FieldsSeq(string(out)) {
		rel, err := filepath.Rel(top, dir)
		if err != nil {
			t.Fatal(err)
		}
		if first, _, _ := strings.Cut(filepath.ToSlash(rel), "/"); !slices.Contains(copied, first) {
			t.Errorf("%s is built, and not copied", rel)
		}
	}
	if last["ENTRYPOINT"] != `["/bin/spliceway"]` || !strings.Contains(text, "/out/bin/spliceway ") {
		t.Errorf("the entry point is %s: is that where the agent is?", last["ENTRYPOINT"])
	}
	var command []string
	if err := json.Unmarshal([]byte(last["CMD"]), &command); err != nil {
		t.Fatal(err)
	}
	c := rendered(t, "")["DaemonSet"].(*appsv1.DaemonSet).Spec.Template.Spec.Containers[0]
	if len(c.Command) > 0 || c.Args[0] != command[0] {
		t.Errorf("the pod runs %v %v, and the image %v", c.Command, c.Args, command)
	}
	goVersion := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(read(t, "../go.mod"))[1]
	if !strings.Contains(text, "golang:"+goVersion+"-") {
		t.Errorf("go.mod wants Go %s, and the image is built with another", goVersion)
	}
}
