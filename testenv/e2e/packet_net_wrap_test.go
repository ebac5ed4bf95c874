// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv"
)

// TestPacketWhereSequenceNumbersWrap: 2^32 is crossed in each of the four spaces: the
// clients', chosen here, and the other three, in flows that began close enough to it.
func TestPacketWhereSequenceNumbersWrap(t *testing.T) {
	testenv.CheckLeaks(t)
	const size = 32 << 20 // of 4 GB: one flow of 128 crosses in one space
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	s := netStart(t, n, "")
	crossed := make(map[string]int)
	spaces := []string{"gateway to client", "gateway to backend", "backend"}
	missing := func(f *testenv.Flow) (names []string) {
		next := map[string]struct {
			end   *net.TCPConn
			queue int
		}{
			"gateway to client":  {f.Client, receiveQueue},
			"gateway to backend": {f.Backend, receiveQueue},
			"backend":            {f.Backend, sendQueue},
		}
		for _, name := range spaces {
			at := next[name]
			seq, err := sequence(at.end, at.queue)
			if err != nil {
				t.Fatal(err)
			}
			if crossed[name] == 0 && -seq < size-1000 {
				names = append(names, name)
			}
		}
		return names
	}
	// Just below: the hello goes beyond, or what comes after it.
	for _, below := range []uint32{1, 2, 100, 300, 1000, 1 << 20} {
		for _, family := range families {
			f := s.flowBy(family, s.dialAt(family, -below))
			s.exchangeAll(f, family, 2<<20, 1000)
		}
	}
	for i := 0; len(crossed) < len(spaces); i++ {
		f, err := s.tryFlow(families[i%2], s.dialAt(families[i%2], 1<<32-size/2))
		if err != nil {
			t.Fatal(err)
		}
		names := missing(f)
		if len(names) == 0 {
			if err := errors.Join(testenv.Reset(f.Client), f.Close()); err != nil {
				t.Fatal(err)
			}
			continue
		}
		s.exchangeAll(f, families[i%2], size, size)
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			crossed[name]++
		}
		t.Logf("flow %d crosses in %v", i, names)
	}
}

// exchangeAll is exchange, and expects that every byte was counted.
func (s netSite) exchangeAll(f *testenv.Flow, family string, up, down int64) {
	s.t.Helper()
	l := s.exchange(f, up, down, wasSpliced)
	in, out := float64(up)+float64(len(hello(s.t, family+".test"))), float64(down+1)
	if l["bytes_in"] != in || l["bytes_out"] != out {
		s.t.Errorf("%v bytes in and %v out, want %v and %v", l["bytes_in"], l["bytes_out"], in, out)
	}
}

// Values of TCP_REPAIR_QUEUE and TCP_REPAIR (linux/tcp.h).
const (
	receiveQueue = 1
	sendQueue    = 2
	repairOff    = -1 // without a window probe
)

// dialAt dials from the first client with an initial sequence number.
func (s netSite) dialAt(family string, isn uint32) func(context.Context) (*net.TCPConn, error) {
	return func(ctx context.Context) (*net.TCPConn, error) {
		d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
			return control(raw, func(fd int) error {
				// connect(2) draws a number only if the socket has none. It may be
				// given one in repair mode.
				return errors.Join(
					unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1),
					unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR_QUEUE, sendQueue),
					unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUEUE_SEQ, int(isn)),
					unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, repairOff),
				)
			})
		}}
		return s.net.Clients[0].DialWith(ctx, d, s.gatewayOf(family))
	}
}

// sequence is the next number of a socket's queue.
func sequence(c *net.TCPConn, queue int) (seq uint32, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	err = control(raw, func(fd int) error {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1); err != nil {
			return err
		}
		err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR_QUEUE, queue)
		if err == nil {
			var n int
			n, err = unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUEUE_SEQ)
			seq = uint32(n)
		}
		return errors.Join(err, unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, repairOff))
	})
	if err != nil {
		return 0, fmt.Errorf("read sequence number of queue %d: %w", queue, err)
	}
	return seq, nil
}

func control(raw syscall.RawConn, f func(fd int) error) (err error) {
	if e := raw.Control(func(fd uintptr) { err = f(int(fd)) }); e != nil {
		return e
	}
	return err
}
