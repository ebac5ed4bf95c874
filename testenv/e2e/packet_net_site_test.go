// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/spliceway/spliceway/testenv"
)

// families are what flows are of: both legs of one are of the same.
var families = []string{"IPv4", "IPv6"}

// netSite is an agent with engine packet and a backend whose every byte is the test's.
type netSite struct {
	*run
	listener *net.TCPListener
}

// netStart runs the agent in the network; settings are lines of its configuration.
func netStart(t *testing.T, n *testenv.Network, settings string) netSite {
	t.Helper()
	h := n.Backends[0]
	return netStartTo(t, n, h.Namespace, h.IPv4(), h.IPv6(), settings)
}

// netStartTo has the backend listen on all addresses of a namespace, and the agent dial
// it at these.
func netStartTo(t *testing.T, n *testenv.Network, backend *testenv.Namespace, ip4, ip6 netip.Addr, settings string) netSite {
	t.Helper()
	l, err := backend.Listen(netip.AddrPortFrom(netip.IPv6Unspecified(), 0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	config := "log: {access: true}\nengine: packet\n" + settings + "endpoints:\n"
	for i, address := range []netip.Addr{ip4, ip6} {
		config += endpoint(strings.ToLower(families[i]), sni(families[i]+".test"), netip.AddrPortFrom(address, port))
	}
	return netSite{start(t, n, config), l}
}

// in is the site in a subtest, which ends what it opens.
func (s netSite) in(t *testing.T) netSite {
	sub := *s.run
	sub.t = t
	return netSite{&sub, s.listener}
}

func (s netSite) gatewayOf(family string) netip.AddrPort {
	if family == "IPv6" {
		return netip.AddrPortFrom(s.net.IPv6, gatewayPort)
	}
	return s.gateway()
}

// flow opens a flow of the family from the first client.
func (s netSite) flow(family string) *testenv.Flow {
	s.t.Helper()
	return s.flowBy(family, func(ctx context.Context) (*net.TCPConn, error) {
		return s.net.Clients[0].Dial(ctx, s.gatewayOf(family))
	})
}

// flowBy opens a flow and has the backend say the first word, as a TLS server does: by
// the time that it has arrived the flow has its engine.
func (s netSite) flowBy(family string, dial func(context.Context) (*net.TCPConn, error)) *testenv.Flow {
	s.t.Helper()
	f, err := s.tryFlow(family, dial)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = f.Close() })
	return f
}

func (s netSite) tryFlow(family string, dial func(context.Context) (*net.TCPConn, error)) (*testenv.Flow, error) {
	f, _, err := testenv.OpenFlow(short(s.t), dial, s.listener, hello(s.t, family+".test"))
	if err != nil {
		return nil, err
	}
	if err := netSay(f.Backend, f.Client, 1); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("first word: %w", err)
	}
	return f, nil
}

// netSay moves n bytes from one end to the other.
func netSay(from, to net.Conn, n int) error {
	sent := make(chan error, 1)
	data := pattern(n)
	go func() {
		_, err := from.Write(data)
		sent <- err
	}()
	if err := netExpect(to, data); err != nil {
		return err
	}
	return <-sent
}

// netExpect reads these bytes, and not on to the FIN.
func netExpect(c net.Conn, want []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(past) })
	defer stop()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil {
		return fmt.Errorf("after %d of %d bytes: %w", n, len(want), err)
	}
	if string(got) != string(want) {
		return fmt.Errorf("%d bytes arrived that are others", len(want))
	}
	return nil
}

// wasSpliced is in the line of a flow that had engine packet to its orderly end.
var wasSpliced = map[string]any{"engine": "packet", "engine_reason": nil, "outcome": "routed", "end": "eof"}

// wasNot is in the line of a flow that could not have it.
func wasNot(reason string) map[string]any {
	return map[string]any{"engine": "splice", "engine_reason": reason, "outcome": "routed", "end": "eof"}
}

// exchange moves bytes both ways at once to the end of the flow, and expects its line,
// which it returns.
func (s netSite) exchange(f *testenv.Flow, up, down int64, want map[string]any) map[string]any {
	s.t.Helper()
	if err := testenv.ExchangePair(short(s.t), f.Client, f.Backend, 1, up, down); err != nil {
		s.t.Fatal(err)
	}
	return s.expectLine(f.Client.LocalAddr(), want)
}

// packets is how many packets of flows met a verdict.
func (s netSite) packets(verdict string) float64 {
	s.t.Helper()
	return s.metric(fmt.Sprintf("packets_total{verdict=%q}", verdict))
}

// netSetting sets a sysctl in namespaces.
func netSetting(t *testing.T, key, value string, in ...*testenv.Namespace) {
	t.Helper()
	for _, n := range in {
		if err := n.SetSysctl(key, value); err != nil {
			t.Fatal(err)
		}
	}
}

// stop has the agent stand still, with every thread, until SIGCONT or its death.
func (s netSite) stop() {
	s.t.Helper()
	if err := s.Signal(syscall.SIGSTOP); err != nil {
		s.t.Fatal(err)
	}
	if err := testenv.Poll(short(s.t), func() (bool, error) {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", s.Pid()))
		if err != nil {
			return false, err
		}
		for _, file := range threads {
			b, err := os.ReadFile(file)
			if err != nil {
				return false, nil // the thread has ended meanwhile
			}
			// The state comes after the name, which may have anything in it (proc(5)).
			if _, state, _ := strings.Cut(string(b), ") "); !strings.HasPrefix(state, "T") {
				return false, nil
			}
		}
		return len(threads) > 0, nil
	}); err != nil {
		s.t.Fatalf("the agent does not stop: %v", err)
	}
}
