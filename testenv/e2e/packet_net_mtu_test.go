// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv"
)

// TestPacketWhenThePathShrinks: a router says to the gateway, whose packets it takes
// them for, that segments have become too large. Whoever made them must hear of it.
func TestPacketWhenThePathShrinks(t *testing.T) {
	testenv.CheckLeaks(t)
	for _, family := range families {
		for name, far := range map[string]func(*testenv.Network) *testenv.Router{
			"client":  func(n *testenv.Network) *testenv.Router { return n.Clients[0].Router },
			"backend": func(n *testenv.Network) *testenv.Router { return n.Backends[0].Router },
		} {
			t.Run("to the "+name+" in "+family, func(t *testing.T) {
				n := testenv.MustNetwork(t, testenv.NetworkOptions{
					ClientLink: testenv.LinkOptions{Router: true}, BackendLink: testenv.LinkOptions{Router: true},
				})
				s := netStart(t, n, "")
				f := s.flow(family)
				if err := netSay(f.Client, f.Backend, 200_000); err != nil {
					t.Fatal(err)
				}
				if err := netSay(f.Backend, f.Client, 200_000); err != nil {
					t.Fatal(err)
				}
				if got := s.packets("translated_icmp"); got != 0 {
					t.Fatalf("%v ICMP errors before anything happened", got)
				}
				if err := far(n).Far.SetMTU(1300); err != nil {
					t.Fatal(err)
				}
				s.exchange(f, 1<<20, 1<<20, wasSpliced)
				if s.packets("translated_icmp") == 0 {
					t.Error("no ICMP error was translated")
				}
			})
		}
	}
}

// TestPacketPassesUnreachableOn: an error about a packet of the flow's reaches the end
// that made the packet, in its own terms, and does no harm.
func TestPacketPassesUnreachableOn(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, netWires)
	s := netStart(t, n, "")
	for _, family := range families {
		for name, ends := range map[string]struct{ hears, at *testenv.Host }{
			"client":  {n.Clients[0], n.Backends[0]},
			"backend": {n.Backends[0], n.Clients[0]},
		} {
			t.Run("to the "+name+" in "+family, func(t *testing.T) {
				s := s.in(t)
				f := s.flow(family)
				from, to := f.Client, f.Backend
				if name == "backend" {
					from, to = to, from
				}
				capture := testenv.MustCapture(t, ends.hears.Device)
				wire := ends.at.Wire
				// As the host behind the wire: it does not want a segment. It takes it,
				// too.
				said := false
				wire.Filter(func(d testenv.Direction, frame []byte) [][]byte {
					p, err := testenv.ParsePacket(wire.IP(frame))
					if err != nil || d != testenv.ToHost || len(p.Payload) == 0 || said {
						return [][]byte{frame}
					}
					said = true
					e, err := testenv.PacketTooBig(p.Destination.Addr(), 0, wire.IP(frame))
					if err != nil {
						t.Error(err)
						return [][]byte{frame}
					}
					e.Code = 1 // host unreachable
					if e.Protocol == unix.IPPROTO_ICMPV6 {
						e.Type, e.Code = 1, 3 // address unreachable
					}
					like := frame
					if wire.Ethernet { // back to where the frame came from
						like = append(append(append([]byte(nil), frame[6:12]...), frame[:6]...), frame[12:14]...)
					}
					if err := wire.Inject(testenv.ToGateway, wire.Frame(like, e)); err != nil {
						t.Error(err)
					}
					return [][]byte{frame}
				})
				if err := netSay(from, to, 1000); err != nil {
					t.Fatal(err)
				}
				isError := func(p testenv.Seen) bool {
					return p.Protocol == unix.IPPROTO_ICMP || p.Protocol == unix.IPPROTO_ICMPV6 && p.Type < 128
				}
				heard, err := capture.Wait(short(t), testenv.Incoming, isError)
				if err != nil {
					t.Fatal(err)
				}
				sent, err := capture.Wait(short(t), testenv.Outgoing, testenv.WithPayload)
				if err != nil {
					t.Fatal(err)
				}
				about, err := heard.Quoted()
				if err != nil || heard.BadChecksum {
					t.Fatalf("the error is spoilt: %v, %s", err, heard)
				}
				if about.Source != sent.Source || about.Destination != sent.Destination || about.Seq != sent.Seq {
					t.Errorf("the error is about\n%s, sent was\n%s", about, sent)
				}
				if heard.Source.Addr() != sent.Destination.Addr() {
					t.Errorf("the error is from %s, who is not known here", heard.Source.Addr())
				}
				s.exchange(f, 100_000, 100_000, wasSpliced)
			})
		}
	}
	if got := s.packets("translated_icmp"); got != 4 {
		t.Errorf("%v ICMP errors were translated, want 4", got)
	}
}
