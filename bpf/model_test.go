// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// The model: what a packet is, and what it must be on the other leg. It shares
// nothing with the C code and sums up every packet anew, where that one works with
// differences.

const (
	flagFIN = 0x01
	flagSYN = 0x02
	flagRST = 0x04
	flagPSH = 0x08
	flagACK = 0x10
	flagURG = 0x20
	flagECE = 0x40
	flagCWR = 0x80

	protoHopByHop = 0
	protoICMP     = 1
	protoTCP      = 6
	protoICMP6    = 58

	ethernetLen = 14
)

// header is an IP header. Its family is that of its addresses.
type header struct {
	src, dst   netip.Addr
	tos, ttl   byte
	id         uint16 // IPv4; the low bits of the flow label for IPv6
	fragment   uint16 // IPv4: flags and offset
	options    []byte // IPv4: whole words
	hopByHop   []byte // IPv6: 8 bytes but the first, which says what is next
	proto      byte
	noChecksum bool // IPv4: leave it at 0
}

// bytes returns the header and body behind it.
func (h header) bytes(body []byte) []byte {
	if h.src.Is4() {
		ip := make([]byte, 20, 20+len(h.options)+len(body))
		ip[0] = 0x40 | byte(5+len(h.options)/4)
		ip[1] = h.tos
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(h.options)+len(body)))
		binary.BigEndian.PutUint16(ip[4:], h.id)
		binary.BigEndian.PutUint16(ip[6:], h.fragment)
		ip[8], ip[9] = h.ttl, h.proto
		copy(ip[12:], h.src.AsSlice())
		copy(ip[16:], h.dst.AsSlice())
		ip = append(ip, h.options...)
		if !h.noChecksum {
			binary.BigEndian.PutUint16(ip[10:], checksum(ip))
		}
		return append(ip, body...)
	}
	ip := make([]byte, 40, 48+len(body))
	binary.BigEndian.PutUint32(ip, 6<<28|uint32(h.tos)<<20|uint32(h.id))
	binary.BigEndian.PutUint16(ip[4:], uint16(len(h.extension())+len(body)))
	ip[6], ip[7] = h.proto, h.ttl
	if h.hopByHop != nil {
		ip[6] = protoHopByHop
	}
	copy(ip[8:], h.src.AsSlice())
	copy(ip[24:], h.dst.AsSlice())
	return slices.Concat(ip, h.extension(), body)
}

func (h header) extension() []byte {
	if h.hopByHop == nil {
		return nil
	}
	return append([]byte{h.proto}, h.hopByHop...)
}

// pseudo is what a checksum covers of the header: RFC 9293, section 3.1, RFC 8200, section 8.1.
func (h header) pseudo(length int) []byte {
	b := slices.Concat(h.src.AsSlice(), h.dst.AsSlice())
	b = binary.BigEndian.AppendUint32(b, uint32(length))
	return binary.BigEndian.AppendUint32(b, uint32(h.proto))
}

// segment is a TCP segment in its IP packet. Two that are made into the same bytes
// are the same segment.
type segment struct {
	header
	sport, dport uint16
	seq, ack     uint32
	flags        byte
	window       uint16
	urgent       uint16
	options      []byte // whole words
	payload      []byte
	spoiled      uint16 // added to the checksum, to make it wrong
}

// tcp returns the TCP header and payload.
func (s segment) tcp() []byte {
	b := make([]byte, 20, 20+len(s.options)+len(s.payload))
	binary.BigEndian.PutUint16(b, s.sport)
	binary.BigEndian.PutUint16(b[2:], s.dport)
	binary.BigEndian.PutUint32(b[4:], s.seq)
	binary.BigEndian.PutUint32(b[8:], s.ack)
	b[12] = byte(5+len(s.options)/4) << 4
	b[13] = s.flags
	binary.BigEndian.PutUint16(b[14:], s.window)
	binary.BigEndian.PutUint16(b[18:], s.urgent)
	b = slices.Concat(b, s.options, s.payload)
	sum := checksum(append(s.pseudo(len(b)), b...))
	if s.spoiled != 0 {
		sum = fold(uint32(sum) + uint32(s.spoiled))
	}
	binary.BigEndian.PutUint16(b[16:], sum)
	return b
}

// ip returns the IP packet.
func (s segment) ip() []byte { return s.bytes(s.tcp()) }

// frame returns the packet as an Ethernet frame.
func (s segment) frame() []byte { return ethernet(s.ip()) }

func (s segment) tuple() PacketTuple {
	return tuple(netip.AddrPortFrom(s.src, s.sport), netip.AddrPortFrom(s.dst, s.dport))
}

func ethernet(ip []byte) []byte {
	const addresses = "\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02"
	kind := "\x08\x00"
	if ip[0]>>4 == 6 {
		kind = "\x86\xdd"
	}
	return append([]byte(addresses+kind), ip...)
}

// leg says how one side's packets are to change.
type leg struct {
	src, dst          netip.AddrPort // what they get
	seq, ack          uint32         // what is added
	tsval, tsecr      uint32
	scaleIn, scaleOut uint8
	clearECN          bool
	lastACK           uint32 // the last that its packets had
	_                 struct{}
}

// translate is a segment's other self.
func (l leg) translate(s segment) segment {
	s.header.src, s.header.dst = l.src.Addr(), l.dst.Addr()
	s.sport, s.dport = l.src.Port(), l.dst.Port()
	s.ttl--
	s.seq += l.seq
	acks := s.flags&flagACK != 0
	switch {
	case acks:
		s.ack += l.ack
	case s.flags&flagSYN != 0 && s.flags&flagRST == 0:
		// No connection is made past the gateway: an ACK that is out of the
		// window has the same answer.
		s.flags, s.ack = flagACK, l.lastACK+l.ack
	}
	if window := uint64(s.window) << l.scaleIn >> l.scaleOut; window > 65535 {
		s.window = 65535
	} else {
		s.window = uint16(window)
	}
	if l.clearECN {
		s.tos &^= 3
		s.flags &^= flagECE | flagCWR
	}
	s.options = l.translateOptions(s.options, acks)
	return s
}

// translateOptions walks the options as a receiver would (RFC 9293, section 3.1):
// what it would not reach, stays.
func (l leg) translateOptions(options []byte, acks bool) []byte {
	options = slices.Clone(options)
	add := func(b []byte, n uint32) { binary.BigEndian.PutUint32(b, binary.BigEndian.Uint32(b)+n) }
	for rest := options; len(rest) > 0; {
		kind := rest[0]
		if kind == 0 {
			break
		}
		if kind == 1 {
			rest = rest[1:]
			continue
		}
		if len(rest) < 2 || rest[1] < 2 || int(rest[1]) > len(rest) {
			break
		}
		value := rest[2:rest[1]]
		switch {
		case kind == 8 && len(value) == 8:
			add(value, l.tsval)
			if acks {
				add(value[4:], l.tsecr)
			}
		case kind == 5:
			for ; len(value) >= 8; value = value[8:] {
				add(value, l.ack)
				add(value[4:], l.ack)
			}
		}
		rest = rest[rest[1]:]
	}
	return options
}

// checksum is the Internet checksum: RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	return ^fold(sum)
}

func fold(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}
