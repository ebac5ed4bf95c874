// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/pires/go-proxyproto"
)

// maxFailures bounds what a backend remembers of connections gone wrong.
const maxFailures = 32

// BackendOptions describes a [Backend].
type BackendOptions struct {
	// Name is the identity in each [Reply].
	Name string

	// Address to listen on. The zero value is every address and a free port.
	Address netip.AddrPort

	// TLS has the certificate, as from [CA.ServerConfig], and may have ALPN
	// protocols. Nil makes a plain backend: it takes a ClientHello off each
	// connection, keeps it in the Session and speaks the protocol in the clear
	// from there, so that a client sees TCP's own FIN and RST.
	TLS *tls.Config
}

// Backend is a server that says who it is and what reached it. A PROXY header
// in front of anything is always understood and never required.
type Backend struct {
	options  BackendOptions
	listener *net.TCPListener
	handlers sync.WaitGroup

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced at each new session
	conns    map[net.Conn]struct{}
	closed   bool
	accepted int
	sessions map[uint64]Session
	failures []error
}

// Session is a backend's side of one connection whose [Request] had an ID.
type Session struct {
	Request  Request
	Reply    Reply
	Hello    []byte // the records of the ClientHello; plain backends only
	Sent     Digest // SHA-256 for Transfer, and for Sink with Hash
	Received Digest
	Err      error // nil when all went as requested
}

// NewBackend starts a backend in a namespace, or in the caller's own if ns is
// nil. The caller closes it.
func NewBackend(ns *Namespace, options BackendOptions) (*Backend, error) {
	if !options.Address.IsValid() {
		options.Address = netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
	}
	listen := listenHere
	if ns != nil {
		listen = ns.Listen
	}
	listener, err := listen(options.Address)
	if err != nil {
		return nil, fmt.Errorf("start backend %s: %w", options.Name, err)
	}
	b := &Backend{
		options:  options,
		listener: listener,
		changed:  make(chan struct{}),
		conns:    make(map[net.Conn]struct{}),
		sessions: make(map[uint64]Session),
	}
	b.handlers.Go(b.accept)
	return b, nil
}

// Name returns the backend's identity.
func (b *Backend) Name() string { return b.options.Name }

// Port returns the port it listens on.
func (b *Backend) Port() uint16 {
	return b.listener.Addr().(*net.TCPAddr).AddrPort().Port()
}

// Accepted returns how many connections it has taken.
func (b *Backend) Accepted() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.accepted
}

// Open returns how many connections it has at the moment.
func (b *Backend) Open() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.conns)
}

// Failures returns why connections ended badly, the first 32 of them.
func (b *Backend) Failures() []error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]error(nil), b.failures...)
}

// Session waits for the end of the session with an ID and returns it.
func (b *Backend) Session(ctx context.Context, id uint64) (Session, error) {
	for {
		b.mu.Lock()
		session, ok := b.sessions[id]
		changed := b.changed
		b.mu.Unlock()
		if ok {
			return session, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Session{}, fmt.Errorf("wait for session %d of backend %s: %w", id, b.options.Name, context.Cause(ctx))
		}
	}
}

// Close stops listening, closes every connection and waits until nothing of
// the backend runs. A second Close does nothing.
func (b *Backend) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	err := b.listener.Close()
	for conn := range b.conns {
		_ = conn.Close() // its handler is the one to report
	}
	b.mu.Unlock()
	b.handlers.Wait()
	return err
}

func (b *Backend) accept() {
	for {
		conn, err := b.listener.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			b.fail(fmt.Errorf("accept: %w", err))
			return
		}
		if !b.add(conn) {
			_ = conn.Close()
			return
		}
		b.handlers.Go(func() {
			defer b.remove(conn)
			if err := b.serve(conn); err != nil {
				b.fail(fmt.Errorf("connection from %s: %w", conn.RemoteAddr(), err))
			}
		})
	}
}

func (b *Backend) serve(raw *net.TCPConn) error {
	reply := Reply{Backend: b.options.Name, Remote: unmapped(raw.RemoteAddr()), Local: unmapped(raw.LocalAddr())}
	reader := bufio.NewReaderSize(raw, 4096)
	header, err := proxyproto.Read(reader)
	switch {
	case errors.Is(err, proxyproto.ErrNoProxyProtocol):
	case err != nil:
		return fmt.Errorf("read PROXY header: %w", err)
	default:
		if reply.Proxy, err = newProxyHeader(header); err != nil {
			return fmt.Errorf("read PROXY header: %w", err)
		}
	}
	buffered := &bufferedConn{TCPConn: raw, reader: reader}
	if b.options.TLS == nil {
		hello, err := readHello(buffered)
		if err != nil {
			return fmt.Errorf("read hello: %w", err)
		}
		return b.converse(buffered, reply, hello)
	}
	conn := tls.Server(buffered, b.options.TLS)
	if err := conn.Handshake(); err != nil {
		return fmt.Errorf("tls handshake: %w", err)
	}
	state := conn.ConnectionState()
	reply.ServerName, reply.ALPN, reply.TLSVersion = state.ServerName, state.NegotiatedProtocol, state.Version
	return b.converse(conn, reply, nil)
}

func (b *Backend) add(conn net.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.accepted++
	b.conns[conn] = struct{}{}
	return true
}

func (b *Backend) remove(conn net.Conn) {
	_ = conn.Close() // FIN has gone out before, where one was due
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.conns, conn)
}

func (b *Backend) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed && len(b.failures) < maxFailures {
		b.failures = append(b.failures, err)
	}
}

func (b *Backend) record(session Session) {
	if session.Request.ID == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sessions[session.Request.ID] = session
	close(b.changed)
	b.changed = make(chan struct{})
}

// bufferedConn reads what a bufio.Reader took from the connection first.
type bufferedConn struct {
	*net.TCPConn
	reader *bufio.Reader
}

func (c *bufferedConn) Read(p []byte) (int, error) { return c.reader.Read(p) }

// unmapped writes an address of a dual-stack listener in its own family.
func unmapped(addr net.Addr) string {
	address := addr.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(address.Addr().Unmap(), address.Port()).String()
}
