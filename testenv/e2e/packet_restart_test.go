// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/spliceway/spliceway/testenv"
)

// connectionLines are the access lines of agents by the client's address: each has one.
func connectionLines(t *testing.T, of ...*run) map[string]map[string]any {
	t.Helper()
	lines := make(map[string]map[string]any)
	for _, r := range of {
		for _, l := range r.Log().Lines() {
			var m map[string]any
			if json.Unmarshal([]byte(l), &m) != nil || m["msg"] != "connection" {
				continue
			}
			client := m["client"].(string)
			if lines[client] != nil {
				t.Errorf("two lines of %s: %v and %v", client, lines[client], m)
			}
			lines[client] = m
		}
	}
	return lines
}

// TestPacketFlowsAreAccountedForOnce: of flows that live through the death of their
// agent, some end with it, some with nobody there, some with the next one. Each has one
// line, with every byte in it and what the first agent knew; nothing of them is left.
func TestPacketFlowsAreAccountedForOnce(t *testing.T) {
	testenv.CheckLeaks(t)
	for how, signal := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "stopped": syscall.SIGTERM} {
		t.Run(how, func(t *testing.T) {
			n := testenv.MustNetwork(t, testenv.NetworkOptions{})
			state := filepath.Join(testenv.MustBPFFS(t), "state")
			s := netStart(t, n, "bpffs: "+state+"\n")
			const flows = 60
			random := rand.New(rand.NewPCG(1, 2))
			var all [flows]*testenv.Flow
			var up, down [flows]int64
			for i := range all {
				all[i] = s.flow(families[i%2])
				up[i], down[i] = random.Int64N(4<<20), random.Int64N(4<<20)
			}
			s.expectMetric(`packets_total{verdict="flips"}`, flows)
			ends := func(from, to int) {
				t.Helper()
				var g errgroup.Group
				for i := from; i < to; i++ {
					g.Go(func() error {
						if err := testenv.ExchangePair(short(t), all[i].Client, all[i].Backend, uint64(i), up[i], down[i]); err != nil {
							return fmt.Errorf("flow %d: %w", i, err)
						}
						return nil
					})
				}
				if err := g.Wait(); err != nil {
					t.Error(err)
				}
			}
			ends(0, 20)
			for _, f := range all[:20] {
				s.lineOf(f.Client.LocalAddr())
			}
			if err := s.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if err := s.Wait(short(t)); signal == syscall.SIGTERM && err != nil {
				t.Error(err)
			}
			ends(20, 40)
			second := *s.run
			second.Process = testenv.MustProcess(t, second.options())
			if _, err := second.WaitLine(short(t), says("ready")); err != nil {
				t.Fatal(err)
			}
			var active float64
			if err := testenv.Poll(short(t), func() (bool, error) {
				active = second.metric(`endpoint_connections_active{endpoint="ipv4"}`)
				return active == 10, nil
			}); err != nil {
				t.Errorf("%v flows of IPv4 are active, want 10", active)
			}
			before := second.held()
			ends(40, flows)
			for _, f := range all[20:] {
				second.lineOf(f.Client.LocalAddr())
			}
			second.expectMetric("connections_open", 0)
			ids := make(map[string]bool)
			lines := connectionLines(t, s.run, &second)
			for i, f := range all {
				l := lines[f.Client.LocalAddr().String()]
				name := families[i%2] + ".test"
				if l == nil || l["engine"] != "packet" || l["end"] != "eof" || l["bytes_in"] != float64(int64(len(hello(t, name)))+up[i]) || l["bytes_out"] != float64(1+down[i]) {
					t.Errorf("flow %d of %d and %d bytes: %v", i, up[i], down[i], l)
					continue
				}
				ids[l["id"].(string)] = true
			}
			if len(lines) != flows || len(ids) != flows {
				t.Errorf("%d lines with %d ids, want %d", len(lines), len(ids), flows)
			}
			for _, name := range []string{"tuples", "flows", "records"} {
				if err := testenv.Poll(short(t), func() (bool, error) { return entries(t, filepath.Join(state, "v1", name)) == 0, nil }); err != nil {
					t.Errorf("%s are left", name)
				}
			}
			second.expectHeld(before)
		})
	}
}

