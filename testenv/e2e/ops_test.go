// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spliceway/spliceway/testenv"
)

// opsBackendPort is where the backends of these tests listen, so that a target has
// the same name in every run.
const opsBackendPort = 8443

// opsNetwork begins a test: its network, and the check for leaks after it. Agents
// that it starts leave without the race detector's second of waiting for races at
// the exit: they have been drained by then.
func opsNetwork(t *testing.T, options testenv.NetworkOptions) *testenv.Network {
	t.Helper()
	testenv.CheckLeaks(t)
	t.Setenv("GORACE", strings.TrimSpace(os.Getenv("GORACE")+" atexit_sleep_ms=0"))
	return testenv.MustNetwork(t, options)
}

// opsBackend starts a plain backend on a backend host.
func opsBackend(t *testing.T, n *testenv.Network, host int, name string) *testenv.Backend {
	t.Helper()
	return testenv.MustBackend(t, n.Backends[host].Namespace, testenv.BackendOptions{
		Name: name, Address: netip.AddrPortFrom(netip.IPv6Unspecified(), opsBackendPort),
	})
}

func opsTarget(n *testenv.Network, host int) string {
	return fmt.Sprintf("%s:%d", n.Backends[host].IPv4(), opsBackendPort)
}

// opsEndpoint is an endpoint for NAME.test in the configuration; rest is more of
// its keys.
func opsEndpoint(name, upstream string, rest ...string) string {
	return fmt.Sprintf("- {name: %s, url: \"tls://%s.test:%d\", upstream: {%s}%s}\n",
		name, name, gatewayPort, upstream, strings.Join(append([]string{""}, rest...), ", "))
}

func opsURL(target string) string { return fmt.Sprintf("url: %q", "tls://"+target) }

func opsGateway(n *testenv.Network) netip.AddrPort { return netip.AddrPortFrom(n.IPv4, gatewayPort) }

func opsHello(t *testing.T, name string) []byte {
	t.Helper()
	return testenv.MustHello(t, name, testenv.HelloOptions{Classical: true})
}

// opsSend connects and sends bytes. The connection is closed at the end of the
// test.
func opsSend(t *testing.T, host *testenv.Host, to netip.AddrPort, b []byte) *net.TCPConn {
	t.Helper()
	return opsSendFrom(t, host, netip.Addr{}, to, b)
}

