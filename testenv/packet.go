// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// TCPFlags is the flags byte of a TCP header, RFC 9293 section 3.1.
type TCPFlags uint8

// The flags in the order of their bits.
const (
	FIN TCPFlags = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

func (f TCPFlags) String() string {
	var names []string
	for i, name := range []string{"FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"} {
		if f&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, "+")
}

// Has reports whether all of the given flags are set.
func (f TCPFlags) Has(flags TCPFlags) bool { return f&flags == flags }

// Packet is one TCP or ICMP packet over IPv4 or IPv6, to be built or as it was
// parsed. IPv4 options, IPv6 extension headers and fragments are not known.
type Packet struct {
	Source, Destination netip.AddrPort // ports are 0 in ICMP

	Protocol     uint8 // unix.IPPROTO_TCP, IPPROTO_ICMP or IPPROTO_ICMPV6; 0 builds TCP
	TrafficClass uint8 // DSCP and ECN; TOS in IPv4
	HopLimit     uint8 // 0 builds 64; TTL in IPv4
	ID           uint16
	MayFragment  bool // no DF bit; IPv4 only

	// TCP.
	Seq, Ack       uint32
	Flags          TCPFlags
	Window, Urgent uint16 // the window as in the header, not scaled
	Options        []byte // the option bytes; built with zeros up to a multiple of 4
	HeaderLen      int    // of TCP, in bytes; 0 builds what the options need

	// ICMP.
	Type, Code uint8
	Rest       uint32 // what follows the checksum: an MTU, for example

	Payload []byte // after the TCP header, or after Rest

	// BadChecksum builds a wrong checksum of TCP or ICMP; parsed, it was one.
	BadChecksum bool
}

// errForeign means that a packet is none of those that Packet describes.
var errForeign = errors.New("neither whole TCP nor ICMP")

// SegmentLen is what the segment takes of the sequence space: its payload,
// and one for each of SYN and FIN.
func (p Packet) SegmentLen() uint32 {
	n := uint32(len(p.Payload))
	for _, flag := range []TCPFlags{SYN, FIN} {
		if p.Flags.Has(flag) {
			n++
		}
	}
	return n
}

func (p Packet) String() string {
	if p.Protocol != unix.IPPROTO_TCP {
		return fmt.Sprintf("%s > %s ICMP type %d code %d rest %d", p.Source.Addr(), p.Destination.Addr(), p.Type, p.Code, p.Rest)
	}
	return fmt.Sprintf("%s > %s %s seq %d ack %d win %d, options %x, %d bytes",
		p.Source, p.Destination, p.Flags, p.Seq, p.Ack, p.Window, p.Options, len(p.Payload))
}

// Bytes builds the packet from its IP header on, checksums included. Source
// and Destination must be of one family.
func (p Packet) Bytes() []byte {
	if p.Protocol == 0 {
		p.Protocol = unix.IPPROTO_TCP
	}
	if p.HopLimit == 0 {
		p.HopLimit = 64
	}
	body, at := p.icmp(), 2
	if p.Protocol == unix.IPPROTO_TCP {
		body, at = p.tcp(), 16
	}
	sum := p.checksum(body)
	if p.BadChecksum {
		sum ^= 0x5555
	}
	binary.BigEndian.PutUint16(body[at:], sum)
	if p.Source.Addr().Is4() {
		return append(p.ipv4(len(body)), body...)
	}
	return append(p.ipv6(len(body)), body...)
}

func (p Packet) tcp() []byte {
	options := append(slices.Clone(p.Options), make([]byte, -len(p.Options)&3)...)
	length := p.HeaderLen
	if length == 0 {
		length = 20 + len(options)
	}
	b := binary.BigEndian.AppendUint16(nil, p.Source.Port())
	b = binary.BigEndian.AppendUint16(b, p.Destination.Port())
	b = binary.BigEndian.AppendUint32(b, p.Seq)
	b = binary.BigEndian.AppendUint32(b, p.Ack)
	b = append(b, byte(length/4)<<4, byte(p.Flags))
	b = binary.BigEndian.AppendUint16(b, p.Window)
	b = binary.BigEndian.AppendUint16(b, 0) // checksum
	b = binary.BigEndian.AppendUint16(b, p.Urgent)
	return slices.Concat(b, options, p.Payload)
}

func (p Packet) icmp() []byte {
	b := binary.BigEndian.AppendUint32([]byte{p.Type, p.Code, 0, 0}, p.Rest)
	return append(b, p.Payload...)
}

func (p Packet) ipv4(length int) []byte {
	b := []byte{0x45, p.TrafficClass}
	b = binary.BigEndian.AppendUint16(b, uint16(20+length))
	b = binary.BigEndian.AppendUint16(b, p.ID)
	flags := uint16(0x4000) // DF
	if p.MayFragment {
		flags = 0
	}
	b = binary.BigEndian.AppendUint16(b, flags)
	b = append(b, p.HopLimit, p.Protocol, 0, 0)
	b = append(b, p.Source.Addr().AsSlice()...)
	b = append(b, p.Destination.Addr().AsSlice()...)
	binary.BigEndian.PutUint16(b[10:], internetChecksum(0, b))
	return b
}

func (p Packet) ipv6(length int) []byte {
	b := binary.BigEndian.AppendUint32(nil, 6<<28|uint32(p.TrafficClass)<<20)
	b = binary.BigEndian.AppendUint16(b, uint16(length))
	b = append(b, p.Protocol, p.HopLimit)
	b = append(b, p.Source.Addr().AsSlice()...)
	return append(b, p.Destination.Addr().AsSlice()...)
}

// checksum is that of a TCP or ICMP message: over a pseudo-header too, but for
// ICMP in IPv4 (RFC 9293 section 3.1, RFC 4443 section 2.3).
func (p Packet) checksum(body []byte) uint16 {
	if p.Protocol == unix.IPPROTO_ICMP {
		return internetChecksum(0, body)
	}
	pseudo := slices.Concat(p.Source.Addr().AsSlice(), p.Destination.Addr().AsSlice())
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(body)))
	pseudo = append(pseudo, 0, 0, 0, p.Protocol)
	return internetChecksum(uint32(^internetChecksum(0, pseudo)), body)
}

