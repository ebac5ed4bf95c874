// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv"
)

// handshakesVariable in the environment is how many handshakes TestHandshakes does.
const handshakesVariable = "SPLICEWAY_TEST_HANDSHAKES"

// handshakesByDefault is as many as fit into a run of all tests.
const handshakesByDefault = 400

// splicedShare is what the engine packet must take of the flows that it can.
const splicedShare = 0.995

// stall is more than any handshake takes here that loses nothing: the timers of TCP
// that a lost segment or ACK waits for are 40 ms (delayed ACK) and 200 ms.
const stall = 100 * time.Millisecond

// soakKind is one way to make a connection. Its name is the first label of the server
// name, by which its access lines are found.
type soakKind struct {
	name, domain string
	weight       int
	// speaks: the client may send before it has heard from the server. Whether the
	// flow is spliced depends on who is faster.
	speaks bool
	// visit makes a connection, has bytes go both ways and checks them. The first,
	// i == 0, is over before any other begins. handshake is how long the TLS
	// handshake took; 0 if the client does not say.
	visit func(ctx context.Context, name string, i int) (handshake time.Duration, err error)
}

func (k soakKind) sni() string { return k.name + "." + k.domain }

// soak is a run of many handshakes.
type soak struct {
	*run
	ca  *testenv.CA
	dir string // for certificates, sessions and the like
}

// newSoak runs an agent with the engine auto; endpoints is called when the network is up.
func newSoak(t *testing.T, endpoints func(*soak) string) *soak {
	t.Helper()
	testenv.CheckLeaks(t)
	s := &soak{ca: testenv.MustCA(t), dir: t.TempDir()}
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	s.run = &run{t: t, net: n}
	s.run = start(t, n, "endpoints:\n"+endpoints(s)+"\nengine: auto\n")
	return s
}

// soakResult is how one connection went.
type soakResult struct {
	kind      string
	i         int
	handshake time.Duration
}

// do makes connections of all kinds, as many of each as its weight says, and returns
// how they went. One that fails fails the test.
func (s *soak) do(kinds []soakKind, count, workers int) []soakResult {
	s.t.Helper()
	type visit struct {
		soakKind
		i int
	}
	var order []visit
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	for _, k := range kinds {
		for i := range max(2, count*k.weight/total) {
			order = append(order, visit{k, i})
		}
	}
	// In turns, and the first of each kind first.
	slices.SortStableFunc(order, func(a, b visit) int { return cmp.Compare(a.i*b.weight, b.i*a.weight) })
	var mu sync.Mutex
	var results []soakResult
	failed := 0
	one := func(v visit) {
		handshake, err := v.visit(short(s.t), v.sni(), v.i)
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			if failed++; failed <= 10 {
				s.t.Errorf("%s, connection %d: %v", v.sni(), v.i, err)
			}
		}
		results = append(results, soakResult{v.sni(), v.i, handshake})
	}
	for _, v := range order[:len(kinds)] {
		one(v)
	}
	var g errgroup.Group
	g.SetLimit(workers)
	for _, v := range order[len(kinds):] {
		g.Go(func() error { one(v); return nil })
	}
	_ = g.Wait() // errors are the test's already
	if failed > 0 {
		s.t.Errorf("%d of %d connections failed", failed, len(order))
	}
	return results
}

// soakEngines is what the access log says of one kind: connections by engine, or by
// the reason why it is not packet.
type soakEngines map[string]int

func (e soakEngines) all() (n int) {
	for _, k := range e {
		n += k
	}
	return n
}

// engines waits for the lines of all connections. Those that were not routed fail the
// test.
func (s *soak) engines(connections int) map[string]soakEngines {
	s.t.Helper()
	s.expectMetric("connections_open", 0)
	s.expectMetric(`connections_total{outcome="routed"}`, float64(connections))
	s.expectMetric("log_lines_dropped_total", 0)
	kinds := make(map[string]soakEngines)
	for _, l := range s.Log().Lines() {
		var line struct {
			Msg, SNI, Outcome, Engine, End string
			EngineReason                   string `json:"engine_reason"`
		}
		if json.Unmarshal([]byte(l), &line) != nil || line.Msg != "connection" {
			continue
		}
		if line.Outcome != "routed" || line.End != "eof" && line.End != "reset" {
			s.t.Errorf("a connection was not served: %s", l)
		}
		if kinds[line.SNI] == nil {
			kinds[line.SNI] = make(soakEngines)
		}
		if strings.HasPrefix(line.Engine, "packet") { // with the short cut, or a reason to be without
			line.Engine, line.EngineReason = "packet", ""
		}
		kinds[line.SNI][cmp.Or(line.EngineReason, line.Engine)]++
	}
	return kinds
}