// opsSendFrom is opsSend from one of the host's addresses.
func opsSendFrom(t *testing.T, host *testenv.Host, from netip.Addr, to netip.AddrPort, b []byte) *net.TCPConn {
	t.Helper()
	var d net.Dialer
	if from.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	c, err := host.DialWith(short(t), d, to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	return c
}

// opsOpen connects to NAME.test on a plain backend, which echoes from there on.
func opsOpen(t *testing.T, host *testenv.Host, to netip.AddrPort, name string) (*net.TCPConn, testenv.Reply) {
	t.Helper()
	c := opsSend(t, host, to, opsHello(t, name+".test"))
	reply, err := testenv.Ask(c, testenv.Request{Mode: testenv.Echo})
	if err != nil {
		t.Fatalf("%s.test: %v", name, err)
	}
	return c, reply
}

// opsVisit is opsOpen, and the orderly end: the backend's name and the access line.
func opsVisit(t *testing.T, r *run, to netip.AddrPort, name string) (string, map[string]any) {
	t.Helper()
	c, reply := opsOpen(t, r.net.Clients[0], to, name)
	return reply.Backend, opsLeave(t, r, c)
}

// opsLeave ends a connection of opsOpen in order and returns its access line.
func opsLeave(t *testing.T, r *run, c *net.TCPConn) map[string]any {
	t.Helper()
	if err := errors.Join(c.CloseWrite(), testenv.ExpectEOF(c, patience), c.Close()); err != nil {
		t.Fatal(err)
	}
	l := r.lineOf(c.LocalAddr())
	if l["outcome"] != "routed" || l["end"] != "eof" {
		t.Errorf("access line: %v", l)
	}
	return l
}

// opsRefused connects with a hello for NAME.test, sees the connection closed, and
// returns its access line.
func opsRefused(t *testing.T, r *run, host *testenv.Host, name string) map[string]any {
	t.Helper()
	c := opsSend(t, host, opsGateway(r.net), opsHello(t, name+".test"))
	if err := testenv.ExpectEOF(c, patience); err != nil {
		t.Fatal(err)
	}
	return r.lineOf(c.LocalAddr())
}

// opsLine waits for a line with all the words, beyond the first lines.
func opsLine(r *run, beyond int, words ...string) string {
	r.t.Helper()
	i := 0
	l, err := r.WaitLine(short(r.t), func(l string) bool {
		i++
		for _, w := range words {
			if !strings.Contains(l, w) {
				return false
			}
		}
		return i > beyond
	})
	if err != nil {
		r.t.Fatalf("no line with %q: %v", words, err)
	}
	return l
}

// opsReload replaces the file, sends SIGHUP and waits until it is in force.
func opsReload(r *run, config string) {
	r.t.Helper()
	beyond := len(r.Log().Lines())
	r.write(config)
	opsSignal(r, syscall.SIGHUP)
	if l := opsLine(r, beyond, `"msg":"configuration `, `"reason":"SIGHUP"`); !strings.Contains(l, "configuration loaded") {
		r.t.Fatalf("reload: %s", l)
	}
}

func opsSignal(r *run, s os.Signal) {
	r.t.Helper()
	if err := r.Signal(s); err != nil {
		r.t.Fatal(err)
	}
}

// opsMetric waits until a series has a value.
func opsMetric(r *run, series string, want float64) {
	r.t.Helper()
	var got float64
	if err := testenv.Poll(short(r.t), func() (bool, error) { got = r.metric(series); return got == want, nil }); err != nil {
		r.t.Fatalf("%s is %v, want %v: %v", series, got, want, err)
	}
}

// opsExit waits for the end of the agent and checks its status.
func opsExit(t *testing.T, r *run, status int) {
	t.Helper()
	err := r.Wait(short(t))
	got := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	if got != status {
		t.Errorf("exit status %d, want %d; output:\n%s", got, status, r.Log())
	}
}

// opsFlow opens a flow with both ends in hand to endpoint a, whose backend is the
// listener.
func opsFlow(t *testing.T, n *testenv.Network, l *net.TCPListener) *testenv.Flow {
	t.Helper()
	f, _, err := testenv.OpenFlow(short(t), opsDial(n.Clients[0], opsGateway(n), nil), l, opsHello(t, "a.test"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func opsListen(t *testing.T, n *testenv.Network, host int) *net.TCPListener {
	t.Helper()
	l, err := n.Backends[host].Listen(netip.AddrPortFrom(netip.IPv6Unspecified(), opsBackendPort))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestStopDrains(t *testing.T) {
	ofSplice(t, "flows of engine packet go on without the agent")
	n := opsNetwork(t, testenv.NetworkOptions{})
	l := opsListen(t, n, 0)
	config := "endpoints:\n" + opsEndpoint("a", opsURL(opsTarget(n, 0)))
	hello := opsHello(t, "a.test")
	// begin has one flow open, and one client that has sent half its hello.
	begin := func(t *testing.T, timeouts string) (*run, *testenv.Flow, *net.TCPConn) {
		r := start(t, n, config+timeouts)
		f := opsFlow(t, n, l)
		half := opsSend(t, n.Clients[0], opsGateway(n), hello[:len(hello)/2])
		opsMetric(r, "connections_open", 2)
		opsSignal(r, syscall.SIGTERM)
		opsLine(r, 0, `"msg":"draining"`)
		return r, f, half
	}
	cut := func(t *testing.T, r *run, f *testenv.Flow, half *net.TCPConn) {
		for name, c := range map[string]*net.TCPConn{"client": f.Client, "backend": f.Backend} {
			if err := testenv.ExpectReset(c, patience); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		opsExit(t, r, 0)
		if l := r.lineOf(f.Client.LocalAddr()); l["outcome"] != "routed" || l["end"] != "drain" || l["closed_by"] != "agent" {
			t.Errorf("access line: %v", l)
		}
		if l := r.lineOf(half.LocalAddr()); l["outcome"] != "shutdown" {
			t.Errorf("access line of half a hello: %v", l)
		}
	}

	t.Run("and what is open ends by itself", func(t *testing.T) {
		r, f, half := begin(t, "")
		if status, body := r.get("/readyz"); status != 503 || !strings.Contains(body, "draining") {
			t.Errorf("readyz: %d %s", status, body)
		}
		if status, _ := r.get("/healthz"); status != 200 {
			t.Errorf("healthz: %d", status)
		}
		err := testenv.Poll(short(t), func() (bool, error) {
			c, err := n.Clients[0].Dial(short(t), opsGateway(n))
			if err == nil {
				return false, c.Close()
			}
			if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ECONNRESET) {
				return false, err
			}
			return true, nil
		})
		if err != nil {
			t.Errorf("a new connection: %v", err)
		}
		// Who had been accepted is served to the end, a hello under way included.
		if _, err := half.Write(hello[len(hello)/2:]); err != nil {
			t.Fatal(err)
		}
		late, err := testenv.Accept(short(t), l)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(half.Close(), late.Close()); err != nil {
			t.Fatal(err)
		}
		if err := testenv.ExchangePair(short(t), f.Client, f.Backend, 1, 4<<20, 4<<20); err != nil {
			t.Error(err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		opsExit(t, r, 0)
		if l := r.lineOf(f.Client.LocalAddr()); l["end"] != "eof" {
			t.Errorf("access line: %v", l)
		}
	})
	t.Run("and cuts what is left when the time is over", func(t *testing.T) {
		r, f, half := begin(t, "timeouts: {drain: 500ms}\n")
		cut(t, r, f, half)
	})
	t.Run("and a second signal ends it at once", func(t *testing.T) {
		r, f, half := begin(t, "timeouts: {drain: 1h, hello: 1h}\n")
		opsSignal(r, syscall.SIGTERM)
		cut(t, r, f, half)
	})
}

func TestStartIsRefused(t *testing.T) {
	n := opsNetwork(t, testenv.NetworkOptions{})
	refused := func(t *testing.T, config string, words ...string) {
		t.Helper()
		r := launch(t, n, config)
		opsExit(t, r, 1)
		log := r.Log().String()
		for _, w := range words {
			if !strings.Contains(log, strings.ReplaceAll(w, "FILE", r.file)) {
				t.Errorf("the output lacks %q:\n%s", w, log)
			}
		}
		if strings.Contains(log, `"msg":"ready"`) {
			t.Errorf("it was ready:\n%s", log)
		}
	}
	good := "endpoints:\n" + opsEndpoint("a", opsURL("10.9.9.9:443"))

	t.Run("by a wrong file with every mistake in it", func(t *testing.T) {
		refused(t, opsWrong, opsWrongAt...)
	})
	t.Run("by a busy port with the process that has it", func(t *testing.T) {
		first := start(t, n, good)
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", first.Pid()))
		if err != nil {
			t.Fatal(err)
		}
		owner := fmt.Sprintf("pid %d (%s)", first.Pid(), strings.TrimSpace(string(comm)))
		refused(t, good, "spliceway: listen on 0.0.0.0:9443", "address already in use", owner+" on 0.0.0.0:9443")
		// One address of those that the first one has, in either family.
		refused(t, "listen: [10.0.0.1]\n"+good, owner+" on 0.0.0.0:9443")
		refused(t, "listen: [\"fd00::1\"]\n"+good, owner+" on [::]:9443")
	})
	t.Run("by a busy admin address that was asked for", func(t *testing.T) {
		start(t, n, good)
		other := strings.ReplaceAll(good, "9443", "9444")
		refused(t, other+"admin: {address: \"127.0.0.1:9180\"}\n", "listen for admin", "address already in use")
		// The default one is a warning.
		r := start(t, n, other)
		opsLine(r, 0, `"level":"WARN"`, "running without metrics and health")
	})
	t.Run("by an address that is not the host's", func(t *testing.T) {
		refused(t, "listen: [192.0.2.1]\n"+good, "listen on 192.0.2.1:9443", "this host does not have the address")
	})
}

// opsWrong has a mistake in each line but one, opsWrongAt what must be said of it.
const opsWrong = `enigne: auto
endpoints:
- name: A
  url: tls://a..test
  upstream: {url: "tls://10.2.0.2"}
limits: {maxConnections: -1}
`

var opsWrongAt = []string{
	`FILE:1:1: `, `engine`, `FILE:3:9: endpoints[0].name: `, `FILE:4:8: endpoints[0].url: `,
	`FILE:5:19: endpoints[0].upstream.url: `, `FILE:6:26: limits.maxConnections: `,
}

func TestAdminServesWhatItSays(t *testing.T) {
	n := opsNetwork(t, testenv.NetworkOptions{})
	good := "endpoints:\n" + opsEndpoint("a", opsURL("10.9.9.9:443"))
	check := func(t *testing.T, r *run, want map[string]int) {
		t.Helper()
		for path, status := range want {
			if got, body := r.get(path); got != status {
				t.Errorf("%s: status %d, want %d: %.100s", path, got, status, body)
			}
		}
	}
	t.Run("without profiles", func(t *testing.T) {
		r := start(t, n, good)
		check(t, r, map[string]int{
			"/metrics": 200, "/healthz": 200, "/readyz": 200, "/": 200,
			"/other": 404, "/debug/pprof/": 404, "/debug/pprof/cmdline": 404,
		})
		if v := r.metric("endpoints"); v != 1 {
			t.Errorf("endpoints: %v", v)
		}
		if v := r.metric(`config_loads_total{result="ok"}`); v != 1 {
			t.Errorf("loads: %v", v)
		}
	})
	t.Run("with profiles", func(t *testing.T) {
		check(t, start(t, n, good+"admin: {pprof: true}\n"), map[string]int{
			"/metrics": 200, "/debug/pprof/": 200, "/debug/pprof/cmdline": 200, "/debug/pprof/goroutine": 200,
		})
	})
	t.Run("not at all", func(t *testing.T) {
		start(t, n, good+"admin: {address: off}\n")
		if c, err := n.Gateway.Dial(short(t), netip.MustParseAddrPort("127.0.0.1:9180")); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("got %v, %v", c, err)
		}
	})
}

func TestAccessLog(t *testing.T) {
	n := opsNetwork(t, testenv.NetworkOptions{})
	opsBackend(t, n, 0, "a")
	config := "endpoints:\n" + opsEndpoint("a", opsURL(opsTarget(n, 0)))
	visit := func(t *testing.T) net.Addr {
		c, _ := opsOpen(t, n.Clients[0], opsGateway(n), "a")
		if err := errors.Join(c.CloseWrite(), testenv.ExpectEOF(c, patience), c.Close()); err != nil {
			t.Fatal(err)
		}
		return c.LocalAddr()
	}
	t.Run("is text if the file says so", func(t *testing.T) {
		r := launch(t, n, config+"log: {format: text}\n")
		opsLine(r, 0, "level=INFO msg=ready")
		client := visit(t)
		opsLine(r, 0, "level=INFO msg=connection", "client="+client.String(), "sni=a.test", "outcome=routed", "end=eof")
	})
	t.Run("is not written if the file says so", func(t *testing.T) {
		r := start(t, n, config+"log: {access: false}\n")
		visit(t)
		opsMetric(r, `connections_total{outcome="routed"}`, 1)
		opsSignal(r, syscall.SIGTERM)
		opsExit(t, r, 0)
		if strings.Contains(r.Log().String(), `"msg":"connection"`) {
			t.Errorf("there is an access line:\n%s", r.Log())
		}
	})
}

func TestLimitsRefuseAndGiveBack(t *testing.T) {
	n := opsNetwork(t, testenv.NetworkOptions{Clients: 2})
	opsBackend(t, n, 0, "a")
	endpoints := func(rest ...string) string {
		return "endpoints:\n" + opsEndpoint("a", opsURL(opsTarget(n, 0)), rest...) + opsEndpoint("b", opsURL(opsTarget(n, 0)))
	}
	r := start(t, n, endpoints())
	over := func(t *testing.T, host *testenv.Host, name, limit string) {
		t.Helper()
		before := r.metric(`limits_refused_total{limit="` + limit + `"}`)
		if l := opsRefused(t, r, host, name); l["outcome"] != "over_limit" || l["reason"] != limit || l["level"] != "WARN" {
			t.Errorf("access line: %v", l)
		}
		opsMetric(r, `limits_refused_total{limit="`+limit+`"}`, before+1)
	}
	served := func(t *testing.T, host *testenv.Host, name string) *net.TCPConn {
		t.Helper()
		c, _ := opsOpen(t, host, opsGateway(n), name)
		return c
	}
	first, second := n.Clients[0], n.Clients[1]

	t.Run("of connections", func(t *testing.T) {
		opsReload(r, endpoints()+"limits: {maxConnections: 2}\n")
		a, b := served(t, first, "a"), served(t, second, "b")
		over(t, first, "a", "max_connections")
		over(t, second, "b", "max_connections")
		opsLeave(t, r, a)
		opsMetric(r, "connections_open", 1) // the line comes first
		opsLeave(t, r, served(t, second, "a"))
		opsLeave(t, r, b)
	})
	t.Run("of connections per client", func(t *testing.T) {
		opsReload(r, endpoints()+"limits: {maxConnectionsPerClient: 1}\n")
		a, b := served(t, first, "a"), served(t, second, "a")
		over(t, first, "b", "per_client")
		over(t, second, "b", "per_client")
		opsLeave(t, r, a)
		over(t, second, "b", "per_client")
		opsLeave(t, r, served(t, first, "b"))
		opsLeave(t, r, b)
	})
	t.Run("of connections per client, a client being an IPv6 /64", func(t *testing.T) {
		neighbour := first.IPv6().Next()
		if err := first.AddAddress(neighbour); err != nil {
			t.Fatal(err)
		}
		to := netip.AddrPortFrom(n.IPv6, gatewayPort)
		a, _ := opsOpen(t, first, to, "a")
		c := opsSendFrom(t, first, neighbour, to, opsHello(t, "a.test"))
		if err := testenv.ExpectEOF(c, patience); err != nil {
			t.Error(err)
		}
		if l := r.lineOf(c.LocalAddr()); l["reason"] != "per_client" {
			t.Errorf("access line: %v", l)
		}
		b, _ := opsOpen(t, second, to, "a")
		opsLeave(t, r, a)
		opsLeave(t, r, b)
	})
	t.Run("of one endpoint's connections", func(t *testing.T) {
		opsReload(r, endpoints("limits: {maxConnections: 1}"))
		a := served(t, first, "a")
		over(t, second, "a", "endpoint")
		opsLeave(t, r, served(t, second, "b"))
		// The count goes on over a reload that changes the endpoint.
		opsReload(r, endpoints("limits: {maxConnections: 1}, description: new, timeouts: {connect: 1s}"))
		over(t, second, "a", "endpoint")
		opsLeave(t, r, a)
		opsLeave(t, r, served(t, second, "a"))
	})
	t.Run("of the rate of connections", func(t *testing.T) {
		const burst, tries = 3, 12
		opsReload(r, endpoints()+fmt.Sprintf("limits: {acceptRate: 1, acceptBurst: %d}\n", burst))
		began, routed, refused := time.Now(), 0, 0
		for i := range tries {
			c := opsSend(t, first, opsGateway(n), opsHello(t, "a.test"))
			_ = c.CloseWrite()
			switch l := r.lineOf(c.LocalAddr()); {
			case l["outcome"] == "routed":
				routed++
			case l["outcome"] == "over_limit" && l["reason"] == "accept_rate":
				refused++
			default:
				t.Errorf("connection %d: %v", i, l)
			}
		}
		if most := burst + 1 + int(time.Since(began).Seconds()); routed < burst || routed > most || routed+refused != tries {
			t.Errorf("%d routed and %d refused of %d, want %d to %d routed", routed, refused, tries, burst, most)
		}
		err := testenv.Poll(short(t), func() (bool, error) { // a second brings the next one
			c := opsSend(t, first, opsGateway(n), opsHello(t, "a.test"))
			_ = c.CloseWrite()
			return r.lineOf(c.LocalAddr())["outcome"] == "routed", nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}
