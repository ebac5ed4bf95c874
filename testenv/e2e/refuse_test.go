// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/spliceway/spliceway/testenv"
)

// attempt is a connection that goes nowhere.
type attempt struct {
	name    string // of the test
	outcome string
	key     string // below `refuse`; empty: it has none
	send    func(t *testing.T, c net.Conn)
	reason  string // part of the line's
	level   string // empty: INFO
	alert   string // hexadecimal; empty: none
}

// bytesOf sends what it is given.
func bytesOf(b []byte) func(*testing.T, net.Conn) {
	return func(t *testing.T, c net.Conn) {
		t.Helper()
		if _, err := c.Write(b); err != nil {
			t.Error(err)
		}
	}
}

// patched is a hello whose name has been exchanged for one that no client may send.
func patched(t *testing.T, name string) []byte {
	t.Helper()
	stand := strings.Repeat("x", len(name))
	h := hello(t, stand)
	if bytes.Count(h, []byte(stand)) != 1 {
		t.Fatalf("%q is not once in the hello", stand)
	}
	return bytes.Replace(h, []byte(stand), []byte(name), 1)
}

// longer is a hello whose lengths count one byte behind the extensions.
func longer(h []byte) []byte {
	h = append(bytes.Clone(h), 0)
	h[4]++ // record
	h[8]++ // handshake message; neither is a multiple of 256 by the test's choice
	return h
}

// Sizes of these tests' configuration.
const refuseHelloBytes = 4096

func refuseAttempts(t *testing.T) []attempt {
	t.Helper()
	whole := hello(t, "a.test")
	noSNI := testenv.MustHello(t, "a.test", testenv.HelloOptions{Classical: true, NoSNI: true})
	large := testenv.MustHello(t, "a.test", testenv.HelloOptions{Size: refuseHelloBytes + 1})
	nothing := func(*testing.T, net.Conn) {}
	return []attempt{
		{"an unknown name", "unknown_name", "unknownName", bytesOf(hello(t, "b.test")), "", "", "70"},
		{"no name", "no_sni", "noSNI", bytesOf(noSNI), "", "", "6d"},
		{"a name with a NUL", "malformed", "malformed", bytesOf(patched(t, "a.test\x00.b.test")), "name_nul", "", "32"},
		{"a name with an empty label", "malformed", "malformed", bytesOf(patched(t, "a..test")), "name_label", "", "32"},
		{"a name with a dot at its end", "malformed", "malformed", bytesOf(patched(t, "a.test.")), "name_dot", "", "32"},
		{"an IP address as the name", "malformed", "malformed", bytesOf(patched(t, "10.0.0.1")), "name_ip", "", "32"},
		{"a byte behind the last field", "malformed", "malformed", bytesOf(longer(whole)), "trailing_bytes", "", "32"},
		{"HTTP", "not_tls", "notTLS", bytesOf([]byte("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")), "", "", ""},
		{"a TLS alert first", "not_tls", "notTLS", bytesOf([]byte{21, 3, 3, 0, 2, 2, 80}), "", "", ""},
		{"silence", "hello_timeout", "helloTimeout", nothing, "", "", ""},
		{"a hello without its last byte", "hello_timeout", "helloTimeout", bytesOf(whole[:len(whole)-1]), "", "", ""},
		{"a hello over the limit", "too_large", "tooLarge", bytesOf(large), "", "", "32"},
		{"the length of a hello over the limit", "too_large", "tooLarge", bytesOf(large[:9]), "", "", "32"},
		{"a hello for a full endpoint", "over_limit", "overLimit", bytesOf(hello(t, "full.test")), "endpoint", "WARN", "50"},
		{"a hello for an endpoint that is down", "dial_failed", "dialFailed", bytesOf(hello(t, "down.test")), "refused", "WARN", "50"},
	}
}

