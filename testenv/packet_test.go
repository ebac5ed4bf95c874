// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
)

func TestChecksumOfKnownHeader(t *testing.T) {
	header, err := hex.DecodeString("4500003c1c4640004006b1e6ac100a63ac100a0c") // of IPv4, checksum b1e6
	if err != nil {
		t.Fatal(err)
	}
	if got := internetChecksum(0, header); got != 0 {
		t.Errorf("checksum over a right header is %#x, want 0", got)
	}
}

func TestPacketRoundTrip(t *testing.T) {
	source4, destination4 := netip.MustParseAddrPort("10.1.0.2:1000"), netip.MustParseAddrPort("10.2.0.2:443")
	source6, destination6 := netip.MustParseAddrPort("[fd00:1::2]:1000"), netip.MustParseAddrPort("[fd00:2::2]:443")
	for name, p := range map[string]Packet{
		"SYN, IPv4": {
			Source: source4, Destination: destination4, Protocol: unix.IPPROTO_TCP, HopLimit: 3, TrafficClass: 2, ID: 7,
			Seq: 1<<32 - 1, Flags: SYN | ECE | CWR, Window: 65535, HeaderLen: 40,
			Options: slices.Concat(NOP, Timestamps(1, 2), MSS(1460), WindowScale(14), SACKPermitted),
		},
		"odd payload, urgent, IPv6": {
			Source: source6, Destination: destination6, Protocol: unix.IPPROTO_TCP, HopLimit: 64, TrafficClass: 0xab,
			Seq: 5, Ack: 6, Flags: ACK | PSH | URG, Urgent: 2, HeaderLen: 20, Payload: []byte("abc"),
		},
		"bad checksum": {
			Source: source4, Destination: destination4, Protocol: unix.IPPROTO_TCP, HopLimit: 64,
			Flags: RST, HeaderLen: 20, BadChecksum: true,
		},
		"ICMP": {
			Source: netip.AddrPortFrom(source4.Addr(), 0), Destination: netip.AddrPortFrom(destination4.Addr(), 0),
			Protocol: unix.IPPROTO_ICMP, HopLimit: 64, MayFragment: true, Type: 8, Rest: 9, Payload: []byte("ping"),
		},
		"ICMPv6": {
			Source: netip.AddrPortFrom(source6.Addr(), 0), Destination: netip.AddrPortFrom(destination6.Addr(), 0),
			Protocol: unix.IPPROTO_ICMPV6, HopLimit: 64, Type: 128, Rest: 9, Payload: []byte("ping"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParsePacket(append(p.Bytes(), 0, 0)) // as padded by Ethernet
			if err != nil {
				t.Fatal(err)
			}
			options := []cmp.Option{cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.AddrPort{})}
			if diff := cmp.Diff(p, got, options...); diff != "" {
				t.Errorf("packet differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPacketRefusesNonsense(t *testing.T) {
	good := Packet{Source: netip.MustParseAddrPort("10.1.0.2:1"), Destination: netip.MustParseAddrPort("10.1.0.3:1"), Flags: ACK}.Bytes()
	for n := range good {
		if p, err := ParsePacket(good[:n]); err == nil {
			t.Errorf("%d of %d bytes were parsed to %s", n, len(good), p)
		}
	}
	long := slices.Clone(good)
	long[20+12] = 15 << 4
	if p, err := ParsePacket(long); err == nil {
		t.Errorf("a TCP header longer than the packet was parsed to %s", p)
	}
}

func TestPacketOptions(t *testing.T) {
	p := Packet{Options: slices.Concat(NOP, NOP, []byte{254, 3, 1}, Timestamps(11, 12), NOP, SACK([2]uint32{1, 2}, [2]uint32{3, 4}), End, []byte{3, 0}, MSS(9))}
	if value, echo, ok := p.Timestamps(); value != 11 || echo != 12 || !ok {
		t.Errorf("got timestamps %d, %d, %t", value, echo, ok)
	}
	if diff := cmp.Diff([][2]uint32{{1, 2}, {3, 4}}, p.SACK()); diff != "" {
		t.Errorf("SACK differs (-want +got):\n%s", diff)
	}
	if got := p.MSS(); got != 0 {
		t.Errorf("got MSS %d from behind the end", got)
	}
	for name, options := range map[string][]byte{
		"cut":      {KindTimestamps, 10, 0, 0},
		"length 0": {254, 0, KindTimestamps, 10, 0, 0, 0, 0, 0, 0, 0, 0},
		"length 1": {254, 1, KindTimestamps, 10, 0, 0, 0, 0, 0, 0, 0, 0},
		"alone":    {KindTimestamps},
	} {
		if _, _, ok := (Packet{Options: options}).Timestamps(); ok {
			t.Errorf("%s: timestamps were found", name)
		}
	}
}

func TestPacketTooBigQuotes(t *testing.T) {
	for _, family := range [][3]string{{"10.1.0.2", "10.2.0.2", "10.4.0.2"}, {"fd00:1::2", "fd00:2::2", "fd00:4::2"}} {
		about := Packet{
			Source:      netip.AddrPortFrom(netip.MustParseAddr(family[0]), 1000),
			Destination: netip.AddrPortFrom(netip.MustParseAddr(family[1]), 443),
			Seq:         77, Flags: ACK, Payload: make([]byte, 1400),
		}
		p, err := PacketTooBig(netip.MustParseAddr(family[2]), 1280, about.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParsePacket(p.Bytes())
		if err != nil || got.BadChecksum || got.Rest != 1280 {
			t.Fatalf("got %s, %v", got, err)
		}
		quoted, err := got.Quoted()
		if err != nil || quoted.Source != about.Source || quoted.Destination != about.Destination || quoted.Seq != 77 {
			t.Errorf("got quotation %s, %v, want of %s", quoted, err, about)
		}
	}
}
