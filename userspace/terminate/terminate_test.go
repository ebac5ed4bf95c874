// SPDX-License-Identifier: Apache-2.0

package terminate

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spliceway/spliceway/testenv"
	"github.com/spliceway/spliceway/userspace/certificate"
	"github.com/spliceway/spliceway/userspace/telemetry"
)

const patience = 30 * time.Second

// one shows the same certificate to everybody, or fails.
type one struct {
	certificate *tls.Certificate
	err         error
}

func (o one) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) { return o.certificate, o.err }

// pki is what the tests' certificates are of.
type pki struct {
	t      *testing.T
	dir    string
	ca     *testenv.CA
	server tls.Certificate
	client tls.Certificate
	caFile string
}

func newPKI(t *testing.T) *pki {
	t.Helper()
	p := &pki{t: t, dir: t.TempDir(), ca: newCA(t)}
	p.server = p.issue(p.ca, testenv.Leaf{Names: []string{"a.test"}})
	p.client = p.issue(p.ca, testenv.Leaf{Names: []string{"client"}, Client: true, Emails: []string{"c@a.test"}})
	p.caFile = p.write("ca.pem", p.ca.PEM())
	return p
}

func newCA(t *testing.T) *testenv.CA {
	t.Helper()
	ca, err := testenv.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func (p *pki) issue(ca *testenv.CA, l testenv.Leaf) tls.Certificate {
	p.t.Helper()
	c, err := ca.Issue(l)
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

func (p *pki) write(name string, data []byte) string {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	if err := testenv.WriteFile(path, data); err != nil {
		p.t.Fatal(err)
	}
	return path
}

func (p *pki) crl(name string, next time.Time, revoked ...tls.Certificate) string {
	p.t.Helper()
	der, err := p.ca.CRL(next, revoked...)
	if err != nil {
		p.t.Fatal(err)
	}
	return p.write(name, der)
}

func (p *pki) options() ServerOptions {
	return ServerOptions{Endpoint: "a", Certificates: one{certificate: &p.server}}
}

func (p *pki) mutual() ServerOptions {
	o := p.options()
	o.ClientAuth, o.CAFiles = RequireAndVerify, []string{p.caFile}
	return o
}

func (p *pki) clientConfig(own ...tls.Certificate) *tls.Config {
	c := p.ca.ClientConfig("a.test")
	if len(own) > 0 {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own[0], nil }
	}
	return c
}

func mustServer(t *testing.T, o ServerOptions) *Server {
	t.Helper()
	s, err := NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// met is what became of a handshake on either side.
type met struct {
	server, client error
	state          tls.ConnectionState // the server's
	clientState    tls.ConnectionState
}

// meet has a client and a server meet over a TCP connection. The client reads a byte, so
// that it hears of what TLS 1.3 says after its handshake.
func meet(t *testing.T, server, client *tls.Config) met {
	t.Helper()
	a, b := pair(t)
	var m met
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn := tls.Server(a, server)
		if m.server = conn.Handshake(); m.server == nil {
			_, m.server = conn.Write([]byte("x"))
			m.state = conn.ConnectionState()
			_, _ = io.Copy(io.Discard, conn)
		}
		_ = a.Close()
	}()
	conn := tls.Client(b, client)
	if m.client = conn.Handshake(); m.client == nil {
		_, m.client = io.ReadFull(conn, make([]byte, 1))
		m.clientState = conn.ConnectionState()
	}
	_ = conn.Close()
	<-done
	return m
}

func pair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if b, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if a, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{a, b} {
		_ = c.SetDeadline(time.Now().Add(patience))
		t.Cleanup(func() { _ = c.Close() })
	}
	return a, b
}

// alertOf is the alert that an error of crypto/tls tells of, in its words.
func alertOf(err error) string {
	if o, ok := errors.AsType[*net.OpError](err); ok && o.Op == "remote error" {
		return strings.TrimPrefix(o.Err.Error(), "tls: ")
	}
	return ""
}

