// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strings"
	"testing"
)

func TestUpdateDocs(t *testing.T) {
	file := t.TempDir() + "/benchmarks.md"
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	read := func() string {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	r := sampled("HAProxy", []float64{1}, []float64{3})
	r.Subjects = []described{{Name: "HAProxy", Version: "2.6.12"}}
	todo := []work{{name: "bulk", figures: []figure{{name: "Gbit/s", digits: 1}}}}
	subjects := []subject{direct{}, &peer{title: "HAProxy"}}

	write("# By hand\n" + docsBegin + "of old\n" + docsEnd + "Why.\n")
	for range 2 { // the second one finds what the first has written
		if err := r.updateDocs(file, todo, subjects); err != nil {
			t.Fatal(err)
		}
		got := read()
		for _, want := range []string{"# By hand\n" + docsBegin, "| HAProxy | 3.0, x3.00 |", docsEnd + "Why.\n", "HAProxy 2.6.12"} {
			if !strings.Contains(got, want) {
				t.Errorf("no %q in:\n%s", want, got)
			}
		}
		if strings.Contains(got, "of old") || strings.Count(got, "**bulk**") != 1 {
			t.Errorf("what was there before is still there:\n%s", got)
		}
	}
	for _, without := range []string{"no marks\n", docsBegin + "no end\n", docsEnd + docsBegin} {
		write(without)
		if err := r.updateDocs(file, todo, subjects); err == nil {
			t.Errorf("%q: no error", without)
		}
		if got := read(); got != without {
			t.Errorf("%q has become %q", without, got)
		}
	}
}

func TestFailuresOfPeersAreTold(t *testing.T) {
	r := &results{Samples: []sample{{Round: 1, Subject: "tlsrouter", Work: "memory", Failed: "too many open files\nmore of it"}}}
	var out strings.Builder
	r.failures(&out)
	if got, want := out.String(), "- tlsrouter: memory, round 2: it failed: too many open files\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
