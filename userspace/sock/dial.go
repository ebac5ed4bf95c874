// SPDX-License-Identifier: Apache-2.0

package sock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

type maxSegmentKey struct{}

// WithMaxSegment has connections that are dialled with the context announce an MSS of
// at most n bytes (RFC 9293, section 3.7.1), TCP options included.
func WithMaxSegment(ctx context.Context, n int) context.Context {
	return context.WithValue(ctx, maxSegmentKey{}, n)
}

// MaxSegmentOf is what WithMaxSegment gave a context, 0 for nothing.
func MaxSegmentOf(ctx context.Context) int {
	n, _ := ctx.Value(maxSegmentKey{}).(int)
	return n
}

// maxSegment bounds TCP_MAXSEG (do_tcp_setsockopt: MAX_TCP_WINDOW). What is larger is
// the loopback device's, and needs no bound.
const maxSegment = 32767

// Dial connects to remote, until ctx ends. The error wraps the errno of the
// failed connect (ECONNREFUSED, EHOSTUNREACH, ...) or the context's cause.
func (p *Poller) Dial(ctx context.Context, remote netip.AddrPort) (*Conn, error) {
	return p.DialFrom(ctx, 0, remote)
}

// DialFrom is Dial from a given local port, of whatever address the route says; 0 is
// any port. A port that cannot be had is EADDRINUSE or EADDRNOTAVAIL.
func (p *Poller) DialFrom(ctx context.Context, port uint16, remote netip.AddrPort) (*Conn, error) {
	domain, sa := sockaddr(remote)
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: socket: %w", remote, err)
	}
	c := &Conn{Remote: remote, fd: fd, p: p}
	if port != 0 {
		if err := bindPort(fd, domain, port); err != nil {
			_ = c.Close()
			return nil, fmt.Errorf("connect to %s from port %d: %w", remote, port, err)
		}
	}
	if err := c.connect(ctx, sa); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("connect to %s: %w", remote, err)
	}
	return c, nil
}

// bindPort takes a local port that connections to other destinations may have, too.
func bindPort(fd, domain int, port uint16) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	if domain == unix.AF_INET {
		return unix.Bind(fd, &unix.SockaddrInet4{Port: int(port)})
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
		return err
	}
	return unix.Bind(fd, &unix.SockaddrInet6{Port: int(port)})
}

func (c *Conn) connect(ctx context.Context, sa unix.Sockaddr) error {
	setConnOptions(c.fd)
	if n := MaxSegmentOf(ctx); n > 0 && n <= maxSegment {
		_ = unix.SetsockoptInt(c.fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG, n) // too small for the kernel: as it likes
	}
	err := unix.Connect(c.fd, sa)
	// On one host the handshake is over by the time that connect returns, but
	// connect cannot say so yet: asking once more is cheaper than a wait.
	for first := true; errors.Is(err, unix.EINPROGRESS) || errors.Is(err, unix.EALREADY) || errors.Is(err, unix.EINTR); first = false {
		if !first {
			if err := c.p.wait(ctx, c.fd, unix.EPOLLOUT, &c.at); err != nil {
				return err
			}
		}
		err = unix.Connect(c.fd, sa)
	}
	if err != nil && !errors.Is(err, unix.EISCONN) {
		return err
	}
	// A connect to a free port of this host can meet itself (simultaneous
	// open): nobody is there, whatever the kernel says.
	if c.Local, err = localAddr(c.fd); err != nil {
		return fmt.Errorf("getsockname: %w", err)
	}
	if c.Local == c.Remote {
		return unix.ECONNREFUSED
	}
	return nil
}

// Keepalive of both legs: a peer that vanished is noticed after two minutes,
// long before any idle timeout.
const (
	keepIdle     = 60 // seconds until the first probe
	keepInterval = 15 // seconds between probes
	keepCount    = 4  // unanswered probes that end the connection
)

// setConnOptions sets what every connection of the gateway has. On a listener
// they are inherited by what it accepts (inet_csk_clone_lock). An old kernel's
// refusal of one of them costs comfort, not correctness.
func setConnOptions(fd int) {
	set := func(level, opt, v int) { _ = unix.SetsockoptInt(fd, level, opt, v) }
	set(unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	set(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	set(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, keepIdle)
	set(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, keepInterval)
	set(unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepCount)
	// An urgent byte stays a byte of the stream, for the parser of the hello
	// and for the backend alike.
	set(unix.SOL_SOCKET, unix.SO_OOBINLINE, 1)
}

func zoneID(zone string) uint32 {
	if zone == "" {
		return 0
	}
	ifi, err := net.InterfaceByName(zone)
	if err != nil {
		return 0
	}
	return uint32(ifi.Index)
}
