// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv"
)

// Records (RFC 8446, section 5.1; RFC 5246, section 6.2).
const (
	recordAlert     = 21
	recordHandshake = 22
	recordData      = 23
)

// tlsRecord claims to have n bytes, whatever it has.
func tlsRecord(kind byte, n int, body string) string {
	return string([]byte{kind, 3, 3, byte(n >> 8), byte(n)}) + body
}

// TestClientsThatBreakTheHandshake after a good hello: each is refused with a line and in
// the metric, others are served, and nothing of it stays.
func TestClientsThatBreakTheHandshake(t *testing.T) {
	testenv.CheckLeaks(t)
	s := newTermSite(t, testenv.NetworkOptions{})
	r := start(t, s.Network, "endpoints:\n"+s.terminating("shop", tcp(echoes(t, s.Backends[0]))))
	if _, err := r.shown(s, "shop"); err != nil {
		t.Fatal(err)
	}
	before := r.held()
	const anything = -1
	tests := []struct {
		name string
		says string // after the hello
		end  func(*net.TCPConn)
		// alert, in the clear in TLS 1.2: RFC 5246, section 7.2. 0: none.
		alert int
		label string
	}{
		{name: "plain text", says: "GET / HTTP/1.1\r\n\r\n", alert: anything, label: "malformed"},
		{name: "a record of a kind that is none", says: tlsRecord(99, 4, "abcd"), alert: 10, label: "malformed"},
		{name: "data before its time", says: tlsRecord(recordData, 4, "abcd"), alert: 10, label: "malformed"},
		{name: "a record that is too long", says: tlsRecord(recordHandshake, 20000, strings.Repeat("x", 20000)), alert: 22, label: "malformed"},
		{name: "a message that is too long", says: tlsRecord(recordHandshake, 4, "\x10\xff\xff\xff"), alert: anything, label: "malformed"},
		{name: "a message that is none", says: tlsRecord(recordHandshake, 8, "\x77\x00\x00\x04abcd"), alert: 10, label: "malformed"},
		{name: "a key exchange of junk", says: tlsRecord(recordHandshake, 8, "\x10\x00\x00\x04\x03abc"), alert: anything, label: "malformed"},
		{name: "the hello again", says: "\x16\x03\x03" + string(testenv.MustHello(t, "shop.test", testenv.HelloOptions{MaxTLS12: true})[3:]), alert: 10, label: "malformed"},
		{name: "empty records without end", says: strings.Repeat(tlsRecord(recordHandshake, 0, ""), 1000), alert: anything, label: "malformed"},
		{name: "an alert", says: tlsRecord(recordAlert, 2, "\x02\x28"), label: "peer_alert"},
		{name: "a goodbye", says: tlsRecord(recordAlert, 2, "\x01\x00"), label: "closed"},
		{name: "the end", end: func(c *net.TCPConn) { _ = c.CloseWrite() }, label: "closed"},
		{name: "half a record and the end", says: tlsRecord(recordHandshake, 100, "abc"), end: func(c *net.TCPConn) { _ = c.CloseWrite() }, label: "closed"},
		{name: "a reset", end: func(c *net.TCPConn) { _ = c.SetLinger(0); _ = c.Close() }, label: "closed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := *r
			r.t = t
			count := r.failures("shop", tt.label)
			c := r.dial(s.Clients[0])
			_ = c.SetDeadline(time.Now().Add(patience))
			if _, err := c.Write(testenv.MustHello(t, "shop.test", testenv.HelloOptions{MaxTLS12: true})); err != nil {
				t.Fatal(err)
			}
			flight, err := serverFlight(c)
			if err != nil {
				t.Fatalf("after the hello: %v", err)
			}
			// The agent may have had enough before the last byte.
			if _, err := io.WriteString(c, tt.says); err != nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
				t.Fatal(err)
			}
			if tt.end != nil {
				tt.end(c)
			}
			if rest, _ := io.ReadAll(c); tt.alert != 0 {
				// A client that has more to say when the agent closes may see the reset
				// alone.
				if got := alertOf(append(flight, rest...)); len(tt.says) < 1000 && (got == 0 || tt.alert != anything && got != tt.alert) {
					t.Errorf("alert %d, want %d, in %x", got, tt.alert, rest)
				}
			}
			line := r.expectLine(c.LocalAddr(), map[string]any{"outcome": "handshake_failed", "handshake_failure": tt.label, "endpoint": "shop"})
			if reason, _ := line["reason"].(string); reason == "" {
				t.Errorf("no reason in %v", line)
			}
			if err := testenv.Poll(short(t), func() (bool, error) { return r.failures("shop", tt.label) == count+1, nil }); err != nil {
				t.Errorf("the metric went from %v to %v", count, r.failures("shop", tt.label))
			}
		})
	}
	if _, err := r.shown(s, "shop"); err != nil {
		t.Errorf("another client: %v", err)
	}
	r.expectHeld(before)
}

