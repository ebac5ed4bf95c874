// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv"
)

func declined(reason PacketReason) event {
	return event{Kind: PacketEventKindEVENT_DECLINED, Reason: reason}
}

var splicedEvent = event{Kind: PacketEventKindEVENT_SPLICED}

// clock is a socket's timestamp, as it would send it now.
func (g *gateway) clock(fd int) uint32 {
	g.t.Helper()
	n, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_TIMESTAMP)
	if err != nil {
		g.t.Fatal(err)
	}
	return uint32(n)
}

// fourScales gives each of the four sockets windows of a scale of its own.
var fourScales = gatewayOptions{
	clientLeg: func(ns *testenv.Namespace, listener, _ int) error {
		return errors.Join(ns.SetSysctl("net/ipv4/tcp_rmem", "4096 131072 33554432"),
			unix.SetsockoptInt(listener, unix.SOL_SOCKET, unix.SO_RCVBUF, 200000))
	},
	backendLeg: func(ns *testenv.Namespace, _, dialer int) error {
		return errors.Join(ns.SetSysctl("net/ipv4/tcp_rmem", "4096 131072 4194304"),
			unix.SetsockoptInt(dialer, unix.SOL_SOCKET, unix.SO_RCVBUF, 40000))
	},
}

// scales of windows: of those that an end sends, and of those that it takes.
type scales struct{ receives, sends uint8 }

func (g *gateway) scales(fd int) scales {
	g.t.Helper()
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		g.t.Fatal(err)
	}
	// tcpi_snd_wscale and tcpi_rcv_wscale, four bits each, which package unix leaves out.
	b := (*[7]byte)(unsafe.Pointer(info))[6]
	return scales{sends: b & 15, receives: b >> 4}
}

func TestFlip(t *testing.T) {
	for _, family := range families {
		for _, payload := range []string{"", "ServerHello"} {
			t.Run(fmt.Sprintf("%s, payload %q", family.name, payload), func(t *testing.T) {
				g := newGateway(t, family.name, fourScales)
				a, b := g.sequence(g.a), g.sequence(g.b)
				// The last timestamps of client and backend are older than these.
				aNow, bNow, clientNow, backendNow := g.clock(g.a), g.clock(g.b), g.clock(g.client), g.clock(g.backend)
				answer := g.answer(payload)
				answer.options = []byte("\x01\x01\x08\x0a\x11\x22\x33\x44\x55\x66\x77\x88")
				verdict, out := g.give(g.PacketIngress, answer)

				g.wantState(PacketStateSPLICED)
				g.wantEvents(splicedEvent)
				f := g.flow()
				client, backend := f.Legs[PacketSideCLIENT], f.Legs[PacketSideBACKEND]
				if got, want := client.SeqDelta, b.sent-a.received; got != want {
					t.Errorf("client's sequence numbers: got %d added, want %d", got, want)
				}
				if got, want := backend.SeqDelta, a.sent-b.received; got != want {
					t.Errorf("backend's sequence numbers: got %d added, want %d", got, want)
				}
				// Timestamps go on from what the gateway's sockets would send now. One
				// that the peer sent a while ago is less than its clock by that while.
				wantTimestamps := func(who string, delta, own, peer uint32) {
					t.Helper()
					const tolerance = 10000   // ms
					least := own - (peer | 1) // TCP_TIMESTAMP keeps the lowest bit for the unit
					if delta-least > tolerance {
						t.Errorf("%s's timestamps: got %d added, want %d or a little more", who, delta, least)
					}
				}
				wantTimestamps("client", client.TsvalDelta, bNow, clientNow)
				wantTimestamps("backend", backend.TsvalDelta, aNow, backendNow)
				if got, want := [2]uint64{f.Moved[0].Acked, f.Moved[1].Acked}, [2]uint64{uint64(a.sent), uint64(b.sent)}; got != want {
					t.Errorf("acknowledged by client and backend: got %d, want %d", got, want)
				}
				if f.Base != [2]uint32{a.sent, b.sent} {
					t.Errorf("base: got %d, want %d", f.Base, [2]uint32{a.sent, b.sent})
				}
				if f.Spliced == 0 || f.Moved[0].Seen == 0 || f.Moved[1].Seen == 0 || f.Closed != 0 {
					t.Errorf("times: spliced %d, seen %d and %d, closed %d", f.Spliced, f.Moved[0].Seen, f.Moved[1].Seen, f.Closed)
				}
				for side, l := range f.Legs {
					if l.Way != uint8(PacketWayWAY_UP) || l.Ifindex != 1 || l.Flags&legNoECN != 0 {
						t.Errorf("side %d: way %d, device %d, flags %#x; want up the loopback device", side, l.Way, l.Ifindex, l.Flags)
					}
				}
				g.wantScales()

				if payload == "" { // B hears that its hello has arrived
					if verdict != verdictUnspec {
						t.Errorf("verdict: got %d, want the packet passed", int32(verdict))
					}
					wantBytes(t, out, answer.frame())
					g.wantCounted(PacketPacketCountFLIPS)
					return
				}
				_, toClient := legs(g.ends, client.SeqDelta, backend.SeqDelta, client.TsvalDelta, backend.TsvalDelta, backend.WscaleOut, backend.WscaleIn)
				if verdict != verdictOK {
					t.Errorf("verdict: got %d, want %d", int32(verdict), verdictOK)
				}
				toClient.scaleIn, toClient.scaleOut = backend.WscaleIn, backend.WscaleOut
				wantBytes(t, out, toClient.translate(answer).frame())
				g.wantCounted(PacketPacketCountFLIPS, PacketPacketCountTRANSLATED)
			})
		}
	}
}

