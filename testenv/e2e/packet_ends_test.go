// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv"
	"github.com/spliceway/spliceway/userspace/telemetry"
)

// endsSides are the ends of a flow by the name that lines have for them.
var endsSides = []string{"client", "upstream"}

// endsOf orders a flow's ends by who begins.
func endsOf(f *testenv.Flow, by string) (first, second *net.TCPConn) {
	if by == "client" {
		return f.Client, f.Backend
	}
	return f.Backend, f.Client
}

// endsHost is where an end lives.
func (s netSite) endsHost(by string) *testenv.Host {
	if by == "client" {
		return s.net.Clients[0]
	}
	return s.net.Backends[0]
}

// endsMove moves bytes one way and waits until the sender knows that they arrived:
// that is what counts as delivered.
func endsMove(t *testing.T, from, to *net.TCPConn, n int) {
	t.Helper()
	if err := netSay(from, to, n); err != nil {
		t.Fatal(err)
	}
	if err := testenv.Poll(short(t), func() (bool, error) {
		left, err := unsent(from)
		return left == 0, err
	}); err != nil {
		t.Fatal(err)
	}
}

// endsLine is what the line of a spliced flow says after its first word (netSite.flow)
// and as many bytes from who begins and from the other.
func endsLine(t *testing.T, family, by, end string, first, second int) map[string]any {
	in, out := first, second
	if by != "client" {
		in, out = second, first
	}
	return map[string]any{
		"engine": "packet", "engine_reason": nil, "outcome": "routed", "end": end, "closed_by": by,
		"bytes_in": float64(len(hello(t, family+".test")) + in), "bytes_out": float64(1 + out),
	}
}

// TestPacketEnds: whoever ends a spliced flow, and however, the other end learns it the
// same way, and the line says who, how, and how many bytes there were to the byte.
func TestPacketEnds(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	all := netStart(t, n, "")
	const first, second = 123_457, 654_321
	for _, family := range families {
		for _, by := range endsSides {
			t.Run("FIN by the "+by+", and much comes the other way after it, in "+family, func(t *testing.T) {
				s := all.in(t)
				f := s.flow(family)
				a, b := endsOf(f, by)
				endsMove(t, a, b, first)
				if err := errors.Join(a.CloseWrite(), testenv.ExpectEOF(b, patience)); err != nil {
					t.Fatal(err)
				}
				endsMove(t, b, a, second)
				if err := errors.Join(b.CloseWrite(), testenv.ExpectEOF(a, patience)); err != nil {
					t.Fatal(err)
				}
				s.expectLine(f.Client.LocalAddr(), endsLine(t, family, by, "eof", first, second))
			})
			t.Run("RST by the "+by+" in "+family, func(t *testing.T) {
				s := all.in(t)
				f := s.flow(family)
				client := f.Client.LocalAddr()
				a, b := endsOf(f, by)
				endsMove(t, a, b, first)
				endsMove(t, b, a, second)
				if err := errors.Join(testenv.Reset(a), testenv.ExpectReset(b, patience)); err != nil {
					t.Fatal(err)
				}
				s.expectLine(client, endsLine(t, family, by, "reset", first, second))
			})
			t.Run("RST by the "+by+" that the other had sent FIN to, in "+family, func(t *testing.T) {
				s := all.in(t)
				f := s.flow(family)
				client := f.Client.LocalAddr()
				a, b := endsOf(f, by)
				if err := errors.Join(b.CloseWrite(), testenv.ExpectEOF(a, patience)); err != nil {
					t.Fatal(err)
				}
				endsMove(t, a, b, first)
				if err := errors.Join(testenv.Reset(a), testenv.ExpectReset(b, patience)); err != nil {
					t.Fatal(err)
				}
				s.expectLine(client, endsLine(t, family, by, "reset", first, 0))
			})
		}
	}
}

