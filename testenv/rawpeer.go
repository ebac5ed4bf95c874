// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// RawPeer is one end of a TCP connection, spoken by packets that a test makes:
// any options, sequence numbers and flags, in any order. It does nothing by
// itself but what a method says: no retransmission, no acknowledgement. So the
// link should not lose packets, or the test sends them again.
//
// It lives on a host's link beside the host's own addresses. The kernel of the
// host knows nothing of it, so it does not answer for it.
type RawPeer struct {
	// Local and Remote are the ends. Connect and Accept set Remote.
	Local, Remote netip.AddrPort

	// Seq and Ack are those of the next segment. A test may set Seq before
	// Connect or Accept, to choose the initial one. Received data moves Ack in
	// Read only.
	Seq, Ack uint32

	// Window is announced in each segment, as it stands in the header.
	Window uint16

	// TSValue is the next timestamp, one more with each segment from that of the
	// SYN on, and TSEcho what it echoes: the last one that came. Segments have
	// them once both SYNs did.
	TSValue, TSEcho uint32

	timestamps bool
	socket     *packetSocket
	hardware   []byte // of the next hop
	inbox      []Seen
}

// NewRawPeer makes a peer with an address on the host's link that no host has:
// "10.1.0.200:4000" at the first client. The host's next hop is told where the
// address is, and nobody else on the link. The caller closes the peer.
func NewRawPeer(host *Host, local netip.AddrPort) (*RawPeer, error) {
	if !host.Device.prefix(host.Device.IPv4).Contains(local.Addr()) && !host.Device.prefix(host.Device.IPv6).Contains(local.Addr()) {
		return nil, fmt.Errorf("raw peer %s: want an address on the link of %s", local, host.name)
	}
	hop := host.gateway()
	own, err := host.link.LinkByName(host.Device.Name)
	if err != nil {
		return nil, fmt.Errorf("raw peer %s: find %s in namespace %s: %w", local, host.Device.Name, host.name, err)
	}
	addresses, err := host.link.AddrList(own, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("raw peer %s: list addresses of namespace %s: %w", local, host.name, err)
	}
	if slices.ContainsFunc(addresses, func(a netlink.Addr) bool { return a.IP.Equal(local.Addr().AsSlice()) }) {
		return nil, fmt.Errorf("raw peer %s: the address is that of %s, whose kernel would answer with resets", local, host.name)
	}
	next, err := hop.Namespace.link.LinkByName(hop.Name)
	if err != nil {
		return nil, fmt.Errorf("raw peer %s: find %s in namespace %s: %w", local, hop.Name, hop.Namespace.name, err)
	}
	if hardware := own.Attrs().HardwareAddr; len(hardware) > 0 { // else nobody asks who has the address
		neighbour := &netlink.Neigh{LinkIndex: next.Attrs().Index, State: netlink.NUD_PERMANENT, IP: local.Addr().AsSlice(), HardwareAddr: hardware}
		if err := hop.Namespace.link.NeighSet(neighbour); err != nil {
			return nil, fmt.Errorf("raw peer %s: add neighbour to namespace %s: %w", local, hop.Namespace.name, err)
		}
	}
	socket, err := newPacketSocket(host.Device)
	if err != nil {
		return nil, fmt.Errorf("raw peer %s: %w", local, err)
	}
	return &RawPeer{
		Local: local, Seq: rand.Uint32(), Window: 65535,
		socket: socket, hardware: next.Attrs().HardwareAddr,
	}, nil
}

// Close ends the peer without a word to the other end. A second Close does nothing.
func (p *RawPeer) Close() error { return p.socket.close() }

// Connect does the handshake as a client, with the options of the SYN in the
// layout given: NOP, MSS(1460), ... It returns the answer.
func (p *RawPeer) Connect(ctx context.Context, remote netip.AddrPort, options ...[]byte) (synAck Packet, err error) {
	p.Remote, p.Ack, p.timestamps = remote, 0, false
	syn := p.syn(SYN, options)
	if err := p.Send(syn); err != nil {
		return Packet{}, fmt.Errorf("connect raw peer: %w", err)
	}
	p.Seq++
	if synAck, err = p.Expect(ctx, WithFlags(SYN|ACK)); err != nil {
		return Packet{}, fmt.Errorf("connect raw peer: %w", err)
	}
	p.agree(syn, synAck)
	if err := p.Send(p.Segment(ACK, nil)); err != nil {
		return Packet{}, fmt.Errorf("connect raw peer: %w", err)
	}
	return synAck, nil
}