// internetChecksum is RFC 1071's, of b and what was summed before.
func internetChecksum(sum uint32, b []byte) uint16 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
		sum = sum>>16 + sum&0xffff
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	return ^uint16(sum>>16 + sum&0xffff)
}

// ParsePacket reads a packet that begins with its IP header. The Packet holds
// copies; it does not keep b.
func ParsePacket(b []byte) (Packet, error) {
	p, body, whole, err := parseIP(b)
	if err != nil {
		return Packet{}, fmt.Errorf("parse packet: %w", err)
	}
	if !whole {
		return Packet{}, fmt.Errorf("parse packet: %d bytes of body are less than its header says", len(body))
	}
	if err := p.parseBody(body); err != nil {
		return Packet{}, fmt.Errorf("parse packet: %w", err)
	}
	p.BadChecksum = p.checksum(body) != 0
	return p, nil
}

// Quoted reads the packet that an ICMP error quotes. What the quotation cuts
// off is zero; of TCP at least the ports and Seq are there.
func (p Packet) Quoted() (Packet, error) {
	quoted, body, _, err := parseIP(p.Payload)
	if err != nil {
		return Packet{}, fmt.Errorf("parse quoted packet: %w", err)
	}
	if len(body) < 8 {
		return Packet{}, fmt.Errorf("parse quoted packet: %d bytes of its body, want 8", len(body))
	}
	if quoted.Protocol == unix.IPPROTO_TCP && len(body) < 20 {
		body = append(slices.Clone(body), make([]byte, 20-len(body))...)
		body[12] = 5 << 4
	}
	if err := quoted.parseBody(body); err != nil {
		return Packet{}, fmt.Errorf("parse quoted packet: %w", err)
	}
	return quoted, nil
}

