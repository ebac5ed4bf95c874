// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"

	"golang.org/x/sync/errgroup"
)

const chunk = 64 << 10

// past is the deadline that makes what waits return at once.
var past = time.Unix(1, 0)

// newStream is the random bytes of one direction of a transfer: the same for
// the same seed, different for the two directions.
func newStream(seed uint64, up bool) io.Reader {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	if up {
		key[8] = 1
	}
	return rand.NewChaCha8(key)
}

// Digest counts and names a run of bytes.
type Digest struct {
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256,omitempty"` // hexadecimal; empty if it was not asked for
}

// sendStream writes n bytes of stream and then half-closes.
func sendStream(conn net.Conn, stream io.Reader, n int64) (Digest, error) {
	hash := sha256.New()
	buf := make([]byte, chunk)
	var sent int64
	for sent < n {
		part := buf[:min(n-sent, chunk)]
		if _, err := io.ReadFull(stream, part); err != nil {
			return Digest{}, err
		}
		k, err := conn.Write(part)
		hash.Write(part[:k])
		sent += int64(k)
		if err != nil {
			return digest(sent, hash.Sum(nil)), fmt.Errorf("send byte %d of %d: %w", sent, n, err)
		}
	}
	if err := CloseWrite(conn); err != nil {
		return digest(sent, hash.Sum(nil)), fmt.Errorf("half-close after %d bytes: %w", n, err)
	}
	return digest(sent, hash.Sum(nil)), nil
}

// receiveStream reads until the end of conn, which has to come after exactly n
// bytes of stream. It compares byte by byte as well as by hash: where a stream
// goes wrong says more than that it did.
func receiveStream(r io.Reader, stream io.Reader, n int64) (Digest, error) {
	hash := sha256.New()
	got, want := make([]byte, chunk), make([]byte, chunk)
	var received int64
	for {
		k, err := r.Read(got)
		hash.Write(got[:k])
		expected := want[:min(int64(k), n-received)]
		if _, err := io.ReadFull(stream, expected); err != nil {
			return Digest{}, err
		}
		if !bytes.HasPrefix(got[:k], expected) {
			at := mismatch(got, expected)
			return digest(received, hash.Sum(nil)), fmt.Errorf("byte %d is %#02x, want %#02x", received+int64(at), got[at], expected[at])
		}
		received += int64(k)
		switch {
		case k > len(expected):
			return digest(received, hash.Sum(nil)), fmt.Errorf("%d bytes or more arrived, want %d", received, n)
		case isEOF(err) && received < n:
			return digest(received, hash.Sum(nil)), fmt.Errorf("stream ended after %d of %d bytes", received, n)
		case isEOF(err):
			return digest(received, hash.Sum(nil)), nil
		case err != nil:
			return digest(received, hash.Sum(nil)), fmt.Errorf("receive byte %d of %d: %w", received, n, err)
		}
	}
}

// exchange sends and receives at the same time and half-closes when the
// sending is done, whatever is still coming the other way.
func exchange(conn net.Conn, in io.Reader, seed uint64, sendUp bool, send, receive int64) (sent, received Digest, err error) {
	var group errgroup.Group
	group.Go(func() (err error) {
		sent, err = sendStream(conn, newStream(seed, sendUp), send)
		return err
	})
	received, err = receiveStream(in, newStream(seed, !sendUp), receive)
	if err != nil {
		// Nobody reads on, so the sender could wait for ever.
		err = errors.Join(err, conn.SetWriteDeadline(past))
	}
	return sent, received, errors.Join(err, group.Wait())
}

// ExchangePair moves up bytes from client to backend and down bytes the other
// way, both at once, over a flow whose two ends are in hand. Each end
// half-closes when it has sent all, and checks what it receives byte by byte
// and by SHA-256. Both connections stay the caller's to close.
func ExchangePair(ctx context.Context, client, backend net.Conn, seed uint64, up, down int64) error {
	var clientSent, clientGot, backendSent, backendGot Digest
	group, ctx := errgroup.WithContext(ctx)
	stop := interrupt(ctx, client, backend) // the first end to fail stops the other
	defer stop()
	group.Go(func() (err error) {
		clientSent, clientGot, err = exchange(client, client, seed, true, up, down)
		return wrap("client", err)
	})
	group.Go(func() (err error) {
		backendSent, backendGot, err = exchange(backend, backend, seed, false, down, up)
		return wrap("backend", err)
	})
	if err := group.Wait(); err != nil {
		return err
	}
	if clientSent != backendGot || backendSent != clientGot {
		return fmt.Errorf("digests differ: up %v and %v, down %v and %v", clientSent, backendGot, backendSent, clientGot)
	}
	return nil
}

// CloseWrite ends the sending side of conn: close_notify for TLS (RFC 8446
// section 6.1), then FIN on the TCP connection below.
func CloseWrite(conn net.Conn) error {
	if secure, ok := conn.(*tls.Conn); ok {
		if err := secure.CloseWrite(); err != nil {
			return err
		}
		conn = secure.NetConn()
	}
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok {
		return fmt.Errorf("half-close %T: not supported", conn)
	}
	return half.CloseWrite()
}

// interrupt makes reads and writes fail at once when ctx ends, until stop.
func interrupt(ctx context.Context, conns ...net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		for _, conn := range conns {
			_ = conn.SetDeadline(past) // fails on a closed conn only, which is as good
		}
	})
}

func digest(n int64, sum []byte) Digest { return Digest{Bytes: n, SHA256: hex.EncodeToString(sum)} }

func isEOF(err error) bool { return errors.Is(err, io.EOF) }

func mismatch(a, b []byte) int {
	for i := range b {
		if a[i] != b[i] {
			return i
		}
	}
	return len(b)
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
