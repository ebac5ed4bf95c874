// SPDX-License-Identifier: Apache-2.0

package acme

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spliceway/spliceway/testenv"
)

const patience = 60 * time.Second

func short(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// host is what the authority finds at the names: the agent's two ports, in small.
type host struct {
	tls, http net.Listener
	manager   atomic.Pointer[Manager] // nil: it answers nothing
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{}
	h.tls, h.http = listen(t), listen(t)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m := h.manager.Load(); m != nil {
			m.HTTPHandler().ServeHTTP(w, r)
			return
		}
		http.Error(w, "out of order", http.StatusTeapot)
	})}
	t.Cleanup(func() { _ = server.Close() })
	go func() { _ = server.Serve(h.http) }()
	config := &tls.Config{NextProtos: []string{ChallengeProtocol, "http/1.1"}, GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if m := h.manager.Load(); m != nil {
			return m.Get(hello)
		}
		return nil, errors.New("out of order")
	}}
	go func() {
		for {
			c, err := h.tls.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				_ = c.SetDeadline(time.Now().Add(patience))
				_ = tls.Server(c, config).Handshake()
			}()
		}
	}()
	return h
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func port(l net.Listener) uint16 { return l.Addr().(*net.TCPAddr).AddrPort().Port() }

// dial does a handshake with the host.
func (h *host) dial(t *testing.T, config *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	c, err := (&tls.Dialer{Config: config}).DialContext(short(t), "tcp", h.tls.Addr().String())
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer func() { _ = c.Close() }()
	return c.(*tls.Conn).ConnectionState(), nil
}

// traffic is the way to the authority, and what went there.
type traffic struct {
	http.RoundTripper
	mu       sync.Mutex
	requests int
	accounts int            // created
	orders   map[string]int // by name
}

func newTraffic(t *testing.T, p *testenv.Pebble) *traffic {
	t.Helper()
	c, err := newClient(p.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdleConnections)
	return &traffic{RoundTripper: c.Transport, orders: make(map[string]int)}
}

func (r *traffic) RoundTrip(req *http.Request) (*http.Response, error) {
	var body []byte
	if req.Body != nil {
		body, _ = io.ReadAll(req.Body)
		req.Body = io.NopCloser(bytes.NewReader(body))
	}
	res, err := r.RoundTripper.RoundTrip(req)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests++
	if err == nil && strings.HasSuffix(req.URL.Path, "/sign-me-up") && res.StatusCode == http.StatusCreated {
		r.accounts++
	}
	var jws struct{ Payload string }
	var order struct{ Identifiers []struct{ Value string } }
	if json.Unmarshal(body, &jws) == nil {
		payload, _ := base64.RawURLEncoding.DecodeString(jws.Payload)
		_ = json.Unmarshal(payload, &order)
	}
	for _, id := range order.Identifiers {
		r.orders[id.Value]++
	}
	return res, err
}

func (r *traffic) count() (requests, accounts int, orders string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.requests, r.accounts, fmt.Sprint(r.orders)
}

// record is what a Manager logs.
type record struct {
	mu    sync.Mutex
	lines []map[string]any
}

func (r *record) logger() *slog.Logger { return slog.New(slog.NewJSONHandler(r, nil)) }

func (r *record) Write(p []byte) (int, error) {
	var line map[string]any
	if err := json.Unmarshal(p, &line); err != nil {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, line)
	return len(p), nil
}

// wait returns the nth line, from 1, with the message.
func (r *record) wait(t *testing.T, message string, n int) map[string]any {
	t.Helper()
	var found map[string]any
	if err := testenv.Poll(short(t), func() (bool, error) {
		lines := r.all(message)
		if len(lines) >= n {
			found = lines[n-1]
		}
		return found != nil, nil
	}); err != nil {
		t.Fatalf("line %d with %q: %v; the lines are %v", n, message, err, r.all(""))
	}
	return found
}

// all returns the lines with the message; "" is any.
func (r *record) all(message string) (lines []map[string]any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.lines {
		if message == "" || l["msg"] == message {
			lines = append(lines, l)
		}
	}
	return lines
}

// mustNew is New for the length of a test, with the host's challenges.
func mustNew(t *testing.T, h *host, o Options) *Manager {
	t.Helper()
	if o.Cache == "" {
		o.Cache = filepath.Join(t.TempDir(), "acme")
	}
	m, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	h.manager.Store(m)
	return m
}

func dialPlain(t *testing.T, address string) (net.Conn, error) {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(short(t), "tcp", address)
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

func readResponse(c net.Conn) (*http.Response, error) {
	return http.ReadResponse(bufio.NewReader(c), nil)
}