func TestEveryFailureOfAHandshakeWithAClient(t *testing.T) {
	p := newPKI(t)
	other := newCA(t)
	day := 24 * time.Hour
	revoked := p.issue(p.ca, testenv.Leaf{Names: []string{"revoked"}, Client: true})
	expired := p.issue(p.ca, testenv.Leaf{Names: []string{"expired"}, Client: true, NotBefore: time.Now().Add(-2 * day), NotAfter: time.Now().Add(-day)})
	tests := []struct {
		name   string
		server func(*ServerOptions)
		client func(*tls.Config)
		own    *tls.Certificate
		mutual bool
		want   telemetry.HandshakeFailure
		alert  string
		text   string
	}{
		{name: "version", server: func(o *ServerOptions) { o.MinVersion = tls.VersionTLS13 }, client: func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 },
			want: telemetry.HandshakeProtocolVersion, alert: "protocol version not supported"},
		{name: "suites of 1.2", server: func(o *ServerOptions) { o.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384} },
			client: func(c *tls.Config) {
				c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}
			},
			want: telemetry.HandshakeNoSharedCipher, alert: "handshake failure"},
		{name: "no CBC by default", client: func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
		}, want: telemetry.HandshakeNoSharedCipher, alert: "handshake failure"},
		{name: "no certificate that the client takes", server: func(o *ServerOptions) { o.Certificates = one{err: certificate.ErrNoneSupported} },
			want: telemetry.HandshakeNoSharedCipher, alert: "handshake failure", text: "no certificate of this endpoint"},
		{name: "no certificate that a client of 1.2 takes", server: func(o *ServerOptions) { o.Certificates = one{err: certificate.ErrNoneSupported} },
			client: func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 },
			want:   telemetry.HandshakeNoSharedCipher, alert: "handshake failure"},
		{name: "no certificate yet", server: func(o *ServerOptions) { o.Certificates = one{err: errors.New("not obtained yet")} },
			want: telemetry.HandshakeNoCertificate, alert: "internal error", text: "not obtained yet"},
		{name: "groups", server: func(o *ServerOptions) { o.Curves = []tls.CurveID{tls.CurveP384} }, client: func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519} },
			want: telemetry.HandshakeNoSharedGroup, alert: "handshake failure"},
		{name: "protocols", server: func(o *ServerOptions) { o.ALPN = []string{"h2"} }, client: func(c *tls.Config) { c.NextProtos = []string{"mqtt"} },
			want: telemetry.HandshakeNoProtocol, alert: "no application protocol"},
		{name: "no client certificate", mutual: true, want: telemetry.HandshakeCertificateRequired, alert: "certificate required"},
		{name: "no client certificate in 1.2", mutual: true, client: func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 },
			want: telemetry.HandshakeCertificateRequired, alert: "handshake failure"},
		{name: "unknown authority", mutual: true, own: new(p.issue(other, testenv.Leaf{Names: []string{"stranger"}, Client: true})),
			want: telemetry.HandshakeUnknownCA, alert: "unknown certificate authority", text: "CN=stranger"},
		{name: "expired", mutual: true, own: &expired, want: telemetry.HandshakeExpired, alert: "expired certificate", text: "CN=expired"},
		{name: "revoked", mutual: true, own: &revoked, server: func(o *ServerOptions) { o.CRLFiles = []string{p.crl("r.crl", time.Now().Add(day), revoked)} },
			want: telemetry.HandshakeRevoked, alert: "bad certificate", text: "CN=revoked"},
		{name: "list out of date", mutual: true, own: &p.client, server: func(o *ServerOptions) { o.CRLFiles = []string{p.crl("old.crl", time.Now().Add(-day))} },
			want: telemetry.HandshakeRevocationUnknown, alert: "bad certificate", text: "out of date"},
		{name: "a server's certificate", mutual: true, own: &p.server, want: telemetry.HandshakeBadCertificate, alert: "bad certificate"},
		{name: "the client refuses ours", client: func(c *tls.Config) { c.RootCAs = other.Pool() },
			want: telemetry.HandshakeAlert, text: "bad certificate"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o, c := p.options(), p.clientConfig()
			if tt.mutual {
				o = p.mutual()
			}
			if tt.own != nil {
				c = p.clientConfig(*tt.own)
			}
			if tt.server != nil {
				tt.server(&o)
			}
			if tt.client != nil {
				tt.client(c)
			}
			m := meet(t, mustServer(t, o).Config(), c)
			if m.server == nil {
				t.Fatal("the handshake did not fail")
			}
			got, text := Failure(m.server)
			if got != tt.want || !strings.Contains(text, tt.text) {
				t.Errorf("got %s: %s (of %v), want %s: %q", got, text, m.server, tt.want, tt.text)
			}
			if tt.alert != "" && alertOf(m.client) != tt.alert {
				t.Errorf("the client saw %v, want alert %q", m.client, tt.alert)
			}
		})
	}
}

