// SPDX-License-Identifier: Apache-2.0

// Package sock is TCP sockets as bare, non-blocking descriptors: listen, accept,
// peek, connect, and waiting with a deadline for as long as a connection is being
// set up. Then the descriptor is given away to whatever moves the bytes.
//
// It is not a net.Conn: a net.Conn keeps its descriptor in the Go runtime's poller
// for life, and an established flow must be in nobody's poller but its engine's.
// Sockets are plain TCP (never MPTCP, which no engine in the kernel can take).
package sock

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Conn is one TCP connection. Its owner is whoever called Accept or Dial, until
// Close, Reset or Detach. Not safe for concurrent use.
type Conn struct {
	// Local and Remote are the connection's addresses, IPv4 unmapped.
	Local, Remote netip.AddrPort

	fd     int
	p      *Poller
	at     *waiter // place in p, nil before the first wait
	lowat  bool    // SO_RCVLOWAT is not 1
	locked bool    // SO_RCVBUF is ours, not the kernel's
	closed bool
}

// Peek is recv(2) with MSG_PEEK: it copies what has arrived and leaves it there.
// 0 bytes and no error: end of stream. EAGAIN: nothing has arrived.
func (c *Conn) Peek(b []byte) (int, error) { return Recv(c.fd, b, unix.MSG_PEEK) }

// Recv is recv(2): 0 bytes and no error at the end of the stream, EAGAIN when nothing has
// arrived.
func (c *Conn) Recv(b []byte) (int, error) { return Recv(c.fd, b, 0) }

// Discard reads and drops n bytes that Peek has shown.
func (c *Conn) Discard(n int) error {
	var scratch [1024]byte
	for n > 0 {
		got, err := Recv(c.fd, scratch[:min(n, len(scratch))], 0)
		if err != nil {
			return fmt.Errorf("discard %d bytes: %w", n, err)
		}
		if got == 0 {
			return fmt.Errorf("discard %d bytes: end of stream", n)
		}
		n -= got
	}
	return nil
}

// waitBuffer is SO_RCVBUF while WaitReadable waits for a hello; the kernel doubles
// it, for its own structures. It holds the largest hello in records of one byte,
// and not much more: left alone, the kernel lets the buffer grow to tcp_rmem[2]
// when a client sends tiny segments, and merges them only once the buffer is full
// (tcp_prune_queue, tcp_collapse); and a peek goes back to the head of the queue for
// each segment (tcp_recvmsg_locked), so that n of them cost n*n/2 steps.
const waitBuffer = 512 << 10

// WaitReadable blocks until at least n bytes are in the receive queue, the
// stream has ended or failed, or ctx ends. It may return early. The kernel
// counts to n by itself (SO_RCVLOWAT, tcp_set_rcvlowat), makes room for as
// many, and so a hello in a thousand segments costs one wake-up.
func (c *Conn) WaitReadable(ctx context.Context, n int) error {
	if n > 1 && !c.locked {
		c.locked = true
		// The first may pass net.core.rmem_max, but needs CAP_NET_ADMIN.
		if unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, waitBuffer) != nil {
			_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, waitBuffer)
		}
	}
	if n > 1 || c.lowat {
		if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, max(n, 1)); err != nil {
			return fmt.Errorf("set SO_RCVLOWAT: %w", err)
		}
		c.lowat = n > 1
	}
	return c.p.wait(ctx, c.fd, unix.EPOLLIN|unix.EPOLLRDHUP, &c.at)
}

// HungUp tells whether a wait has seen the peer close (FIN) or the connection
// break. Bytes that came before may still be unread.
func (c *Conn) HungUp() bool { return c.at != nil && c.at.hup.Load() }

// Err takes the error that is pending on the connection, an errno such as
// ECONNRESET; nil if it is sound, or only closed.
func (c *Conn) Err() error {
	errno, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	switch {
	case err != nil:
		return err
	case errno != 0:
		return unix.Errno(errno)
	}
	return nil
}

