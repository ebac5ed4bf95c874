// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv"
)

func TestReloadUnderLoadFailsNoConnection(t *testing.T) {
	n := opsNetwork(t, testenv.NetworkOptions{Backends: 3})
	ca := testenv.MustCA(t)
	conf, err := ca.ServerConfig("a.test")
	if err != nil {
		t.Fatal(err)
	}
	backend := testenv.MustBackend(t, n.Backends[0].Namespace, testenv.BackendOptions{
		Name: "a", TLS: conf, Address: netip.AddrPortFrom(netip.IPv6Unspecified(), opsBackendPort),
	})
	opsBackend(t, n, 1, "one")
	opsBackend(t, n, 2, "two")
	target := func(host int) string { return opsURL(opsTarget(n, host)) }
	gateway, other := opsGateway(n), netip.AddrPortFrom(n.IPv4, gatewayPort+1)
	answers := func(to netip.AddrPort, name, want string) func(*run) {
		return func(r *run) {
			t.Helper()
			if b, _ := opsVisit(t, r, to, name); b != want {
				t.Errorf("%s.test: %q answered, want %q", name, b, want)
			}
		}
	}
	var (
		a = opsEndpoint("a", target(0))
		// Another pool for the endpoint under load.
		changed = opsEndpoint("a", target(0)+", retries: 5", "timeouts: {idle: 10m}")
		d       = fmt.Sprintf("- {name: d, url: \"tls://d.test:%d\", upstream: {%s}}\n", other.Port(), target(1))
	)
	steps := []struct {
		endpoints string
		check     func(*run)
	}{
		{a + opsEndpoint("b", target(1)), answers(gateway, "b", "one")},
		{changed + opsEndpoint("b", target(2)), answers(gateway, "b", "two")},
		{opsEndpoint("b", target(2)) + d + a, answers(other, "d", "one")},
		{opsEndpoint("b", target(2)) + changed, func(*run) {
			t.Helper()
			if c, err := n.Clients[0].Dial(short(t), other); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("a port that was removed: got %v, %v", c, err)
			}
		}},
		{a, func(r *run) {
			t.Helper()
			if l := opsRefused(t, r, n.Clients[0], "b"); l["outcome"] != "unknown_name" {
				t.Errorf("an endpoint that was removed: %v", l)
			}
		}},
	}
	r := start(t, n, "endpoints:\n"+a)

	// A transfer that was there before goes through all of it.
	long, err := n.Clients[0].DialTLS(short(t), gateway, ca.ClientConfig("a.test"))
	if err != nil {
		t.Fatal(err)
	}
	defer long.Close()
	if _, err := testenv.Ask(long, testenv.Request{Mode: testenv.Echo}); err != nil {
		t.Fatal(err)
	}
	sent, echoed, echo := sha256.New(), sha256.New(), make(chan error, 1)
	go func() {
		_, err := io.Copy(echoed, long)
		echo <- err
	}()
	random := rand.NewChaCha8([32]byte{1})

	ctx, cancel := context.WithCancel(short(t))
	var load sync.WaitGroup
	defer func() {
		cancel()
		load.Wait()
	}()
	var served atomic.Int64
	failures := make(chan error, 4)
	for worker := range cap(failures) {
		to := gateway
		if worker%2 == 1 {
			to = netip.AddrPortFrom(n.IPv6, gatewayPort)
		}
		load.Go(func() {
			for ctx.Err() == nil {
				// Not ctx: what has begun is to end well.
				if err := opsTransfer(short(t), n.Clients[0], to, ca, backend); err != nil {
					failures <- err
					return
				}
				served.Add(1)
			}
		})
	}
	const reloads, between = 20, 4
	for i := range reloads {
		target := served.Load() + between
		err := testenv.Poll(short(t), func() (bool, error) {
			if len(failures) > 0 {
				return false, <-failures
			}
			return served.Load() >= target, nil
		})
		if err != nil {
			t.Fatalf("under load, before reload %d: %v", i, err)
		}
		step := steps[i%len(steps)]
		opsReload(r, "endpoints:\n"+step.endpoints)
		if _, err := io.CopyN(io.MultiWriter(long, sent), random, 256<<10); err != nil {
			t.Fatalf("the long transfer: %v", err)
		}
		step.check(r)
	}
	cancel()
	load.Wait()
	for len(failures) > 0 {
		t.Error(<-failures)
	}
	if err := long.CloseWrite(); err != nil {
		t.Error(err)
	}
	if err := <-echo; err != nil || string(echoed.Sum(nil)) != string(sent.Sum(nil)) {
		t.Errorf("the long transfer came back as something else, %v", err)
	}
	_ = long.Close()
	t.Logf("%d connections during %d reloads", served.Load(), reloads)

	if l := r.lineOf(long.LocalAddr()); l["end"] != "eof" {
		t.Errorf("access line of the long transfer: %v", l)
	}
	opsMetric(r, "connections_open", 0)
	seen := 0
	for _, l := range r.Log().Lines() {
		var m map[string]any
		if json.Unmarshal([]byte(l), &m) != nil || m["msg"] != "connection" || m["endpoint"] != "a" {
			continue
		}
		seen++
		if m["outcome"] != "routed" || m["end"] != "eof" {
			t.Errorf("access line: %s", l)
		}
	}
	if want := int(served.Load()) + 1; seen != want || backend.Accepted() != want {
		t.Errorf("%d access lines and %d connections at the backend, want %d", seen, backend.Accepted(), want)
	}
	if f := backend.Failures(); len(f) > 0 {
		t.Errorf("at the backend: %v", f)
	}
	if v := r.metric(`config_loads_total{result="refused"}`); v != 0 {
		t.Errorf("%v files were refused", v)
	}
}