func TestEveryFailureOfAHandshakeWithAnUpstream(t *testing.T) {
	p := newPKI(t)
	day := 24 * time.Hour
	otherCA := p.write("other.pem", newCA(t).PEM())
	expired := p.issue(p.ca, testenv.Leaf{Names: []string{"a.test"}, NotBefore: time.Now().Add(-2 * day), NotAfter: time.Now().Add(-day)})
	tests := []struct {
		name   string
		client ClientOptions
		host   string
		alpn   string
		server *tls.Config
		want   telemetry.HandshakeFailure
		text   string
	}{
		{name: "unknown authority", client: ClientOptions{CAFile: otherCA}, want: telemetry.HandshakeUnknownCA, text: "CN=a.test"},
		{name: "another name", client: ClientOptions{CAFile: p.caFile}, host: "b.test", want: telemetry.HandshakeWrongName, text: "b.test"},
		{name: "an address", client: ClientOptions{CAFile: p.caFile}, host: "127.0.0.1", want: telemetry.HandshakeWrongName, text: "127.0.0.1"},
		{name: "serverName", client: ClientOptions{CAFile: p.caFile, ServerName: "c.test"}, want: telemetry.HandshakeWrongName, text: "c.test"},
		{name: "expired", client: ClientOptions{CAFile: p.caFile}, server: &tls.Config{Certificates: []tls.Certificate{expired}}, want: telemetry.HandshakeExpired, text: "valid from"},
		{name: "version", client: ClientOptions{CAFile: p.caFile, MinVersion: tls.VersionTLS13}, server: &tls.Config{MaxVersion: tls.VersionTLS12}, want: telemetry.HandshakeAlert, text: "protocol version"},
		{name: "protocol", client: ClientOptions{CAFile: p.caFile}, alpn: "h2", server: &tls.Config{NextProtos: []string{"mqtt"}}, want: telemetry.HandshakeAlert, text: "no application protocol"},
		{name: "it wants a certificate", client: ClientOptions{CAFile: p.caFile}, server: &tls.Config{MaxVersion: tls.VersionTLS12, ClientAuth: tls.RequireAnyClientCert}, want: telemetry.HandshakeAlert, text: "handshake failure"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := NewClient(tt.client)
			if err != nil {
				t.Fatal(err)
			}
			if tt.host == "" {
				tt.host = "a.test."
			}
			if tt.server == nil {
				tt.server = new(tls.Config)
			}
			if tt.server.Certificates == nil {
				tt.server.Certificates = []tls.Certificate{p.server}
			}
			m := meet(t, tt.server, c.Config(tt.host, tt.alpn))
			if m.client == nil {
				t.Fatal("the handshake did not fail")
			}
			if got, text := Failure(m.client); got != tt.want || !strings.Contains(text, tt.text) {
				t.Errorf("got %s: %s, want %s: %q", got, text, tt.want, tt.text)
			}
		})
	}
}

func TestFailuresOfTheConnection(t *testing.T) {
	p := newPKI(t)
	tests := []struct {
		name string
		do   func(net.Conn)
		want telemetry.HandshakeFailure
	}{
		{"closed", func(c net.Conn) { _ = c.Close() }, telemetry.HandshakeClosed},
		{"reset", func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0); _ = c.Close() }, telemetry.HandshakeClosed},
		{"half a record", func(c net.Conn) { _, _ = c.Write([]byte{22, 3, 1, 2}); _ = c.Close() }, telemetry.HandshakeClosed},
		{"not TLS", func(c net.Conn) { _, _ = c.Write([]byte("GET / HTTP/1.1\r\n\r\n")) }, telemetry.HandshakeMalformed},
		{"a strange message", func(c net.Conn) { _, _ = c.Write([]byte{22, 3, 1, 0, 4, 20, 0, 0, 0}) }, telemetry.HandshakeMalformed},
		{"an alert", func(c net.Conn) { _, _ = c.Write([]byte{21, 3, 1, 0, 2, 2, 80}) }, telemetry.HandshakeAlert},
		{"silence", func(net.Conn) {}, telemetry.HandshakeTimeout},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, b := pair(t)
			tt.do(b)
			if tt.want == telemetry.HandshakeTimeout {
				_ = a.SetReadDeadline(time.Now())
			}
			err := tls.Server(a, mustServer(t, p.options()).Config()).Handshake()
			if got, text := Failure(err); got != tt.want || text == "" {
				t.Errorf("got %s: %s (of %v), want %s", got, text, err, tt.want)
			}
		})
	}
}

