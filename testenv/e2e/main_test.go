// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spliceway/spliceway/testenv"
	"github.com/spliceway/spliceway/userspace/agent"
	"github.com/spliceway/spliceway/userspace/telemetry"
)

// patience is far more than any single step takes, the race detector included.
const patience = 30 * time.Second

// configVariable in the environment turns the test binary into the agent, so that
// the agent has a process, a namespace, descriptors and goroutines of its own, and
// the race detector in it.
const configVariable = "SPLICEWAY_TEST_CONFIG"

func TestMain(m *testing.M) {
	if file := os.Getenv(configVariable); file != "" {
		err := agent.Run(context.Background(), agent.Options{
			ConfigFile: file, Log: os.Stderr, Access: os.Stdout,
			Build: telemetry.BuildInfo{Version: "test"},
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, "spliceway:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if bpffs := os.Getenv(askVariable); bpffs != "" {
		ask(bpffs, os.Args[1:])
	}
	os.Exit(m.Run())
}

// gatewayPort is where the endpoints of these tests are.
const gatewayPort = 9443

// run is an agent under test.
type run struct {
	*testenv.Process
	t     *testing.T
	net   *testenv.Network
	file  string
	bpffs string // where its engine packet has its state
}

// start writes the configuration and runs an agent by it in the network's gateway.
// It returns when the agent is ready. At the end of the test the agent is stopped,
// and a race or a panic in it fails the test.
func start(t *testing.T, n *testenv.Network, config string) *run {
	t.Helper()
	r := launch(t, n, config)
	if _, err := r.WaitLine(short(t), says("ready")); err != nil {
		t.Fatalf("the agent is not ready: %v", err)
	}
	return r
}

// launch is start without the wait.
func launch(t *testing.T, n *testenv.Network, config string) *run {
	t.Helper()
	r := &run{t: t, net: n, file: filepath.Join(t.TempDir(), "spliceway.yaml")}
	r.write(config)
	r.Process = testenv.MustProcess(t, r.options())
	t.Cleanup(func() {
		for _, l := range r.Log().Lines() {
			if strings.Contains(l, "DATA RACE") || strings.HasPrefix(l, "panic:") || strings.HasPrefix(l, "fatal error:") {
				t.Errorf("the agent: %s\n%s", l, r.Log())
				return
			}
		}
	})
	return r
}

// options are those of the agent's process: another one by the same file is the next
// agent.
func (r *run) options() testenv.ProcessOptions {
	return testenv.ProcessOptions{
		Namespace: r.net.Gateway, Path: os.Args[0],
		// A program with the race detector sleeps for a second at its end.
		Env: append(os.Environ(), configVariable+"="+r.file, "GORACE=atexit_sleep_ms=0"),
	}
}

// engine is what the tests run with that do not say: each engine has to do what the
// others do.
var engine = cmp.Or(os.Getenv("SPLICEWAY_TEST_ENGINE"), "splice")

// ofSplice skips what the engine splice alone can show.
func ofSplice(t *testing.T, why string) {
	t.Helper()
	if engine != "splice" {
		t.Skip(why)
	}
}

// write replaces the configuration file as an editor does.
func (r *run) write(config string) {
	r.t.Helper()
	if !strings.Contains(config, "\nengine: ") && (strings.Contains(config, "url:") || strings.Contains(config, "manifests:")) {
		config += "\nengine: " + engine + "\n"
	}
	if !strings.Contains(config, "\nbpffs: ") && strings.Contains(config, "\nengine: ") && !strings.Contains(config, "\nengine: splice\n") {
		if r.bpffs == "" {
			r.bpffs = filepath.Join(testenv.MustBPFFS(r.t), "state")
		}
		config += "bpffs: " + r.bpffs + "\n"
	}
	if err := os.WriteFile(r.file+".new", []byte(config), 0o600); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Rename(r.file+".new", r.file); err != nil {
		r.t.Fatal(err)
	}
}

// says matches the agent's own lines with the message.
func says(message string) func(string) bool {
	return func(l string) bool { return strings.Contains(l, `"msg":"`+message+`"`) }
}

// line waits for the access line of a connection for which match is true; numbers are
// float64.
func (r *run) line(match func(map[string]any) bool) map[string]any {
	r.t.Helper()
	return r.lineAbout("connection", match)
}

func (r *run) lineAbout(message string, match func(map[string]any) bool) map[string]any {
	r.t.Helper()
	var found map[string]any
	_, err := r.WaitLine(short(r.t), func(l string) bool {
		var m map[string]any
		if json.Unmarshal([]byte(l), &m) != nil || m["msg"] != message || !match(m) {
			return false
		}
		found = m
		return true
	})
	if err != nil {
		r.t.Fatalf("no such access line: %v", err)
	}
	return found
}

// lineOf waits for the access line of the client connected from the address.
func (r *run) lineOf(client fmt.Stringer) map[string]any {
	r.t.Helper()
	return r.line(func(m map[string]any) bool { return m["client"] == client.String() })
}

// expectLine compares part of the line of the client connected from the address.
func (r *run) expectLine(client fmt.Stringer, want map[string]any) map[string]any {
	r.t.Helper()
	l := r.lineOf(client)
	for k, v := range want {
		if l[k] != v {
			r.t.Errorf("%s is %v, want %v, in the line %v", k, l[k], v, l)
		}
	}
	return l
}

// get fetches a path from the agent's admin server, from inside the gateway. The
// address is admin.address's default.
func (r *run) get(path string) (status int, body string) {
	r.t.Helper()
	client := http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return r.net.Gateway.Dial(ctx, netip.MustParseAddrPort(addr))
		},
	}}
	res, err := client.Get("http://127.0.0.1:9180" + path)
	if err == nil {
		var b []byte
		b, err = io.ReadAll(res.Body)
		_ = res.Body.Close()
		status, body = res.StatusCode, string(b)
	}
	if err != nil {
		r.t.Fatalf("get %s: %v", path, err)
	}
	return status, body
}

