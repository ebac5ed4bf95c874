// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestRawPeerConverses(t *testing.T) {
	layouts := map[string][][]byte{
		"no options":     nil,
		"as of Linux":    {MSS(1460), SACKPermitted, Timestamps(1, 0), NOP, WindowScale(7)},
		"odd":            {NOP, Timestamps(1, 0), NOP, NOP, NOP, WindowScale(0), SACKPermitted, MSS(536), End},
		"timestamps cut": {MSS(1400), {KindTimestamps, 10, 0, 0}},
	}
	for name, options := range map[string]NetworkOptions{
		"veth":            {},
		"TAP":             {ClientLink: LinkOptions{Kind: TAP}},
		"TUN":             {ClientLink: LinkOptions{Kind: TUN}},
		"behind a router": {ClientLink: LinkOptions{Router: true}},
		"one-armed":       {OneArmed: true},
	} {
		t.Run(name, func(t *testing.T) {
			CheckLeaks(t)
			network := MustNetwork(t, options)
			client := network.Clients[0]
			for _, local := range freeAddresses(client) {
				listener := listenGateway(t, network, local)
				port := uint16(4000)
				for name, layout := range layouts {
					port++
					peer := MustRawPeer(t, client, netip.AddrPortFrom(local, port))
					synAck, err := peer.Connect(testContext(t), address(listener.Addr()), layout...)
					if err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					if _, _, ok := synAck.Timestamps(); ok != (name == "odd" || name == "as of Linux") {
						t.Errorf("%s: timestamps agreed on: %t", name, ok)
					}
					if _, _, ok := peer.Segment(ACK, nil).Timestamps(); ok != (name == "odd" || name == "as of Linux") {
						t.Errorf("%s: segments have timestamps: %t", name, ok)
					}
					server, err := Accept(testContext(t), listener)
					if err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					defer server.Close()
					if err := peer.Write([]byte("question")); err != nil {
						t.Fatal(err)
					}
					expectBytes(t, nil, server, "", "question")
					if _, err := server.Write([]byte("answer")); err != nil {
						t.Fatal(err)
					}
					if got, err := peer.Read(testContext(t), 6); err != nil || string(got) != "answer" {
						t.Errorf("%s: got %q, %v, want the answer", name, got, err)
					}
				}
			}
		})
	}
}

func TestRawPeerAccepts(t *testing.T) {
	CheckLeaks(t)
	network := MustNetwork(t, NetworkOptions{})
	for _, local := range freeAddresses(network.Backends[0]) {
		peer := MustRawPeer(t, network.Backends[0], netip.AddrPortFrom(local, 443))
		peer.Seq = 1<<32 - 2
		accepted := make(chan error, 1)
		go func() {
			_, err := peer.Accept(testContext(t), MSS(1000), Timestamps(5, 0), End)
			accepted <- err
		}()
		conn, err := network.Gateway.Dial(testContext(t), peer.Local)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := <-accepted; err != nil {
			t.Fatal(err)
		}
		for _, question := range []string{"question", "another"} {
			if _, err := conn.Write([]byte(question)); err != nil {
				t.Fatal(err)
			}
			if got, err := peer.Read(testContext(t), len(question)); err != nil || string(got) != question {
				t.Fatalf("got %q, %v, want %q", got, err, question)
			}
		}
		if err := peer.Write([]byte("answer over the wrap")); err != nil {
			t.Fatal(err)
		}
		expectBytes(t, nil, conn, "", "answer over the wrap")
	}
}

