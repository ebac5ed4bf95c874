// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// Layouts of TCP options that hosts, middleboxes and attackers send.
var optionLayouts = []struct {
	name    string
	options string
}{
	{"none", ""},
	{"usual timestamps", "\x01\x01\x08\x0a\x11\x22\x33\x44\x55\x66\x77\x88"},
	{"timestamps first", "\x08\x0a\x11\x22\x33\x44\x55\x66\x77\x88\x01\x01"},
	{"timestamps at an odd offset", "\x01\x08\x0a\x11\x22\x33\x44\x55\x66\x77\x88\x01"},
	{"timestamps at offset 3", "\x01\x01\x01\x08\x0a\x11\x22\x33\x44\x55\x66\x77\x88\x00\x00\x00"},
	{"timestamps as far back as they fit", string(bytes.Repeat([]byte{1}, 30)) + "\x08\x0a\xff\xff\xff\xff\xff\xff\xff\xff"},
	{"timestamps that wrap", "\x01\x01\x08\x0a\xff\xff\xff\xff\xff\xff\xff\xff"},
	{"timestamps twice", "\x08\x0a\x11\x22\x33\x44\x55\x66\x77\x88\x08\x0a\x11\x22\x33\x44\x55\x66\x77\x88"},
	{"timestamps of another length", "\x01\x01\x08\x09\x11\x22\x33\x44\x55\x66\x77\x01"},
	{"one SACK block", "\x01\x01\x05\x0a\x00\x00\x10\x00\x00\x00\x20\x00"},
	{"two SACK blocks", "\x01\x01\x05\x12\x00\x00\x10\x00\x00\x00\x20\x00\xff\xff\xff\xf0\x00\x00\x00\x10"},
	{"three SACK blocks", "\x01\x01\x05\x1a" + string(bytes.Repeat([]byte("\x00\x00\x10\x00\x00\x00\x20\x00"), 3))},
	{"four SACK blocks", "\x01\x01\x05\x22" + string(bytes.Repeat([]byte("\x00\x00\x10\x00\x00\x00\x20\x00"), 4))},
	{"four SACK blocks at an odd offset", "\x01\x05\x22" + string(bytes.Repeat([]byte("\x00\x01\x10\x00\x00\x00\x20\x03"), 4)) + "\x01"},
	{"five SACK blocks do not fit", "\x05\x2a" + string(bytes.Repeat([]byte("\x00\x00\x10\x00\x00\x00\x20\x00"), 4)) + "\x00\x00\x00\x00\x00\x00"},
	{"usual timestamps and one SACK block", "\x01\x01\x08\x0a\x11\x22\x33\x44\x55\x66\x77\x88\x01\x01\x05\x0a\x00\x00\x10\x00\x00\x00\x20\x00"},
	{"timestamps and three SACK blocks", "\x01\x01\x08\x0a\x11\x22\x33\x44\x55\x66\x77\x88\x01\x01\x05\x1a" + string(bytes.Repeat([]byte("\xff\xff\xff\xff\x00\x00\x00\x00"), 3))},
	{"SACK before timestamps", "\x05\x12" + string(bytes.Repeat([]byte("\x00\x00\x10\x00\x00\x00\x20\x00"), 2)) + "\x08\x0a\x11\x22\x33\x44\x55\x66\x77\x88"},
	{"SACK with half a block", "\x01\x01\x05\x0e\x00\x00\x10\x00\x00\x00\x20\x00\x00\x00\x30\x00"},
	{"SACK without a block", "\x05\x02\x01\x01"},
	{"SYN of Linux", "\x02\x04\x05\xb4\x04\x02\x08\x0a\x11\x22\x33\x44\x00\x00\x00\x00\x01\x03\x03\x07"},
	{"SYN of others", "\x02\x04\x05\xb4\x01\x03\x03\x08\x01\x01\x04\x02"},
	{"unknown options about it", "\xfd\x06\xf9\x89\x01\x02\x08\x0a\x11\x22\x33\x44\x55\x66\x77\x88\x13\x12\x01\x01" + string(bytes.Repeat([]byte{0xaa}, 14)) + "\x01\x01"},
	{"end, then what looks like timestamps", "\x01\x00\x08\x0a\x11\x22\x33\x44\x55\x66\x77\x88"},
	{"length 0", "\x08\x00\x08\x0a\x11\x22\x33\x44\x55\x66\x77\x88"},
	{"length 1", "\x08\x01\x08\x0a\x11\x22\x33\x44\x55\x66\x77\x88"},
	{"length beyond the header", "\x01\x01\x08\x0a\x11\x22\x33\x44"},
	{"no length byte", "\x01\x01\x01\x08"},
	{"unknown option beyond the header", "\xfd\xff\x08\x0a\x11\x22\x33\x44\x55\x66\x77\x88"},
	{"40 times nothing", string(bytes.Repeat([]byte{1}, 40))},
}