func TestWhoTheClientIs(t *testing.T) {
	p := newPKI(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		c := p.clientConfig(p.client)
		c.MaxVersion = version
		s := mustServer(t, p.mutual())
		m := meet(t, s.Config(), c)
		if m.server != nil || m.client != nil {
			t.Fatalf("%v, %v", m.server, m.client)
		}
		id := s.Identity(m.state)
		if id == nil || id.CommonName != "client" || !id.Verified || len(id.SANs) != 2 || id.SANs[0] != "DNS:client" || id.SANs[1] != "email:c@a.test" || len(id.Fingerprint) != 64 {
			t.Errorf("identity: %+v", id)
		}
	}
	stranger := p.issue(newCA(t), testenv.Leaf{Names: []string{"stranger"}, Client: true})
	for _, auth := range []ClientAuth{Request, RequireAny} {
		o := p.options()
		o.ClientAuth = auth
		s := mustServer(t, o)
		m := meet(t, s.Config(), p.clientConfig(stranger))
		if id := s.Identity(m.state); m.server != nil || id == nil || id.Verified || id.CommonName != "stranger" {
			t.Errorf("mode %d: %v, %+v", auth, m.server, id)
		}
		m = meet(t, s.Config(), p.clientConfig())
		if (m.server == nil) != (auth == Request) {
			t.Errorf("mode %d and no certificate: %v", auth, m.server)
		}
	}
}

// resume meets twice: the second time with the session of the first.
func resume(t *testing.T, first, second *tls.Config, client *tls.Config) met {
	t.Helper()
	client.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	if m := meet(t, first, client); m.server != nil || m.client != nil {
		t.Fatalf("the first handshake: %v, %v", m.server, m.client)
	}
	return meet(t, second, client)
}

func mustTickets(t *testing.T, o TicketOptions) *Tickets {
	t.Helper()
	k, err := NewTickets(o)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestWhereASessionIsResumed(t *testing.T) {
	p := newPKI(t)
	now := time.Now()
	clock := func() time.Time { return now }
	keyFile := p.write("tickets", []byte("# shared\nMDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n"))
	with := func(o ServerOptions, k *Tickets) ServerOptions { o.Tickets, o.Now = k, clock; return o }
	k := mustTickets(t, TicketOptions{Rotation: time.Hour, Now: clock})
	other := with(p.options(), k)
	other.Endpoint = "b"
	otherCA := with(p.mutual(), k)
	otherCA.CAFiles = []string{p.caFile, p.write("second.pem", newCA(t).PEM())}
	request := with(p.options(), k)
	request.ClientAuth = Request
	tests := []struct {
		name          string
		first, second ServerOptions
		between       func()
		own           bool
		want          bool
	}{
		{name: "at the same endpoint", first: with(p.options(), k), second: with(p.options(), k), want: true},
		{name: "at another endpoint", first: with(p.options(), k), second: other},
		{name: "with a client certificate", first: with(p.mutual(), k), second: with(p.mutual(), k), own: true, want: true},
		{name: "when authorities have changed", first: with(p.mutual(), k), second: otherCA, own: true},
		{name: "when a certificate is verified from now on", first: request, second: with(p.mutual(), k), own: true},
		{name: "without tickets", first: p.options(), second: p.options()},
		{name: "with other keys", first: with(p.options(), k), second: with(p.options(), mustTickets(t, TicketOptions{Now: clock}))},
		{name: "by another host with the same file", first: with(p.options(), mustTickets(t, TicketOptions{KeyFile: keyFile})), second: with(p.options(), mustTickets(t, TicketOptions{KeyFile: keyFile})), want: true},
		{name: "after one rotation", first: with(p.options(), k), second: with(p.options(), k), between: func() { now = now.Add(61 * time.Minute) }, want: true},
		{name: "after three rotations", first: with(p.options(), k), second: with(p.options(), k), between: func() {
			for range 3 {
				now = now.Add(61 * time.Minute)
				k.version(now)
			}
		}},
	}
	for _, tt := range tests {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(tt.name+" "+tls.VersionName(version), func(t *testing.T) {
				c := p.clientConfig()
				if tt.own {
					c = p.clientConfig(p.client)
				}
				c.MaxVersion = version
				first, second := mustServer(t, tt.first), mustServer(t, tt.second)
				config := first.Config()
				m := met{}
				c.ClientSessionCache = tls.NewLRUClientSessionCache(4)
				if m = meet(t, config, c); m.server != nil || m.client != nil {
					t.Fatalf("the first handshake: %v, %v", m.server, m.client)
				}
				if tt.between != nil {
					tt.between()
				}
				m = meet(t, second.Config(), c)
				if m.server != nil || m.client != nil || m.state.DidResume != tt.want {
					t.Errorf("%v, %v, resumed %t, want %t", m.server, m.client, m.state.DidResume, tt.want)
				}
				if id := second.Identity(m.state); tt.own && (id == nil || !id.Verified) {
					t.Errorf("the client is %+v", id)
				}
			})
		}
	}
}