// TestPacketFlowsCountForLimits: those of this agent and those that it adopts, from the
// first connection that it accepts.
func TestPacketFlowsCountForLimits(t *testing.T) {
	testenv.CheckLeaks(t)
	for _, c := range []struct{ name, key, endpoint string }{
		{name: "max_connections", key: "limits: {maxConnections: %d}\n"},
		{name: "per_client", key: "limits: {maxConnectionsPerClient: %d}\n"},
		{name: "endpoint", endpoint: "limits: {maxConnections: %d}"},
	} {
		t.Run(c.name, func(t *testing.T) {
			const most = 200
			n := testenv.MustNetwork(t, testenv.NetworkOptions{})
			l, target := listenOn(t, n.Backends[0])
			config := fmt.Sprintf("log: {access: true}\nengine: packet\nbpffs: %s/state\n", testenv.MustBPFFS(t))
			var more []string
			if c.key != "" {
				config += fmt.Sprintf(c.key, most)
			} else {
				more = append(more, fmt.Sprintf(c.endpoint, most))
			}
			s := netSite{start(t, n, config+"endpoints:\n"+endpoint("ipv4", sni("IPv4.test"), target, more...)), l}
			for range most {
				s.flow("IPv4")
			}
			s.expectMetric(`packets_total{verdict="flips"}`, most)
			refused := func() error {
				c, err := n.Clients[0].Dial(short(t), s.gateway())
				if err != nil {
					return err
				}
				_, err = c.Write(hello(t, "IPv4.test"))
				if err == nil {
					err = testenv.ExpectEOF(c, patience)
				}
				return errors.Join(err, c.Close())
			}
			if err := refused(); err != nil {
				t.Fatalf("one more: %v", err)
			}
			if err := s.Signal(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			_ = s.Wait(short(t))
			// They knock all the time that the next agent takes to start.
			var stop atomic.Bool
			var clients errgroup.Group
			for range 4 {
				clients.Go(func() error {
					for !stop.Load() {
						if err := refused(); err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
							return fmt.Errorf("one more at the next agent: %w", err)
						}
					}
					return nil
				})
			}
			second := *s.run
			second.Process = testenv.MustProcess(t, second.options())
			_, err := second.WaitLine(short(t), says("ready"))
			if err == nil {
				err = refused()
			}
			stop.Store(true)
			if err := errors.Join(err, clients.Wait()); err != nil {
				t.Error(err)
			}
			if n := second.metric(`connections_total{outcome="routed"}`); n != 0 {
				t.Errorf("%v connections over the limit were routed", n)
			}
			if err := l.SetDeadline(past); err != nil {
				t.Fatal(err)
			}
			if _, err := l.AcceptTCP(); err == nil {
				t.Error("a connection over the limit has reached the backend")
			}
		})
	}
}

