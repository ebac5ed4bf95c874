// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// icmpError is an ICMP error on its way to the gateway, about a packet that the
// gateway seems to have sent.
type icmpError struct {
	header
	kind, code byte
	rest       uint32 // the second word: MTU, pointer
	quote      []byte // an IP packet, or its beginning
}

func (e icmpError) frame() []byte {
	b := make([]byte, 8, 8+len(e.quote))
	b[0], b[1] = e.kind, e.code
	binary.BigEndian.PutUint32(b[4:], e.rest)
	b = append(b, e.quote...)
	covered := b
	if e.src.Is6() {
		covered = append(e.pseudo(len(b)), b...)
	}
	binary.BigEndian.PutUint16(b[2:], checksum(covered))
	return ethernet(e.bytes(b))
}

// about returns an error of a router about a packet of the quoted segment.
func about(router netip.Addr, quoted segment, kind, code byte, rest uint32, bytes int) icmpError {
	e := icmpError{header: header{src: router, dst: quoted.src, ttl: 61, id: 99, proto: protoICMP}, kind: kind, code: code, rest: rest}
	if quoted.src.Is6() {
		e.proto = protoICMP6
	}
	e.quote = quoted.ip()
	e.quote = e.quote[:min(bytes, len(e.quote))]
	return e
}

// untranslate is the segment that l made into s, as far as an error's quote goes:
// addresses, ports and the sequence number.
func (l leg) untranslate(s segment, src, dst netip.AddrPort) segment {
	s.header.src, s.sport = src.Addr(), src.Port()
	s.header.dst, s.dport = dst.Addr(), dst.Port()
	s.seq -= l.seq
	return s
}

var routers = map[string]netip.Addr{
	"IPv4": netip.MustParseAddr("192.0.2.1"),
	"IPv6": netip.MustParseAddr("2001:db8:ffff::1"),
}

// least is how much of a packet an error quotes at the least: RFC 792.
var least = map[string]int{"IPv4": 20 + 8, "IPv6": 40 + 8}

// sentTo is a segment as the gateway sends it to a side, that is what became of one
// of the other side.
func (s spliced) sentTo(side PacketSide) segment {
	if side == PacketSideBACKEND {
		return s.client.translate(s.from(PacketSideCLIENT))
	}
	return s.backend.translate(s.from(PacketSideBACKEND))
}

// toldTo is the error that the maker of a segment sent to side gets for it.
func (s spliced) toldTo(side PacketSide, e icmpError, sent segment) icmpError {
	if side == PacketSideBACKEND {
		e.src, e.dst = s.front.Addr(), s.ends.client.Addr()
		sent = s.client.untranslate(sent, s.ends.client, s.front)
	} else {
		e.src, e.dst = s.back.Addr(), s.ends.backend.Addr()
		sent = s.backend.untranslate(sent, s.ends.backend, s.back)
	}
	// The quote's TCP checksum is as it was: nobody can check it, as the quote ends
	// before the segment does. Past the sequence number nothing changes at all.
	quote := append([]byte(nil), e.quote...)
	n := 20 + 8
	if sent.src.Is6() {
		n = 40 + 8
	}
	copy(quote, sent.ip()[:n])
	e.quote = quote
	return e
}

func (s spliced) translatesError(t *testing.T, e icmpError, want icmpError) {
	t.Helper()
	verdict, out := s.run(s.PacketIngress, e.frame(), skbContext{})
	if verdict != verdictOK {
		t.Errorf("verdict: got %d, want %d", int32(verdict), verdictOK)
	}
	wantBytes(t, out, want.frame())
}

func TestErrorsReachTheMakerOfThePacket(t *testing.T) {
	kinds := map[string][]struct {
		name       string
		kind, code byte
		rest       uint32
	}{
		"IPv4": {
			{"fragmentation needed", 3, 4, 1400},
			{"host unreachable", 3, 1, 0},
			{"administratively prohibited", 3, 13, 0},
			{"time exceeded", 11, 0, 0},
			{"parameter problem", 12, 0, 20 << 24},
		},
		"IPv6": {
			{"packet too big", 2, 0, 1280},
			{"no route", 1, 0, 0},
			{"time exceeded", 3, 0, 0},
			{"parameter problem", 4, 1, 6},
		},
	}
	for _, family := range families {
		s := splice(t, family.ends)
		for _, kind := range kinds[family.name] {
			for _, side := range []PacketSide{PacketSideCLIENT, PacketSideBACKEND} {
				least := least[family.name]
				for _, quoted := range []int{least, least + 1, least + 12, 500} {
					t.Run(fmt.Sprintf("%s, %s, sent to side %d, %d bytes quoted", family.name, kind.name, side, quoted), func(t *testing.T) {
						s := s
						e := *s.engine
						s.engine, e.t = &e, t
						sent := s.sentTo(side)
						sent.payload = make([]byte, 300)
						err := about(routers[family.name], sent, kind.kind, kind.code, kind.rest, quoted)
						s.translatesError(t, err, s.toldTo(side, err, sent))
						s.wantCounted(PacketPacketCountTRANSLATED_ICMP)
						s.wantEvents()
					})
				}
			}
		}
	}
}