// series is the value of one series of /metrics, written as it stands there. 0 if
// it is not there.
func (r *run) series(name string) (v float64) {
	r.t.Helper()
	_, body := r.get("/metrics")
	for l := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(l, name+" "); ok {
			if _, err := fmt.Sscan(rest, &v); err != nil {
				r.t.Fatalf("series %s: %v", name, err)
			}
		}
	}
	return v
}

// metric is series without the prefix: `connections_total{outcome="routed"}`.
func (r *run) metric(name string) float64 {
	r.t.Helper()
	return r.series("spliceway_" + name)
}

// expectMetric waits until a metric has the value.
func (r *run) expectMetric(name string, want float64) {
	r.t.Helper()
	var got float64
	if err := testenv.Poll(short(r.t), func() (bool, error) {
		got = r.metric(name)
		return got == want, nil
	}); err != nil {
		r.t.Errorf("%s is %v, want %v", name, got, want)
	}
}

// held is what the agent holds.
type held struct{ sockets, pipes, goroutines int }

func (r *run) held() held {
	r.t.Helper()
	h := held{goroutines: int(r.series("go_goroutines"))}
	dir := fmt.Sprintf("/proc/%d/fd", r.Pid())
	entries, err := os.ReadDir(dir)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, e := range entries {
		to, _ := os.Readlink(filepath.Join(dir, e.Name())) // closed meanwhile: neither
		if strings.HasPrefix(to, "socket:") {
			h.sockets++
		} else if strings.HasPrefix(to, "pipe:") {
			h.pipes++
		}
	}
	return h
}

// keptPipeEnds is the most that the engine keeps for the flows to come.
const keptPipeEnds = 2 * 64

// expectHeld waits until the agent holds no more than it did, apart from pipes that
// are ready for use and what answers the question.
func (r *run) expectHeld(before held) {
	r.t.Helper()
	var now held
	if err := testenv.Poll(short(r.t), func() (bool, error) {
		now = r.held()
		return now.sockets <= before.sockets+1 && now.pipes <= max(before.pipes, keptPipeEnds+4) && now.goroutines <= before.goroutines+2, nil
	}); err != nil {
		r.t.Errorf("the agent holds %+v, before it was %+v", now, before)
	}
}

// short is a context that ends with the test or when patience is over.
func short(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}