// Each way to be refused is an outcome of its own: in the log, in the metrics, and
// for the client by what the configuration says.
func TestRefusal(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	attempts := refuseAttempts(t)
	backend := plainBackend(t, n.Backends[0], "a")
	l, full := listenOn(t, n.Backends[0])
	config := fmt.Sprintf("timeouts: {hello: 700ms}\nlimits: {helloBytes: %d}\nendpoints:\n", refuseHelloBytes) +
		endpoint("a", sni("a.test"), at(n.Backends[0], backend)) +
		endpoint("full", sni("full.test"), full, "limits: {maxConnections: 1}") +
		endpoint("down", sni("down.test"), nobody(t, n.Backends[0]))

	for _, how := range []string{"close", "reset", "alert"} {
		t.Run("by "+how, func(t *testing.T) {
			refuse := "refuse: {"
			keys := map[string]bool{}
			for _, a := range attempts {
				if !keys[a.key] && (how != "alert" || a.key != "notTLS" && a.key != "helloTimeout") {
					refuse += a.key + ": " + how + ", "
				}
				keys[a.key] = true
			}
			all := start(t, n, config+refuse+"}\n")
			all.open(n.Clients[0], l, "full.test")
			count := map[string]float64{}
			for _, a := range attempts {
				t.Run("of "+a.name, func(t *testing.T) {
					r := *all
					r.t = t
					c := r.dial(n.Clients[0])
					a.send(t, c)
					data, end := seen(c)
					wantEnd, wantData := "FIN", ""
					switch {
					case how == "reset":
						wantEnd = "RST"
					case how == "alert" && a.alert != "":
						wantData = "150303000202" + a.alert // record type 21, version 3.3, 2 bytes: fatal
					}
					if got := hex.EncodeToString(data); end != wantEnd || got != wantData {
						t.Errorf("the client sees %q and %s, want %q and %s", got, end, wantData, wantEnd)
					}
					level := a.level
					if level == "" {
						level = "INFO"
					}
					line := r.expectLine(c.LocalAddr(), map[string]any{"outcome": a.outcome, "level": level, "end": nil, "engine": nil})
					if reason, _ := line["reason"].(string); !strings.Contains(reason, a.reason) {
						t.Errorf("reason %q, want one with %q", reason, a.reason)
					}
					count[a.outcome]++
					r.expectMetric(fmt.Sprintf("connections_total{outcome=%q}", a.outcome), count[a.outcome])
				})
			}
			// Nothing was counted twice, or as something else too.
			for outcome, want := range count {
				all.t = t
				all.expectMetric(fmt.Sprintf("connections_total{outcome=%q}", outcome), want)
			}
			all.expectMetric("connections_open", 1)
			all.expectMetric(`limits_refused_total{limit="endpoint"}`, count["over_limit"])
			all.expectMetric(`dial_failures_total{endpoint="down",reason="refused"}`, count["dial_failed"])
		})
	}
	if got := backend.Accepted(); got != 0 {
		t.Errorf("the backend got %d connections, all were to be refused", got)
	}
}

// Fallbacks take what can be read and has no endpoint; what cannot be read goes
// nowhere, whatever is configured.
func TestFallback(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	l, target := listenOn(t, n.Backends[0])
	unreadable := plainBackend(t, n.Backends[0], "a")
	all := start(t, n, fmt.Sprintf("timeouts: {hello: 700ms}\nlimits: {helloBytes: %d}\n", refuseHelloBytes)+
		"fallback: {unknownName: f, noSNI: f, notTLS: f}\nendpoints:\n"+
		endpoint("a", sni("a.test"), at(n.Backends[0], unreadable))+
		endpoint("f", sni("f.test"), target))

	for _, a := range refuseAttempts(t) {
		switch a.outcome {
		case "unknown_name", "no_sni", "not_tls":
			t.Run("takes "+a.name, func(t *testing.T) {
				r := *all
				r.t = t
				c := r.dial(n.Clients[0])
				a.send(t, c)
				up, err := testenv.Accept(short(t), l)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = up.Close() }()
				if err := c.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				got, end := seen(up)
				sent := &sink{}
				a.send(t, sent)
				if end != "FIN" || !bytes.Equal(got, sent.Bytes()) {
					t.Errorf("the fallback got %q and %s, want %q", got, end, sent.Bytes())
				}
				if err := up.Close(); err != nil {
					t.Fatal(err)
				}
				r.expectLine(c.LocalAddr(), map[string]any{"outcome": "routed", "endpoint": "f", "match": "fallback:" + a.outcome})
			})
		case "malformed", "too_large", "hello_timeout":
			t.Run("does not take "+a.name, func(t *testing.T) {
				r := *all
				r.t = t
				c := r.dial(n.Clients[0])
				a.send(t, c)
				if data, end := seen(c); len(data) > 0 || end != "FIN" {
					t.Errorf("the client sees %q and %s", data, end)
				}
				r.expectLine(c.LocalAddr(), map[string]any{"outcome": a.outcome, "endpoint": nil, "upstream": nil})
			})
		}
	}
	whole := hello(t, "other.test")
	for name, leave := range map[string]func(*net.TCPConn) error{
		"ends with a FIN":   func(c *net.TCPConn) error { return c.CloseWrite() },
		"ends with a reset": testenv.Reset,
	} {
		t.Run("does not take a client that "+name+" in its hello", func(t *testing.T) {
			r := *all
			r.t = t
			c := r.dial(n.Clients[0])
			if _, err := c.Write(whole[:len(whole)-1]); err != nil {
				t.Fatal(err)
			}
			if err := leave(c); err != nil {
				t.Fatal(err)
			}
			r.expectLine(c.LocalAddr(), map[string]any{"outcome": "client_gone", "endpoint": nil, "upstream": nil})
		})
	}
	if err := l.SetDeadline(past); err != nil {
		t.Fatal(err)
	}
	if c, err := l.AcceptTCP(); err == nil {
		_ = c.Close()
		t.Error("the fallback was dialled once more")
	}
	if got := unreadable.Accepted(); got != 0 {
		t.Errorf("the endpoint got %d connections", got)
	}
}

// sink is a connection that keeps what is written to it.
type sink struct {
	bytes.Buffer
	net.Conn
}

func (s *sink) Write(b []byte) (int, error) { return s.Buffer.Write(b) }
func (s *sink) Read(b []byte) (int, error)  { return s.Buffer.Read(b) }