// endsForge sends a packet from a host in somebody's name.
func endsForge(t *testing.T, from *testenv.Host, p testenv.Packet) {
	t.Helper()
	if err := from.Do(func() error {
		family, to := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
		if a := p.Destination.Addr(); a.Is4() {
			to = &unix.SockaddrInet4{Addr: a.As4()}
		} else {
			family, to = unix.AF_INET6, &unix.SockaddrInet6{Addr: a.As16()}
		}
		fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		return errors.Join(unix.Sendto(fd, p.Bytes(), 0, to), unix.Close(fd))
	}); err != nil {
		t.Fatal(err)
	}
}

// endsAddress is an end of a connection as it stands in packets.
func endsAddress(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// TestPacketSurvivesForgedPackets: who knows addresses and ports and guesses at the
// sequence numbers ends no flow, and changes nothing about its line: not even in the
// window, where the receiver asks back (RFC 5961), nor if the flow is silent after it.
func TestPacketSurvivesForgedPackets(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	all := netStart(t, n, "")
	type flow struct {
		name, by, family string
		*testenv.Flow
	}
	var flows []flow
	for name, forge := range map[string]func(p *testenv.Packet){
		"RST out of the window":    func(p *testenv.Packet) { p.Flags = testenv.RST; p.Seq += 1 << 30 },
		"RST in the window":        func(p *testenv.Packet) { p.Flags = testenv.RST; p.Seq += 1000 },
		"RST of the past":          func(p *testenv.Packet) { p.Flags = testenv.RST; p.Seq -= 1000 },
		"SYN":                      func(p *testenv.Packet) { p.Flags = testenv.SYN; p.Seq += 1 << 30 },
		"FIN out of the window":    func(p *testenv.Packet) { p.Flags = testenv.FIN | testenv.ACK; p.Seq += 1 << 30 },
		"ACK of what is not sent":  func(p *testenv.Packet) { p.Ack += 1 << 29 },
		"data out of the window":   func(p *testenv.Packet) { p.Seq += 1 << 30; p.Ack += 1 << 29; p.Payload = pattern(1000) },
		"RST with ACK, both wrong": func(p *testenv.Packet) { p.Flags |= testenv.RST; p.Seq += 1 << 30; p.Ack += 1 << 29 },
	} {
		for _, by := range endsSides {
			for _, family := range families {
				f := all.flow(family)
				a, b := endsOf(f, by)
				endsMove(t, a, b, 10_000)
				endsMove(t, b, a, 10_000)
				seq, err := sequence(a, sendQueue)
				if err != nil {
					t.Fatal(err)
				}
				ack, err := sequence(a, receiveQueue)
				if err != nil {
					t.Fatal(err)
				}
				p := testenv.Packet{
					Source: endsAddress(a.LocalAddr()), Destination: endsAddress(a.RemoteAddr()), Protocol: unix.IPPROTO_TCP,
					Seq: seq, Ack: ack, Flags: testenv.ACK, Window: 500,
				}
				forge(&p)
				endsForge(t, all.endsHost(by), p)
				flows = append(flows, flow{name + " as from the " + by + " in " + family, by, family, f})
			}
		}
	}
	// The silence is what is tested: the agent may take a flow for dead after a second,
	// and is to have had the time.
	<-time.After(2500 * time.Millisecond)
	for _, i := range flows {
		t.Run(i.name, func(t *testing.T) {
			s := all.in(t)
			a, b := endsOf(i.Flow, i.by)
			endsMove(t, b, a, 1000)
			if err := errors.Join(a.CloseWrite(), testenv.ExpectEOF(b, patience)); err != nil {
				t.Fatal(err)
			}
			endsMove(t, b, a, 100_000)
			if err := errors.Join(b.CloseWrite(), testenv.ExpectEOF(a, patience)); err != nil {
				t.Fatal(err)
			}
			s.expectLine(i.Client.LocalAddr(), endsLine(t, i.family, i.by, "eof", 10_000, 111_000))
		})
	}
}

// TestPacketTimeouts: a flow on which nothing moves ends with a reset of both ends, and
// one that is half closed by the time for that. One with traffic does not end.
func TestPacketTimeouts(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	const idle, halfClose = 2 * time.Second, 600 * time.Millisecond
	all := netStart(t, n, "timeouts: {idle: "+idle.String()+", halfClose: "+halfClose.String()+"}\n")
	for _, family := range families {
		t.Run("idle in "+family, func(t *testing.T) {
			t.Parallel()
			s := all.in(t)
			silent, busy := s.serialFlow(family), s.serialFlow(family)
			begin := time.Now()
			// The pace is what is tested.
			tick := time.NewTicker(idle / 8)
			defer tick.Stop()
			for time.Since(begin) < idle*5/4 {
				<-tick.C
				if err := netSay(busy.Backend, busy.Client, 1); err != nil {
					t.Fatalf("the flow with traffic, after %s: %v", time.Since(begin), err)
				}
			}
			for _, c := range []net.Conn{silent.Client, silent.Backend} {
				if err := testenv.ExpectReset(c, patience); err != nil {
					t.Errorf("the silent flow: %v", err)
				}
			}
			want := endsLine(t, family, "client", "idle_timeout", 0, 0)
			want["closed_by"] = "agent"
			l := s.expectLine(silent.Client.LocalAddr(), want)
			if took := time.Duration(l[telemetry.KeyTotal].(float64) * float64(time.Millisecond)); took < idle {
				t.Errorf("it ended after %s, allowed are %s", took, idle)
			}
			s.exchange(busy, 1000, 1000, wasSpliced)
		})
		for _, by := range endsSides {
			t.Run("half closed by the "+by+" in "+family, func(t *testing.T) {
				t.Parallel()
				s := all.in(t)
				f := s.serialFlow(family)
				a, b := endsOf(f, by)
				endsMove(t, a, b, 1000)
				begin := time.Now()
				if err := errors.Join(a.CloseWrite(), testenv.ExpectEOF(b, patience)); err != nil {
					t.Fatal(err)
				}
				if err := testenv.ExpectReset(a, patience); err != nil {
					t.Error(err)
				}
				if took := time.Since(begin); took < halfClose || took > idle {
					t.Errorf("it took %s, allowed are %s", took, halfClose)
				}
				// Having read the end of the stream, it learns of the reset by writing.
				if err := testenv.Poll(short(t), func() (bool, error) {
					_, err := b.Write([]byte("x"))
					return errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE), nil
				}); err != nil {
					t.Errorf("who was to be reset writes on: %v", err)
				}
				want := endsLine(t, family, by, "half_close_timeout", 1000, 0)
				want["closed_by"] = "agent"
				s.expectLine(f.Client.LocalAddr(), want)
			})
		}
	}
}

