// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
)

// converse is the backend's half of the protocol on one connection.
func (b *Backend) converse(conn net.Conn, reply Reply, hello []byte) error {
	session := Session{Reply: reply, Hello: hello}
	if err := readFrame(conn, &session.Request); err != nil {
		if isEOF(err) {
			return nil // a client that only wanted the handshake
		}
		return fmt.Errorf("read request: %w", err)
	}
	session.Err = writeFrame(conn, reply)
	if session.Err == nil {
		session.Sent, session.Received, session.Err = perform(conn, session.Request)
	}
	b.record(session)
	if session.Err == nil {
		// Closing with something unread would send a RST, which may overtake
		// what the client has still to read. How it leaves is its own affair.
		_, _ = copyStream(io.Discard, conn)
	}
	return wrap(string("mode "+session.Request.Mode), session.Err)
}

func perform(conn net.Conn, r Request) (sent, received Digest, err error) {
	switch r.Mode {
	case Identify:
		return sent, received, CloseWrite(conn)
	case Echo:
		sent.Bytes, err = copyStream(conn, conn)
		if err != nil {
			return sent, sent, err
		}
		return sent, sent, CloseWrite(conn)
	case Source:
		sent, err = source(conn, r.Down)
		return sent, received, err
	case Sink:
		received, err = sink(conn, r.Hash)
		return sent, received, err
	case Transfer:
		return exchange(conn, conn, r.Seed, false, r.Down, r.Up)
	default:
		return sent, received, fmt.Errorf("no such mode")
	}
}

// copyStream is io.Copy without splice(2), so that a backend never holds a
// pipe: the number of pipes in the process is the relay's, if that runs here.
func copyStream(w io.Writer, r io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, chunk))
}

// source sends the same block over and over: it costs no more than the writes.
func source(conn net.Conn, n int64) (Digest, error) {
	block := make([]byte, 4*chunk)
	var sent Digest
	for sent.Bytes < n {
		k, err := conn.Write(block[:min(n-sent.Bytes, int64(len(block)))])
		sent.Bytes += int64(k)
		if err != nil {
			return sent, fmt.Errorf("send byte %d of %d: %w", sent.Bytes, n, err)
		}
	}
	return sent, CloseWrite(conn)
}

func sink(conn net.Conn, hashed bool) (Digest, error) {
	var to io.Writer = io.Discard
	var sum hash.Hash
	if hashed {
		sum = sha256.New()
		to = sum
	}
	n, err := copyStream(to, conn)
	received := Digest{Bytes: n}
	if hashed {
		received = digest(n, sum.Sum(nil))
	}
	if err != nil {
		return received, fmt.Errorf("receive byte %d: %w", n, err)
	}
	if err := writeFrame(conn, received); err != nil {
		return received, fmt.Errorf("send digest: %w", err)
	}
	return received, CloseWrite(conn)
}

// TransferBoth asks the backend behind conn for a [Transfer] and does the
// client's half of it: up and down bytes of random data at once, each end
// half-closing as soon as it has sent all, each checking what it receives byte
// by byte and by SHA-256. It returns nil only if both ends are content.
//
// backend is where conn should lead: it knows how the other end went. On a
// plain backend the caller has written a ClientHello to conn first. conn stays
// the caller's to close.
func TransferBoth(ctx context.Context, conn net.Conn, backend *Backend, seed uint64, up, down int64) (Reply, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := interrupt(ctx, conn)
	defer stop()

	id := rand.Uint64() | 1 // never 0
	reply, err := Ask(conn, Request{Mode: Transfer, ID: id, Seed: seed, Up: up, Down: down})
	if err != nil {
		return reply, fmt.Errorf("transfer: %w", err)
	}
	if reply.Backend != backend.Name() {
		return reply, fmt.Errorf("transfer: backend %q answered, want %q", reply.Backend, backend.Name())
	}
	sent, received, err := exchange(conn, conn, seed, true, up, down)
	if err != nil {
		return reply, fmt.Errorf("transfer: client: %w", err)
	}
	session, err := backend.Session(ctx, id)
	switch {
	case err != nil:
		return reply, fmt.Errorf("transfer: %w", err)
	case session.Err != nil:
		return reply, fmt.Errorf("transfer: backend: %w", session.Err)
	case session.Received != sent || session.Sent != received:
		return reply, fmt.Errorf("transfer: digests differ: up %v and %v, down %v and %v", sent, session.Received, session.Sent, received)
	}
	return reply, nil
}