// wantScales checks that windows are taken for what their sender means and given as
// the receiver takes them.
func (g *gateway) wantScales() {
	g.t.Helper()
	f := g.flow()
	client, backend := g.scales(g.client), g.scales(g.backend)
	all := []uint8{client.receives, client.sends, backend.receives, backend.sends}
	slices.Sort(all)
	if len(slices.Compact(all)) != 4 {
		g.t.Errorf("scales %+v and %+v: not four, which tests nothing", client, backend)
	}
	for side, want := range []struct{ in, out uint8 }{{client.receives, backend.sends}, {backend.receives, client.sends}} {
		if l := f.Legs[side]; l.WscaleIn != want.in || l.WscaleOut != want.out {
			g.t.Errorf("windows of side %d: got scale %d to %d, want %d to %d", side, l.WscaleIn, l.WscaleOut, want.in, want.out)
		}
	}
}

// While a flow is armed, the client's hello may come again, and its ACKs.
func TestClientWhileArmed(t *testing.T) {
	for _, family := range families {
		for _, c := range []struct {
			name    string
			change  func(s *segment)
			state   PacketState
			reasons []PacketReason
		}{
			{"pure ACK", func(s *segment) {}, PacketStateARMED, nil},
			{"the hello again", func(s *segment) { s.seq -= uint32(len(hello)); s.payload = []byte(hello) }, PacketStateARMED, nil},
			{"its last byte again", func(s *segment) { s.seq--; s.payload = []byte(hello[len(hello)-1:]) }, PacketStateARMED, nil},
			{"the hello again, and a byte more", func(s *segment) { s.seq -= uint32(len(hello)); s.payload = []byte(hello + "!") },
				PacketStateDECLINED, []PacketReason{PacketReasonCLIENT_SPOKE}},
			{"payload", func(s *segment) { s.payload = []byte("early data") }, PacketStateDECLINED, []PacketReason{PacketReasonCLIENT_SPOKE}},
			{"payload after a gap", func(s *segment) { s.seq += 9; s.payload = []byte("early data") }, PacketStateDECLINED, []PacketReason{PacketReasonCLIENT_SPOKE}},
			{"FIN", func(s *segment) { s.flags |= flagFIN }, PacketStateDECLINED, []PacketReason{PacketReasonCLOSING}},
			{"the hello again with a FIN", func(s *segment) { s.seq -= uint32(len(hello)); s.payload = []byte(hello); s.flags |= flagFIN },
				PacketStateDECLINED, []PacketReason{PacketReasonCLOSING}},
			{"RST", func(s *segment) { s.flags = flagRST }, PacketStateDECLINED, []PacketReason{PacketReasonCLOSING}},
			{"SYN", func(s *segment) { s.flags = flagSYN }, PacketStateDECLINED, []PacketReason{PacketReasonCLOSING}},
		} {
			t.Run(family.name+", "+c.name, func(t *testing.T) {
				g := newGateway(t, family.name, gatewayOptions{})
				s := g.from(PacketSideCLIENT)
				at := g.sequence(g.a)
				s.seq, s.ack = at.received, at.sent
				c.change(&s)
				g.passes(s)
				g.wantState(c.state)
				var events []event
				for _, reason := range c.reasons {
					events = append(events, declined(reason))
				}
				g.wantEvents(events...)
				g.wantCounted(PacketPacketCountPASSED_ARMED)
			})
		}
	}
}