func TestARevokedClientDoesNotGetInWithItsOldSession(t *testing.T) {
	p := newPKI(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		o := p.mutual()
		o.Tickets = mustTickets(t, TicketOptions{})
		o.CRLFiles = []string{p.crl("live.crl", time.Now().Add(time.Hour))}
		s := mustServer(t, o)
		c := p.clientConfig(p.client)
		c.MaxVersion = version
		if m := resume(t, s.Config(), s.Config(), c); m.server != nil || !m.state.DidResume {
			t.Fatalf("%v, resumed %t", m.server, m.state.DidResume)
		}
		p.crl("live.crl", time.Now().Add(time.Hour), p.client)
		if err := s.Reload(); err != nil {
			t.Fatal(err)
		}
		m := meet(t, s.Config(), c)
		if got, text := Failure(errors.Join(m.server)); m.server == nil || got != telemetry.HandshakeRevoked {
			t.Errorf("%s: got %s: %s", tls.VersionName(version), got, text)
		}
	}
}

func TestBrokenFilesChangeNothing(t *testing.T) {
	p := newPKI(t)
	o := p.mutual()
	o.CRLFiles, o.Where = []string{p.crl("x.crl", time.Now().Add(time.Hour))}, "f.yaml:1:2"
	s := mustServer(t, o)
	before := s.Config()
	strange, err := newCA(t).CRL(time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	for _, broken := range [][]byte{nil, []byte("nonsense"), strange} {
		p.write("x.crl", broken)
		err := s.Reload()
		if err == nil || !strings.Contains(err.Error(), "x.crl") || !strings.HasPrefix(err.Error(), "f.yaml:1:2: ") {
			t.Errorf("a list of %d bytes: %v", len(broken), err)
		}
		if s.Config() != before {
			t.Error("the settings have changed")
		}
	}
	p.crl("x.crl", time.Now().Add(2*time.Hour))
	if err := s.Reload(); err != nil || s.Config() == before {
		t.Errorf("a good list: %v", err)
	}
	p.write("ca.pem", []byte("x"))
	if err := s.Reload(); err == nil || !strings.Contains(err.Error(), "ca.pem") {
		t.Errorf("a broken CA file: %v", err)
	}
}

func TestTicketKeyFiles(t *testing.T) {
	p := newPKI(t)
	const good = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE"
	for content, want := range map[string]string{
		good: "", good + "=\r\n\n" + good + "\n": "", "": "found none", "# only\n": "found none",
		"MDEy\n": "line 1", good + "\n***secret***\n": "line 2",
	} {
		file := p.write("keys", []byte(content))
		_, err := NewTickets(TicketOptions{KeyFile: file})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", content, err)
		}
		if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "MDEy")) {
			t.Errorf("the key is in the error: %v", err)
		}
	}
	file := p.write("keys", []byte(good))
	k := mustTickets(t, TicketOptions{KeyFile: file})
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if w := k.Warnings(); len(w) != 1 || !strings.Contains(w[0], file) {
		t.Errorf("warnings: %q", w)
	}
	p.write("keys", []byte("broken"))
	version := k.version(time.Now())
	if err := k.Reload(); err == nil || k.version(time.Now()) != version {
		t.Errorf("a broken file: %v", err)
	}
}