// report prints what became of each kind and returns the share of the flows which can
// be spliced that were.
func (s *soak) report(kinds []soakKind, results []soakResult) (share float64) {
	s.t.Helper()
	engines := s.engines(len(results))
	could, were := 0, 0
	var b strings.Builder
	fmt.Fprintf(&b, "\n%-28s %6s %8s %9s %9s  %s\n", "kind", "all", "packet", "median", "slowest", "others, by reason")
	for _, k := range kinds {
		e := engines[k.sni()]
		if !k.speaks {
			could += e.all()
			were += e["packet"]
		}
		var times []time.Duration
		for _, r := range results {
			if r.kind == k.sni() && r.handshake > 0 {
				times = append(times, r.handshake)
			}
		}
		median, slowest := "-", "-"
		if slices.Sort(times); len(times) > 0 {
			median, slowest = milliseconds(times[len(times)/2]), milliseconds(times[len(times)-1])
		}
		fmt.Fprintf(&b, "%-28s %6d %8d %9s %9s ", k.sni(), e.all(), e["packet"], median, slowest)
		for why, n := range e {
			if why != "packet" {
				fmt.Fprintf(&b, " %s: %d", why, n)
			}
		}
		if k.speaks {
			b.WriteString(" (may speak first)")
		}
		b.WriteByte('\n')
	}
	slices.SortFunc(results, func(a, b soakResult) int { return cmp.Compare(b.handshake, a.handshake) })
	for _, r := range results[:min(5, len(results))] {
		fmt.Fprintf(&b, "slow: %s, connection %d: %s\n", r.kind, r.i, milliseconds(r.handshake))
	}
	stalls := 0
	for _, r := range results {
		if r.handshake > stall {
			stalls++
		}
	}
	fmt.Fprintf(&b, "%d of %d that can be spliced were; %d handshakes took more than %v\n", were, could, stalls, stall)
	for _, h := range []struct {
		name string
		ns   *testenv.Namespace
	}{{"client", s.net.Clients[0].Namespace}, {"gateway", s.net.Gateway}, {"backend", s.net.Backends[0].Namespace}} {
		fmt.Fprintf(&b, "TCP of the %s: %s\n", h.name, tcpTrouble(s.t, h.ns))
	}
	for l := range strings.Lines(s.metrics()) {
		if strings.HasPrefix(l, "spliceway_fallbacks_total") || strings.HasPrefix(l, "spliceway_packets_total") {
			if !strings.HasSuffix(l, " 0\n") {
				b.WriteString(l)
			}
		}
	}
	s.t.Log(b.String())
	return float64(were) / float64(max(could, 1))
}