// TestPacketWhenTheClientIsGone: nobody says that it is, and the backend is rid of it by
// the idle timeout.
func TestPacketWhenTheClientIsGone(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	all := netStart(t, n, "timeouts: {idle: 700ms}\n")
	for _, family := range families {
		t.Run(family, func(t *testing.T) {
			s := all.in(t)
			silent, loud := s.flow(family), s.flow(family)
			if err := n.Clients[0].Uplink.Impair(testenv.Impairment{Loss: 1}); err != nil {
				t.Fatal(err)
			}
			if _, err := loud.Backend.Write(pattern(1000)); err != nil {
				t.Fatal(err)
			}
			for name, f := range map[string]*testenv.Flow{"silent": silent, "loud": loud} {
				if err := testenv.ExpectReset(f.Backend, patience); err != nil {
					t.Errorf("the %s backend: %v", name, err)
				}
				want := endsLine(t, family, "client", "idle_timeout", 0, 0)
				want["closed_by"] = "agent"
				s.expectLine(f.Client.LocalAddr(), want)
			}
			if err := n.Clients[0].Uplink.Impair(testenv.Impairment{}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// endsOne has flows of parallel tests opened one at a time: see testenv.OpenFlow.
var endsOne sync.Mutex

func (s netSite) serialFlow(family string) *testenv.Flow {
	s.t.Helper()
	endsOne.Lock()
	defer endsOne.Unlock()
	return s.flow(family)
}
