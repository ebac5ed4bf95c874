// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/spliceway/spliceway/testenv"
)

// What the plain backend behind a terminating subject does, by the first byte of a
// connection: all of it is behind one listener and one port, so that no subject has to
// route.
const (
	askSource  = 's'
	askSink    = 'k'
	askEcho    = 'e'
	askSession = 'a' // one answer, and the backend closes: TIME_WAITs are its own, not the subject's
)

const (
	tlsService = "plain"
	// echoBlock is what the backend answers at once at most: a record of TLS.
	echoBlock = 16 << 10
	tlsSuite  = tls.TLS_AES_128_GCM_SHA256
)

// serveTLS starts the backend, which speaks no TLS, and writes the certificate that
// every subject shows.
func (b *bed) serveTLS() (err error) {
	if b.authority, err = testenv.NewCA(); err != nil {
		return err
	}
	if b.certificate, err = b.authority.Certificate(sni(tlsService)); err != nil {
		return err
	}
	l, err := b.backend.Listen(netip.AddrPortFrom(b.backendIP, b.services[tlsService]))
	if err != nil {
		return err
	}
	b.listeners = append(b.listeners, l)
	go func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				answer(c) // an error here is one at the client, where it is reported
			}()
		}
	}()
	return nil
}

// answer does what the client asks for until it goes away.
func answer(c *net.TCPConn) {
	ask := make([]byte, 1)
	if _, err := io.ReadFull(c, ask); err != nil {
		return
	}
	switch ask[0] {
	case askSource:
		backend(c, "source")
	case askSink:
		backend(c, "sink")
	case askEcho:
		echoes(c, echoBlock)
	case askSession:
		_, _ = c.Write(make([]byte, answerSize))
	}
}

// noSessions counts the sessions that a subject offers, and keeps none. A client
// without a cache would not say that it resumes, and not see what it is sent.
type noSessions struct{ offered atomic.Int64 }

func (*noSessions) Get(string) (*tls.ClientSessionState, bool) { return nil, false }

func (n *noSessions) Put(string, *tls.ClientSessionState) { n.offered.Add(1) }

// check: with tickets off OpenSSL still sends two per handshake, for sessions that it
// would keep itself (RFC 8446, 4.6.1). A subject that does has more work than another.
func (n *noSessions) check() error {
	if got := n.offered.Load(); got > 0 {
		return fmt.Errorf("the subject offered %d sessions in handshakes that are measured without: its configuration does not do what is measured", got)
	}
	return nil
}

// tlsClient is the client's side of the subject's TLS: 1.3, one key exchange, and no
// session to resume unless the caller exchanges the cache.
func (b *bed) tlsClient(group tls.CurveID) *tls.Config {
	config := b.authority.ClientConfig(sni(tlsService))
	config.MinVersion = tls.VersionTLS13
	config.CurvePreferences = []tls.CurveID{group}
	config.ClientSessionCache = new(noSessions)
	return config
}

// dialTLS connects in the calling thread's namespace, shakes hands, checks that it
// was the handshake that is measured, and asks the backend for something. The
// connection is good for d and some patience.
func (b *bed) dialTLS(ctx context.Context, config *tls.Config, number int, ask byte, d time.Duration) (*tls.Conn, error) {
	dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(b.sources[number%len(b.sources)], 0))}
	dialer.SetMultipathTCP(false)
	raw, err := dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(b.gatewayIP, gatewayPort).String())
	if err != nil {
		return nil, err
	}
	c := tls.Client(raw, config)
	err = cmp.Or(c.SetDeadline(time.Now().Add(d+patience)), c.HandshakeContext(ctx))
	if err == nil {
		err = checkHandshake(c.ConnectionState(), config.CurvePreferences[0])
	}
	if err == nil {
		_, err = c.Write([]byte{ask})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("shake hands: %w", err), raw.Close())
	}
	b.opened.Add(1)
	return c, nil
}

// checkHandshake: figures of subjects that negotiated something else cannot be
// compared.
func checkHandshake(s tls.ConnectionState, group tls.CurveID) error {
	if s.Version != tls.VersionTLS13 || s.CipherSuite != tlsSuite || s.CurveID != group {
		return fmt.Errorf("negotiated %s, %s, %s; want TLS 1.3, %s, %s: the subject's configuration does not do what is measured",
			tls.VersionName(s.Version), tls.CipherSuiteName(s.CipherSuite), s.CurveID, tls.CipherSuiteName(tlsSuite), group)
	}
	return nil
}

// tryTLS sees one connection through.
func (b *bed) tryTLS(ctx context.Context) error {
	return b.client.Do(func() error { return b.sessionTLS(ctx, b.tlsClient(tls.X25519), 0, false) })
}

// sessionTLS is a whole connection: handshake, a question, its answer, the end that
// the backend makes.
func (b *bed) sessionTLS(ctx context.Context, config *tls.Config, number int, resumed bool) error {
	c, err := b.dialTLS(ctx, config, number, askSession, 0)
	if err != nil {
		return err
	}
	defer c.NetConn().Close()
	if got := c.ConnectionState().DidResume; got != resumed {
		return fmt.Errorf("the handshake resumed a session: %t, want %t", got, resumed)
	}
	if _, err := io.ReadFull(c, make([]byte, answerSize)); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	// Whether a close_notify comes before the end is not what is measured.
	if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil {
		return errors.New("read the answer: the backend closed, and more than its answer came")
	} else if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return fmt.Errorf("read the end: %w", err)
	}
	if none, ok := config.ClientSessionCache.(*noSessions); ok && b.layout == terminating {
		return none.check()
	}
	return nil
}
