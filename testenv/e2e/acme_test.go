// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spliceway/spliceway/testenv"
)

// acmeSite is a network with an authority that looks for every name at the gateway.
type acmeSite struct {
	*testenv.Network
	pebble *testenv.Pebble
	roots  *x509.CertPool
	cache  string
	caFile string // outlives the authority
}

// newACMESite has the authority on the second backend host.
func newACMESite(t *testing.T, tlsPort, httpPort uint16) *acmeSite {
	t.Helper()
	n := testenv.MustNetwork(t, testenv.NetworkOptions{Backends: 2})
	s := &acmeSite{Network: n, cache: filepath.Join(t.TempDir(), "acme")}
	s.pebble = testenv.MustPebble(t, testenv.PebbleOptions{
		Namespace: n.Backends[1].Namespace, Address: n.Backends[1].IPv4(), Resolve: n.IPv4, TLSPort: tlsPort, HTTPPort: httpPort})
	var err error
	if s.roots, err = s.pebble.Roots(short(t)); err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(s.pebble.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	s.caFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := testenv.WriteFile(s.caFile, ca); err != nil {
		t.Fatal(err)
	}
	return s
}

// config is one by which shop.test has its certificate from the authority; more are keys
// of acme.
func (s *acmeSite) config(upstream netip.AddrPort, more string) string {
	return fmt.Sprintf("acme: {directoryURL: %q, acceptTerms: true, email: ops@shop.test, cache: %q, caFile: %q%s}\nendpoints:\n",
		s.pebble.DirectoryURL, s.cache, s.caFile, more) +
		endpoint("shop", sni("shop.test"), upstream, "tlsTermination: {acme: true}")
}

// greeter is a server in the clear that says one thing to everybody.
func greeter(t *testing.T, h *testenv.Host, greeting string) netip.AddrPort {
	t.Helper()
	l, at := listenOn(t, h)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, greeting)
			_ = c.Close()
		}
	}()
	return at
}

// greeted does a handshake for shop.test, trusting the authority alone, and reads what
// the upstream says.
func (s *acmeSite) greeted(t *testing.T, r *run) (net.Addr, string) {
	t.Helper()
	c, err := s.Clients[0].DialTLS(short(t), r.gateway(), &tls.Config{ServerName: "shop.test", RootCAs: s.roots})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	greeting, err := io.ReadAll(c)
	if err != nil {
		t.Error(err)
	}
	return c.LocalAddr(), string(greeting)
}

func TestACMEByTLSALPN01(t *testing.T) {
	testenv.CheckLeaks(t)
	s := newACMESite(t, gatewayPort, 0)
	ca := testenv.MustCA(t)
	server, err := ca.ServerConfig("pass.test")
	if err != nil {
		t.Fatal(err)
	}
	server.NextProtos = []string{"acme-tls/1"}
	b := testenv.MustBackend(t, s.Backends[0].Namespace, testenv.BackendOptions{Name: "pass", TLS: server})
	config := s.config(greeter(t, s.Backends[0], "welcome"), "") + endpoint("pass", sni("pass.test"), at(s.Backends[0], b))
	r := start(t, s.Network, config)
	if _, err := r.WaitLine(short(t), says("certificate obtained")); err != nil {
		t.Fatal(err)
	}

	client, greeting := s.greeted(t, r)
	if greeting != "welcome" {
		t.Errorf("the upstream says %q", greeting)
	}
	r.expectLine(client, map[string]any{"endpoint": "shop", "outcome": "routed", "engine": "relay", "tls_version": "1.3"})

	t.Run("leaves the challenges of a name that is passed through to its backend", func(t *testing.T) {
		r := *r
		r.t = t
		config := ca.ClientConfig("pass.test")
		config.NextProtos = []string{"acme-tls/1"}
		c, err := s.Clients[0].DialTLS(short(t), r.gateway(), config)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		reply, err := testenv.Ask(c, testenv.Request{})
		if err != nil {
			t.Fatal(err)
		}
		if reply.Backend != "pass" || reply.ALPN != "acme-tls/1" {
			t.Errorf("answered by %q with %q", reply.Backend, reply.ALPN)
		}
		_ = c.Close()
		r.expectLine(c.LocalAddr(), map[string]any{"endpoint": "pass", "outcome": "routed"})
	})

	t.Run("refuses a challenge that nobody has opened", func(t *testing.T) {
		r := *r
		r.t = t
		raw, err := s.Clients[0].Dial(short(t), r.gateway())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = raw.Close() }()
		c := tls.Client(raw, &tls.Config{ServerName: "shop.test", RootCAs: s.roots, NextProtos: []string{"acme-tls/1"}})
		if err := c.HandshakeContext(short(t)); err == nil {
			t.Error("the handshake succeeds")
		}
		r.expectLine(raw.LocalAddr(), map[string]any{"endpoint": "shop", "outcome": "handshake_failed"})
	})

	t.Run("needs no authority after a restart", func(t *testing.T) {
		if err := r.Stop(short(t)); err != nil {
			t.Errorf("the agent ends with: %v", err)
		}
		if err := s.pebble.Close(); err != nil {
			t.Fatal(err)
		}
		next := start(t, s.Network, config)
		if _, greeting := s.greeted(t, next); greeting != "welcome" {
			t.Errorf("the upstream says %q", greeting)
		}
	})
}

