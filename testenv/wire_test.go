// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// wireKinds are both kinds of wires, which no test should tell apart.
var wireKinds = []LinkKind{TAP, TUN}

func TestWireImpaired(t *testing.T) {
	for _, kind := range wireKinds {
		t.Run(string(kind), func(t *testing.T) {
			CheckLeaks(t)
			client, backend, address := wiredClient(t, kind)
			impairment := Impairment{Loss: 0.01, Duplicate: 0.01, Reorder: 0.02, Delay: time.Millisecond, Jitter: time.Millisecond / 2, Seed: 1}
			for _, device := range []*Device{client.Device, client.Uplink} {
				if err := device.Impair(impairment); err != nil {
					t.Fatal(err)
				}
			}
			conn := dialPlain(t, client, address)
			if _, err := TransferBoth(testContext(t), conn, backend, 1, 2<<20, 2<<20); err != nil {
				t.Fatal(err)
			}
			for _, direction := range []Direction{ToHost, ToGateway} {
				s := client.Wire.Stats(direction)
				if s.Segments < 1000 || s.Lost == 0 || s.Duplicated == 0 || s.Reordered == 0 {
					t.Errorf("%s: got %+v, want 1000 segments at least and some of every fate", direction, s)
				}
			}
			if info := tcpInfo(t, conn); info.Total_retrans == 0 || info.Reord_seen == 0 && info.Rcv_ooopack == 0 {
				t.Errorf("TCP met no loss or no reordering: %+v", info)
			}
		})
	}
}

func TestWireDelays(t *testing.T) {
	client, _, address := wiredClient(t, TAP)
	const delay = 50 * time.Millisecond
	if err := client.Device.Impair(Impairment{Delay: delay}); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	dialPlain(t, client, address)
	if took := time.Since(start); took < delay {
		t.Errorf("connected in %v, want %v at least", took, delay)
	}
}

func TestLaneRepeatsFates(t *testing.T) {
	const segments = 2000
	run := func(i Impairment) (order []int, stats WireStats) {
		var l lane
		l.impair(i)
		now := time.Now()
		collect := func() {
			for _, frame := range l.due(now) {
				var n int
				fmt.Sscan(string(frame), &n)
				order = append(order, n)
			}
		}
		for n := range segments {
			l.admit(fmt.Append(nil, n), true, now)
			collect()
		}
		now = l.next()
		for ; !now.IsZero(); now = l.next() {
			collect()
		}
		return order, l.stats
	}
	impairment := Impairment{Loss: 0.1, Duplicate: 0.1, Reorder: 0.1, Seed: 7}
	first, stats := run(impairment)
	again, _ := run(impairment)
	if diff := cmp.Diff(first, again); diff != "" {
		t.Errorf("the same seed gave another order:\n%s", diff)
	}
	impairment.Seed++
	if other, _ := run(impairment); slices.Equal(first, other) {
		t.Error("another seed gave the same order")
	}
	for _, n := range []int{stats.Lost, stats.Duplicated, stats.Reordered} {
		if n < segments/20 || n > segments/5 {
			t.Errorf("got %+v, want about a tenth of each", stats)
		}
	}
	if want := segments - stats.Lost + stats.Duplicated; len(first) != want {
		t.Errorf("%d segments came out, want %d", len(first), want)
	}
	clean, _ := run(Impairment{})
	if !slices.IsSorted(clean) || len(clean) != segments {
		t.Errorf("a clean lane gave %d segments, in order: %t", len(clean), slices.IsSorted(clean))
	}
	reordered, _ := run(Impairment{Reorder: 0.1})
	for at, n := range reordered {
		if at-n > maxGap {
			t.Errorf("segment %d came at %d, want %d later at most", n, at, maxGap)
		}
	}
}

