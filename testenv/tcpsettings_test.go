// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"net/netip"
	"testing"
)

func TestSocketsHandshake(t *testing.T) {
	type side struct {
		settings TCPSettings
		socket   SocketOptions
	}
	has := func(p Packet, kind uint8) bool { _, ok := p.Option(kind); return ok }
	scale := func(p Packet) int {
		shift, ok := p.WindowScale()
		if !ok {
			return -1
		}
		return int(shift)
	}
	for name, c := range map[string]struct {
		client, backend side
		check           func(t *testing.T, syn, synAck Packet)
	}{
		"sequence number about to wrap": {
			client: side{socket: SocketOptions{InitialSequence: 1<<32 - 3}},
			check: func(t *testing.T, syn, synAck Packet) {
				if syn.Seq != 1<<32-3 || synAck.Ack != 1<<32-2 {
					t.Error("not the sequence number chosen")
				}
			},
		},
		"window scales 0 and 14": {
			client:  side{socket: SocketOptions{ReceiveBuffer: 16384}},
			backend: side{settings: TCPSettings{WindowScale: 14}},
			check: func(t *testing.T, syn, synAck Packet) {
				if scale(syn) != 0 || scale(synAck) != 14 {
					t.Errorf("got scales %d and %d", scale(syn), scale(synAck))
				}
			},
		},
		"window scales 14 and 0": {
			client:  side{settings: TCPSettings{WindowScale: 14}},
			backend: side{socket: SocketOptions{ReceiveBuffer: 16384}},
			check: func(t *testing.T, syn, synAck Packet) {
				if scale(syn) != 14 || scale(synAck) != 0 {
					t.Errorf("got scales %d and %d", scale(syn), scale(synAck))
				}
			},
		},
		"no window scaling": {
			client: side{settings: TCPSettings{NoWindowScaling: true}},
			check: func(t *testing.T, syn, synAck Packet) {
				if scale(syn) != -1 || scale(synAck) != -1 {
					t.Errorf("got scales %d and %d", scale(syn), scale(synAck))
				}
			},
		},
		"small segments": {
			client:  side{socket: SocketOptions{MaxSegment: 600}},
			backend: side{socket: SocketOptions{MaxSegment: 700}},
			check: func(t *testing.T, syn, synAck Packet) {
				if syn.MSS() != 600 || synAck.MSS() != 700 {
					t.Errorf("got MSS %d and %d", syn.MSS(), synAck.MSS())
				}
			},
		},
		"no timestamps, no SACK at the backend": {
			backend: side{settings: TCPSettings{NoTimestamps: true, NoSACK: true}},
			check: func(t *testing.T, syn, synAck Packet) {
				for _, kind := range []uint8{KindTimestamps, KindSACKPermitted} {
					if !has(syn, kind) || has(synAck, kind) {
						t.Errorf("option %d: %t, %t", kind, has(syn, kind), has(synAck, kind))
					}
				}
			},
		},
		"ECN": {
			client: side{settings: TCPSettings{ECN: true}},
			check: func(t *testing.T, syn, synAck Packet) {
				if !syn.Flags.Has(ECE|CWR) || !synAck.Flags.Has(ECE) {
					t.Error("not agreed on")
				}
			},
		},
		"ECN of the client only": {
			client:  side{settings: TCPSettings{ECN: true}},
			backend: side{settings: TCPSettings{NoECN: true}},
			check: func(t *testing.T, syn, synAck Packet) {
				if !syn.Flags.Has(ECE|CWR) || synAck.Flags.Has(ECE) {
					t.Error("agreed on")
				}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			CheckLeaks(t)
			network := MustNetwork(t, NetworkOptions{})
			client, host := network.Clients[0], network.Backends[0]
			for ns, settings := range map[*Namespace]TCPSettings{client.Namespace: c.client.settings, host.Namespace: c.backend.settings} {
				if err := ns.SetTCP(settings); err != nil {
					t.Fatal(err)
				}
			}
			for _, ip := range []netip.Addr{host.IPv4(), host.IPv6()} {
				capture := MustCapture(t, client.Uplink)
				listener, err := host.ListenSocket(c.backend.socket, netip.AddrPortFrom(ip, 0))
				if err != nil {
					t.Fatal(err)
				}
				defer listener.Close()
				conn, err := client.DialSocket(testContext(t), c.client.socket, address(listener.Addr()))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				server, err := Accept(testContext(t), listener)
				if err != nil {
					t.Fatal(err)
				}
				defer server.Close()
				handshake := expectSeen(t, capture, 2, WithFlags(SYN))
				c.check(t, handshake[0].Packet, handshake[1].Packet)
				expectBytes(t, conn, server, "to and", "to and")
				expectBytes(t, server, conn, "fro", "fro")
				if t.Failed() {
					t.Logf("handshake:\n%s\n%s", handshake[0], handshake[1])
				}
			}
		})
	}
}

func TestSocketsRefuseNonsense(t *testing.T) {
	ns := MustNamespace(t, "n")
	for _, scale := range []int{-1, 2, 15} {
		if err := ns.SetTCP(TCPSettings{WindowScale: scale}); err == nil {
			t.Errorf("window scale %d was accepted", scale)
		}
	}
	if listener, err := ns.ListenSocket(SocketOptions{InitialSequence: 1}, netip.MustParseAddrPort("127.0.0.1:0")); err == nil {
		listener.Close()
		t.Error("a listener accepted an initial sequence number")
	}
}