func TestFlipIsDeclined(t *testing.T) {
	leg := func(do func(ns *testenv.Namespace, listener, dialer int) error) gatewayOptions {
		return gatewayOptions{clientLeg: do}
	}
	// sysctl is of the connections that come, until it is set back.
	sysctl := func(path, value, back string) gatewayOptions {
		return gatewayOptions{
			clientLeg:  func(ns *testenv.Namespace, _, _ int) error { return ns.SetSysctl(path, value) },
			backendLeg: func(ns *testenv.Namespace, _, _ int) error { return ns.SetSysctl(path, back) },
		}
	}
	for _, c := range []struct {
		name    string
		kernel  func(t *testing.T) // skips where the kernel cannot
		options gatewayOptions
		prepare func(g *gateway)
		change  func(s *segment)
		reason  PacketReason
		ifindex uint32
	}{
		{name: "client queue: the client has sent more", prepare: func(g *gateway) {
			g.write(g.client, "!")
			g.waitFor("a byte more in A's queue", func() (bool, error) {
				n, err := unix.IoctlGetInt(g.a, unix.SIOCINQ)
				return n == len(hello)+1, err
			})
		}, reason: PacketReasonCLIENT_QUEUE},
		{name: "client queue: part of it was read", prepare: func(g *gateway) {
			g.read(g.a)
		}, reason: PacketReasonCLIENT_QUEUE},
		{name: "in flight to the client", prepare: func(g *gateway) {
			mute(g.t.(*testing.T), g.ns)
			g.write(g.a, "!")
		}, reason: PacketReasonIN_FLIGHT},
		{name: "backend queue: it has sent before", prepare: func(g *gateway) {
			g.write(g.backend, "!")
			g.waitFor("a byte in B's queue", func() (bool, error) {
				n, err := unix.IoctlGetInt(g.b, unix.SIOCINQ)
				return n == 1, err
			})
		}, change: func(s *segment) { s.seq++ }, reason: PacketReasonBACKEND_QUEUE},
		{name: "backend queue: what it sent has been read", prepare: func(g *gateway) {
			g.write(g.backend, "!")
			g.read(g.b)
		}, change: func(s *segment) { s.seq++ }, reason: PacketReasonBACKEND_QUEUE},
		{name: "backend queue: a packet is missing", change: func(s *segment) { s.seq++ }, reason: PacketReasonBACKEND_QUEUE},
		{name: "backend queue: an old packet", change: func(s *segment) { s.seq-- }, reason: PacketReasonBACKEND_QUEUE},
		{name: "backend early: not all is acknowledged", change: func(s *segment) { s.ack-- }, reason: PacketReasonBACKEND_EARLY},
		{name: "backend early: B is to write more", prepare: func(g *gateway) { g.base(len(hello), len(hello)+1) }, reason: PacketReasonBACKEND_EARLY},
		{name: "backend early: B has written more", prepare: func(g *gateway) { g.base(len(hello), len(hello)-1) }, reason: PacketReasonBACKEND_EARLY},
		{name: "closing: FIN", change: func(s *segment) { s.flags |= flagFIN }, reason: PacketReasonCLOSING},
		{name: "closing: RST", change: func(s *segment) { s.flags |= flagRST }, reason: PacketReasonCLOSING},
		{name: "closing: SYN", change: func(s *segment) { s.flags |= flagSYN }, reason: PacketReasonCLOSING},
		{name: "closing: A is not established", prepare: func(g *gateway) { g.shutdown(g.a) }, reason: PacketReasonCLOSING},
		{name: "closing: B is not established", prepare: func(g *gateway) { g.shutdown(g.b) }, reason: PacketReasonCLOSING},
		{name: "no socket A", prepare: func(g *gateway) { g.vanish(&g.a) }, reason: PacketReasonNO_SOCKET},
		{name: "no socket B", prepare: func(g *gateway) { g.vanish(&g.b) }, reason: PacketReasonNO_SOCKET},
		{name: "timestamps on one leg", options: sysctl("net/ipv4/tcp_timestamps", "0", "1"), reason: PacketReasonTIMESTAMPS},
		{name: "timestamps on the other leg", options: sysctl("net/ipv4/tcp_timestamps", "1", "0"), reason: PacketReasonTIMESTAMPS},
		{name: "SACK on one leg", options: sysctl("net/ipv4/tcp_sack", "0", "1"), reason: PacketReasonSACK},
		{name: "SACK on the other leg", options: sysctl("net/ipv4/tcp_sack", "1", "0"), reason: PacketReasonSACK},
		{name: "accurate ECN", kernel: needAccurateECN, options: sysctl("net/ipv4/tcp_ecn", "3", "0"), reason: PacketReasonACCECN},
		{name: "segments do not fit the client", options: leg(func(_ *testenv.Namespace, _, dialer int) error {
			return unix.SetsockoptInt(dialer, unix.IPPROTO_TCP, unix.TCP_MAXSEG, 500)
		}), reason: PacketReasonMSS},
		{name: "segments do not fit the backend", options: gatewayOptions{backendLeg: func(_ *testenv.Namespace, listener, _ int) error {
			return unix.SetsockoptInt(listener, unix.IPPROTO_TCP, unix.TCP_MAXSEG, 500)
		}}, reason: PacketReasonMSS},
		{name: "windows of the backend are smaller than the client's unit", options: gatewayOptions{
			clientLeg: func(ns *testenv.Namespace, _, _ int) error {
				return ns.SetSysctl("net/ipv4/tcp_rmem", "4096 131072 1073741824")
			},
			backendLeg: func(ns *testenv.Namespace, listener, _ int) error {
				return unix.SetsockoptInt(listener, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096)
			},
		}, reason: PacketReasonWINDOW},
		{name: "windows of the client are smaller than the backend's unit", options: gatewayOptions{
			clientLeg: func(_ *testenv.Namespace, _, dialer int) error {
				return unix.SetsockoptInt(dialer, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096)
			},
			backendLeg: func(ns *testenv.Namespace, _, _ int) error {
				return ns.SetSysctl("net/ipv4/tcp_rmem", "4096 131072 1073741824")
			},
		}, reason: PacketReasonWINDOW},
		{name: "a device has no program", prepare: func(g *gateway) {
			if err := g.Devices.Delete(uint32(1)); err != nil {
				g.t.Fatal(err)
			}
		}, reason: PacketReasonDEVICE, ifindex: 1},
		{name: "urgent data", change: func(s *segment) { s.flags |= flagURG; s.urgent = 1 }, reason: PacketReasonURGENT},
	} {
		for _, family := range families {
			t.Run(family.name+", "+c.name, func(t *testing.T) {
				if c.kernel != nil {
					c.kernel(t)
				}
				g := newGateway(t, family.name, c.options)
				s := g.answer("ServerHello")
				if c.prepare != nil {
					c.prepare(g)
				}
				if c.change != nil {
					c.change(&s)
				}
				g.passes(s)
				g.wantState(PacketStateDECLINED)
				want := declined(c.reason)
				want.Ifindex = c.ifindex
				g.wantEvents(want)
				g.wantCounted(PacketPacketCountPASSED_ARMED)
				// It is not tried again.
				g.passes(s)
				g.wantEvents()
			})
		}
	}
}