func TestACMEByHTTP01(t *testing.T) {
	testenv.CheckLeaks(t)
	s := newACMESite(t, 0, 80) // nobody answers TLS-ALPN-01
	r := start(t, s.Network, s.config(greeter(t, s.Backends[0], "welcome"), `, httpAddress: ":80"`))
	if _, err := r.WaitLine(short(t), says("certificate obtained")); err != nil {
		t.Fatal(err)
	}
	if _, greeting := s.greeted(t, r); greeting != "welcome" {
		t.Errorf("the upstream says %q", greeting)
	}

	web := http.Client{
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return s.Clients[0].Dial(ctx, netip.AddrPortFrom(s.IPv4, 80))
		}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	for _, tt := range []struct {
		url, location string
		status        int
	}{
		{"http://shop.test/a?b=c", "https://shop.test/a?b=c", http.StatusPermanentRedirect},
		{"http://evil.test/a", "", http.StatusNotFound},
	} {
		req, err := http.NewRequestWithContext(short(t), http.MethodGet, tt.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := web.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != tt.status || res.Header.Get("Location") != tt.location {
			t.Errorf("%s: %s to %q, want %d to %q", tt.url, res.Status, res.Header.Get("Location"), tt.status, tt.location)
		}
	}
}

// TestACMEOfARefusedFileIsForgotten: the mended file's is used, at once.
func TestACMEOfARefusedFileIsForgotten(t *testing.T) {
	testenv.CheckLeaks(t)
	s := newACMESite(t, gatewayPort, 0)
	upstream := greeter(t, s.Backends[0], "welcome")
	r := start(t, s.Network, "endpoints:\n"+endpoint("pass", sni("pass.test"), upstream))
	good := s.config(upstream, "")
	wrong := strings.Replace(good, s.pebble.DirectoryURL, "https://127.0.0.1:1/wrong", 1)
	wrong = strings.Replace(wrong, "cache: ", `httpAddress: ":80", cache: `, 1)
	r.write(wrong + endpoint("broken", sni("broken.test"), upstream, "tlsTermination: {certificates: [{certFile: /none, keyFile: /none}]}"))
	if _, err := r.WaitLine(short(t), says("configuration refused")); err != nil {
		t.Fatal(err)
	}
	if c, err := s.Clients[0].Dial(short(t), netip.AddrPortFrom(s.IPv4, 80)); err == nil {
		_ = c.Close()
		t.Error("the refused acme.httpAddress is listened on")
	}
	r.write(good)
	if _, err := r.WaitLine(short(t), says("certificate obtained")); err != nil {
		t.Fatal(err)
	}
	if _, greeting := s.greeted(t, r); greeting != "welcome" {
		t.Errorf("the upstream says %q", greeting)
	}
	if strings.Contains(r.Log().String(), "next start") {
		t.Error("what is in force is said to take effect at the next start")
	}
}
