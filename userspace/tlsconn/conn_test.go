// SPDX-License-Identifier: Apache-2.0

package tlsconn

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv"
	"github.com/spliceway/spliceway/userspace/sock"
)

const patience = 30 * time.Second

// accepted is a TLS client, and the server's connection, of which the handshake is over,
// detached.
func accepted(t *testing.T) (*tls.Conn, *Conn) {
	t.Helper()
	raw, s, ca := connected(t)
	client := tls.Client(raw, ca.ClientConfig("a.test"))
	server := shaken(t, client, s, ca)
	detach(t, s, server)
	return client, server
}

// connected is a client's and a server's end of a connection.
func connected(t *testing.T) (net.Conn, *sock.Conn, *testenv.CA) {
	t.Helper()
	p, err := sock.NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	l, err := p.Listen(netip.MustParseAddrPort("127.0.0.1:0"), sock.ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = raw.Close() })
	_ = raw.SetDeadline(time.Now().Add(patience))
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	ca, err := testenv.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	return raw, s, ca
}

// shaken does the handshake.
func shaken(t *testing.T, client *tls.Conn, s *sock.Conn, ca *testenv.CA) *Conn {
	t.Helper()
	config, err := ca.ServerConfig("a.test")
	if err != nil {
		t.Fatal(err)
	}
	server := Server(s, config)
	done := make(chan error, 1)
	go func() { done <- client.Handshake() }()
	if err := errors.Join(server.Handshake(t.Context()), <-done); err != nil {
		t.Fatal(err)
	}
	return server
}

func detach(t *testing.T, s *sock.Conn, c *Conn) {
	t.Helper()
	fd := s.Detach()
	t.Cleanup(func() { _ = unix.Close(fd) })
	c.Detach(fd)
}

// everything reads to the end, waiting by looking again.
func everything(t *testing.T, c *Conn, parkAfter func() bool) ([]byte, error) {
	t.Helper()
	var all []byte
	b := make([]byte, MinRead)
	for end := time.Now().Add(patience); time.Now().Before(end); {
		n, err := c.Read(b)
		all = append(all, b[:n]...)
		switch {
		case errors.Is(err, unix.EAGAIN):
			c.Park()
			time.Sleep(50 * time.Microsecond)
		case err != nil:
			c.Park()
			return all, err
		case parkAfter():
			c.Park()
		}
	}
	t.Fatal("no end")
	return nil, nil
}

// TestReadWithAndWithoutLentBuffers: what crypto/tls looks like makes connections
// cheaper, not right.
func TestReadWithAndWithoutLentBuffers(t *testing.T) {
	if !rawInputKnown {
		t.Fatal("tls.Conn has no field rawInput of type bytes.Buffer any more: see buffer.go")
	}
	defer func() { rawInputKnown = true }()
	for _, lend := range []bool{true, false} {
		rawInputKnown = lend
		client, server := accepted(t)
		data := make([]byte, 3<<20)
		_, _ = rand.Read(data)
		go func() {
			_, _ = client.Write(data)
			_ = client.CloseWrite()
		}()
		n := 0
		got, err := everything(t, server, func() bool { n++; return n%3 == 0 }) // in the middle of what is there, too
		if !errors.Is(err, io.EOF) || !bytes.Equal(got, data) {
			t.Errorf("lent %t: got %d bytes, %v", lend, len(got), err)
		}
		if held := server.Held(); held > 0 {
			t.Errorf("lent %t: %d bytes are held at the end", lend, held)
		}
	}
}

func TestAnEndWithoutAGoodbyeIsNone(t *testing.T) {
	client, server := accepted(t)
	if _, err := client.Write([]byte("some")); err != nil {
		t.Fatal(err)
	}
	_ = client.NetConn().Close()
	got, err := everything(t, server, func() bool { return false })
	if string(got) != "some" || !errors.Is(err, ErrTruncated) || !server.Truncated(err) {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestWhatTheSocketDoesNotTakeIsPending, whole, until it does.
func TestWhatTheSocketDoesNotTakeIsPending(t *testing.T) {
	client, server := accepted(t)
	data := make([]byte, 64<<10)
	_, _ = rand.Read(data)
	var want []byte
	for server.Pending() == 0 {
		if err := server.Write(data); err != nil {
			t.Fatal(err)
		}
		want = append(want, data...)
	}
	if server.Pending() > len(data)+1024 {
		t.Errorf("%d bytes are pending after a write of %d", server.Pending(), len(data))
	}
	if err := server.Flush(); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("flush to a full socket: %v", err)
	}
	got := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(client)
		got <- b
	}()
	for end := time.Now().Add(patience); server.Flush() != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it is never taken")
		}
	}
	if err := server.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b := <-got; !bytes.Equal(b, want) {
		t.Errorf("the client got %d bytes, want %d", len(b), len(want))
	}
}

func TestHandshakeEndsWithItsTime(t *testing.T) {
	p, err := sock.NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	l, err := p.Listen(netip.MustParseAddrPort("127.0.0.1:0"), sock.ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := Server(s, &tls.Config{}).Handshake(ctx); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("silence: %v", err)
	}
	_ = raw.Close()
	if err := Server(s, &tls.Config{}).Handshake(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("a close: %v", err)
	}
}

// TestWhatIsDecryptedStaysInItsBuffer: crypto/tls passes over a warning of TLS 1.2, and
// has decrypted the record behind it when Read returns.
func TestWhatIsDecryptedStaysInItsBuffer(t *testing.T) {
	raw, s, ca := connected(t)
	config := ca.ClientConfig("a.test")
	config.MaxVersion = tls.VersionTLS12
	client := testenv.NewRecords(raw, config, true)
	server := shaken(t, client.TLS(), s, ca)
	detach(t, s, server)
	if err := client.Ready(); err != nil {
		t.Fatal(err)
	}
	first, second := bytes.Repeat([]byte("1"), 5000), bytes.Repeat([]byte("2"), 5000)
	b := client.Seal(nil, testenv.RecordData, first)
	b = client.Seal(b, testenv.RecordAlert, []byte{1, 100}) // no_renegotiation
	b = client.Seal(b, testenv.RecordData, second)
	if _, err := raw.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := testenv.Poll(t.Context(), func() (bool, error) {
		n, err := unix.IoctlGetInt(server.fd, unix.SIOCINQ)
		return n == len(b), err
	}); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, MinRead)
	n, err := server.Read(got)
	if err != nil || !bytes.Equal(got[:n], first) {
		t.Fatalf("%d bytes, %v", n, err)
	}
	server.Park()
	others := make([]*[]byte, 16) // other connections read now
	for i := range others {
		others[i] = raws.Get().(*[]byte)
		for j := range *others[i] {
			(*others[i])[j] = 'x'
		}
	}
	n, err = server.Read(got)
	if err != nil || !bytes.Equal(got[:n], second) {
		t.Errorf("%d bytes, %v, not those that were sent: %.20q", n, err, got[:n])
	}
	if _, err := server.Read(got); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("behind them: %v", err)
	}
	server.Park()
	if held := server.Held(); held > 0 {
		t.Errorf("%d bytes are held", held)
	}
	for _, b := range others {
		raws.Put(b)
	}
}

// TestGoodbyeBeforeTheSocketIsGivenAway goes to the client, and not to descriptor 0.
func TestGoodbyeBeforeTheSocketIsGivenAway(t *testing.T) {
	raw, s, ca := connected(t)
	client := tls.Client(raw, ca.ClientConfig("a.test"))
	server := shaken(t, client, s, ca)
	defer s.Close()
	if err := server.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("got %v; the socket is open, so only close_notify can be an end", err)
	}
}