// serverFlight reads until ServerHelloDone, the last message in the clear.
func serverFlight(c net.Conn) (flight []byte, err error) {
	b := make([]byte, 16<<10)
	for {
		n, err := c.Read(b)
		if flight = append(flight, b[:n]...); bytes.HasSuffix(flight, []byte{14, 0, 0, 0}) || err != nil {
			return nil, err
		}
	}
}

// alertOf is the number of the first alert in records; 0: none.
func alertOf(records []byte) int {
	for len(records) >= 7 {
		if records[0] == recordAlert {
			return int(records[6])
		}
		records = records[min(len(records), 5+int(records[3])<<8+int(records[4])):]
	}
	return 0
}

// TestManySilentClients hang in the middle of a handshake, others at its start: all are
// put out in time, and nothing stays.
func TestManySilentClients(t *testing.T) {
	testenv.CheckLeaks(t)
	s := newTermSite(t, testenv.NetworkOptions{})
	const timeout = time.Second
	r := start(t, s.Network, "endpoints:\n"+s.terminating("shop", tcp(echoes(t, s.Backends[0])))+"timeouts: {handshake: "+timeout.String()+"}\n")
	if _, err := r.shown(s, "shop"); err != nil {
		t.Fatal(err)
	}
	before := r.held()
	const clients = 200
	silent := make([]net.Conn, clients)
	for i := range silent {
		silent[i] = r.dial(s.Clients[0])
		h := testenv.MustHello(t, "shop.test", testenv.HelloOptions{Classical: true, MaxTLS12: i%2 == 0})
		if _, err := silent[i].Write(h); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.shown(s, "shop"); err != nil { // while all of them are there
		t.Errorf("another client: %v", err)
	}
	for i, c := range silent {
		_ = c.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Fatalf("client %d: got %v, want a close", i, err)
		}
	}
	r.expectMetric(`tls_handshakes_total{endpoint="shop",result="timeout",side="client"}`, clients)
	r.expectHeld(before)
}

// TestHelloInManyRecords is as good as one in one.
func TestHelloInManyRecordsIsTerminated(t *testing.T) {
	testenv.CheckLeaks(t)
	s := newTermSite(t, testenv.NetworkOptions{})
	r := start(t, s.Network, "endpoints:\n"+s.terminating("shop", tcp(echoes(t, s.Backends[0]))))
	for _, n := range []int{1, 7, 100} {
		raw := r.dial(s.Clients[0])
		_ = raw.SetDeadline(time.Now().Add(patience))
		c := tls.Client(&splitsHello{TCPConn: raw, t: t, n: n}, s.config("shop"))
		if err := r.echoed(c); err != nil {
			t.Errorf("records of %d: %v", n, err)
		}
		_ = c.Close()
		r.expectLine(raw.LocalAddr(), map[string]any{"outcome": "routed", "tls_version": "1.3"})
	}
}

// splitsHello has what is written first go in records of n bytes.
type splitsHello struct {
	*net.TCPConn
	t    *testing.T
	n    int
	done bool
}

func (s *splitsHello) Write(b []byte) (int, error) {
	if s.done {
		return s.TCPConn.Write(b)
	}
	s.done = true
	_, err := s.TCPConn.Write(inRecords(s.t, b, s.n))
	return len(b), err
}

