// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv"
)

// Bytes of either direction keep a flow, before and after one side has closed, and
// what ends it then is a reset that reaches both sides.
func TestTimeoutActivity(t *testing.T) {
	testenv.CheckLeaks(t)
	const idle, halfClose = 600 * time.Millisecond, 400 * time.Millisecond
	all := startRelay(t, "timeouts: {idle: "+idle.String()+", halfClose: "+halfClose.String()+"}")
	for _, c := range []struct {
		name         string
		closed, from string // who closes first, if anybody; who sends
		limit        time.Duration
		end          string
	}{
		{"of the client keeps an open flow", "", "client", idle, "idle_timeout"},
		{"of the upstream keeps an open flow", "", "upstream", idle, "idle_timeout"},
		{"of the client keeps a flow that the upstream has half-closed", "upstream", "client", halfClose, "half_close_timeout"},
		{"of the upstream keeps a flow that the client has half-closed", "client", "upstream", halfClose, "half_close_timeout"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := all.in(t)
			var f *testenv.Flow
			var from, to *net.TCPConn
			var last time.Time
			for attempt, paced := 0, false; !paced; attempt++ {
				if attempt == 10 {
					t.Fatal("the machine is too busy to keep the pace of this test")
				}
				begin := time.Now()
				f = r.flow()
				from, to = f.Client, f.Backend
				if c.from == "upstream" {
					from, to = to, from
				}
				if c.closed != "" { // by the one that does not send
					if err := to.CloseWrite(); err != nil {
						t.Fatal(err)
					}
					if err := testenv.ExpectEOF(from, patience); err != nil {
						t.Fatal(err)
					}
				}
				var err error
				if last, paced, err = relayKeepBusy(from, to, begin, c.limit); paced && err != nil {
					t.Fatal(err)
				}
			}
			if err := testenv.ExpectReset(to, patience); err != nil {
				t.Errorf("who was sent bytes: %v", err)
			}
			if took := time.Since(last); took < c.limit {
				t.Errorf("cut %s after the last byte, %s are allowed", took, c.limit)
			}
			// The sender may have read a FIN before, so it would not read a reset
			// behind it. A write would be answered with one in any case.
			if err := relayPendingError(t, from); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				t.Errorf("the sender's connection: %v, want a reset", err)
			}
			r.expectLine(f.Client.LocalAddr(), map[string]any{"outcome": "routed", "end": c.end, "closed_by": "agent"})
		})
	}
}

// relayKeepBusy sends byte after byte, well inside the limit, until the flow that was
// opened at begin is much older than the limit. paced: it could. A machine that is
// busy with something else may hold it up, and then what became of the flow says
// nothing. last is before the last byte.
func relayKeepBusy(from, to *net.TCPConn, begin time.Time, limit time.Duration) (last time.Time, paced bool, err error) {
	if err := to.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return last, true, err
	}
	tick := time.NewTicker(limit / 12)
	defer tick.Stop()
	for before := begin; time.Since(begin) < limit*3/2; before = last {
		<-tick.C
		last = time.Now()
		if _, err = from.Write([]byte("x")); err == nil {
			_, err = to.Read(make([]byte, 1))
		}
		if time.Since(before) > limit/2 {
			return last, false, err
		}
		if err != nil {
			return last, true, fmt.Errorf("after %s of traffic: %w", time.Since(begin), err)
		}
	}
	return last, true, nil
}

// relayPendingError waits for the error that the kernel has for a connection: the
// peer's reset shows there without a read or a write.
func relayPendingError(t *testing.T, c *net.TCPConn) error {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var errno int
	if err := testenv.Poll(short(t), func() (bool, error) {
		e := raw.Control(func(fd uintptr) { errno, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR) })
		return errno != 0, errors.Join(e, err)
	}); err != nil {
		return err
	}
	return syscall.Errno(errno)
}

// A sender that resets while its bytes are on the way: the reader gets a beginning
// of them, whole and in order, and then the reset.
func TestResetWhileSending(t *testing.T) {
	ofSplice(t, "packet counts what was acknowledged, which is less than what the reader of a reset connection got")
	testenv.CheckLeaks(t)
	all := startRelay(t)
	block := pattern(1 << 20)
	for _, by := range []string{"client", "upstream"} {
		t.Run("by the "+by, func(t *testing.T) {
			r := all.in(t)
			f := r.flow()
			from, to, other := f.Client, f.Backend, "bytes_out"
			count, greeting := "bytes_in", len(hello(t, "a.test"))
			if by == "upstream" {
				from, to = to, from
				count, other, greeting = other, count, 0
			}
			client := f.Client.LocalAddr()
			stopped := make(chan struct{})
			go func() {
				defer close(stopped)
				for {
					if _, err := from.Write(block); err != nil {
						return // closed by the reset below
					}
				}
			}()
			received := int64(0)
			buf := make([]byte, 64<<10)
			if err := to.SetReadDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			var end error
			for reset := false; end == nil; {
				var n int
				n, end = to.Read(buf)
				for got := buf[:n]; len(got) > 0; {
					want := block[received%int64(len(block)):]
					want = want[:min(len(want), len(got))]
					if !bytes.HasPrefix(got, want) {
						t.Fatalf("other bytes than those that were sent, near byte %d", received)
					}
					received, got = received+int64(len(want)), got[len(want):]
				}
				if received >= 4<<20 && !reset {
					reset = true
					if err := testenv.Reset(from); err != nil {
						t.Fatal(err)
					}
				}
			}
			<-stopped
			if !errors.Is(end, syscall.ECONNRESET) {
				t.Errorf("the reader's end after %d bytes: %v, want a reset", received, end)
			}
			l := r.expectLine(client, map[string]any{"outcome": "routed", "end": "reset", "closed_by": by})
			if want := float64(received + int64(greeting)); l[count] != want {
				t.Errorf("%s is %v, want %v: what the reader got", count, l[count], want)
			}
		})
	}
}