// opsTransfer is a whole connection over TLS.
func opsTransfer(ctx context.Context, host *testenv.Host, to netip.AddrPort, ca *testenv.CA, b *testenv.Backend) error {
	c, err := host.DialTLS(ctx, to, ca.ClientConfig("a.test"))
	if err != nil {
		return err
	}
	_, err = testenv.TransferBoth(ctx, c, b, 1, 20_000, 30_000)
	return errors.Join(err, c.Close())
}

func TestReloadRefusesAWrongFileAndGoesOn(t *testing.T) {
	n := opsNetwork(t, testenv.NetworkOptions{Backends: 2})
	opsBackend(t, n, 0, "zero")
	opsBackend(t, n, 1, "one")
	config := func(host int) string { return "endpoints:\n" + opsEndpoint("a", opsURL(opsTarget(n, host))) }
	r := start(t, n, config(0))
	stays := func(t *testing.T, want string, refusals float64) {
		t.Helper()
		if b, _ := opsVisit(t, r, opsGateway(n), "a"); b != want {
			t.Errorf("%q answered, want %q", b, want)
		}
		if v := r.metric(`config_loads_total{result="refused"}`); v != refusals {
			t.Errorf("refused: %v, want %v", v, refusals)
		}
		if status, _ := r.get("/readyz"); status != 200 {
			t.Errorf("readyz: %d", status)
		}
	}
	// The file's change alone is enough; what SIGHUP does is tested elsewhere.
	var beyond int
	write := func(config string) {
		beyond = len(r.Log().Lines())
		r.write(config)
	}
	loaded := []string{`"msg":"configuration loaded"`, `"reason":"file changed"`}

	t.Run("a right one is taken", func(t *testing.T) {
		write(config(1))
		opsLine(r, beyond, loaded...)
		stays(t, "one", 0)
	})
	t.Run("a wrong one is refused with every mistake", func(t *testing.T) {
		write(opsWrong)
		for _, w := range opsWrongAt {
			at, what, positioned := strings.Cut(strings.ReplaceAll(w, "FILE", r.file), ": ")
			if positioned {
				at = `"at":"` + at + `","error":"` + what // the position once
			}
			opsLine(r, beyond, `"msg":"configuration refused"`, `"level":"ERROR"`, at)
		}
		opsLine(r, beyond, fmt.Sprintf(`"at":"%s:6:26"`, r.file))
		stays(t, "one", 1)
	})
	t.Run("one that is no YAML is refused", func(t *testing.T) {
		write("endpoints: [\n")
		opsLine(r, beyond, `"msg":"configuration refused"`)
		stays(t, "one", 2)
	})
	t.Run("one that is truncated is refused", func(t *testing.T) {
		beyond = len(r.Log().Lines())
		if err := os.WriteFile(r.file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		opsLine(r, beyond, `"msg":"configuration refused"`, "at least one endpoint")
		stays(t, "one", 3)
	})
	t.Run("a right one is taken again", func(t *testing.T) {
		write(config(0))
		opsLine(r, beyond, loaded...)
		stays(t, "zero", 3)
	})
	t.Run("one that is gone changes nothing", func(t *testing.T) {
		beyond = len(r.Log().Lines())
		if err := os.Remove(r.file); err != nil {
			t.Fatal(err)
		}
		opsSignal(r, syscall.SIGHUP)
		opsLine(r, beyond, `"msg":"configuration refused"`, "no such file")
		stays(t, "zero", 4)
	})
	t.Run("and is taken when it is back", func(t *testing.T) {
		write(config(1))
		opsLine(r, beyond, loaded...)
		stays(t, "one", 4)
	})
	t.Run("one with a busy port changes nothing else either", func(t *testing.T) {
		busy, err := n.Gateway.Listen(netip.AddrPortFrom(netip.IPv6Unspecified(), gatewayPort+1))
		if err != nil {
			t.Fatal(err)
		}
		defer busy.Close()
		wants := config(0) + strings.ReplaceAll(opsEndpoint("b", opsURL(opsTarget(n, 0))), "9443", "9444")
		write(wants)
		opsLine(r, beyond, `"msg":"configuration refused"`, ":9444: address already in use", fmt.Sprintf("pid %d (", os.Getpid()))
		stays(t, "one", 5)
		if err := busy.Close(); err != nil {
			t.Fatal(err)
		}
		opsReload(r, wants) // the same file, now that it can be had
		stays(t, "zero", 5)
	})
}

func TestReloadChangesWhereItListens(t *testing.T) {
	n := opsNetwork(t, testenv.NetworkOptions{})
	opsBackend(t, n, 0, "a")
	opsLocalRoute(t, n, "10.77.0.0/16")
	endpoint := "endpoints:\n" + opsEndpoint("a", opsURL(opsTarget(n, 0)))
	uplink := n.Clients[0].Uplink
	low, high := netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("10.77.0.200")
	r := start(t, n, endpoint)
	for _, step := range []struct {
		name, listen string
		open, closed []netip.Addr // afterwards
	}{
		{"from everything to one address", "[10.0.0.1]", []netip.Addr{n.IPv4}, []netip.Addr{n.IPv6, uplink.IPv4, low}},
		{"from one address to others", "[10.1.0.1, \"fd00::1\"]", []netip.Addr{uplink.IPv4, n.IPv6}, []netip.Addr{n.IPv4}},
		{"from addresses to everything", "[]", []netip.Addr{n.IPv4, n.IPv6, uplink.IPv4, uplink.IPv6, low}, nil},
		{"from everything to a prefix", "[10.77.0.0/24]", []netip.Addr{low, high}, []netip.Addr{n.IPv4, n.IPv6}},
		{"from a prefix to a narrower one", "[10.77.0.0/25]", []netip.Addr{low}, []netip.Addr{high}},
		{"from a prefix to a wider one", "[10.77.0.0/16]", []netip.Addr{low, high}, []netip.Addr{n.IPv4}},
		{"from a prefix to everything", "[\"0.0.0.0\", \"::\"]", []netip.Addr{low, high, n.IPv4, n.IPv6}, nil},
	} {
		t.Run(step.name, func(t *testing.T) {
			opsReload(r, "listen: "+step.listen+"\n"+endpoint)
			for _, a := range step.open {
				opsVisit(t, r, netip.AddrPortFrom(a, gatewayPort), "a")
			}
			for _, a := range step.closed {
				opsIsRefused(t, n, netip.AddrPortFrom(a, gatewayPort))
			}
		})
	}
	t.Run("and still nobody else can have the port", func(t *testing.T) {
		second := launch(t, n, endpoint)
		opsExit(t, second, 1)
		opsLine(second, 0, "address already in use", fmt.Sprintf("pid %d (", r.Pid()))
	})
}

func opsIsRefused(t *testing.T, n *testenv.Network, to netip.AddrPort) {
	t.Helper()
	c, err := n.Clients[0].Dial(short(t), to)
	if err == nil {
		_ = c.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial %s: got %v, want connection refused", to, err)
	}
}

// opsLocalRoute has the gateway take packets to a prefix for itself, as
// "ip route add local PREFIX dev lo" does.
func opsLocalRoute(t *testing.T, n *testenv.Network, prefix string) {
	t.Helper()
	_, dst, err := net.ParseCIDR(prefix)
	if err != nil {
		t.Fatal(err)
	}
	err = n.Gateway.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.RouteReplace(&netlink.Route{
			LinkIndex: lo.Attrs().Index, Dst: dst, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST, Table: unix.RT_TABLE_LOCAL,
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestListenOnAPrefix(t *testing.T) {
	n := opsNetwork(t, testenv.NetworkOptions{})
	opsBackend(t, n, 0, "a")
	opsLocalRoute(t, n, "10.77.0.0/16")
	opsLocalRoute(t, n, "fd00:77::/48")
	endpoints := "endpoints:\n" + opsEndpoint("a", opsURL(opsTarget(n, 0)))
	r := start(t, n, "listen: [10.77.0.0/24, \"fd00:77::/64\", 10.0.0.1]\n"+endpoints)
	at := func(a string) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(a), gatewayPort) }
	serves := func(t *testing.T, addresses ...string) {
		t.Helper()
		for _, a := range addresses {
			if _, l := opsVisit(t, r, at(a), "a"); l["listener"] != at(a).String() {
				t.Errorf("access line: %v, want listener %s", l, at(a))
			}
		}
	}
	t.Run("serves all of it", func(t *testing.T) {
		serves(t, "10.77.0.0", "10.77.0.1", "10.77.0.77", "10.77.0.255", "fd00:77::", "fd00:77::7:7", "10.0.0.1")
	})
	t.Run("serves nothing else", func(t *testing.T) {
		for _, a := range []string{"10.77.1.0", "10.77.255.255", "fd00:77:0:1::", "10.1.0.1", "fd00::1"} {
			opsIsRefused(t, n, at(a))
		}
		opsIsRefused(t, n, netip.AddrPortFrom(at("10.77.0.1").Addr(), gatewayPort+1))
	})
	t.Run("serves ports and prefixes that a reload brings", func(t *testing.T) {
		opsReload(r, "listen: [10.77.0.0/24, 10.77.7.0/24, 10.0.0.1]\n"+endpoints+
			strings.ReplaceAll(opsEndpoint("b", opsURL(opsTarget(n, 0))), "9443", "9444"))
		serves(t, "10.77.0.1", "10.77.7.1")
		opsVisit(t, r, netip.AddrPortFrom(at("10.77.7.1").Addr(), gatewayPort+1), "b")
		opsIsRefused(t, n, at("fd00:77::7"))
	})
	t.Run("stops when a reload takes it away, but not what is open", func(t *testing.T) {
		open, _ := opsOpen(t, n.Clients[0], at("10.77.0.1"), "a")
		opsReload(r, "listen: [10.0.0.1]\n"+endpoints)
		for _, a := range []string{"10.77.0.0", "10.77.0.1", "10.77.7.1"} {
			opsIsRefused(t, n, at(a))
		}
		serves(t, "10.0.0.1")
		opsLeave(t, r, open)
	})
	t.Run("stops with the agent", func(t *testing.T) {
		opsReload(r, "listen: [10.77.0.0/24]\n"+endpoints)
		serves(t, "10.77.0.1")
		opsSignal(r, syscall.SIGTERM)
		opsExit(t, r, 0)
		opsIsRefused(t, n, at("10.77.0.1"))
	})
}

func TestListenDefaultsToEveryAddress(t *testing.T) {
	n := opsNetwork(t, testenv.NetworkOptions{})
	opsBackend(t, n, 0, "a")
	r := start(t, n, "endpoints:\n"+opsEndpoint("a", opsURL(opsTarget(n, 0))))
	uplink := n.Clients[0].Uplink
	for _, a := range []netip.Addr{n.IPv4, n.IPv6, uplink.IPv4, uplink.IPv6} {
		to := netip.AddrPortFrom(a, gatewayPort)
		if _, l := opsVisit(t, r, to, "a"); l["listener"] != to.String() {
			t.Errorf("access line: %v, want listener %s", l, to)
		}
	}
}
