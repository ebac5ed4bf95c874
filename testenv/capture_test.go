// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

func TestCapture(t *testing.T) {
	for _, kind := range []LinkKind{Veth, TAP, TUN} {
		t.Run("of "+string(kind), func(t *testing.T) {
			CheckLeaks(t)
			network := MustNetwork(t, NetworkOptions{ClientLink: LinkOptions{Kind: kind}})
			client := network.Clients[0]
			capture := MustCapture(t, client.Uplink)
			conn, server := connected(t, client, network.Backends[0])
			expectBytes(t, conn, server, "question", "question")
			expectBytes(t, server, conn, "answer", "answer")
			between := Between(address(conn.LocalAddr()), address(conn.RemoteAddr()))

			handshake := expectSeen(t, capture, 2, between, WithFlags(SYN))
			if handshake[0].Outgoing || !handshake[1].Outgoing || handshake[1].Ack != handshake[0].Seq+1 {
				t.Errorf("got handshake\n%s\n%s", handshake[0], handshake[1])
			}
			data := expectSeen(t, capture, 2, between, WithPayload)
			if string(data[0].Payload) != "question" || string(data[1].Payload) != "answer" {
				t.Errorf("got data\n%s\n%s", data[0], data[1])
			}
			all, err := capture.Packets(between)
			if err != nil {
				t.Fatal(err)
			}
			for _, seen := range all {
				if seen.BadChecksum || seen.Unfinished != (kind == Veth) {
					t.Errorf("bad checksum %t, unfinished %t: %s", seen.BadChecksum, seen.Unfinished, seen)
				}
			}

			if err := capture.Forget(); err != nil {
				t.Fatal(err)
			}
			now := time.Now()
			conn.Close()
			if err := ExpectEOF(server, 5*time.Second); err != nil {
				t.Fatal(err)
			}
			expectSeen(t, capture, 1, between, Incoming, WithFlags(FIN), After(now))
			expectSeen(t, capture, 0, between, WithFlags(SYN))
		})
	}
}

func TestCaptureIsOfItsDevice(t *testing.T) {
	network := MustNetwork(t, NetworkOptions{Clients: 2})
	capture := MustCapture(t, network.Clients[1].Uplink)
	conn, server := connected(t, network.Clients[0], network.Backends[0])
	expectBytes(t, conn, server, "x", "x")
	expectSeen(t, capture, 0, Between(address(conn.LocalAddr()), address(conn.RemoteAddr())))
}

// expectSeen takes what is there: what a test awaited has passed the gateway.
func expectSeen(t *testing.T, capture *Capture, want int, filters ...func(Seen) bool) []Seen {
	t.Helper()
	got, err := capture.Packets(filters...)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != want {
		t.Fatalf("got %d packets, want %d:\n%v", len(got), want, got)
	}
	return got
}

func address(a net.Addr) netip.AddrPort {
	addrPort := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(addrPort.Addr().Unmap(), addrPort.Port())
}