// relayCounted counts what goes over the TCP connection below TLS.
type relayCounted struct {
	*net.TCPConn
	in, out atomic.Int64
}

func (c *relayCounted) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	c.in.Add(int64(n))
	return n, err
}

func (c *relayCounted) Write(b []byte) (int, error) {
	n, err := c.TCPConn.Write(b)
	c.out.Add(int64(n))
	return n, err
}

// The access line and the metric tell exactly what went over the wire: the hello
// too, and with TLS the handshake and the records.
func TestBytesAreCounted(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	ca := testenv.MustCA(t)
	b := tlsBackend(t, n.Backends[0], ca, "a", "a.test")
	l, target := listenOn(t, n.Backends[0])
	r := start(t, n, "endpoints:\n"+endpoint("a", sni("a.test"), at(n.Backends[0], b))+
		endpoint("b", sni("b.test"), target)+endpoint("c", sni("c.test"), target, "timeouts: {idle: 1s}"))

	expect := func(t *testing.T, client net.Addr, in, out int64, end string) {
		t.Helper()
		r.expectLine(client, map[string]any{
			"outcome": "routed", "end": end, "bytes_in": float64(in), "bytes_out": float64(out),
		})
	}
	t.Run("of TLS, handshake and all", func(t *testing.T) {
		raw, err := n.Clients[0].Dial(short(t), netip.AddrPortFrom(n.IPv6, gatewayPort))
		if err != nil {
			t.Fatal(err)
		}
		counted := &relayCounted{TCPConn: raw}
		c := tls.Client(counted, ca.ClientConfig("a.test"))
		defer func() { _ = c.Close() }()
		if _, err := testenv.TransferBoth(short(t), c, b, 1, 3<<20, 5<<20); err != nil {
			t.Fatal(err)
		}
		client := c.LocalAddr()
		_ = c.Close()
		expect(t, client, counted.out.Load(), counted.in.Load(), "eof")
		r.expectMetric(`bytes_total{direction="in",endpoint="a"}`, float64(counted.out.Load()))
		r.expectMetric(`bytes_total{direction="out",endpoint="a"}`, float64(counted.in.Load()))
	})
	greeting := int64(len(hello(t, "b.test"))) // and as long for c.test
	t.Run("of a flow that says hello and no more", func(t *testing.T) {
		r := *r
		r.t = t
		f := r.open(n.Clients[0], l, "b.test")
		client := f.Client.LocalAddr()
		_ = f.Close() // both have read all there is: FIN
		expect(t, client, greeting, 0, "eof")
	})
	t.Run("of a flow cut for idling", func(t *testing.T) {
		r := *r
		r.t = t
		f := r.open(n.Clients[0], l, "c.test")
		up, down := pattern(300_000), pattern(70_001)
		if _, err := f.Client.Write(up); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Backend.Write(down); err != nil {
			t.Fatal(err)
		}
		// Both at once: what waits for a sleeping reader when the time is over
		// is lost.
		var g errgroup.Group
		for c, want := range map[net.Conn][]byte{f.Client: down, f.Backend: up} {
			g.Go(func() error {
				if got, end := seen(c); end != "RST" || !bytes.Equal(got, want) {
					return fmt.Errorf("%d bytes of %d arrived, and %s", len(got), len(want), end)
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
		expect(t, f.Client.LocalAddr(), greeting+int64(len(up)), int64(len(down)), "idle_timeout")
	})
	t.Run("of small pieces that wait for a reader", func(t *testing.T) {
		ofSplice(t, "nothing waits in the agent")
		r := *r
		r.t = t
		// The reader and the agent's socket towards it are full at once, so that
		// a piece waits in the agent itself. Its other socket has room for the rest.
		for key, ns := range map[string]*testenv.Namespace{"net/ipv4/tcp_wmem": n.Gateway, "net/ipv4/tcp_rmem": n.Clients[0].Namespace} {
			if err := ns.SetSysctl(key, "4096 8192 8192"); err != nil {
				t.Fatal(err)
			}
		}
		f := r.open(n.Clients[0], l, "b.test")
		data := pattern(96 << 10)
		for piece := range slices.Chunk(data, 8<<10) {
			if _, err := f.Backend.Write(piece); err != nil {
				t.Fatal(err)
			}
			if err := testenv.Poll(short(t), func() (bool, error) {
				n, err := unsent(f.Backend)
				return n == 0, err
			}); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range []*net.TCPConn{f.Backend, f.Client} {
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
		}
		if err := expectBytes(f.Client, data); err != nil {
			t.Error(err)
		}
		expect(t, f.Client.LocalAddr(), greeting, int64(len(data)), "eof")
	})
}