// TestPacketWithWhoeverSpeaksFirst: data right behind the hello in its segment, or a
// moment later, or a backend that does not wait: the engine is whatever it is, the bytes
// are right.
func TestPacketWithWhoeverSpeaksFirst(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	all := netStart(t, n, "")
	const early, up, down = 3000, 200_000, 300_000
	for name, c := range map[string]struct {
		with, behind int  // bytes in one write with the hello, and in the next
		backend      bool // says something before it has read
	}{
		"with the hello": {with: early}, "behind the hello": {behind: early}, "both": {with: 1, behind: early},
		"the backend": {backend: true}, "everybody": {with: 1, behind: early, backend: true}, "a megabyte": {with: 1 << 20},
	} {
		for _, family := range families {
			t.Run(name+" in "+family, func(t *testing.T) {
				for visit := range 25 {
					s := all.in(t)
					client, err := n.Clients[0].Dial(short(t), s.gatewayOf(family))
					if err != nil {
						t.Fatal(err)
					}
					greeting := hello(t, family+".test")
					first := append(greeting, pattern(c.with)...)
					second := pattern(c.behind)
					var g errgroup.Group
					g.Go(func() error {
						_, err := client.Write(first)
						if err == nil && len(second) > 0 { // writing nothing fails, too, once all is done and closed
							_, err = client.Write(second)
						}
						return err
					})
					backend, err := testenv.Accept(short(t), s.listener)
					if err != nil {
						t.Fatal(err)
					}
					f := &testenv.Flow{Client: client, Backend: backend}
					var ended error // closing has the write above fail, too, and sooner
					g.Go(func() (err error) {
						defer func() { ended = err; _ = f.Close() }()
						said := 0
						if c.backend {
							said = early
							if _, err := backend.Write(pattern(said)); err != nil {
								return err
							}
						}
						if err := errors.Join(netExpect(backend, first), netExpect(backend, second), netExpect(client, pattern(said))); err != nil {
							return fmt.Errorf("visit %d: %w", visit, err)
						}
						return testenv.ExchangePair(short(t), client, backend, uint64(visit), up, down)
					})
					if err := g.Wait(); err != nil {
						t.Fatal(errors.Join(ended, err))
					}
					said := 0
					if c.backend {
						said = early
					}
					// The lines are of hundreds of connections, and a port is had more than once.
					s.line(func(m map[string]any) bool {
						return m["client"] == client.LocalAddr().String() && m["outcome"] == "routed" && m["end"] == "eof" &&
							m["bytes_in"] == float64(len(first)+len(second)+up) && m["bytes_out"] == float64(said+down)
					})
				}
			})
		}
	}
}

// TestPacketWithAProxyHeader: the header goes before the hello, and the flow is spliced
// all the same; it is in no count.
func TestPacketWithAProxyHeader(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	l := opsListen(t, n, 0)
	config := "log: {access: true}\nengine: packet\nendpoints:\n"
	for _, version := range []string{"v1", "v2"} {
		for i, family := range families {
			host := []netip.Addr{n.Backends[0].IPv4(), n.Backends[0].IPv6()}[i]
			config += opsEndpoint(version+strings.ToLower(family), opsURL(netip.AddrPortFrom(host, opsBackendPort).String())+", proxyProtocol: "+version)
		}
	}
	all := netSite{start(t, n, config), l}
	for _, version := range []string{"v1", "v2"} {
		for _, family := range families {
			t.Run(version+" in "+family, func(t *testing.T) {
				s := all.in(t)
				to := s.gatewayOf(family)
				greeting := opsHello(t, version+strings.ToLower(family)+".test")
				f, header, err := testenv.OpenFlow(short(t), opsDial(n.Clients[0], to, nil), l, greeting)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = f.Close() }()
				own := f.Client.LocalAddr().(*net.TCPAddr).AddrPort()
				if version == "v2" {
					from, at, _, err := opsReadV2(header)
					if err != nil || from != own || at != to {
						t.Errorf("the header is of %s to %s (%v), want %s to %s", from, at, err, own, to)
					}
				} else if want := fmt.Sprintf("%s %s %d %d\r\n", own.Addr(), to.Addr(), own.Port(), to.Port()); string(header) != "PROXY TCP"+family[3:]+" "+want {
					t.Errorf("the header is %q, want %q", header, want)
				}
				if err := netSay(f.Backend, f.Client, 1); err != nil {
					t.Fatal(err)
				}
				want := map[string]any{"bytes_in": float64(len(greeting) + 1<<20), "bytes_out": float64(1 + 2<<20)}
				for k, v := range wasSpliced {
					want[k] = v
				}
				s.exchange(f, 1<<20, 2<<20, want)
			})
		}
	}
}