// translates checks that the program makes of the segment what the model makes of it.
func (e *engine) translates(s segment, l leg, context skbContext) {
	e.t.Helper()
	verdict, out := e.run(e.PacketIngress, s.frame(), context)
	if verdict != verdictOK {
		e.t.Errorf("verdict: got %d, want %d", int32(verdict), verdictOK)
	}
	wantBytes(e.t, out, l.translate(s).frame())
}

func TestEveryLayoutOfOptionsIsTranslated(t *testing.T) {
	for _, family := range families {
		t.Run(family.name, func(t *testing.T) {
			e := load(t)
			client, backend := legs(family.ends, 0x89abcdef, 0xfffffff0, 0x10203040, 0xf0e0d0c0, 7, 9)
			for _, layout := range optionLayouts {
				for _, flags := range []byte{flagACK, flagACK | flagPSH, flagSYN | flagACK, 0} {
					t.Run(fmt.Sprintf("%s, flags %#x", layout.name, flags), func(t *testing.T) {
						e := *e
						e.t = t
						for side, l := range []leg{client, backend} {
							e.put(flowOf(family.ends, client, backend), family.ends)
							s := family.from(PacketSide(side))
							s.flags, s.options, s.payload = flags, []byte(layout.options), []byte("abc")
							e.translates(s, l, skbContext{})
							e.wantCounted(PacketPacketCountTRANSLATED)
						}
					})
				}
			}
		})
	}
}

