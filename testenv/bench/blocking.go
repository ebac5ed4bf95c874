// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// blocking is a TCP socket with blocking calls on the caller's thread: where
// single round trips or thousands of connections per second count, the runtime's
// poller would be measured instead. The caller closes it.
type blocking int

// dialBlocking connects in the calling thread's namespace.
func dialBlocking(from netip.Addr, to netip.AddrPort) (blocking, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	// These two only make it faster; the timeout makes an error of a subject that hangs.
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	timeout := unix.NsecToTimeval(patience.Nanoseconds())
	err = errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout),
		os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrInet4{Addr: from.As4()})))
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
	}
	if err != nil {
		return -1, errors.Join(fmt.Errorf("connect to %s from %s: %w", to, from, err), unix.Close(fd))
	}
	return blocking(fd), nil
}

// blockingCopy is a second descriptor of the same connection. Blocking or not is
// the connection's, not the descriptor's: c is of no more use but to be closed.
func blockingCopy(c *net.TCPConn) (blocking, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	copied := -1
	err = errors.Join(raw.Control(func(fd uintptr) {
		copied, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	}), err)
	if err != nil {
		return -1, err
	}
	return blocking(copied), unix.SetNonblock(copied, false)
}

func (b blocking) Read(p []byte) (int, error) {
	n, err := again(func() (int, error) { return unix.Read(int(b), p) })
	if n == 0 && err == nil {
		return 0, io.EOF
	}
	return max(n, 0), os.NewSyscallError("read", err)
}

func (b blocking) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		n, err := again(func() (int, error) { return unix.Write(int(b), p[done:]) })
		if err != nil {
			return done, os.NewSyscallError("write", err)
		}
		done += n
	}
	return len(p), nil
}

func (b blocking) Close() { _ = unix.Close(int(b)) }

// again repeats a call that a signal broke off: the runtime sends them, and the
// kernel does not restart a call with a timeout.
func again(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
