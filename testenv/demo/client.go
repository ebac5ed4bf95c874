// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/spliceway/spliceway/testenv"
)

// past is the deadline that makes what waits return at once.
var past = time.Unix(1, 0)

// conn is the client's end of a connection, after its handshake.
type conn struct {
	*tls.Conn
	wire      *wire
	handshake time.Duration // from connect(2) on
	stop      func() bool
}

// Close closes the connection and lets go of the context that it was opened with.
func (c *conn) Close() error {
	c.stop()
	return c.wire.Close()
}

// client is how a case connects.
type client struct {
	host       *testenv.Host
	ca         *testenv.CA
	sni        string
	maxVersion uint16 // 0: the newest
	split      bool   // the ClientHello in records of one byte each
}

// open connects and completes the handshake, in which it verifies the
// server's certificate. The end of ctx ends the connection, too.
func (c client) open(ctx context.Context, to netip.AddrPort) (*conn, error) {
	var raw net.Conn
	var took time.Duration
	err := c.host.Do(func() (err error) {
		start := time.Now() // inside, so that entering the namespace does not count
		raw, err = (&net.Dialer{}).DialContext(ctx, "tcp", to.String())
		took = time.Since(start)
		return err
	})
	if err != nil {
		return nil, err
	}
	config := c.ca.ClientConfig(c.sni)
	config.MaxVersion = c.maxVersion
	w := &wire{TCPConn: raw.(*net.TCPConn), split: c.split}
	secure := tls.Client(w, config)
	start := time.Now()
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("tls handshake: %w", err), w.Close())
	}
	stop := context.AfterFunc(ctx, func() {
		_ = w.SetDeadline(past) // fails on a closed connection only
	})
	return &conn{Conn: secure, wire: w, handshake: took + time.Since(start), stop: stop}, nil
}

// probe is one connection's times.
type probe struct {
	address   string // the client's
	handshake time.Duration
	trips     []time.Duration
}

const (
	tripsEach = 40 // round trips on one connection
	tripSize  = 64
)

// probe opens a connection, times round trips on it and ends it in order.
func (c client) probe(ctx context.Context, to netip.AddrPort, backend string) (probe, error) {
	conn, err := c.open(ctx, to)
	if err != nil {
		return probe{}, err
	}
	defer conn.Close()
	p := probe{address: conn.LocalAddr().String(), handshake: conn.handshake}
	reply, err := testenv.Ask(conn, testenv.Request{Mode: testenv.Echo})
	if err != nil {
		return p, err
	}
	if reply.Backend != backend {
		return p, fmt.Errorf("backend %q answered, want %q", reply.Backend, backend)
	}
	message, answer := make([]byte, tripSize), make([]byte, tripSize)
	for range tripsEach {
		start := time.Now()
		if _, err := conn.Write(message); err != nil {
			return p, fmt.Errorf("round trip: %w", err)
		}
		if _, err := io.ReadFull(conn, answer); err != nil {
			return p, fmt.Errorf("round trip: %w", err)
		}
		p.trips = append(p.trips, time.Since(start))
	}
	if err := testenv.CloseWrite(conn.Conn); err != nil {
		return p, fmt.Errorf("half-close: %w", err)
	}
	if _, err := io.Copy(io.Discard, conn); err != nil {
		return p, fmt.Errorf("wait for the end: %w", err)
	}
	return p, nil
}

// wire is a TCP connection that counts its payload. One goroutine at a time
// writes and one reads, as crypto/tls does.
type wire struct {
	*net.TCPConn
	split   bool // of what is written next, which has to be a ClientHello
	in, out int64
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.TCPConn.Read(p)
	w.in += int64(n)
	return n, err
}

func (w *wire) Write(p []byte) (int, error) {
	records := p
	if w.split {
		w.split = false
		var err error
		if records, err = testenv.SplitRecords(p, 1); err != nil {
			return 0, err
		}
	}
	n, err := w.TCPConn.Write(records)
	w.out += int64(n)
	if err != nil {
		return 0, err // crypto/tls does not go on after an error
	}
	return len(p), nil
}
