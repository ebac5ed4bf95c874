// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/spliceway/spliceway/testenv/kernel/guest"
)

// What a test binary writes with -test.v=test2json.
const (
	passing = "\x16=== RUN   TestA\n\x16--- PASS: TestA (0.00s)\n\x16=== RUN   TestB\n    b_test.go:1: not here\n\x16--- SKIP: TestB (0.00s)\n\x16PASS\n"
	failing = "\x16=== RUN   TestA\n\x16--- PASS: TestA (0.00s)\n\x16=== RUN   TestC\n    c_test.go:7: got 1, want 2\n\x16--- FAIL: TestC (0.00s)\n\x16FAIL\n"
	cutOff  = "\x16=== RUN   TestA\n\x16--- PASS: TestA (0.00s)\n\x16=== RUN   TestD\n    d_test.go:3: last words\n"
)

func TestReport(t *testing.T) {
	for _, tc := range []struct {
		name           string
		output         string // of the first of two packages; the other one passes
		exit           *guest.Exit
		end            error
		console        string
		failed         bool
		wants, unwants []string
	}{
		{name: "everything passes", output: passing, exit: &guest.Exit{Took: 1500 * time.Millisecond},
			wants: []string{"Linux 6.1.0-9-cloud-amd64", "./a      1     0     1     1.5      ok"}, unwants: []string{"not here", "=="}},
		{name: "a test fails", output: failing, exit: &guest.Exit{Status: "exit status 1"}, failed: true,
			wants: []string{"== ./a on 6.1.0-9-cloud-amd64: exit status 1", "got 1, want 2", "./a      1     1     0     0.0      FAIL"}, unwants: []string{"TestA"}},
		{name: "nothing fails but the binary", output: passing, exit: &guest.Exit{Status: "exit status 66"}, failed: true,
			wants: []string{"exit status 66", "not here"}},
		{name: "a test leaves without a word", output: cutOff, exit: &guest.Exit{}, failed: true,
			wants: []string{"not every test has ended", "last words", "FAIL"}},
		{name: "the machine dies in a test", output: cutOff, end: errDied, console: "[    1.0] up\n[    2.0] gone\n", failed: true,
			wants: []string{"did not end", "last words", "== 6.1: " + errDied.Error(), "gone", "./b      0     0     0     -        did not run"}},
		{name: "the kernel finds a bug in itself", output: passing, exit: &guest.Exit{}, console: "[    1.0] WARNING: CPU: 1 at net/core/dev.c:1\n", failed: true,
			wants: []string{"the kernel says: WARNING: CPU: 1 at net/core/dev.c:1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newReport(io.Discard, "6.1", []string{"./a", "./b"})
			r.event(guest.Event{Booted: "6.1.0-9-cloud-amd64"})
			send(r, "./a", tc.output, tc.exit)
			if tc.end == nil {
				send(r, "./b", passing, &guest.Exit{})
			}
			r.finish(tc.end, tc.console)
			if r.failed() != tc.failed {
				t.Errorf("failed is %t, want %t", r.failed(), tc.failed)
			}
			var out strings.Builder
			r.print(&out)
			for _, want := range tc.wants {
				if !strings.Contains(out.String(), want) {
					t.Errorf("no %q in:\n%s", want, out.String())
				}
			}
			for _, unwanted := range tc.unwants {
				if strings.Contains(out.String(), unwanted) {
					t.Errorf("%q in:\n%s", unwanted, out.String())
				}
			}
		})
	}
}

func send(r *report, name, output string, exit *guest.Exit) {
	for line := range strings.Lines(output) {
		r.event(guest.Event{Package: name, Output: strings.TrimSuffix(line, "\n")})
	}
	if exit != nil {
		r.event(guest.Event{Package: name, Exit: exit})
	}
}

func TestReportOfNoTestFails(t *testing.T) {
	r := newReport(io.Discard, "6.1", []string{"./a"})
	send(r, "./a", "testing: warning: no tests to run\nPASS\n", &guest.Exit{})
	r.finish(nil, "")
	if !r.failed() {
		t.Error("a run of no test passed")
	}
}

func TestReadEvents(t *testing.T) {
	for _, tc := range []struct {
		name, in string
		events   int
		want     string // of the error; empty: none
	}{
		{"all done", `{"booted":"6.1"}` + "\r\n" + `{"package":"./a","output":"x"}` + "\r\n" + `{"done":true}` + "\r\n", 2, ""},
		{"cut off", `{"booted":"6.1"}` + "\n" + `{"pack`, 1, errDied.Error()},
		{"nothing", "", 0, errDied.Error()},
		{"init gives up", `{"error":"mount proc"}` + "\n" + `{}`, 0, "init in the guest: mount proc"},
		{"something else", "hello\n", 0, "read the guest's report"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			events := 0
			err := readEvents(strings.NewReader(tc.in), func(guest.Event) { events++ })
			if events != tc.events {
				t.Errorf("got %d events, want %d", events, tc.events)
			}
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if tc.want == errDied.Error() && !errors.Is(err, errDied) {
				t.Errorf("got %v, want %v", err, errDied)
			}
		})
	}
}