// Accept waits for a SYN and does the handshake as a server, with the options
// of its own SYN. It returns the client's.
func (p *RawPeer) Accept(ctx context.Context, options ...[]byte) (syn Packet, err error) {
	p.Remote, p.timestamps = netip.AddrPort{}, false
	if syn, err = p.Expect(ctx, WithFlags(SYN)); err != nil {
		return Packet{}, fmt.Errorf("accept on raw peer: %w", err)
	}
	p.Remote, p.Ack = syn.Source, syn.Seq+1
	synAck := p.syn(SYN|ACK, options)
	if err := p.Send(synAck); err != nil {
		return Packet{}, fmt.Errorf("accept on raw peer: %w", err)
	}
	p.Seq++
	p.agree(synAck, syn)
	established := func(s Seen) bool { return !s.Flags.Has(SYN) && s.Flags.Has(ACK) && s.Ack == p.Seq }
	if err := p.peek(ctx, established); err != nil { // it may have data: leave it to Read
		return Packet{}, fmt.Errorf("accept on raw peer: %w", err)
	}
	return syn, nil
}

func (p *RawPeer) syn(flags TCPFlags, options [][]byte) Packet {
	syn := p.Segment(flags, nil)
	syn.Options = slices.Concat(options...)
	return syn
}

// agree takes over what both SYNs say.
func (p *RawPeer) agree(own, other Packet) {
	p.Ack = other.Seq + 1
	value, _, offered := own.Timestamps()
	_, _, taken := other.Timestamps()
	p.timestamps = offered && taken
	p.TSValue = value + 1 // less would be from the past
}

// Segment is what a well-behaved peer would send next, for the test to change
// and to send.
func (p *RawPeer) Segment(flags TCPFlags, payload []byte) Packet {
	segment := Packet{
		Source: p.Local, Destination: p.Remote, Protocol: unix.IPPROTO_TCP,
		Seq: p.Seq, Ack: p.Ack, Flags: flags, Window: p.Window, Payload: payload,
	}
	if p.timestamps {
		segment.Options = slices.Concat(NOP, NOP, Timestamps(p.TSValue, p.TSEcho))
		p.TSValue++
	}
	return segment
}

// Send sends a packet as it is. Seq stays as it was.
func (p *RawPeer) Send(packet Packet) error { return p.socket.send(packet.Bytes(), p.hardware) }

// Write sends one segment of data and moves Seq behind it.
func (p *RawPeer) Write(data []byte) error {
	if err := p.Send(p.Segment(ACK|PSH, data)); err != nil {
		return err
	}
	p.Seq += uint32(len(data))
	return nil
}

// Read waits for the next n bytes of the stream and acknowledges each segment
// of them. A segment that is not the next one is dropped.
func (p *RawPeer) Read(ctx context.Context, n int) ([]byte, error) {
	var data []byte
	for len(data) < n {
		segment, err := p.Expect(ctx, WithPayload, func(s Seen) bool { return s.Seq == p.Ack && !s.BadChecksum })
		if err != nil {
			return data, fmt.Errorf("read byte %d of %d: %w", len(data), n, err)
		}
		data = append(data, segment.Payload...)
		p.Ack += segment.SegmentLen()
		if err := p.Send(p.Segment(ACK, nil)); err != nil {
			return data, err
		}
	}
	return data, nil
}

// Expect waits for a packet to the peer that every filter accepts, ICMP among
// them. It takes it and all before it.
func (p *RawPeer) Expect(ctx context.Context, filters ...func(Seen) bool) (Packet, error) {
	if err := p.peek(ctx, filters...); err != nil {
		return Packet{}, err
	}
	at := slices.IndexFunc(p.inbox, all(filters))
	packet := p.inbox[at].Packet
	p.inbox = p.inbox[at+1:]
	return packet, nil
}

// Received returns the packets to the peer that were not taken yet, and takes
// them. All that arrived before the call are there.
func (p *RawPeer) Received() ([]Seen, error) {
	err := p.receive()
	list := p.inbox
	p.inbox = nil
	return list, err
}

func (p *RawPeer) peek(ctx context.Context, filters ...func(Seen) bool) error {
	err := Poll(ctx, func() (bool, error) {
		err := p.receive()
		return slices.ContainsFunc(p.inbox, all(filters)), err
	})
	if err != nil {
		return fmt.Errorf("wait for a packet to %s: %w; came: %v", p.Local, err, p.inbox)
	}
	return nil
}

func (p *RawPeer) receive() error {
	list, err := p.socket.drain()
	for _, seen := range list {
		if seen.Outgoing || !p.isMine(seen.Packet) {
			continue
		}
		if value, _, ok := seen.Timestamps(); ok {
			p.TSEcho = value
		}
		p.inbox = append(p.inbox, seen)
	}
	return err
}

func (p *RawPeer) isMine(packet Packet) bool {
	if packet.Protocol != unix.IPPROTO_TCP {
		return packet.Destination.Addr() == p.Local.Addr()
	}
	return packet.Destination == p.Local && (packet.Source == p.Remote || !p.Remote.IsValid())
}
