// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// Whatever stands in the options, the program translates what a receiver would read.
func FuzzOptions(f *testing.F) {
	for i, layout := range optionLayouts {
		f.Add(i%2 == 0, []byte{flagACK, 0, flagSYN | flagACK}[i%3], uint32(i)<<28, []byte(layout.options))
	}
	e := load(f)
	f.Fuzz(func(t *testing.T, ipv6 bool, flags byte, shift uint32, options []byte) {
		e := *e
		e.t = t
		at := ends4
		if ipv6 {
			at = ends6
		}
		client, backend := legs(at, shift, ^shift, shift*3, shift*5, byte(shift)%15, byte(shift>>8)%15)
		e.put(flowOf(at, client, backend), at)
		s := at.from(PacketSideCLIENT)
		s.flags = flags
		s.options = options[:min(len(options), 40)&^3]
		s.payload = options[:min(len(options), 1500)] // what is more than options serves, too
		e.translates(s, client, skbContext{})
	})
}

// Whatever a packet is, it passes as it was, or comes out whole.
func FuzzHeaders(f *testing.F) {
	for _, family := range families {
		for side := range PacketSide(2) {
			s := family.from(side)
			s.options = []byte("\x01\x01\x08\x0a\x11\x22\x33\x44\x55\x66\x77\x88")
			s.payload = []byte("payload")
			f.Add(s.ip())
			s.header.options, s.hopByHop = []byte{1, 1, 1, 0}, make([]byte, 7)
			f.Add(s.ip())
			s.fragment = 0x2000
			f.Add(s.ip())
		}
		client, _ := legs(family.ends, 0, 0, 0, 0, 0, 0)
		sent := client.translate(family.from(PacketSideCLIENT))
		f.Add(about(routers[family.name], sent, 3, 4, 1400, 60).bytes(nil))
		f.Add(about(routers[family.name], sent, 3, 4, 1400, 60).frame()[ethernetLen:])
	}
	e := load(f)
	f.Fuzz(func(t *testing.T, ip []byte) {
		if len(ip) < 40 || len(ip) > 3000 {
			return // the kernel's test run wants a network header, and no more than a page
		}
		e := *e
		e.t = t
		at := ends4
		if ip[0]>>4 == 6 {
			at = ends6
		}
		client, backend := legs(at, 0x12345678, 0x9abcdef0, 3, 4, 2, 9)
		client.clearECN = ip[1]&1 != 0
		e.put(flowOf(at, client, backend), at)
		frame := ethernet(ip)
		verdict, out := e.run(e.PacketIngress, frame, skbContext{})
		switch verdict {
		case verdictShot:
			for which := range e.counted() {
				if which == PacketPacketCountDROPPED_ERROR {
					t.Error("a packet could not be written to")
				}
			}
		case verdictUnspec:
			wantBytes(t, out, frame)
		case verdictOK:
			if len(out) != len(frame) {
				t.Errorf("length: got %d, want %d", len(out), len(frame))
			}
			if was, is := transportSum(frame), transportSum(out); was != is {
				t.Errorf("transport checksum is off by %#x, was by %#x, in\n%x", is, was, out)
			}
			if was, is := networkSum(frame), networkSum(out); was != is {
				t.Errorf("IPv4 header checksum is off by %#x, was by %#x, in\n%x", is, was, out)
			}
			if at := ethernetLen + headerLen(out); !bytes.Equal(out[at:at+4], portsOf(client)) && !bytes.Equal(out[at:at+4], portsOf(backend)) && !isICMP(out) {
				t.Errorf("ports: got %x, in\n%x", out[at:at+4], out)
			}
		default:
			t.Errorf("verdict: got %d", int32(verdict))
		}
	})
}

func portsOf(l leg) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, l.src.Port()), l.dst.Port())
}

func isICMP(frame []byte) bool {
	ip := frame[ethernetLen:]
	if frame[12] == 0x08 { // whatever the version says
		return ip[9] == protoICMP
	}
	return ip[6] == protoICMP6 || ip[6] == protoHopByHop && ip[40] == protoICMP6
}

// headerLen is the length of what is in front of the transport header.
func headerLen(frame []byte) int {
	ip := frame[ethernetLen:]
	switch {
	case frame[12] == 0x08:
		return int(ip[0]&15) * 4
	case ip[6] == protoHopByHop:
		return 48
	}
	return 40
}

// networkSum is 0xffff or 0 if the IPv4 header's checksum is right.
func networkSum(frame []byte) uint16 {
	if frame[12] != 0x08 {
		return 0
	}
	return normal(checksum(frame[ethernetLen : ethernetLen+headerLen(frame)]))
}

// transportSum is 0 if the checksum of a whole TCP segment or ICMP error is right,
// else by how much it is not.
func transportSum(frame []byte) uint16 {
	ip := frame[ethernetLen:]
	end := len(ip)
	var covered []byte
	if frame[12] == 0x08 {
		if total := int(binary.BigEndian.Uint16(ip[2:])); total > 0 {
			end = min(end, total)
		}
		covered = append(covered, ip[12:20]...)
	} else {
		if length := int(binary.BigEndian.Uint16(ip[4:])); length > 0 {
			end = min(end, 40+length)
		}
		covered = append(covered, ip[8:40]...)
	}
	if frame[12] == 0x08 && isICMP(frame) {
		covered = nil // which has no pseudo header
	}
	at := headerLen(frame)
	return normal(checksum(append(covered, ip[min(at, end):end]...)))
}

// normal makes one of the two zeros of one's complement.
func normal(sum uint16) uint16 {
	if sum == 0xffff {
		return 0
	}
	return sum
}
