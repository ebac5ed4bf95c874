// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv"
)

// These tests are the evidence of docs/decisions/0009-no-sk-skb.md: nothing of the
// agent runs in them. What they find wrong is the kernel's, so a kernel that does it
// right skips them, and its words are what to look for in the output.

const lookAgain = "decision 9 may be looked at again"

// redirectStream has the kernel send on target whatever comes in on source, the way
// that articles show: a stream verdict on a sockmap. It ends with the sockets.
func redirectStream(t *testing.T, source, target int) {
	t.Helper()
	sockets := func(name string) *ebpf.Map {
		t.Helper()
		m, err := ebpf.NewMap(&ebpf.MapSpec{Name: name, Type: ebpf.SockMap, KeySize: 4, ValueSize: 4, MaxEntries: 1})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		return m
	}
	sources, targets := sockets("sources"), sockets("targets")
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SkSKB, AttachType: ebpf.AttachSkSKBStreamVerdict, License: "BSD",
		Instructions: asm.Instructions{
			asm.LoadMapPtr(asm.R2, targets.FD()), // the skb is in R1
			asm.Mov.Imm(asm.R3, 0),               // key
			asm.Mov.Imm(asm.R4, 0),               // flags: to the wire, not to the reader
			asm.FnSkRedirectMap.Call(),
			asm.Return(),
		}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	err = errors.Join(
		targets.Put(uint32(0), uint32(target)),
		link.RawAttachProgram(link.RawAttachProgramOptions{Target: sources.FD(), Program: program, Attach: ebpf.AttachSkSKBStreamVerdict}),
		sources.Put(uint32(0), uint32(source)), // takes the program that the map has now
	)
	if err != nil {
		t.Fatal(err)
	}
}

// TestSkSKBRepeatsOverlaps sends bytes 0 to 99 and then 50 to 199, as a sender does
// that retransmits with other boundaries.
func TestSkSKBRepeatsOverlaps(t *testing.T) {
	testenv.CheckLeaks(t)
	network := testenv.MustNetwork(t, testenv.NetworkOptions{})
	// The last byte comes in a segment of its own: whatever was before it has passed. It
	// is longer than the overlap, by which the kernel's count of what was read is ahead: it
	// announces nothing until more than that has come.
	const last = 255
	stream := make([]byte, last+1)
	for i := range stream {
		stream[i] = byte(i)
	}
	overlap := func(t *testing.T, port uint16, splice func(source int) (reader int)) (got []byte) {
		t.Helper()
		peer, source := rawConnection(t, network, port)
		reader := splice(source)
		for _, segment := range [][2]uint32{{0, 100}, {50, 200}, {200, last + 1}} {
			packet := peer.Segment(testenv.ACK|testenv.PSH, stream[segment[0]:segment[1]])
			packet.Seq = peer.Seq + segment[0]
			if err := peer.Send(packet); err != nil {
				t.Fatal(err)
			}
		}
		waitFor(t, "the last byte", func() (bool, error) {
			got = append(got, receive(t, reader)...)
			return len(got) > 0 && got[len(got)-1] == last, nil
		})
		return got
	}

	plain := overlap(t, 4000, func(source int) int { return source })
	wantBytes(t, plain, stream)

	spliced := overlap(t, 4001, func(source int) (reader int) {
		target, reader, _, _ := connection(t, network.Gateway, network.Gateway, local["IPv4"], nil)
		redirectStream(t, source, target)
		return reader
	})
	if slices.Equal(spliced, stream) {
		t.Skipf("this kernel redirects overlapping segments right: %s", lookAgain)
	}
	wantBytes(t, spliced, slices.Concat(stream[:100], stream[50:]))
	t.Logf("a stream of %d bytes came out of sk_skb as %d", len(stream), len(spliced))
}