func TestUpstreamSessionsAndFilesThatChange(t *testing.T) {
	p := newPKI(t)
	certFile, keyFile, err := testenv.WritePair(p.dir, "own", p.client)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewClient(ClientOptions{CAFile: p.caFile, CertFile: certFile, KeyFile: keyFile, ServerName: "a.test"})
	if err != nil {
		t.Fatal(err)
	}
	server := &tls.Config{Certificates: []tls.Certificate{p.server}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: p.ca.Pool()}
	if m := meet(t, server, c.Config("10.0.0.1", "")); m.server != nil || m.client != nil {
		t.Fatalf("%v, %v", m.server, m.client)
	}
	if m := meet(t, server, c.Config("10.0.0.1", "")); m.client != nil || !m.clientState.DidResume {
		t.Errorf("the second time: %v, resumed %t", m.client, m.clientState.DidResume)
	}
	// The agent no longer trusts who it trusted: neither by a session.
	p.write("ca.pem", newCA(t).PEM())
	if err := c.Reload(); err != nil {
		t.Fatal(err)
	}
	if m := meet(t, server, c.Config("10.0.0.1", "")); m.client == nil {
		t.Error("a session outlived its authority")
	}
	if err := os.WriteFile(keyFile, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := c.Config("10.0.0.1", "")
	if err := c.Reload(); err == nil || !strings.Contains(err.Error(), keyFile) || c.Config("10.0.0.1", "") != before {
		t.Errorf("a broken key: %v", err)
	}
	if end, file, ok := c.Expiry(); !ok || file != certFile || !end.Equal(p.client.Leaf.NotAfter) {
		t.Errorf("expiry: %s, %s, %t", end, file, ok)
	}
}

func FuzzAuthorityFiles(f *testing.F) {
	ca, err := testenv.NewCA()
	if err != nil {
		f.Fatal(err)
	}
	der, err := ca.CRL(time.Now().Add(time.Hour))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ca.PEM())
	f.Add(der)
	f.Add([]byte("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE\n"))
	cert, _ := ca.Signer()
	f.Fuzz(func(t *testing.T, data []byte) {
		if list, err := parseCertificates("f", data); err == nil && len(list) == 0 {
			t.Error("no certificates, and no error")
		}
		a := &authorities{known: []authorityFile{{cert, "ca"}}, lists: make(map[string]*revocations)}
		if err := a.addLists("f", data); err == nil && !bytes.Contains(data, []byte("CRL")) && len(a.lists) == 0 {
			t.Error("no list, and no error")
		}
		if keys, err := parseKeys(data); err == nil && len(keys) == 0 {
			t.Error("no keys, and no error")
		}
	})
}

func BenchmarkHandshake(b *testing.B) {
	ca, err := testenv.NewCA()
	if err != nil {
		b.Fatal(err)
	}
	leaf, err := ca.Issue(testenv.Leaf{Names: []string{"a.test"}})
	if err != nil {
		b.Fatal(err)
	}
	k, err := NewTickets(TicketOptions{})
	if err != nil {
		b.Fatal(err)
	}
	s, err := NewServer(ServerOptions{Endpoint: "a", Certificates: one{certificate: &leaf}, Tickets: k})
	if err != nil {
		b.Fatal(err)
	}
	c := ca.ClientConfig("a.test")
	c.CurvePreferences = []tls.CurveID{tls.X25519}
	b.ReportAllocs()
	for b.Loop() {
		x, y := net.Pipe()
		go func() { _ = tls.Client(y, c).Handshake(); _ = y.Close() }()
		if err := tls.Server(x, s.Config()).Handshake(); err != nil {
			b.Fatal(err)
		}
		_ = x.Close()
	}
}