func TestWireFilter(t *testing.T) {
	for _, kind := range wireKinds {
		t.Run(string(kind), func(t *testing.T) {
			CheckLeaks(t)
			network := MustNetwork(t, NetworkOptions{ClientLink: LinkOptions{Kind: kind}})
			client := network.Clients[0]
			conn, server := connected(t, client, network.Backends[0])

			t.Run("rewrites", func(t *testing.T) {
				client.Wire.Filter(func(d Direction, frame []byte) [][]byte {
					p, err := ParsePacket(client.Wire.IP(frame))
					if err != nil || d != ToGateway || string(p.Payload) != "honest" {
						return [][]byte{frame}
					}
					p.Payload = []byte("forged")
					return [][]byte{client.Wire.Frame(frame, p)}
				})
				expectBytes(t, conn, server, "honest", "forged")
			})
			t.Run("spoils until the kernel has sent again", func(t *testing.T) {
				var spoilt atomic.Bool
				client.Wire.Filter(func(d Direction, frame []byte) [][]byte {
					p, err := ParsePacket(client.Wire.IP(frame))
					if err == nil && string(p.Payload) == "twice" && spoilt.CompareAndSwap(false, true) {
						p.BadChecksum, p.Payload = true, []byte("wrong")
						return [][]byte{client.Wire.Frame(frame, p)}
					}
					return [][]byte{frame}
				})
				expectBytes(t, conn, server, "twice", "twice")
				if !spoilt.Load() {
					t.Error("no segment was spoilt")
				}
			})
			t.Run("holds back what is injected later", func(t *testing.T) {
				held := make(chan []byte, 100)
				client.Wire.Filter(func(d Direction, frame []byte) [][]byte {
					if d == ToGateway {
						held <- frame
						return nil
					}
					return [][]byte{frame}
				})
				if _, err := io.WriteString(conn, "later"); err != nil {
					t.Fatal(err)
				}
				if err := client.Wire.Inject(ToGateway, frameWith(t, held, "later")); err != nil {
					t.Fatal(err)
				}
				expectBytes(t, conn, server, "", "later")
				client.Wire.Filter(nil)
			})
		})
	}
}

// A frame on a wire is as on a real one: no larger than the MTU, checksums done.
func TestWireCarriesFinishedFrames(t *testing.T) {
	client, backend, address := wiredClient(t, TAP)
	var frames, bad, large atomic.Int64
	client.Wire.Filter(func(_ Direction, frame []byte) [][]byte {
		if p, err := ParsePacket(client.Wire.IP(frame)); err == nil {
			frames.Add(1)
			if p.BadChecksum {
				bad.Add(1)
			}
		}
		if len(frame) > 14+1500 {
			large.Add(1)
		}
		return [][]byte{frame}
	})
	conn := dialPlain(t, client, address)
	if _, err := TransferBoth(testContext(t), conn, backend, 1, 1<<20, 1<<20); err != nil {
		t.Fatal(err)
	}
	if frames.Load() < 1000 || bad.Load() > 0 || large.Load() > 0 {
		t.Errorf("of %d packets %d had a bad checksum, %d were larger than the MTU", frames.Load(), bad.Load(), large.Load())
	}
}

// wiredClient is a client on a wire, and a plain backend that it reaches.
func wiredClient(t *testing.T, kind LinkKind) (*Host, *Backend, netip.AddrPort) {
	t.Helper()
	network := MustNetwork(t, NetworkOptions{ClientLink: LinkOptions{Kind: kind}})
	host := network.Backends[0]
	backend := MustBackend(t, host.Namespace, BackendOptions{})
	return network.Clients[0], backend, netip.AddrPortFrom(host.IPv4(), backend.Port())
}

// connected is both ends of a connection between two hosts.
func connected(t *testing.T, client, host *Host) (conn, server *net.TCPConn) {
	t.Helper()
	listener, err := host.Listen(netip.AddrPortFrom(host.IPv4(), 0))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if conn, err = client.Dial(testContext(t), listener.Addr().(*net.TCPAddr).AddrPort()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if server, err = Accept(testContext(t), listener); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return conn, server
}

// frameWith waits for a frame with a text in it.
func frameWith(t *testing.T, frames <-chan []byte, text string) []byte {
	t.Helper()
	ctx := testContext(t)
	for {
		select {
		case frame := <-frames:
			if bytes.Contains(frame, []byte(text)) {
				return frame
			}
		case <-ctx.Done():
			t.Fatalf("no frame had %q", text)
		}
	}
}

// expectBytes sends and expects, in one segment each.
func expectBytes(t *testing.T, from io.Writer, to net.Conn, send, want string) {
	t.Helper()
	if send != "" {
		if _, err := io.WriteString(from, send); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]byte, len(want))
	if err := to.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(to, got); err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}