func TestHeadersAreTranslated(t *testing.T) {
	for _, family := range families {
		for _, c := range []struct {
			name   string
			change func(s *segment, client, backend *leg)
			only   string // family
		}{
			{"pure ACK", func(*segment, *leg, *leg) {}, ""},
			{"odd payload", func(s *segment, _, _ *leg) { s.payload = []byte("odd") }, ""},
			{"large payload", func(s *segment, _, _ *leg) { s.payload = bytes.Repeat([]byte{0xff, 0xfe, 1}, 900) }, ""},
			{"sequence numbers wrap", func(s *segment, _, _ *leg) { s.seq, s.ack = 0xffffffff, 0 }, ""},
			{"sequence numbers do not change", func(_ *segment, c, b *leg) { c.seq, c.ack, b.seq, b.ack = 0, 0, 0, 0 }, ""},
			{"ACK field without ACK", func(s *segment, _, _ *leg) { s.flags, s.ack = flagPSH, 0xdeadbeef }, ""},
			{"window overflows", func(s *segment, c, _ *leg) { s.window, c.scaleIn, c.scaleOut = 0xffff, 14, 0 }, ""},
			{"window at the limit", func(s *segment, c, _ *leg) { s.window, c.scaleIn, c.scaleOut = 0x7fff, 1, 0 }, ""},
			{"window rounds down", func(s *segment, c, _ *leg) { s.window, c.scaleIn, c.scaleOut = 0x1ff, 0, 8 }, ""},
			{"window rounds down to nothing", func(s *segment, c, _ *leg) { s.window, c.scaleIn, c.scaleOut = 0xff, 0, 14 }, ""},
			{"window is nothing", func(s *segment, _, _ *leg) { s.window = 0 }, ""},
			{"window without scale", func(s *segment, c, _ *leg) { s.window, c.scaleIn, c.scaleOut = 0xffff, 0, 0 }, ""},
			{"urgent data", func(s *segment, _, _ *leg) { s.flags |= flagURG; s.urgent = 1; s.payload = []byte("!") }, ""},
			{"ECN stays", func(s *segment, _, _ *leg) { s.tos = 0xb8 | 2; s.flags |= flagECE | flagCWR }, ""},
			{"congestion experienced stays", func(s *segment, _, _ *leg) { s.tos = 3 }, ""},
			{"ECN is cleared", func(s *segment, c, _ *leg) { c.clearECN = true; s.tos = 0xb8 | 2; s.flags |= flagECE | flagCWR }, ""},
			{"no ECN to clear", func(s *segment, c, _ *leg) { c.clearECN = true; s.tos = 0xb8 }, ""},
			{"last hop but one", func(s *segment, _, _ *leg) { s.ttl = 2 }, ""},
			{"time to live 255", func(s *segment, _, _ *leg) { s.ttl = 255 }, ""},
			{"wrong checksum stays wrong", func(s *segment, _, _ *leg) { s.spoiled = 0x0101 }, ""},
			{"IPv4 options", func(s *segment, _, _ *leg) { s.header.options = []byte("\x94\x04\x00\x00") }, "IPv4"},
			{"40 bytes of IPv4 options, 40 of TCP's", func(s *segment, _, _ *leg) {
				s.header.options = bytes.Repeat([]byte{1}, 40)
				s.options = bytes.Repeat([]byte("\x01\x01\x05\x12\x00\x00\x10\x00\x00\x00\x20\x00\xff\xff\xff\xf0\x00\x00\x00\x10"), 2)
				s.payload = []byte("x")
			}, "IPv4"},
			{"hop-by-hop header", func(s *segment, _, _ *leg) {
				s.hopByHop = []byte("\x00\x01\x04\x00\x00\x00\x00")
				s.options = []byte("\x01\x01\x08\x0a\x11\x22\x33\x44\x55\x66\x77\x88")
			}, "IPv6"},
			{"flow label and class", func(s *segment, c, _ *leg) { c.clearECN = true; s.tos, s.id = 0xfd, 0xffff }, "IPv6"},
		} {
			if c.only != "" && c.only != family.name {
				continue
			}
			t.Run(family.name+", "+c.name, func(t *testing.T) {
				e := load(t)
				client, backend := legs(family.ends, 77, 0xffff0000, 5, 6, 7, 7)
				s := family.from(PacketSideCLIENT)
				c.change(&s, &client, &backend)
				e.put(flowOf(family.ends, client, backend), family.ends)
				e.translates(s, client, skbContext{})
				e.wantCounted(PacketPacketCountTRANSLATED)
				e.wantEvents()
			})
		}
	}
}

// Random packets on random legs, always the same ones.
func TestRandomSegmentsAreTranslated(t *testing.T) {
	const seed, rounds = 20, 5000
	for _, family := range families {
		t.Run(family.name, func(t *testing.T) {
			e := load(t)
			r := rand.New(rand.NewPCG(seed, uint64(len(family.name))))
			for i := range rounds {
				client, backend := randomLegs(r, family.ends)
				side := PacketSide(r.IntN(2))
				s, l := randomSegment(r, family.from(side)), []leg{client, backend}[side]
				e.put(flowOf(family.ends, client, backend), family.ends)
				e.translates(s, l, skbContext{})
				if t.Failed() {
					t.Fatalf("round %d of seed %d: segment %+v, leg %+v", i, seed, s, l)
				}
			}
			if got := e.counted()[PacketPacketCountTRANSLATED]; got != rounds {
				t.Errorf("translated: got %d, want %d", got, rounds)
			}
		})
	}
}

