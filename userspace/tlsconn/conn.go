// SPDX-License-Identifier: Apache-2.0

// Package tlsconn is TLS over the bare sockets of package sock: the handshake blocks,
// and what comes after it never does, so that an event loop can have the connection.
// The protocol is crypto/tls; how a handshake is to be done, and what its failure
// means, is somebody else's to say.
package tlsconn

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/userspace/sock"
)

// ErrTruncated is the end of a connection without close_notify: whatever the peer was
// saying, it may not have been all (RFC 8446, section 6.1).
var ErrTruncated = errors.New("closed without close_notify")

// Conn is one side's TLS connection. Not safe for concurrent use.
type Conn struct {
	tls  *tls.Conn
	sock *sock.Conn      // nil once detached
	net  net.Conn        // what Over was given
	ctx  context.Context // of the handshake
	fd   int
	// pending is what the socket did not take: records, whole or their rest.
	pending []byte
	goodbye bool // close_notify has been written: nothing may follow
	reading bool
	answers int     // bytes that Read added to pending
	raw     *[]byte // lent from the first Read to Park
	partial []byte  // what Park found in it: mostly the beginning of a record
}

// Server is the side that was connected to; the socket stays the caller's until
// Detach.
func Server(s *sock.Conn, cfg *tls.Config) *Conn {
	c := &Conn{sock: s}
	c.tls = tls.Server((*wire)(c), cfg)
	return c
}

// Client is the side that connected.
func Client(s *sock.Conn, cfg *tls.Config) *Conn {
	c := &Conn{sock: s}
	c.tls = tls.Client((*wire)(c), cfg)
	return c
}

// Handshake blocks until it is over, or ctx ends. The error is that of crypto/tls, or
// of the socket: io.EOF, an errno, os.ErrDeadlineExceeded for ctx's deadline.
func (c *Conn) Handshake(ctx context.Context) error {
	c.ctx = ctx
	// Not HandshakeContext: the wire sees ctx itself, and needs no goroutine for it.
	err := c.tls.Handshake()
	c.ctx = nil
	return err
}

// State is what was negotiated.
func (c *Conn) State() tls.ConnectionState { return c.tls.ConnectionState() }

// Over ends the bare part: TLS goes on as a net.Conn over n, to which the caller has given
// the socket. c's other methods are over, but State.
func (c *Conn) Over(n net.Conn) net.Conn {
	c.sock, c.net = nil, n
	return c.tls
}

// Detach ends the blocking part: the caller has given the socket's descriptor away to
// whoever calls the methods below, and tells which it is.
func (c *Conn) Detach(fd int) {
	c.fd, c.sock = fd, nil
}

// maxPlaintext is RFC 8446, section 5.1: what a buffer for Read must have room for, so
// that nothing that is decrypted stays behind.
const maxPlaintext = 16 << 10

// MinRead is the least room that Read needs.
const MinRead = maxPlaintext

// Read decrypts what has arrived: one record at most, and all of it, for which b must
// have MinRead bytes. EAGAIN: nothing whole is there. io.EOF: close_notify has come.
// ErrTruncated: the connection has ended without. An errno is the socket's, and any
// other error is a breach of the protocol, of which the peer is told by an alert, or the
// peer's own alert. n > 0 and an error may come together.
func (c *Conn) Read(b []byte) (n int, err error) {
	c.lend()
	c.reading = true
	n, err = c.tls.Read(b)
	c.reading = false
	if err == errNothing {
		err = unix.EAGAIN
	}
	return n, err
}

// Truncated tells whether an error of Read is ErrTruncated.
func (c *Conn) Truncated(err error) bool { return errors.Is(err, ErrTruncated) }

// Write encrypts b, all of it; what the socket does not take at once is Pending. Call
// it with nothing pending. An error is the socket's, and final.
func (c *Conn) Write(b []byte) error {
	_, err := c.tls.Write(b)
	return err
}

// CloseWrite sends close_notify; no Write may follow. The socket's FIN is the caller's.
func (c *Conn) CloseWrite() error {
	err := c.tls.CloseWrite()
	c.goodbye = true
	return err
}

// Pending is how many bytes wait for Flush.
func (c *Conn) Pending() int { return len(c.pending) }

