// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/spliceway/spliceway/testenv"
)

// inRecords is the hello in records of n bytes.
func inRecords(t *testing.T, h []byte, n int) []byte {
	t.Helper()
	split, err := testenv.SplitRecords(h, n)
	if err != nil {
		t.Fatal(err)
	}
	return split
}

// byteByByte writes each byte as a segment of its own (Go sets TCP_NODELAY).
func byteByByte(w io.Writer, b []byte) error {
	for i := range b {
		if _, err := w.Write(b[i : i+1]); err != nil {
			return err
		}
	}
	return nil
}

// However a hello is cut into segments and records, the agent understands it, and
// the backend gets the very bytes that the client sent.
func TestHello(t *testing.T) {
	testenv.CheckLeaks(t)
	all := startRelay(t)
	const size = 61 << 10
	small := hello(t, "a.test")
	full := testenv.MustHello(t, "a.test", testenv.HelloOptions{ALPN: []string{"h2", "http/1.1"}})
	large := testenv.MustHello(t, "a.test", testenv.HelloOptions{Size: size})
	largest := testenv.MustHello(t, "a.test", testenv.HelloOptions{Size: 64 << 10})
	early := append(bytes.Clone(full), record(23, pattern(16<<10))...)

	whole := func(w io.Writer, b []byte) error {
		_, err := w.Write(b)
		return err
	}
	for _, tt := range []struct {
		name  string
		sent  []byte
		write func(io.Writer, []byte) error
	}{
		{"in one segment", full, whole},
		{"in segments of one byte", full, byteByByte},
		{"in records of one byte", inRecords(t, full, 1), whole},
		{"in records of one byte and segments of one byte", inRecords(t, small, 1), byteByByte},
		{"in records of seven bytes", inRecords(t, full, 7), whole},
		{"of 61 KB", large, whole},
		{"of 61 KB in records of one byte", inRecords(t, large, 1), whole},
		{"of the largest size there may be", largest, whole},
		{"of the largest size in records of one byte", inRecords(t, largest, 1), whole},
		{"with 0-RTT data right behind it", early, whole},
		{"with 0-RTT data behind it, in segments of one byte", append(inRecords(t, small, 1), record(23, pattern(200))...), byteByByte},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := all.in(t)
			c := r.dial(r.net.Clients[0])
			var g errgroup.Group
			g.Go(func() error { return tt.write(c, tt.sent) })
			up, err := testenv.Accept(short(t), r.listener)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = up.Close() }()
			got := make([]byte, len(tt.sent))
			if err := up.SetReadDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			if n, err := io.ReadFull(up, got); err != nil {
				t.Fatalf("after %d of %d bytes: %v", n, len(got), err)
			}
			if !bytes.Equal(got, tt.sent) {
				t.Error("other bytes arrived than were sent")
			}
			if err := g.Wait(); err != nil {
				t.Error(err)
			}
			if err := testenv.ExchangePair(short(t), c, up, 1, 1000, 1000); err != nil {
				t.Errorf("the flow behind the hello: %v", err)
			}
			r.expectLine(c.LocalAddr(), map[string]any{"outcome": "routed", "sni": "a.test", "bytes_in": float64(len(tt.sent) + 1000), "bytes_out": 1000.0})
		})
	}
}

// record is a TLS record of the type.
func record(kind byte, body []byte) []byte {
	return append([]byte{kind, 3, 3, byte(len(body) >> 8), byte(len(body))}, body...)
}

// splitting cuts the first thing that is written, a ClientHello, into records and
// segments of one byte.
type splitting struct {
	net.Conn
	t    *testing.T
	done bool
}

func (s *splitting) Write(b []byte) (int, error) {
	if s.done {
		return s.Conn.Write(b)
	}
	s.done = true
	return len(b), byteByByte(s.Conn, inRecords(s.t, b, 1))
}

// A server takes such a hello as it is, through the agent.
func TestHandshakeWithSplitHello(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	ca := testenv.MustCA(t)
	b := tlsBackend(t, n.Backends[0], ca, "a", "a.test")
	r := start(t, n, "endpoints:\n"+endpoint("a", sni("a.test"), at(n.Backends[0], b)))
	raw := r.dial(n.Clients[0])
	c := tls.Client(&splitting{Conn: raw, t: t}, ca.ClientConfig("a.test"))
	if err := c.HandshakeContext(short(t)); err != nil {
		t.Fatal(err)
	}
	reply, err := testenv.Ask(c, testenv.Request{Mode: testenv.Echo})
	if err != nil {
		t.Fatal(err)
	}
	if reply.ServerName != "a.test" || reply.TLSVersion != tls.VersionTLS13 {
		t.Errorf("the backend saw %+v", reply)
	}
}