// What no kernel sends, and what Linux makes of it.
func TestRawPeerMisbehaves(t *testing.T) {
	network := MustNetwork(t, NetworkOptions{})
	client := network.Clients[0]
	options := [][]byte{MSS(1460), SACKPermitted, Timestamps(1, 0), NOP, WindowScale(7)}
	port := uint16(4000)
	for name, misbehave := range map[string]func(t *testing.T, peer *RawPeer, server *net.TCPConn){
		"overlapping retransmission": func(t *testing.T, peer *RawPeer, server *net.TCPConn) {
			send(t, peer, peer.Segment(ACK, []byte("abcd")))
			again := peer.Segment(ACK, []byte("cdefg"))
			again.Seq += 2
			send(t, peer, again)
			expectBytes(t, nil, server, "", "abcdefg")
		},
		"old duplicate": func(t *testing.T, peer *RawPeer, server *net.TCPConn) {
			segment := peer.Segment(ACK, []byte("abcd"))
			send(t, peer, segment)
			send(t, peer, segment)
			peer.Seq += 4
			send(t, peer, peer.Segment(ACK, []byte("efg")))
			expectBytes(t, nil, server, "", "abcdefg")
		},
		"hole": func(t *testing.T, peer *RawPeer, server *net.TCPConn) {
			late := peer.Segment(ACK, []byte("late"))
			late.Seq += 10
			send(t, peer, late)
			expectPacket(t, peer, func(s Seen) bool { return slices.Equal(s.SACK(), [][2]uint32{{late.Seq, late.Seq + 4}}) })
		},
		"out of window": func(t *testing.T, peer *RawPeer, server *net.TCPConn) {
			far := peer.Segment(ACK, []byte("abcd"))
			far.Seq += 1 << 30
			send(t, peer, far)
			expectPacket(t, peer, func(s Seen) bool { return s.Flags == ACK && s.Ack == peer.Seq })
		},
		"bad checksum": func(t *testing.T, peer *RawPeer, server *net.TCPConn) {
			segment := peer.Segment(ACK, []byte("wrong"))
			segment.BadChecksum = true
			send(t, peer, segment)
			segment = peer.Segment(ACK, []byte("right"))
			send(t, peer, segment)
			expectBytes(t, nil, server, "", "right")
		},
		"options cut short": func(t *testing.T, peer *RawPeer, server *net.TCPConn) {
			segment := peer.Segment(ACK, []byte("data"))
			segment.Options = []byte{KindNOP, KindNOP, KindTimestamps, 10}
			send(t, peer, segment)
			expectBytes(t, nil, server, "", "data")
		},
		"urgent": func(t *testing.T, peer *RawPeer, server *net.TCPConn) {
			segment := peer.Segment(ACK|URG, []byte("a!b"))
			segment.Urgent = 2
			send(t, peer, segment)
			expectBytes(t, nil, server, "", "a") // the urgent byte is out of band
			expectBytes(t, nil, server, "", "b")
		},
		"SYN on a live connection": func(t *testing.T, peer *RawPeer, server *net.TCPConn) {
			syn := peer.Segment(SYN, nil)
			syn.Ack, syn.Options = 0, MSS(1460)
			send(t, peer, syn)
			expectPacket(t, peer, func(s Seen) bool { return s.Flags == ACK && s.Ack == peer.Seq })
		},
		"reset": func(t *testing.T, peer *RawPeer, server *net.TCPConn) {
			send(t, peer, peer.Segment(RST, nil))
			if err := ExpectReset(server, 5*time.Second); err != nil {
				t.Error(err)
			}
		},
		"reset beside the sequence number": func(t *testing.T, peer *RawPeer, server *net.TCPConn) {
			reset := peer.Segment(RST, nil)
			reset.Seq += 5
			send(t, peer, reset)
			expectPacket(t, peer, WithFlags(ACK))
			send(t, peer, peer.Segment(ACK, []byte("still there")))
			expectBytes(t, nil, server, "", "still there")
		},
	} {
		t.Run(name, func(t *testing.T) {
			CheckLeaks(t)
			port++
			for _, local := range freeAddresses(client) {
				listener := listenGateway(t, network, local)
				peer := MustRawPeer(t, client, netip.AddrPortFrom(local, port))
				if _, err := peer.Connect(testContext(t), address(listener.Addr()), options...); err != nil {
					t.Fatal(err)
				}
				server, err := Accept(testContext(t), listener)
				if err != nil {
					t.Fatal(err)
				}
				misbehave(t, peer, server)
				send(t, peer, peer.Segment(RST, nil))
				server.Close()
				listener.Close()
			}
		})
	}
}

func TestRawPeerHearsOfSmallMTU(t *testing.T) {
	CheckLeaks(t)
	network := MustNetwork(t, NetworkOptions{BackendLink: LinkOptions{Router: true}})
	if err := network.Backends[0].Router.Far.SetMTU(1300); err != nil {
		t.Fatal(err)
	}
	peer := MustRawPeer(t, network.Clients[0], netip.MustParseAddrPort("10.1.0.200:4000"))
	peer.Remote = netip.AddrPortFrom(network.Backends[0].IPv4(), 443)
	send(t, peer, peer.Segment(ACK, make([]byte, 1400)))
	p := expectPacket(t, peer, func(s Seen) bool { return s.Protocol == unix.IPPROTO_ICMP })
	if quoted, err := p.Quoted(); err != nil || quoted.Source != peer.Local || quoted.Seq != peer.Seq || p.Rest != 1300 {
		t.Errorf("got %s about %s, %v", p, quoted, err)
	}
}

func TestRawPeerRefusesAddresses(t *testing.T) {
	CheckLeaks(t)
	network := MustNetwork(t, NetworkOptions{})
	for _, local := range []string{"10.1.0.2:1", "[fd00:1::2]:1", "10.2.0.200:1", "192.0.2.1:1"} {
		if peer, err := NewRawPeer(network.Clients[0], netip.MustParseAddrPort(local)); err == nil {
			peer.Close()
			t.Errorf("%s was accepted", local)
		}
	}
}

// freeAddresses are one of each family on the host's link.
func freeAddresses(host *Host) []netip.Addr {
	v4, v6 := host.IPv4().As4(), host.IPv6().As16()
	v4[3], v6[15] = 200, 200
	return []netip.Addr{netip.AddrFrom4(v4), netip.AddrFrom16(v6)}
}

// listenGateway listens on the gateway's address of a family.
func listenGateway(t *testing.T, network *Network, family netip.Addr) *net.TCPListener {
	t.Helper()
	ip := network.IPv4
	if family.Is6() {
		ip = network.IPv6
	}
	listener, err := network.Gateway.Listen(netip.AddrPortFrom(ip, 0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener
}

func send(t *testing.T, peer *RawPeer, packet Packet) {
	t.Helper()
	if err := peer.Send(packet); err != nil {
		t.Fatal(err)
	}
}

func expectPacket(t *testing.T, peer *RawPeer, filters ...func(Seen) bool) Packet {
	t.Helper()
	packet, err := peer.Expect(testContext(t), filters...)
	if err != nil {
		t.Fatal(err)
	}
	return packet
}
