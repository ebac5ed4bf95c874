// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv"
	"github.com/spliceway/spliceway/userspace/route"
	"github.com/spliceway/spliceway/userspace/sock"
	"github.com/spliceway/spliceway/userspace/splice"
	"github.com/spliceway/spliceway/userspace/telemetry"
	"github.com/spliceway/spliceway/userspace/upstream"
)

// mute is a resolver that never answers.
type mute struct{}

func (mute) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// deafListener has a full queue: the kernel drops further SYNs.
func deafListener(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	local, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(local.(*unix.SockaddrInet4).Port))
	c, err := net.Dial("tcp", at.String()) // a queue of 0 has room for one
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return at
}

// TestWhoWaitsHoldsNobodyUp: connections are set up on the poller's own goroutine, and
// one that has to wait must have left it. They are accepted in their order.
func TestWhoWaitsHoldsNobodyUp(t *testing.T) {
	hello := func(name string) []byte { return testenv.MustHello(t, name, testenv.HelloOptions{}) }
	target := func(host string, port uint16) upstream.Spec {
		return upstream.Spec{Targets: []upstream.Target{{Host: host, Port: port, Weight: 1}}, ConnectTimeout: time.Hour}
	}
	for name, c := range map[string]struct {
		sends    []byte
		upstream func() upstream.Spec
	}{
		"silent client": {sends: nil},
		"half a hello":  {sends: hello("a.test")[:50]},
		"an upstream that does not answer": {hello("waits.test"), func() upstream.Spec {
			at := deafListener(t)
			return target(at.Addr().String(), at.Port())
		}},
		"a name that is not answered": {hello("waits.test"), func() upstream.Spec { return target("backend.test", 443) }},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, nil)
			if c.upstream != nil {
				snap := s.snapshot(t)
				table, err := route.Build([]route.Entry{
					{Port: s.l.Addr().Port(), Name: "a.test"}, {Port: s.l.Addr().Port(), Name: "waits.test", Endpoint: 1},
				})
				if err != nil {
					t.Fatal(err)
				}
				snap.Table = table
				snap.Endpoints = append(snap.Endpoints, &Endpoint{
					Name: "waits", Engine: s.engine, Active: new(atomic.Int64), Metrics: telemetry.New(telemetry.BuildInfo{}).Endpoint("waits"),
					Pool: upstream.New(c.upstream(), upstream.Options{Dialer: s.poller, Resolver: mute{}}),
				})
				s.Update(snap)
			}
			s.send(t, c.sends)
			s.send(t, hello("a.test"))
			select {
			case f := <-s.engine.flows:
				if f.Record.SNI != "a.test" {
					t.Errorf("a flow to %q", f.Record.SNI)
				}
				_, _ = f.Client.Close(), f.Upstream.Close()
				f.Done(f.Record, splice.Result{})
			case <-time.After(patience):
				t.Fatal("one that waits keeps the next one from being served")
			}
		})
	}
}

// TestABurstIsLimitedInItsOrder: what is accepted later does not count against what was
// accepted before it.
func TestABurstIsLimitedInItsOrder(t *testing.T) {
	s := newSite(t, func(s *Server) { s.snapshot.Load().MaxConnections = 2 })
	var burst []*conn
	for range 3 {
		burst = append(burst, s.accepted(&sock.Conn{}).(*conn))
	}
	for i, want := range []telemetry.Outcome{telemetry.OutcomeRouted, telemetry.OutcomeRouted, telemetry.OutcomeOverLimit} {
		if got := burst[i].admit(); got != want {
			t.Errorf("connection %d: got %s, want %s", i+1, got, want)
		}
		burst[i].s.leave()
	}
}