// TestClientsThatBreakTheConnection after a good handshake, and their backend is reset.
func TestClientsThatBreakTheConnection(t *testing.T) {
	terminatedKinds(t, testenv.NetworkOptions{}, "", func(t *testing.T, s *termSite, r *run, l *net.TCPListener, client, server *tls.Config) {
		c, b := r.termFlow(s, l, client, server)
		_, _ = c.Close(), b.Close()
		r.lineOf(c.LocalAddr())
		before := r.held()
		for name, says := range map[string]string{
			"plain text":                      "GET / HTTP/1.1\r\n\r\n",
			"a record that is too long":       tlsRecord(recordData, 20000, strings.Repeat("x", 20000)),
			"a record of a kind that is none": tlsRecord(99, 40, strings.Repeat("x", 40)),
			"an alert in the clear":           tlsRecord(recordAlert, 2, "\x02\x28"),
		} {
			c, b := r.termFlow(s, l, client, server)
			if _, err := c.Write([]byte("before it")); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len("before it"))
			if _, err := io.ReadFull(b, got); err != nil || string(got) != "before it" {
				t.Errorf("%s: the backend got %q, %v", name, got, err)
			}
			if _, err := io.WriteString(rawOf(c), says); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(b); len(got) > 0 || !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("%s: the backend got %q, %v, want a reset", name, got, err)
			}
			if _, err := io.Copy(io.Discard, c); err == nil {
				t.Errorf("%s: the client hears a goodbye", name)
			}
			line := r.expectLine(c.LocalAddr(), map[string]any{"end": "tls_error", "closed_by": "client"})
			if reason, _ := line["reason"].(string); reason == "" {
				t.Errorf("%s: no reason in %v", name, line)
			}
			_, _ = c.Close(), b.Close()
		}
		r.expectHeld(before)
	})
}

// TestKeyUpdates are OpenSSL's to ask for (RFC 8446, section 4.6.3), one way and both:
// some are for good, a flood of them is not.
func TestKeyUpdates(t *testing.T) {
	testenv.CheckLeaks(t)
	s := newTermSite(t, testenv.NetworkOptions{})
	r := start(t, s.Network, "endpoints:\n"+s.terminating("shop", tcp(echoes(t, s.Backends[0]))))
	path, err := exec.LookPath("openssl")
	if err != nil {
		t.Fatal("openssl is not here: install the packages of .ci/run")
	}
	in, feed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer feed.Close()
	cmd := exec.CommandContext(short(t), path, "s_client", "-connect", r.gateway().String(), "-servername", "shop.test", "-CAfile", s.caFile, "-tls1_3")
	var out output
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, &out, &out
	if err := s.Clients[0].Start(cmd); err != nil {
		t.Fatal(err)
	}
	_ = in.Close()
	count := func(part string, n int) {
		t.Helper()
		if err := testenv.Poll(short(t), func() (bool, error) { return strings.Count(out.String(), part) >= n, nil }); err != nil {
			t.Fatalf("want %q %d times in\n%s", part, n, out.String())
		}
	}
	count("Verify return code: 0 (ok)", 1)
	// A letter at the beginning of what it reads is a command: one line after the other.
	for i := range 20 {
		command := []string{"k", "K"}[i%2]
		_, _ = io.WriteString(feed, command+"\n")
		count("KEYUPDATE", i+1)
		word := fmt.Sprintf("word %d.", i)
		_, _ = io.WriteString(feed, word+"\n")
		count(word, 1)
	}
	// A client that sends nothing else costs much and does nothing.
	for i := 20; ; i++ {
		if _, err := io.WriteString(feed, "k\n"); err != nil || i == 1000 {
			break // it has been put out
		}
		over := false
		if err := testenv.Poll(short(t), func() (bool, error) {
			over = strings.Contains(out.String(), "alert unexpected message")
			return over || strings.Count(out.String(), "KEYUPDATE") > i, nil
		}); err != nil {
			t.Fatal(err)
		}
		if over {
			break
		}
	}
	_ = feed.Close()
	_ = cmd.Wait()
	r.line(func(m map[string]any) bool {
		return m["endpoint"] == "shop" && m["end"] == "tls_error" && m["closed_by"] == "client" && m["bytes_in"] == m["bytes_out"]
	})
}

// output collects what a program writes, to be read meanwhile.
type output struct {
	mu sync.Mutex
	b  strings.Builder
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}
