// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spliceway/spliceway/testenv/kernel/guest"
)

// consoleTail is how many lines of the console a report shows of a machine that
// died.
const consoleTail = 40

// report is what one kernel's run has shown, from [newReport]. Every event goes in
// by event, then finish is called.
type report struct {
	progress io.Writer
	kernel   string    // as the caller named it
	release  string    // as the machine did; empty: it did not come up
	packages []*result // all that were to run
	problems []string  // of the machine, not of a test
	console  string    // its end, if it matters
}

// result is of one package.
type result struct {
	name   string
	output strings.Builder
	exit   *guest.Exit // nil: it did not end, or did not begin
	tests  []*testResult
}

// testResult is of one test or subtest.
type testResult struct {
	name, action string // pass, fail, skip; empty: it did not end
	output       strings.Builder
}

// newReport also writes a line for each package that ends to progress.
func newReport(progress io.Writer, kernel string, packages []string) *report {
	r := &report{progress: progress, kernel: kernel}
	for _, name := range packages {
		r.packages = append(r.packages, &result{name: name})
	}
	return r
}

func (r *report) event(e guest.Event) {
	if e.Booted != "" {
		r.release = e.Booted
		return
	}
	i := slices.IndexFunc(r.packages, func(p *result) bool { return p.name == e.Package })
	if i < 0 {
		r.problems = append(r.problems, fmt.Sprintf("the guest reports of %q, which it was not to test", e.Package))
		return
	}
	p := r.packages[i]
	if e.Exit == nil {
		p.output.WriteString(e.Output + "\n")
		return
	}
	p.exit = e.Exit
	p.parse()
	fmt.Fprintf(r.progress, "%s: %-20s %s\n", r.kernel, p.name, p.verdict())
}

// complaint is a line by which a kernel reports a bug in itself.
var complaint = regexp.MustCompile(`(?m)^\[[^\]]*\] ((WARNING|BUG|Oops|Kernel panic|general protection fault)\b.*)$`)

// finish takes how the machine ended and what was on its console.
func (r *report) finish(err error, console string) {
	ran := 0
	for _, p := range r.packages {
		if p.exit == nil {
			p.parse()
		}
		ran += len(p.tests)
	}
	if err == nil && ran == 0 {
		r.problems = append(r.problems, "no test ran: does -run match any?") // or a mistyped one would be a success
	}
	if err != nil {
		r.problems = append(r.problems, err.Error())
		lines := strings.Split(strings.TrimSpace(console), "\n")
		r.console = strings.Join(lines[max(0, len(lines)-consoleTail):], "\n")
	}
	for _, m := range complaint.FindAllStringSubmatch(console, -1) {
		r.problems = append(r.problems, "the kernel says: "+m[1])
	}
}

// parse has the go command, which knows its own output, take it apart.
func (p *result) parse() {
	cmd := exec.Command("go", "tool", "test2json")
	cmd.Stdin = strings.NewReader(p.output.String())
	out, err := cmd.Output()
	if err != nil {
		p.tests = append(p.tests, &testResult{name: "go tool test2json: " + err.Error(), action: "fail"})
	}
	byName := make(map[string]*testResult)
	for line := range strings.Lines(string(out)) {
		var e struct{ Action, Test, Output string }
		if json.Unmarshal([]byte(line), &e) != nil || e.Test == "" {
			continue
		}
		t := byName[e.Test]
		if t == nil {
			t = &testResult{name: e.Test}
			byName[e.Test] = t
			p.tests = append(p.tests, t)
		}
		switch e.Action {
		case "pass", "fail", "skip":
			t.action = e.Action
		case "output":
			t.output.WriteString(e.Output)
		}
	}
}

func (p *result) count(action string) (n int) {
	for _, t := range p.tests {
		if t.action == action {
			n++
		}
	}
	return n
}

// verdict is one word or a few. A package without a test passes like with go test.
func (p *result) verdict() string {
	switch {
	case p.exit == nil && p.output.Len() == 0:
		return "did not run"
	case p.exit == nil:
		return "did not end"
	case p.exit.Status != "" || p.count("fail")+p.count("") > 0:
		return "FAIL"
	}
	return "ok"
}

func (r *report) failed() bool {
	for _, p := range r.packages {
		if p.verdict() != "ok" {
			return true
		}
	}
	return len(r.problems) > 0
}

// print writes what failed, then the table.
func (r *report) print(out io.Writer) {
	for _, p := range r.packages {
		if p.verdict() == "ok" || p.output.Len() == 0 && p.exit == nil {
			continue
		}
		fmt.Fprintf(out, "\n== %s on %s: %s\n", p.name, r.release, p.why())
		told := false
		for _, t := range p.tests {
			if t.action == "fail" || t.action == "" {
				fmt.Fprintf(out, "%s", t.output.String())
				told = true
			}
		}
		if !told {
			fmt.Fprint(out, p.output.String())
		}
	}
	for _, s := range r.problems {
		fmt.Fprintf(out, "\n== %s: %s\n", r.kernel, s)
	}
	if r.console != "" {
		fmt.Fprintf(out, "the end of its console:\n%s\n", r.console)
	}
	fmt.Fprintf(out, "\nLinux %s; tests with subtests\n", r.title())
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "package\tpass\tfail\tskip\tseconds\t")
	for _, p := range r.packages {
		seconds := "-"
		if p.exit != nil {
			seconds = fmt.Sprintf("%.1f", p.exit.Took.Seconds())
		}
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%s\t%s\n", p.name, p.count("pass"), p.count("fail")+p.count(""), p.count("skip"), seconds, p.verdict())
	}
	_ = table.Flush()
}

func (r *report) title() string {
	if r.release == "" {
		return r.kernel + ", which did not come up"
	}
	return r.release
}

func (p *result) why() string {
	if p.exit == nil {
		return "did not end"
	}
	if p.exit.Status == "" {
		return "exit status 0, but not every test has ended"
	}
	return fmt.Sprintf("%s after %s", p.exit.Status, p.exit.Took.Round(time.Millisecond))
}