// rawConnection is one between a raw peer and a socket of the gateway.
func rawConnection(t *testing.T, network *testenv.Network, port uint16) (peer *testenv.RawPeer, accepted int) {
	t.Helper()
	listener, err := network.Gateway.Listen(netip.AddrPortFrom(network.IPv4, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client := network.Clients[0]
	peer = testenv.MustRawPeer(t, client, netip.AddrPortFrom(client.IPv4().Next(), port))
	if _, err := peer.Connect(ctx, netip.MustParseAddrPort(listener.Addr().String())); err != nil {
		t.Fatal(err)
	}
	conn, err := testenv.Accept(ctx, listener)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	file, err := conn.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return peer, int(file.Fd())
}

// receive returns what there is to read.
func receive(t *testing.T, fd int) []byte {
	t.Helper()
	buf := make([]byte, 64<<10)
	n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
	if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
		t.Fatal(err)
	}
	return buf[:max(n, 0)]
}

// TestSkSKBTakesWithoutLimit writes to a gateway whose other side does not read.
func TestSkSKBTakesWithoutLimit(t *testing.T) {
	testenv.CheckLeaks(t)
	ns := testenv.MustNamespace(t, "gateway")
	const (
		buffer = 256 << 10      // SO_RCVBUF and SO_SNDBUF of each socket; the kernel doubles it
		most   = 4 * 2 * buffer // what two connections hold in one direction
		flood  = 64 << 20       // enough to see that there is no limit
	)
	// pour is how much the kernel takes until it wants no more, and how much of that sockets account for.
	pour := func(t *testing.T, splice func(source, target int) (relay func() int)) (taken, queued, reader int) {
		t.Helper()
		small := func(_ *testenv.Namespace, listener, dialer int) error {
			var errs []error
			for _, fd := range []int{listener, dialer} {
				errs = append(errs, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, buffer), unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, buffer))
			}
			return errors.Join(errs...)
		}
		writer, source, _, _ := connection(t, ns, ns, local["IPv4"], small)
		target, reader, _, _ := connection(t, ns, ns, local["IPv4"], small)
		taken = push(t, writer, flood, splice(source, target))
		for fd, request := range map[int]uint{writer: unix.SIOCOUTQ, source: unix.SIOCINQ, target: unix.SIOCOUTQ, reader: unix.SIOCINQ} {
			n, err := unix.IoctlGetInt(fd, request)
			if err != nil {
				t.Fatal(err)
			}
			queued += n
		}
		return taken, queued, reader
	}

	taken, _, _ := pour(t, func(source, target int) func() int {
		return func() int { return copyOnce(t, source, target) }
	})
	t.Logf("a copying relay took %d bytes", taken)
	if taken > most {
		t.Errorf("a copying relay took %d bytes for a reader that does not read, want at most the %d of the buffers", taken, most)
	}

	taken, queued, reader := pour(t, func(source, target int) func() int {
		redirectStream(t, source, target)
		return func() int { return 0 }
	})
	t.Logf("sk_skb took %d bytes, of which %d are in the queues of sockets", taken, queued)
	if taken <= most {
		t.Skipf("this kernel stops a sender whose reader does not read: %s", lookAgain)
	}
	if taken < flood || queued > most {
		t.Errorf("got %d bytes taken, %d of them in queues, want %d and at most %d: the limit is another one than decision 9 says", taken, queued, flood, most)
	}
	waitFor(t, "all that was taken to come out: it was in memory", func() (bool, error) {
		for taken > 0 {
			n := len(receive(t, reader))
			if taken -= n; n == 0 {
				return false, nil
			}
		}
		return true, nil
	})
}

// push writes and relays until limit bytes were taken, or for a while neither did
// anything, and returns how many were.
func push(t *testing.T, writer, limit int, relay func() int) (taken int) {
	t.Helper()
	const still = time.Second // a window that opened is announced within a round trip
	chunk := make([]byte, 64<<10)
	moved := time.Now()
	waitFor(t, "the sender to be stopped", func() (bool, error) {
		for taken < limit {
			n, err := unix.SendmsgN(writer, chunk, nil, nil, unix.MSG_DONTWAIT)
			if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
				return false, err
			}
			n = max(n, 0)
			if taken += n; n+relay() == 0 {
				return time.Since(moved) > still, nil
			}
			moved = time.Now()
		}
		return true, nil
	})
	return taken
}

// copyOnce moves what there is and what the target takes, as a relay does.
func copyOnce(t *testing.T, source, target int) (moved int) {
	t.Helper()
	buf := make([]byte, 64<<10)
	n, _, err := unix.Recvfrom(source, buf, unix.MSG_DONTWAIT|unix.MSG_PEEK)
	if n > 0 {
		moved, err = unix.SendmsgN(target, buf[:n], nil, nil, unix.MSG_DONTWAIT)
	}
	if moved > 0 {
		_, _, err = unix.Recvfrom(source, buf[:moved], unix.MSG_DONTWAIT)
	}
	if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
		t.Fatal(err)
	}
	return max(moved, 0)
}
