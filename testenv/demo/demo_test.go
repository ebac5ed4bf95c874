// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/spliceway/spliceway/testenv"
	"github.com/spliceway/spliceway/userspace/agent"
	"github.com/spliceway/spliceway/userspace/telemetry"
)

// faultVariable makes the agent that a test starts a bad one: its value is
// replaced in the configuration by the next variable's.
const (
	faultVariable  = "SPLICEWAY_DEMO_TEST_REPLACE"
	remedyVariable = "SPLICEWAY_DEMO_TEST_WITH"
)

// TestMain is the agent when a demo starts this binary as one.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "run" && os.Args[2] == "--config" {
		if err := runAgent(os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func runAgent(file string) error {
	if fault := os.Getenv(faultVariable); fault != "" {
		config, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if !strings.Contains(string(config), fault) {
			return fmt.Errorf("no %q in the configuration:\n%s", fault, config)
		}
		wrong := strings.ReplaceAll(string(config), fault, os.Getenv(remedyVariable))
		if err := os.WriteFile(file, []byte(wrong), 0o600); err != nil {
			return err
		}
	}
	return agent.Run(context.Background(), agent.Options{
		ConfigFile: file, Log: os.Stderr, Access: os.Stdout, Build: telemetry.BuildInfo{Version: "test"},
	})
}

// begin prepares a test that leaves nothing: no goroutine, descriptor, link,
// file or child.
func begin(t *testing.T) (executable string) {
	t.Helper()
	testenv.Privileged(t)
	testenv.CheckLeaks(t)
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	t.Cleanup(func() {
		files, err := os.ReadDir(dir)
		if err != nil || len(files) > 0 {
			t.Errorf("temporary files are left: %v (%v)", files, err)
		}
		if left := children(t); left != "" {
			t.Errorf("children are left: %s", left)
		}
	})
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return executable
}

func children(t *testing.T) string {
	t.Helper()
	threads, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, thread := range threads {
		pids, err := os.ReadFile(thread)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		all.Write(pids)
	}
	return all.String()
}

func TestDemoFindsEverythingRight(t *testing.T) {
	report, err := Run(t.Context(), begin(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range report.Problems {
		t.Errorf("problem: %s", problem)
	}
	if t.Failed() {
		t.Fatalf("the agent's log:\n%s", strings.Join(report.AgentLog, "\n"))
	}
	want := [][4]string{
		{"shop.test", "exact", "shop", "TLS 1.3"},
		{"db.eu.app.test", "wildcard", "apps", "TLS 1.3"},
		{"old.example", "fallback", "www", "TLS 1.3"},
		{"shop.test", "exact", "shop", "TLS 1.3"},
		{"shop.test", "exact", "shop", "TLS 1.2"},
		{"www.test", "exact", "www", "TLS 1.3"},
	}
	var got [][4]string
	for _, r := range report.Routed {
		got = append(got, [4]string{r.SNI, r.Route, r.Backend, r.TLSVersion})
		if !r.Certificate.EndToEnd || r.Engine == "" || r.BytesIn <= bytesUp || r.BytesOut <= bytesDown {
			t.Errorf("certificate, engine or bytes are missing in %+v", r)
		}
		for _, timing := range []Timing{r.Handshake, r.RoundTrip} {
			if timing.Gateway <= 0 || timing.Direct <= 0 {
				t.Errorf("times are missing in %+v", r)
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("routed (-want +got):\n%s", diff)
	}
	var outcomes []string
	for _, r := range report.Refused {
		outcomes = append(outcomes, r.Outcome)
	}
	if diff := cmp.Diff([]string{"no_sni", "not_tls", "malformed", "hello_timeout"}, outcomes); diff != "" {
		t.Errorf("refused (-want +got):\n%s", diff)
	}
}

func TestDemoTellsOnAnAgentThat(t *testing.T) {
	for _, test := range []struct{ name, replace, with, want string }{
		{"brings a name to another backend", `"tls://10.2.0.2:443"`, `"tls://10.2.1.2:443"`,
			"shop.test (IPv4 TLS 1.3): tls handshake"},
		{"routes what has no name", "{unknownName: www}", "{unknownName: www, noSNI: www}",
			"a hello without a name: the access log says outcome \"routed\", want \"no_sni\""},
	} {
		t.Run(test.name, func(t *testing.T) {
			executable := begin(t)
			t.Setenv(faultVariable, test.replace)
			t.Setenv(remedyVariable, test.with)
			report, err := Run(t.Context(), executable)
			if err != nil {
				t.Fatal(err)
			}
			if problems := strings.Join(report.Problems, "\n"); !strings.Contains(problems, test.want) {
				t.Errorf("problems:\n%s\nwant among them: %s", problems, test.want)
			}
		})
	}
}

func TestDemoWithAnAgentThatDoesNotStart(t *testing.T) {
	executable := begin(t)
	t.Setenv(faultVariable, "listen:")
	t.Setenv(remedyVariable, "lissten:")
	report, err := Run(t.Context(), executable)
	if report != nil || err == nil || !strings.Contains(err.Error(), "lissten") {
		t.Errorf("report %v, error %v, want an error with the agent's own words", report, err)
	}
}

// The demo is longer than each of these by the agent's hello timeout alone.
func TestDemoInterruptedAfter(t *testing.T) {
	for _, after := range []time.Duration{0, 30 * time.Millisecond, 100 * time.Millisecond, 400 * time.Millisecond} {
		t.Run(after.String(), func(t *testing.T) {
			executable := begin(t)
			ctx, cancel := context.WithTimeout(t.Context(), after)
			defer cancel()
			report, err := Run(ctx, executable)
			if report != nil || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("report %v, error %v, want none and the context's", report, err)
			}
		})
	}
}

// TestManifests: each of the three ways of the examples carries TLS, and what is not as it
// should be is told.
func TestManifests(t *testing.T) {
	executable := begin(t)
	dir, err := filepath.Abs("../../examples/manifests")
	if err != nil {
		t.Fatal(err)
	}
	const name = "example-hostname.ngrok.io"
	service := Upstream{Host: "example-service.example-namespace", Ports: []uint16{8443}}
	ways := []Way{
		{Manifests: []string{filepath.Join(dir, "agentendpoint.yaml")}, Visits: []Visit{{Object: "agent", SNI: name, Port: 8443}}, Upstreams: []Upstream{service}},
		{Manifests: []string{filepath.Join(dir, "cloudendpoint.yaml")}, Visits: []Visit{{Object: "cloud", SNI: name, Port: 8443}}, Upstreams: []Upstream{service}},
		{Manifests: []string{filepath.Join(dir, "gateway-tlsroute.yaml")}, Visits: []Visit{{Object: "route", SNI: name, Port: 9000}},
			Upstreams: []Upstream{{Host: "example-service.default", Ports: []uint16{9000}}}},
	}
	report, err := RunManifests(t.Context(), executable, ways)
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Problems) > 0 || len(report.Visited) != 3 {
		t.Fatalf("problems %q, visits %+v, log\n%s", report.Problems, report.Visited, strings.Join(report.AgentLog, "\n"))
	}
	for i, v := range report.Visited {
		if v.Backend != ways[i].Upstreams[0].Host || !v.Certificate.EndToEnd || v.BytesIn < manifestBytes || v.BytesOut < manifestBytes {
			t.Errorf("visit %+v", v)
		}
	}
	if got := report.Visited[1].ForwardedTo; len(got) != 1 || got[0] != "agentendpoint/default/example-service" {
		t.Errorf("forwarded to %q", got)
	}
	ways[0].Visits[0].SNI = "other.test"
	if report, err = RunManifests(t.Context(), executable, ways[:1]); err != nil || len(report.Problems) == 0 {
		t.Errorf("a name that nobody serves: %+v, %v", report, err)
	}
}