// PacketTooBig is what a router at an address answers to a packet that its
// next link, of that MTU, does not take: fragmentation needed in IPv4 (RFC
// 1191), packet too big in IPv6.
func PacketTooBig(router netip.Addr, mtu int, packet []byte) (Packet, error) {
	about, _, _, err := parseIP(packet)
	if err != nil {
		return Packet{}, fmt.Errorf("quote packet: %w", err)
	}
	p := Packet{
		Source: netip.AddrPortFrom(router, 0), Destination: netip.AddrPortFrom(about.Source.Addr(), 0),
		Protocol: unix.IPPROTO_ICMP, Type: 3, Code: 4, Rest: uint32(mtu), MayFragment: true,
		Payload: slices.Clone(packet[:min(len(packet), 28)]), // header and 8 bytes
	}
	if router.Is6() {
		p.Protocol, p.Type, p.Code = unix.IPPROTO_ICMPV6, 2, 0
		p.Payload = slices.Clone(packet[:min(len(packet), 1280-48)])
	}
	return p, nil
}

// parseIP reads the IP header and returns what follows it, aliasing b. A body
// that is not whole ends before the header says, as in ICMP's quotations.
func parseIP(b []byte) (p Packet, body []byte, whole bool, err error) {
	var source, destination netip.Addr
	var length int
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		header := int(b[0]&15) * 4
		fragment := binary.BigEndian.Uint16(b[6:])
		if header < 20 || header > len(b) || fragment&0x3fff != 0 { // more fragments, or an offset
			return p, nil, false, errForeign
		}
		p.TrafficClass, p.ID, p.HopLimit, p.Protocol = b[1], binary.BigEndian.Uint16(b[4:]), b[8], b[9]
		p.MayFragment = fragment&0x4000 == 0
		source, _ = netip.AddrFromSlice(b[12:16])
		destination, _ = netip.AddrFromSlice(b[16:20])
		length, body = int(binary.BigEndian.Uint16(b[2:]))-header, b[header:]
	case len(b) >= 40 && b[0]>>4 == 6:
		p.TrafficClass, p.Protocol, p.HopLimit = b[0]<<4|b[1]>>4, b[6], b[7]
		source, _ = netip.AddrFromSlice(b[8:24])
		destination, _ = netip.AddrFromSlice(b[24:40])
		length, body = int(binary.BigEndian.Uint16(b[4:])), b[40:]
	default:
		return p, nil, false, errForeign
	}
	p.Source, p.Destination = netip.AddrPortFrom(source, 0), netip.AddrPortFrom(destination, 0)
	whole = 0 <= length && length <= len(body)
	if whole {
		body = body[:length] // Ethernet pads short frames
	}
	return p, body, whole, nil
}

func (p *Packet) parseBody(b []byte) error {
	switch {
	case p.Protocol == unix.IPPROTO_TCP && len(b) >= 20:
		p.HeaderLen = int(b[12]>>4) * 4
		if p.HeaderLen < 20 || p.HeaderLen > len(b) {
			return fmt.Errorf("TCP header of %d bytes in %d", p.HeaderLen, len(b))
		}
		p.Source = netip.AddrPortFrom(p.Source.Addr(), binary.BigEndian.Uint16(b))
		p.Destination = netip.AddrPortFrom(p.Destination.Addr(), binary.BigEndian.Uint16(b[2:]))
		p.Seq, p.Ack = binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
		p.Flags, p.Window = TCPFlags(b[13]), binary.BigEndian.Uint16(b[14:])
		p.Urgent = binary.BigEndian.Uint16(b[18:])
		p.Options, p.Payload = slices.Clone(b[20:p.HeaderLen]), slices.Clone(b[p.HeaderLen:])
	case (p.Protocol == unix.IPPROTO_ICMP || p.Protocol == unix.IPPROTO_ICMPV6) && len(b) >= 8:
		p.Type, p.Code, p.Rest = b[0], b[1], binary.BigEndian.Uint32(b[4:])
		p.Payload = slices.Clone(b[8:])
	default:
		return errForeign
	}
	return nil
}