// Flush sends what is pending, as far as the socket takes it: EAGAIN if not all.
func (c *Conn) Flush() error {
	for len(c.pending) > 0 {
		n, err := sock.Send(c.fd, c.pending, 0)
		if err != nil {
			return err
		}
		c.pending = c.pending[n:]
	}
	c.pending, c.answers = nil, 0
	return nil
}

// maxAnswers is what a peer that does not read is answered: a key update for each of
// its own (RFC 8446, section 4.6.3) is 27 bytes, and the peer sends as many as it likes.
const maxAnswers = 4 << 10

// Flooded tells that no more should be read before what is pending has been sent.
func (c *Conn) Flooded() bool { return c.answers > maxAnswers }

// wire is Conn as crypto/tls sees it: the net.Conn below TLS.
type wire Conn

var _ net.Conn = (*wire)(nil)

// nothing is errNothing's type: crypto/tls goes on after a Read that failed with a
// net.Error that is temporary, and takes every other error for the end.
type nothing struct{}

func (nothing) Error() string   { return "nothing has arrived" }
func (nothing) Timeout() bool   { return true }
func (nothing) Temporary() bool { return true }

var errNothing error = nothing{}

// Read reads what has arrived. During the handshake it waits for it.
func (w *wire) Read(b []byte) (int, error) {
	if w.net != nil {
		return w.net.Read(b)
	}
	for {
		n, err := w.recv(b)
		switch {
		case err == nil && n == 0 && w.ctx == nil:
			// Not io.EOF, which crypto/tls takes for a good end between
			// two records.
			return 0, ErrTruncated
		case err == nil && n == 0:
			return 0, io.EOF
		case !errors.Is(err, unix.EAGAIN):
			return n, err
		case w.ctx == nil:
			return 0, errNothing
		}
		if err := w.sock.WaitReadable(w.ctx, 1); err != nil {
			return 0, waitError(err)
		}
	}
}

func (w *wire) recv(b []byte) (int, error) {
	if w.sock != nil {
		return w.sock.Recv(b)
	}
	return sock.Recv(w.fd, b, 0)
}

func (w *wire) send(b []byte) (int, error) {
	if w.sock != nil {
		return w.sock.Send(b)
	}
	return sock.Send(w.fd, b, 0)
}

func waitError(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return os.ErrDeadlineExceeded
	}
	return err
}

// Write sends b, or keeps what the socket does not take. During the handshake it
// waits instead.
func (w *wire) Write(b []byte) (int, error) {
	if w.net != nil {
		return w.net.Write(b)
	}
	if w.ctx != nil {
		if err := w.sock.Write(w.ctx, b); err != nil {
			return 0, waitError(err)
		}
		return len(b), nil
	}
	if w.goodbye {
		// The answer to a key update, say: to fail would have crypto/tls give up
		// the direction that is still open.
		return len(b), nil
	}
	n := 0
	if len(w.pending) == 0 {
		var err error
		n, err = w.send(b)
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			return 0, err
		}
	}
	if w.reading {
		w.answers += len(b) - n
	}
	w.pending = append(w.pending, b[n:]...)
	return len(b), nil
}

// The rest of net.Conn is for others than crypto/tls. Before Over, descriptors are closed by
// their owner, and deadlines are contexts.

func (w *wire) Close() error {
	if w.net != nil {
		return w.net.Close()
	}
	return nil
}

func (w *wire) LocalAddr() net.Addr {
	if w.net != nil {
		return w.net.LocalAddr()
	}
	return nil
}

func (w *wire) RemoteAddr() net.Addr {
	if w.net != nil {
		return w.net.RemoteAddr()
	}
	return nil
}

func (w *wire) SetDeadline(t time.Time) error {
	if w.net != nil {
		return w.net.SetDeadline(t)
	}
	return nil
}

func (w *wire) SetReadDeadline(t time.Time) error {
	if w.net != nil {
		return w.net.SetReadDeadline(t)
	}
	return nil
}

func (w *wire) SetWriteDeadline(t time.Time) error {
	if w.net != nil {
		return w.net.SetWriteDeadline(t)
	}
	return nil
}
