// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/spliceway/spliceway/testenv"
)

// termSite is a network with an authority, and the files of certificates of it.
type termSite struct {
	*testenv.Network
	t   *testing.T
	ca  *testenv.CA
	dir string
	// caFile is the authority's.
	caFile string
}

func newTermSite(t *testing.T, o testenv.NetworkOptions) *termSite {
	t.Helper()
	s := &termSite{Network: testenv.MustNetwork(t, o), t: t, dir: t.TempDir()}
	var err error
	if s.ca, err = testenv.NewCA(); err != nil {
		t.Fatal(err)
	}
	s.caFile = s.file("ca.pem", s.ca.PEM())
	return s
}

func (s *termSite) file(name string, data []byte) string {
	s.t.Helper()
	path := s.dir + "/" + name
	if err := testenv.WriteFile(path, data); err != nil {
		s.t.Fatal(err)
	}
	return path
}

func (s *termSite) issue(l testenv.Leaf) tls.Certificate {
	s.t.Helper()
	c, err := s.ca.Issue(l)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// pair writes a server's certificate for the names, and is the entry of certificates
// for it.
func (s *termSite) pair(file string, l testenv.Leaf) (entry string, c tls.Certificate) {
	s.t.Helper()
	c = s.issue(l)
	certFile, keyFile, err := testenv.WritePair(s.dir, file, c)
	if err != nil {
		s.t.Fatal(err)
	}
	return fmt.Sprintf("{certFile: %q, keyFile: %q}", certFile, keyFile), c
}

// terminating is an endpoint for NAME.test with a certificate of its own; upstream is
// the whole mapping, more are further keys of tlsTermination.
func (s *termSite) terminating(name, upstream string, more ...string) string {
	s.t.Helper()
	entry, _ := s.pair(name, testenv.Leaf{Names: []string{name + ".test"}})
	keys := append([]string{"certificates: [" + entry + "]"}, more...)
	return fmt.Sprintf("- {name: %s, url: %q, tlsTermination: {%s}, upstream: %s}\n", name, sni(name+".test"), strings.Join(keys, ", "), upstream)
}

func tcp(to netip.AddrPort) string { return fmt.Sprintf("{url: \"tcp://%s\"}", to) }

// config is a client's settings for NAME.test.
func (s *termSite) config(name string, own ...tls.Certificate) *tls.Config {
	c := s.ca.ClientConfig(name + ".test")
	if len(own) > 0 {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own[0], nil }
	}
	return c
}

// connect has a client of the first host do a handshake.
func (r *run) connect(s *termSite, cfg *tls.Config) (*tls.Conn, error) {
	r.t.Helper()
	raw := r.dial(s.Clients[0])
	_ = raw.SetDeadline(time.Now().Add(patience))
	c := tls.Client(raw, cfg)
	return c, c.Handshake()
}

func (r *run) mustConnect(s *termSite, cfg *tls.Config) *tls.Conn {
	r.t.Helper()
	c, err := r.connect(s, cfg)
	if err != nil {
		r.t.Fatalf("handshake: %v", err)
	}
	return c
}

// accept takes a connection of the agent's, with a handshake if cfg is given.
func accept(t *testing.T, l *net.TCPListener, cfg *tls.Config) (net.Conn, error) {
	t.Helper()
	_ = l.SetDeadline(time.Now().Add(patience))
	raw, err := l.Accept()
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = raw.Close() })
	_ = raw.SetDeadline(time.Now().Add(patience))
	if cfg == nil {
		return raw, nil
	}
	c := tls.Server(raw, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return c, c.HandshakeContext(ctx)
}

// flow is a client and a backend of NAME.test in one flow.
func (r *run) termFlow(s *termSite, l *net.TCPListener, client, server *tls.Config) (c *tls.Conn, b net.Conn) {
	r.t.Helper()
	type accepted struct {
		c   net.Conn
		err error
	}
	took := make(chan accepted, 1)
	go func() {
		c, err := accept(r.t, l, server)
		took <- accepted{c, err}
	}()
	c = r.mustConnect(s, client)
	got := <-took
	if got.err != nil {
		r.t.Fatalf("the backend: %v", got.err)
	}
	return c, got.c
}

// rawOf is the TCP connection below.
func rawOf(c net.Conn) *net.TCPConn {
	if t, ok := c.(*tls.Conn); ok {
		return t.NetConn().(*net.TCPConn)
	}
	return c.(*net.TCPConn)
}

// flows has a byte go through the flow: the agent may still be on its way when both ends
// are there.
func flows(t *testing.T, c, b net.Conn) {
	t.Helper()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}