// needAccurateECN skips the test where the kernel does not know accurate ECN, which
// then cannot be negotiated either.
func needAccurateECN(t *testing.T) {
	t.Helper()
	err := testenv.MustNamespace(t, "accurate ECN").SetSysctl("net/ipv4/tcp_ecn", "3")
	if errors.Is(err, unix.EINVAL) {
		t.Skip("this kernel has no accurate ECN (net.ipv4.tcp_ecn = 3)")
	}
	if err != nil {
		t.Fatal(err)
	}
}

// base sets what the agent says of the two queues.
func (g *gateway) base(unread, written int) {
	g.t.Helper()
	f := g.flow()
	f.Base = [2]uint32{uint32(unread), uint32(written)}
	g.put(f, g.ends)
}

// read takes a byte out of a socket's queue.
func (g *gateway) read(fd int) {
	g.t.Helper()
	if n, err := descriptor(fd).Read(make([]byte, 1)); n != 1 || err != nil {
		g.t.Fatalf("read a byte: got %d: %v", n, err)
	}
}

func (g *gateway) shutdown(fd int) {
	g.t.Helper()
	if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
		g.t.Fatal(err)
	}
}

// vanish closes a socket without a packet.
func (g *gateway) vanish(fd *int) {
	g.t.Helper()
	if err := unix.SetsockoptInt(*fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1); err != nil {
		g.t.Fatal(err)
	}
	if err := unix.Close(*fd); err != nil {
		g.t.Fatal(err)
	}
	*fd = -1
}