func TestRandomErrorsAreTranslated(t *testing.T) {
	const seed, rounds = 21, 2000
	for _, family := range families {
		t.Run(family.name, func(t *testing.T) {
			s := splice(t, family.ends)
			r := rand.New(rand.NewPCG(seed, uint64(len(family.name))))
			for i := range rounds {
				s.client, s.backend = randomLegs(r, family.ends)
				s.put(flowOf(family.ends, s.client, s.backend), family.ends)
				side := PacketSide(r.IntN(2))
				sent := s.sentTo(side)
				sent.seq, sent.ack, sent.id, sent.ttl = r.Uint32(), r.Uint32(), uint16(r.Uint32()), byte(r.Uint32())
				sent.payload = randomBytes(r, r.IntN(100))
				err := about(routers[family.name], sent, 3, byte(r.IntN(16)), r.Uint32(), 48+r.IntN(100))
				err.tos, err.ttl = byte(r.Uint32()), byte(r.Uint32())
				s.translatesError(t, err, s.toldTo(side, err, sent))
				if t.Failed() {
					t.Fatalf("round %d of seed %d", i, seed)
				}
			}
		})
	}
}

func TestOtherErrorsPass(t *testing.T) {
	for _, family := range families {
		s := splice(t, family.ends)
		for _, c := range []struct {
			name   string
			only   string
			sent   func(sent *segment)
			change func(e *icmpError)
			state  PacketState
		}{
			{name: "quote too short", change: func(e *icmpError) { e.quote = e.quote[:len(e.quote)-1] }},
			{name: "no quote", change: func(e *icmpError) { e.quote = nil }},
			{name: "about UDP", sent: func(sent *segment) { sent.proto = 17 }},
			{name: "about a packet to somebody else", sent: func(sent *segment) { sent.dport++ }},
			{name: "about a packet the other way", sent: func(sent *segment) {
				sent.src, sent.dst, sent.sport, sent.dport = sent.dst, sent.src, sent.dport, sent.sport
			}},
			{name: "IPv4 options in the quote", only: "IPv4", sent: func(sent *segment) {
				sent.header.options = portsOf(s.client) // where ports would be
			}},
			{name: "extension in the quote", only: "IPv6", sent: func(sent *segment) { sent.hopByHop = make([]byte, 7) }},
			{name: "echo request", only: "IPv4", change: func(e *icmpError) { e.kind = 8 }},
			{name: "echo reply", only: "IPv4", change: func(e *icmpError) { e.kind = 0 }},
			{name: "redirect", only: "IPv4", change: func(e *icmpError) { e.kind = 5 }},
			{name: "echo request", only: "IPv6", change: func(e *icmpError) { e.kind = 128 }},
			{name: "fragment", only: "IPv4", change: func(e *icmpError) { e.fragment = 0x2000 }},
			{name: "armed", state: PacketStateARMED},
			{name: "declined", state: PacketStateDECLINED},
			{name: "done", state: PacketStateDONE},
		} {
			if c.only != "" && c.only != family.name {
				continue
			}
			t.Run(family.name+", "+c.name, func(t *testing.T) {
				e := *s.engine
				e.t = t
				f := flowOf(s.ends, s.client, s.backend)
				if c.state != 0 {
					f.State = c.state
				}
				e.put(f, s.ends)
				sent := s.sentTo(PacketSideBACKEND)
				if c.sent != nil {
					c.sent(&sent)
				}
				err := about(routers[family.name], sent, 3, 0, 0, least[family.name]+len(sent.header.options)+len(sent.extension()))
				if c.change != nil {
					c.change(&err)
				}
				e.wantPassed(e.PacketIngress, err.frame())
				e.wantCounted()
				e.wantEvents()
			})
		}
	}
}

// As for segments: an element of the table of tuples may say the flow that was there
// before.
func TestErrorAboutTheTupleOfAnotherFlowPasses(t *testing.T) {
	for _, family := range families {
		s := splice(t, family.ends)
		sent := s.sentTo(PacketSideBACKEND)
		sent.sport++
		stale := tuple(s.ends.backend, netip.AddrPortFrom(s.back.Addr(), sent.sport))
		if err := s.Tuples.Put(stale, PacketDirection{Flow: flowID, Side: PacketSideBACKEND}); err != nil {
			t.Fatal(err)
		}
		s.wantPassed(s.PacketIngress, about(routers[family.name], sent, 3, 0, 0, 100).frame())
		s.wantCounted()
	}
}

// A link may pad a packet: what is behind its end is no quote.
func TestQuoteBehindTheEndPasses(t *testing.T) {
	for _, family := range families {
		s := splice(t, family.ends)
		err := about(routers[family.name], s.sentTo(PacketSideBACKEND), 3, 0, 0, least[family.name])
		padding := err.quote[len(err.quote)-1:]
		err.quote = err.quote[:len(err.quote)-1]
		s.wantPassed(s.PacketIngress, append(err.frame(), padding...))
		s.wantCounted()
	}
}
