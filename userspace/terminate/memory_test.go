// SPDX-License-Identifier: Apache-2.0

package terminate

import (
	"bytes"
	"crypto/tls"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/spliceway/spliceway/testenv"
	"github.com/spliceway/spliceway/userspace/telemetry"
)

// pems are a certificate and its key in PEM.
func (p *pki) pems(c tls.Certificate) (cert, key []byte) {
	p.t.Helper()
	certFile, keyFile, err := testenv.WritePair(p.t.TempDir(), "pair", c)
	if err != nil {
		p.t.Fatal(err)
	}
	if cert, err = os.ReadFile(certFile); err != nil {
		p.t.Fatal(err)
	}
	if key, err = os.ReadFile(keyFile); err != nil {
		p.t.Fatal(err)
	}
	return cert, key
}

func TestServerWithAuthoritiesFromMemory(t *testing.T) {
	p := newPKI(t)
	other := newCA(t)
	second := p.issue(other, testenv.Leaf{Names: []string{"client"}, Client: true})
	for _, tt := range []struct {
		name          string
		files         []string
		pem           []byte
		first, second bool // who gets in
	}{
		{"memory", nil, p.ca.PEM(), true, false},
		{"memory and files", []string{p.caFile}, other.PEM(), true, true},
		{"files", []string{p.caFile}, nil, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := p.mutual()
			o.CAFiles, o.CAPEM = tt.files, tt.pem
			s := mustServer(t, o)
			if len(s.Files()) != len(tt.files) {
				t.Errorf("Files = %q", s.Files())
			}
			before := s.Config()
			if err := s.Reload(); err != nil || s.Config() != before {
				t.Errorf("Reload without a change: %v", err)
			}
			if m := meet(t, s.Config(), p.clientConfig(p.client)); (m.server == nil) != tt.first {
				t.Errorf("the first CA's client: %v", m.server)
			}
			if m := meet(t, s.Config(), p.clientConfig(second)); (m.server == nil) != tt.second {
				t.Errorf("the second CA's client: %v", m.server)
			}
		})
	}
}

func TestClientFromMemory(t *testing.T) {
	p := newPKI(t)
	cert, key := p.pems(p.client)
	server := &tls.Config{Certificates: []tls.Certificate{p.server}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: p.ca.Pool()}
	for _, o := range []ClientOptions{
		{CAPEM: p.ca.PEM(), CertPEM: cert, KeyPEM: key, Where: "Secret a/b"},
		{CAPEM: newCA(t).PEM(), CAFile: p.caFile, CertPEM: append(bytes.Clone(key), cert...), Where: "Secret a/b"},
	} {
		c, err := NewClient(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Reload(); err != nil {
			t.Error(err)
		}
		if m := meet(t, server, c.Config("a.test", "")); m.server != nil || m.client != nil {
			t.Errorf("%v, %v", m.server, m.client)
		}
		if _, file, ok := c.Expiry(); !ok || file != "Secret a/b" {
			t.Errorf("Expiry of %q, %t", file, ok)
		}
	}
}

func TestMemoryErrors(t *testing.T) {
	p := newPKI(t)
	cert, key := p.pems(p.client)
	_, otherKey := p.pems(p.server)
	client := func(o ClientOptions) error {
		o.Where = "Secret a/b"
		_, err := NewClient(o)
		return err
	}
	server := func(pem []byte) error {
		o := p.mutual()
		o.CAFiles, o.CAPEM, o.Where = nil, pem, "ConfigMap a/b"
		_, err := NewServer(o)
		return err
	}
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"server's CAs are none", server(key), "ConfigMap a/b: CA certificates: expected certificates in PEM"},
		{"server's CAs are empty", server([]byte{}), "ConfigMap a/b: CA certificates: expected certificates in PEM"},
		{"client's CAs are none", client(ClientOptions{CAPEM: key}), "Secret a/b: CA certificates: expected certificates in PEM"},
		{"another key", client(ClientOptions{CertPEM: cert, KeyPEM: otherKey}), "Secret a/b: certificate with its key: tls: private key does not match"},
		{"broken key", client(ClientOptions{CertPEM: cert, KeyPEM: bytes.Replace(key, []byte("M"), []byte("!"), 1)}), "Secret a/b: certificate with its key: "},
		{"no key", client(ClientOptions{CertPEM: cert}), "Secret a/b: certificate with its key: "},
		{"name of no kind", client(ClientOptions{SANs: []string{"a.test"}}), `Secret a/b: expected DNS:NAME or URI:..., found "a.test"`},
		{"names that are not looked at", client(ClientOptions{SANs: []string{"DNS:a.test"}, InsecureSkipVerify: true}), "Secret a/b: InsecureSkipVerify and SANs are both there"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.err == nil || !strings.HasPrefix(tt.err.Error(), tt.want) {
				t.Fatalf("got %v, want %s", tt.err, tt.want)
			}
			for line := range bytes.Lines(key) {
				if line = bytes.TrimSpace(line); !bytes.HasPrefix(line, []byte("---")) && strings.Contains(tt.err.Error(), string(line)) {
					t.Errorf("the key is in the error: %v", tt.err)
				}
			}
		})
	}
}

func TestNamesOfUpstreamsCertificates(t *testing.T) {
	p := newPKI(t)
	server := p.issue(p.ca, testenv.Leaf{Names: []string{"b.test", "*.c.test"}, URIs: []*url.URL{{Scheme: "spiffe", Host: "a.test", Path: "/b"}}})
	strange := p.issue(newCA(t), testenv.Leaf{Names: []string{"b.test"}})
	for _, tt := range []struct {
		name   string
		sans   []string
		server tls.Certificate
		want   telemetry.HandshakeFailure
		fails  bool
	}{
		{"the name", []string{"DNS:b.test"}, server, 0, false},
		{"one of them", []string{"DNS:x.test", "DNS:B.test"}, server, 0, false},
		{"below its wildcard", []string{"DNS:x.c.test"}, server, 0, false},
		{"its wildcard", []string{"DNS:*.C.test"}, server, 0, false},
		{"URI", []string{"URI:spiffe://a.test/b"}, server, 0, false},
		{"another wildcard", []string{"DNS:*.test"}, server, telemetry.HandshakeWrongName, true},
		{"another URI", []string{"URI:spiffe://a.test/c"}, server, telemetry.HandshakeWrongName, true},
		{"the SNI is not enough", []string{"DNS:x.test"}, p.server, telemetry.HandshakeWrongName, true},
		{"another authority", []string{"DNS:b.test"}, strange, telemetry.HandshakeUnknownCA, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := NewClient(ClientOptions{CAPEM: p.ca.PEM(), ServerName: "a.test", SANs: tt.sans})
			if err != nil {
				t.Fatal(err)
			}
			config := &tls.Config{Certificates: []tls.Certificate{tt.server}}
			m := meet(t, config, c.Config("10.0.0.1", ""))
			if !tt.fails {
				if m.client != nil {
					t.Fatal(m.client)
				}
				if m := meet(t, config, c.Config("10.0.0.1", "")); m.client != nil || !m.clientState.DidResume {
					t.Errorf("the second time: %v, resumed %t", m.client, m.clientState.DidResume)
				}
				return
			}
			if m.client == nil {
				t.Fatal("the handshake did not fail")
			}
			if got, text := Failure(m.client); got != tt.want {
				t.Errorf("got %s: %s, want %s", got, text, tt.want)
			}
		})
	}
}