// Write sends all of b, waiting as long as ctx allows.
func (c *Conn) Write(ctx context.Context, b []byte) error {
	for len(b) > 0 {
		n, err := Send(c.fd, b, 0)
		if errors.Is(err, unix.EAGAIN) {
			if err := c.p.wait(ctx, c.fd, unix.EPOLLOUT, &c.at); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("write: %w", err)
		}
		b = b[n:]
	}
	return nil
}

// MaxSegment is the largest segment that the peer, and the way to it, takes, in bytes,
// TCP options included; 0 if the kernel does not tell.
func (c *Conn) MaxSegment() int {
	info, err := unix.GetsockoptTCPInfo(c.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0
	}
	// tcpi_snd_mss has no room for the timestamps, which are in every segment.
	const timestamps = 12
	n := int(info.Snd_mss)
	if info.Options&tcpiOptTimestamps != 0 {
		n += timestamps
	}
	return n
}

// OwnSegment is the largest segment that the peer was told to send (its MSS option), in
// bytes; 0 if the kernel does not tell.
func (c *Conn) OwnSegment() int {
	info, err := unix.GetsockoptTCPInfo(c.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0
	}
	return int(info.Advmss)
}

const tcpiOptTimestamps = 1 // include/uapi/linux/tcp.h

// Send is one send(2): it returns how much was taken, and EAGAIN if nothing was.
func (c *Conn) Send(b []byte) (int, error) { return Send(c.fd, b, 0) }

// Vanish closes the connection without a word to the peer, who goes on with somebody
// else: TCP_REPAIR has tcp_close send nothing. It needs CAP_NET_ADMIN.
func (c *Conn) Vanish() {
	if c.closed {
		return
	}
	c.leave()
	_ = unix.SetsockoptInt(c.fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1)
	_ = unix.Close(c.fd)
}

// Detach gives the descriptor away: out of the poller, SO_RCVLOWAT back to 1.
// The caller owns it; every other method of c is over.
func (c *Conn) Detach() int {
	if c.lowat {
		_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, 1)
	}
	if c.locked { // Linux 5.14; before it the buffer stays as it is
		_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_BUF_LOCK, 0)
	}
	c.leave()
	return c.fd
}

// Close closes the connection: FIN, or RST if something is unread (tcp_close).
// Closing twice does nothing.
func (c *Conn) Close() error {
	if c.closed {
		return nil
	}
	c.leave()
	return unix.Close(c.fd)
}

// CloseGracefully sends FIN even though bytes are unread, which Close would
// answer with a reset: it shuts down, drops what is there, and closes.
func (c *Conn) CloseGracefully() error {
	if c.closed {
		return nil
	}
	shutdownAndDrain(c.fd)
	return c.Close()
}

func shutdownAndDrain(fd int) {
	_ = unix.Shutdown(fd, unix.SHUT_WR)
	var scratch [4096]byte
	for range 64 {
		if n, err := Recv(fd, scratch[:], unix.MSG_TRUNC); n == 0 || err != nil {
			break
		}
	}
}

// Reset closes the connection with RST and forgets what was not sent.
func (c *Conn) Reset() {
	if c.closed {
		return
	}
	c.leave()
	Abort(c.fd)
}

func (c *Conn) leave() {
	c.closed = true
	if c.at != nil {
		c.p.forget(c.fd)
	}
}

// CloseGracefully is Conn.CloseGracefully for a descriptor that Detach gave away.
func CloseGracefully(fd int) {
	shutdownAndDrain(fd)
	_ = unix.Close(fd)
}

// Abort closes a descriptor that Detach gave away, with RST.
func Abort(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	_ = unix.Close(fd)
}

// AddrPort is a socket address, IPv4 unmapped; of other families nothing.
func AddrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

func sockaddr(a netip.AddrPort) (domain int, sa unix.Sockaddr) {
	if a.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port()), ZoneId: zoneID(a.Addr().Zone())}
}