func randomLegs(r *rand.Rand, at ends) (client, backend leg) {
	client, backend = legs(at, r.Uint32(), r.Uint32(), r.Uint32(), r.Uint32(), uint8(r.IntN(15)), uint8(r.IntN(15)))
	client.clearECN = r.IntN(2) == 0
	backend.clearECN = client.clearECN
	return client, backend
}

func randomSegment(r *rand.Rand, s segment) segment {
	s.seq, s.ack, s.window, s.urgent = r.Uint32(), r.Uint32(), uint16(r.Uint32()), uint16(r.Uint32())
	s.flags = byte(r.Uint32()) | flagACK // a SYN alone has a test of its own
	s.id, s.ttl = uint16(r.Uint32()), 2+byte(r.IntN(254))
	s.tos = byte(r.Uint32())
	if s.tos&3 == 3 {
		s.tos-- // what becomes of congestion experienced, too
	}
	s.payload = randomBytes(r, r.IntN(100))
	s.options = randomOptions(r)
	if s.src.Is4() {
		s.header.options = bytes.Repeat([]byte{1}, 4*max(0, r.IntN(16)-5))
	} else if r.IntN(4) == 0 {
		s.hopByHop = append([]byte{0}, randomBytes(r, 6)...)
	}
	return s
}

// randomOptions returns options of which most are whole, and some are not.
func randomOptions(r *rand.Rand) []byte {
	var options []byte
	for range r.IntN(7) {
		switch r.IntN(10) {
		case 0, 1:
			options = append(options, 1)
		case 2, 3, 4:
			options = append(append(options, 8, 10), randomBytes(r, 8)...)
		case 5, 6:
			blocks := 1 + r.IntN(4)
			options = append(append(options, 5, byte(2+8*blocks)), randomBytes(r, 8*blocks)...)
		case 7:
			value := randomBytes(r, r.IntN(12))
			options = append(append(options, byte(9+r.IntN(247)), byte(2+len(value))), value...)
		case 8:
			options = append(options, byte(r.IntN(9)), byte(r.Uint32()))
		case 9:
			if r.IntN(4) == 0 {
				options = append(options, 0)
			}
		}
	}
	options = options[:min(len(options), 40)]
	return append(options, make([]byte, -len(options)&3)...)
}

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// The raw program finds the network header at the start. The kernel's test run
// always begins with an Ethernet header, from which it takes the protocol: bytes 12
// and 13, which in these packets are part of the source address.
func TestRawProgramsFindTheHeaderAtTheStart(t *testing.T) {
	for _, c := range []struct {
		name   string
		client netip.AddrPort
		at     ends
	}{
		{"IPv4", addrPort("8.0.100.77:51034"), ends4},
		{"IPv6", addrPort("[2001:db8:86dd::77]:51034"), ends6},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := load(t)
			at := c.at
			at.client = c.client
			client, backend := legs(at, 77, 78, 5, 6, 7, 8)
			s := at.from(PacketSideCLIENT)
			s.options, s.payload = []byte("\x01\x08\x0a\x11\x22\x33\x44\x55\x66\x77\x88\x01"), []byte("abc")
			want := client.translate(s).ip()
			f := flowOf(at, client, backend)
			for _, way := range []struct {
				way     PacketWay
				verdict uint32
				before  int // bytes of room for a link-layer header
			}{
				{PacketWayWAY_UP, verdictOK, 0},
				{PacketWayWAY_RAW, verdictRedirect, 0},
				{PacketWayWAY_NEIGH, verdictRedirect, ethernetLen},
			} {
				f.Legs[PacketSideCLIENT].Way = uint8(way.way)
				e.put(f, at)
				verdict, out := e.run(e.PacketIngressRaw, s.ip(), skbContext{})
				if verdict != way.verdict {
					t.Errorf("way %d: verdict: got %d, want %d", way.way, int32(verdict), way.verdict)
				}
				wantBytes(t, out[way.before:], want)
				e.wantCounted(PacketPacketCountTRANSLATED)
			}
		})
	}
}
