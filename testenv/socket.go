// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// Listen opens a TCP listener inside the namespace; it can be used from
// anywhere. The unspecified IPv6 address takes IPv4 as well. Port 0 picks one.
// Multipath TCP is off, as in the agent.
func (n *Namespace) Listen(address netip.AddrPort) (*net.TCPListener, error) {
	var listener *net.TCPListener
	err := n.Do(func() (err error) {
		listener, err = listenHere(address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen in namespace %s: %w", n.name, err)
	}
	return listener, nil
}

func listenHere(address netip.AddrPort) (*net.TCPListener, error) {
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	listener, err := config.Listen(context.Background(), "tcp", address.String())
	if err != nil {
		return nil, err
	}
	return listener.(*net.TCPListener), nil // what "tcp" always yields
}

// Dial connects from inside the namespace; the connection can be used from
// anywhere. It occupies an OS thread until it is through.
func (n *Namespace) Dial(ctx context.Context, remote netip.AddrPort) (*net.TCPConn, error) {
	return n.DialWith(ctx, net.Dialer{}, remote)
}

// DialWith is Dial with the caller's settings: a local address, a deadline,
// socket options by Control. Dialing a literal address keeps net.Dialer on
// this thread, so the socket is made where it should be.
func (n *Namespace) DialWith(ctx context.Context, dialer net.Dialer, remote netip.AddrPort) (*net.TCPConn, error) {
	var conn net.Conn
	err := n.Do(func() (err error) {
		conn, err = dialer.DialContext(ctx, "tcp", remote.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("dial from namespace %s: %w", n.name, err)
	}
	return conn.(*net.TCPConn), nil
}

// DialTLS connects from inside the namespace and completes the handshake.
func (n *Namespace) DialTLS(ctx context.Context, remote netip.AddrPort, config *tls.Config) (*tls.Conn, error) {
	raw, err := n.Dial(ctx, remote)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("tls handshake with %s: %w", remote, err), raw.Close())
	}
	return conn, nil
}

// Reset closes conn with a RST instead of a FIN: SO_LINGER with a time of
// zero. Bytes that are still in its send queue are lost, as they should be.
func Reset(conn *net.TCPConn) error {
	if err := conn.SetLinger(0); err != nil {
		return errors.Join(fmt.Errorf("set linger: %w", err), conn.Close())
	}
	return conn.Close()
}

// ExpectEOF reads until the peer's FIN and returns nil if it comes within the
// timeout with nothing before it.
func ExpectEOF(conn net.Conn, timeout time.Duration) error {
	n, err := readOnce(conn, timeout)
	switch {
	case n > 0:
		return fmt.Errorf("got %d bytes, want end of stream", n)
	case !isEOF(err):
		return fmt.Errorf("got %w, want end of stream", err)
	}
	return nil
}

// ExpectReset returns nil if the peer's RST arrives within the timeout with
// nothing before it.
func ExpectReset(conn net.Conn, timeout time.Duration) error {
	n, err := readOnce(conn, timeout)
	switch {
	case n > 0:
		return fmt.Errorf("got %d bytes, want a reset", n)
	case !errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("got %w, want a reset", err)
	}
	return nil
}

func readOnce(conn net.Conn, timeout time.Duration) (int, error) {
	if err := conn.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return 0, err
	}
	var buf [4096]byte
	n, err := conn.Read(buf[:])
	return n, errors.Join(err, conn.SetReadDeadline(time.Time{}))
}