func (s *soak) metrics() string {
	_, body := s.get("/metrics")
	return body
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%.1fms", d.Seconds()*1000) }

// tcpTrouble is what a namespace's TCP counted of retransmissions and the like.
func tcpTrouble(t *testing.T, ns *testenv.Namespace) string {
	t.Helper()
	var b strings.Builder
	err := ns.Do(func() error {
		for _, file := range []string{"snmp", "netstat"} {
			content, err := os.ReadFile("/proc/thread-self/net/" + file)
			if err != nil {
				return err
			}
			var names []string
			for l := range strings.Lines(string(content)) {
				fields := strings.Fields(l)
				if names == nil {
					names = fields
					continue
				}
				for i, v := range fields {
					if slices.Contains(troubles, names[i]) && v != "0" {
						fmt.Fprintf(&b, "%s %s; ", names[i], v)
					}
				}
				names = nil
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return cmp.Or(b.String(), "no trouble")
}

// troubles are counters of proc_net_snmp and of the kernel's net/ipv4/proc.c.
var troubles = []string{
	"RetransSegs", "InErrs", "InCsumErrors", "TCPTimeouts", "TCPLossProbes", "TCPSpuriousRTOs", "TCPDSACKRecv", "TCPDSACKOldSent",
	"DelayedACKs", "DelayedACKLost", "PAWSActive", "PAWSEstab", "TSEcrRejected", "TCPAbortOnData", "TCPAbortOnTimeout", "TCPChallengeACK",
	"TCPSYNChallenge", "TCPSackShiftFallback", "OutRsts", "TCPOFOQueue",
}

// TestHandshakes: clients and servers of all sorts shake hands through the gateway.
// None fails, and practically all flows are spliced. What takes long is printed only:
// it depends on what else the machine does. A segment that was retransmitted and not
// lost shows at the other end as DelayedACKLost.
func TestHandshakes(t *testing.T) {
	count := handshakesByDefault
	if v := os.Getenv(handshakesVariable); v != "" {
		var err error
		if count, err = strconv.Atoi(v); err != nil || count < 1 {
			t.Fatalf("%s=%q: want a number of handshakes", handshakesVariable, v)
		}
	}
	var kinds []soakKind
	s := newSoak(t, func(s *soak) string {
		var endpoints strings.Builder
		for _, add := range []func() ([]soakKind, string){s.goKinds, s.plainKinds, s.opensslKinds, s.nginxKinds} {
			k, e := add()
			kinds = append(kinds, k...)
			endpoints.WriteString(e)
		}
		return endpoints.String()
	})
	begin := time.Now()
	results := s.do(kinds, count, 2*runtime.NumCPU())
	t.Logf("%d connections in %v", len(results), time.Since(begin).Round(time.Millisecond))
	if share := s.report(kinds, results); share < splicedShare {
		t.Errorf("%.2f %% of the flows that can be spliced were, want %.2f %%", 100*share, 100*splicedShare)
	}
}

// TestHandshakesSlow: the server answers long after it has acknowledged the hello.
func TestHandshakesSlow(t *testing.T) {
	var kinds []soakKind
	s := newSoak(t, func(s *soak) (endpoints string) {
		kinds, endpoints = s.slowKinds()
		return endpoints
	})
	results := s.do(kinds, 160, 40)
	if share := s.report(kinds, results); share < splicedShare {
		t.Errorf("%.2f %% of the flows that can be spliced were, want %.2f %%", 100*share, 100*splicedShare)
	}
}

// TestHandshakesSpeaking: clients that go on talking right behind the hello, at every
// moment of the hand-over. Some are declined; all work.
func TestHandshakesSpeaking(t *testing.T) {
	var kinds []soakKind
	s := newSoak(t, func(s *soak) (endpoints string) {
		kinds, endpoints = s.plainKinds()
		return endpoints
	})
	results := s.do(kinds, 1500, 2*runtime.NumCPU())
	s.report(kinds, results)
}

// TestClientSpeaksWhileArmed: the backend's buffer is too small for the hello, so the
// flow is armed still when the client goes on. It is declined, and loses nothing.
func TestClientSpeaksWhileArmed(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	l, target := listenOn(t, n.Backends[0])
	smallReceiveBuffer(t, l)
	r := start(t, n, "endpoints:\n"+endpoint("a", sni("a.test"), target)+"\nengine: auto\n")
	first := testenv.MustHello(t, "a.test", testenv.HelloOptions{Size: 8000})
	c := r.dial(n.Clients[0])
	if _, err := c.Write(first); err != nil {
		t.Fatal(err)
	}
	b, err := testenv.Accept(short(t), l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	// The backend has acknowledged a part.
	if err := testenv.Poll(short(t), func() (bool, error) {
		return r.metric(`packets_total{verdict="passed_armed"}`) > 0, nil
	}); err != nil {
		t.Fatal(err)
	}
	const more = "and another thing"
	if _, err := io.WriteString(c, more); err != nil {
		t.Fatal(err)
	}
	r.expectMetric(`fallbacks_total{reason="client_spoke"}`, 1)
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, end := seen(b)
	if want := string(first) + more; string(got) != want || end != "FIN" {
		t.Errorf("the backend got %d bytes, then %s; want the %d of the hello and %q, then FIN", len(got), end, len(first), more)
	}
	if _, err := io.WriteString(b, "answer"); err != nil {
		t.Fatal(err)
	}
	_ = b.Close()
	if got, end := seen(c); string(got) != "answer" || end != "FIN" {
		t.Errorf("the client got %q, then %s", got, end)
	}
	r.expectLine(c.LocalAddr(), map[string]any{"engine": "splice", "engine_reason": "client_spoke", "bytes_in": float64(len(first) + len(more)), "bytes_out": 6.})
}

// smallReceiveBuffer is for connections that a listener will accept: about a segment.
func smallReceiveBuffer(t *testing.T, l *net.TCPListener) {
	t.Helper()
	raw, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if e := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 2048) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
}

// TestHandshakesLossy: one packet in a hundred is lost, either way. What is lost at the
// wrong moment may cost a flow the engine, never more.
func TestHandshakesLossy(t *testing.T) {
	for _, at := range []string{"client", "backend"} {
		t.Run("at the "+at, func(t *testing.T) {
			var kinds []soakKind
			s := newSoak(t, func(s *soak) (endpoints string) {
				kinds, endpoints = s.goKinds()
				return endpoints
			})
			host := s.net.Clients[0]
			if at == "backend" {
				host = s.net.Backends[0]
			}
			for _, d := range []*testenv.Device{host.Device, host.Uplink} {
				if err := d.Impair(testenv.Impairment{Loss: 0.01}); err != nil {
					t.Fatal(err)
				}
			}
			results := s.do(kinds, 400, 16)
			t.Logf("%.2f %% of the flows that can be spliced were", 100*s.report(kinds, results))
		})
	}
}

// file writes a file into the soak's directory.
func (s *soak) file(name string, content []byte) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}
