// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

func TestStrangersPass(t *testing.T) {
	for _, family := range families {
		s := splice(t, family.ends)
		other := netip.MustParseAddr("192.0.2.99")
		if family.client.Addr().Is6() {
			other = netip.MustParseAddr("2001:db8::99")
		}
		for _, c := range []struct {
			name    string
			change  func(p *segment)
			mangle  func(frame []byte) []byte
			only    string
			counted []PacketPacketCount
		}{
			{name: "another source", change: func(p *segment) { p.src = other }},
			{name: "another destination", change: func(p *segment) { p.dst = other }},
			{name: "another source port", change: func(p *segment) { p.sport++ }},
			{name: "another destination port", change: func(p *segment) { p.dport++ }},
			{name: "the tuple the other way round", change: func(p *segment) { p.src, p.dst, p.sport, p.dport = p.dst, p.src, p.dport, p.sport }},
			{name: "UDP", change: func(p *segment) { p.proto = 17 }},
			{name: "VLAN tag", mangle: func(frame []byte) []byte {
				return append(append(append([]byte{}, frame[:12]...), 0x81, 0, 0, 5), frame[12:]...)
			}},
			{name: "another protocol", mangle: func(frame []byte) []byte { frame[12], frame[13] = 0x08, 0x06; return frame }},
			{name: "no TCP header", mangle: func(frame []byte) []byte { return frame[:len(frame)-20] }},
			{name: "half a TCP header", mangle: func(frame []byte) []byte { return frame[:len(frame)-10] }},
			{name: "options cut off", change: func(p *segment) { p.options = []byte{1, 1, 1, 1} },
				mangle:  func(frame []byte) []byte { return frame[:len(frame)-2] },
				counted: []PacketPacketCount{PacketPacketCountPASSED_MALFORMED}},
			{name: "payload cut off", change: func(p *segment) { p.payload = []byte("abc") },
				mangle:  func(frame []byte) []byte { return frame[:len(frame)-1] },
				counted: []PacketPacketCount{PacketPacketCountPASSED_MALFORMED}},
			{name: "TCP header shorter than 20 bytes",
				mangle:  func(frame []byte) []byte { frame[len(frame)-8] = 4 << 4; return frame },
				counted: []PacketPacketCount{PacketPacketCountPASSED_MALFORMED}},
			{name: "TCP header longer than the packet",
				mangle:  func(frame []byte) []byte { frame[len(frame)-8] = 6 << 4; return frame },
				counted: []PacketPacketCount{PacketPacketCountPASSED_MALFORMED}},
			{name: "IPv4 header shorter than 20 bytes", only: "IPv4", mangle: func(frame []byte) []byte { frame[14] = 0x44; return frame }},
			{name: "IPv4 shorter than its headers", only: "IPv4",
				mangle:  func(frame []byte) []byte { binary.BigEndian.PutUint16(frame[16:], 39); return frame },
				counted: []PacketPacketCount{PacketPacketCountPASSED_MALFORMED}},
			{name: "first fragment", only: "IPv4", change: func(p *segment) { p.fragment = 0x2000 },
				counted: []PacketPacketCount{PacketPacketCountPASSED_FRAGMENT}},
			{name: "later fragment", only: "IPv4", change: func(p *segment) { p.fragment = 0x2000 | 100 }},
			{name: "last fragment", only: "IPv4", change: func(p *segment) { p.fragment = 100 }},
			{name: "long hop-by-hop header", only: "IPv6", change: func(p *segment) {
				p.hopByHop = []byte("\x01\x01\x0c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
			}},
			{name: "fragment header", only: "IPv6", change: func(p *segment) { p.hopByHop = []byte{0, 0, 1, 0, 0, 0, 0} },
				mangle: func(frame []byte) []byte { frame[14+6] = 44; return frame }},
			{name: "routing header", only: "IPv6", change: func(p *segment) { p.hopByHop = []byte{0, 0, 0, 0, 0, 0, 0} },
				mangle: func(frame []byte) []byte { frame[14+6] = 43; return frame }},
		} {
			if c.only != "" && c.only != family.name {
				continue
			}
			t.Run(family.name+", "+c.name, func(t *testing.T) {
				e := *s.engine
				e.t = t
				before := e.flow()
				p := s.from(PacketSideCLIENT)
				if c.change != nil {
					c.change(&p)
				}
				frame := p.frame()
				if c.mangle != nil {
					frame = c.mangle(frame)
				}
				e.wantPassed(e.PacketIngress, frame)
				e.wantCounted(c.counted...)
				e.wantEvents()
				if got := e.flow(); got != before {
					t.Errorf("flow changed: got %+v, want %+v", got, before)
				}
			})
		}
	}
}

// Only a spliced flow's broken packets are worth counting.
func TestMalformedPacketsOfOtherStatesAreNotCounted(t *testing.T) {
	s := splice(t, ends4)
	f := s.flow()
	f.State = PacketStateARMED
	s.put(f, s.ends)
	p := s.from(PacketSideCLIENT)
	p.fragment = 0x2000
	s.wantPassed(s.PacketIngress, p.frame())
	frame := s.from(PacketSideCLIENT).frame()
	s.wantPassed(s.PacketIngress, append(frame[:14+20+12], append([]byte{0}, frame[14+20+13:]...)...))
	s.wantCounted()
}

// An element of the table of tuples may say the flow that was there before.
func TestTupleOfAnotherFlowPasses(t *testing.T) {
	s := splice(t, ends4)
	other := netip.MustParseAddr("192.0.2.99")
	for what, change := range map[string]func(p *segment){
		"source":           func(p *segment) { p.src = other },
		"destination":      func(p *segment) { p.dst = other },
		"source port":      func(p *segment) { p.sport++ },
		"destination port": func(p *segment) { p.dport++ },
		"nothing":          func(*segment) {},
	} {
		stale := s.from(PacketSideCLIENT)
		change(&stale)
		for id := uint64(flowID); id <= flowID+1; id++ { // another one, and none
			if what == "nothing" && id == flowID {
				continue
			}
			if err := s.Tuples.Put(stale.tuple(), PacketDirection{Flow: id, Side: PacketSideCLIENT}); err != nil {
				t.Fatal(err)
			}
			s.wantPassed(s.PacketIngress, stale.frame())
			s.wantCounted()
		}
	}
}

func TestRoutersDropIsTheProgramsDrop(t *testing.T) {
	for _, family := range families {
		for _, c := range []struct {
			name     string
			ttl, tos byte
			clearECN bool
			counted  PacketPacketCount
		}{
			{"last hop", 1, 0, false, PacketPacketCountDROPPED_TTL},
			{"beyond the last hop", 0, 0, false, PacketPacketCountDROPPED_TTL},
			{"congestion experienced, and nobody to tell", 64, 3, true, PacketPacketCountDROPPED_CE},
		} {
			t.Run(family.name+", "+c.name, func(t *testing.T) {
				e := load(t)
				client, backend := legs(family.ends, 1, 2, 3, 4, 7, 7)
				client.clearECN = c.clearECN
				e.put(flowOf(family.ends, client, backend), family.ends)
				p := family.from(PacketSideCLIENT)
				p.ttl, p.tos = c.ttl, c.tos
				if verdict, _ := e.run(e.PacketIngress, p.frame(), skbContext{}); verdict != verdictShot {
					t.Errorf("verdict: got %d, want %d", int32(verdict), verdictShot)
				}
				e.wantCounted(c.counted)
			})
		}
	}
}