// The backend's kernel may acknowledge the hello in parts.
func TestFlipWaitsForTheLastAcknowledgement(t *testing.T) {
	for _, family := range families {
		t.Run(family.name, func(t *testing.T) {
			g := newGateway(t, family.name, gatewayOptions{})
			s := g.answer("")
			s.ack -= uint32(len(hello))
			for range 3 {
				g.passes(s)
				g.wantState(PacketStateARMED)
				g.wantEvents()
				g.wantCounted(PacketPacketCountPASSED_ARMED)
				s.ack += 5
			}
			g.give(g.PacketIngress, g.answer("ServerHello"))
			g.wantState(PacketStateSPLICED)
			g.wantEvents(splicedEvent)
		})
	}
}

// A program that comes while another one decides.
func TestPacketsDuringTheFlip(t *testing.T) {
	flipping := func(t *testing.T) *gateway {
		g := newGateway(t, "IPv4", gatewayOptions{})
		f := g.flow()
		f.State = PacketStateFLIPPING
		g.put(f, g.ends)
		return g
	}
	t.Run("of the backend", func(t *testing.T) {
		g := flipping(t)
		g.passes(g.answer("ServerHello"))
		g.wantState(PacketStateFLIPPING)
		g.wantEvents()
		g.wantCounted(PacketPacketCountFLIPS_LOST, PacketPacketCountPASSED_ARMED)
	})
	t.Run("of the client", func(t *testing.T) {
		g := flipping(t)
		s, at := g.from(PacketSideCLIENT), g.sequence(g.a)
		s.seq, s.ack, s.payload = at.received, at.sent, []byte("early data")
		g.passes(s)
		g.wantState(PacketStateDECLINED)
		g.wantEvents(declined(PacketReasonCLIENT_SPOKE))
		g.wantCounted(PacketPacketCountPASSED_ARMED)
	})
}

// ECN on one leg: the other must not see it.
func TestFlipClearsECNOfOneLeg(t *testing.T) {
	for _, c := range []struct {
		client, backend string
		cleared         bool
	}{{"1", "1", false}, {"0", "0", false}, {"1", "0", true}, {"0", "1", true}} {
		t.Run(fmt.Sprintf("tcp_ecn %s and %s", c.client, c.backend), func(t *testing.T) {
			set := func(value string) func(*testenv.Namespace, int, int) error {
				return func(ns *testenv.Namespace, _, _ int) error { return ns.SetSysctl("net/ipv4/tcp_ecn", value) }
			}
			g := newGateway(t, "IPv4", gatewayOptions{clientLeg: set(c.client), backendLeg: set(c.backend)})
			g.give(g.PacketIngress, g.answer("ServerHello"))
			g.wantState(PacketStateSPLICED)
			for side, l := range g.flow().Legs {
				if got := l.Flags&legNoECN != 0; got != c.cleared {
					t.Errorf("side %d: ECN cleared: got %v, want %v", side, got, c.cleared)
				}
			}
		})
	}
}

// A device that is not the loopback one is left by the neighbour or as it is.
func TestFlipTakesTheDevicesWay(t *testing.T) {
	for _, c := range []struct {
		flags PacketDeviceFlags
		want  PacketWay
	}{{0, PacketWayWAY_NEIGH}, {PacketDeviceFlagsDEVICE_RAW, PacketWayWAY_RAW}, {PacketDeviceFlagsDEVICE_LOOPBACK, PacketWayWAY_UP}} {
		g := newGateway(t, "IPv4", gatewayOptions{})
		g.device(PacketDevice{Flags: c.flags})
		g.give(g.PacketIngress, g.answer(""))
		for side, l := range g.flow().Legs {
			if l.Way != uint8(c.want) {
				t.Errorf("device's flags %d, side %d: way: got %d, want %d", c.flags, side, l.Way, c.want)
			}
		}
	}
}
