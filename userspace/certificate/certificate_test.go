// SPDX-License-Identifier: Apache-2.0

package certificate

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/spliceway/spliceway/testenv"
)

const patience = 30 * time.Second

// bed is a directory with certificates of an authority.
type bed struct {
	t   testing.TB
	ca  *testenv.CA
	dir string
}

func newBed(t testing.TB) *bed {
	t.Helper()
	ca, err := testenv.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	return &bed{t: t, ca: ca, dir: t.TempDir()}
}

func (b *bed) issue(l testenv.Leaf) tls.Certificate {
	b.t.Helper()
	c, err := b.ca.Issue(l)
	if err != nil {
		b.t.Fatal(err)
	}
	ca, _ := b.ca.Signer()
	c.Certificate = append(c.Certificate, ca.Raw) // the chain, for OCSP
	return c
}

// pair writes a certificate and its key.
func (b *bed) pair(name string, l testenv.Leaf) (Source, tls.Certificate) {
	b.t.Helper()
	c := b.issue(l)
	certFile, keyFile, err := testenv.WritePair(b.dir, name, c)
	if err != nil {
		b.t.Fatal(err)
	}
	return Source{CertFile: certFile, KeyFile: keyFile, Where: "f.yaml:1:2"}, c
}

func (b *bed) file(name string, data []byte) string {
	b.t.Helper()
	path := filepath.Join(b.dir, name)
	if err := testenv.WriteFile(path, data); err != nil {
		b.t.Fatal(err)
	}
	return path
}

func quiet() Options { return Options{Logger: slog.New(slog.DiscardHandler)} }

func (b *bed) set(sources ...Source) *Set {
	b.t.Helper()
	s, err := NewSet(sources, quiet())
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

// modern is a client that takes everything.
func modern(name string) *tls.ClientHelloInfo {
	return &tls.ClientHelloInfo{
		ServerName: name, SupportedVersions: []uint16{tls.VersionTLS13},
		SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256, tls.PSSWithSHA256, tls.Ed25519},
		SupportedCurves:  []tls.CurveID{tls.X25519, tls.CurveP256},
	}
}

func TestWhichCertificateIsShown(t *testing.T) {
	b := newBed(t)
	rsaBoth, _ := b.pair("rsa", testenv.Leaf{Names: []string{"both.test"}, RSA: true})
	ecBoth, _ := b.pair("ec", testenv.Leaf{Names: []string{"both.test"}})
	wild, _ := b.pair("wild", testenv.Leaf{Names: []string{"*.w.test"}})
	exact, _ := b.pair("exact", testenv.Leaf{Names: []string{"a.w.test"}})
	rsaOnly, _ := b.pair("only", testenv.Leaf{Names: []string{"rsa.test"}, RSA: true})
	s := b.set(rsaBoth, ecBoth, wild, exact, rsaOnly)
	only := func(scheme tls.SignatureScheme) func(*tls.ClientHelloInfo) {
		return func(h *tls.ClientHelloInfo) { h.SignatureSchemes = []tls.SignatureScheme{scheme} }
	}
	tests := []struct {
		name   string
		client func(*tls.ClientHelloInfo)
		want   Source
	}{
		{"both.test", nil, ecBoth},
		{"BOTH.test", nil, ecBoth},
		{"both.test", only(tls.PSSWithSHA256), rsaBoth},
		{"b.w.test", nil, wild},
		{"a.w.test", nil, exact},
		{"b.c.w.test", nil, ecBoth}, // one label: nobody has this name
		{"unknown.test", nil, ecBoth},
		{"", only(tls.PSSWithSHA256), rsaBoth},
		{"rsa.test", nil, rsaOnly},
		{"both.test", func(h *tls.ClientHelloInfo) {
			h.SupportedVersions, h.CipherSuites = []uint16{tls.VersionTLS12}, []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
		}, rsaBoth},
	}
	for _, tt := range tests {
		hello := modern(tt.name)
		if tt.client != nil {
			tt.client(hello)
		}
		c, err := s.Get(hello)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		at := slices.IndexFunc(s.current.Load().all, func(p *pair) bool { return p.bare == c })
		if got := s.current.Load().all[at].origin; got != tt.want.CertFile {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want.CertFile)
		}
	}
	hello := modern("both.test")
	only(tls.Ed25519)(hello)
	if _, err := s.Get(hello); !errors.Is(err, ErrNoneSupported) {
		t.Errorf("a client that takes neither: %v", err)
	}
}

func TestKindsOfFiles(t *testing.T) {
	b := newBed(t)
	_, ec := b.pair("ec", testenv.Leaf{Names: []string{"a.test"}})
	_, other := b.pair("other", testenv.Leaf{Names: []string{"a.test"}})
	_, rsaPair := b.pair("rsa", testenv.Leaf{Names: []string{"a.test"}, RSA: true})
	block := func(kind string, der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	chain := func(c tls.Certificate) []byte {
		return append(block("CERTIFICATE", c.Certificate[0]), block("CERTIFICATE", c.Certificate[1])...)
	}
	sec1, err := x509.MarshalECPrivateKey(ec.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(ec.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	otherKey, err := x509.MarshalPKCS8PrivateKey(other.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	pkcs1 := x509.MarshalPKCS1PrivateKey(rsaPair.PrivateKey.(*rsa.PrivateKey))
	reversed := append(block("CERTIFICATE", ec.Certificate[1]), block("CERTIFICATE", ec.Certificate[0])...)
	tests := []struct {
		name      string
		cert, key []byte
		want      string // "" works
	}{
		{"PKCS 8", chain(ec), block("PRIVATE KEY", pkcs8), ""},
		{"SEC 1, with its parameters", chain(ec), append(block("EC PARAMETERS", []byte{6, 8, 42, 134, 72, 206, 61, 3, 1, 7}), block("EC PRIVATE KEY", sec1)...), ""},
		{"PKCS 1", chain(rsaPair), block("RSA PRIVATE KEY", pkcs1), ""},
		{"both in one file", append(chain(ec), block("PRIVATE KEY", pkcs8)...), nil, ""},
		{"another key", chain(ec), block("PRIVATE KEY", otherKey), "is that of another certificate"},
		{"the CA first", reversed, block("PRIVATE KEY", pkcs8), "that of certificate 2"},
		{"an encrypted key", chain(ec), block("ENCRYPTED PRIVATE KEY", pkcs8), "is encrypted"},
		{"a broken key", chain(ec), block("PRIVATE KEY", pkcs8[:20]), "cannot be read"},
		{"no key", chain(ec), chain(ec), "found no private key"},
		{"no certificate", block("PRIVATE KEY", pkcs8), block("PRIVATE KEY", pkcs8), "found no certificate"},
		{"DER", ec.Certificate[0], block("PRIVATE KEY", pkcs8), "found DER"},
		{"nothing", []byte{}, block("PRIVATE KEY", pkcs8), "empty"},
		{"text", []byte("hello"), block("PRIVATE KEY", pkcs8), "found no PEM"},
		{"cut", chain(ec)[:100], block("PRIVATE KEY", pkcs8), "does not end"},
	}
	for _, tt := range tests {
		src := Source{CertFile: b.file("x.crt", tt.cert), Where: "f.yaml:1:2"}
		if tt.key != nil {
			src.KeyFile = b.file("x.key", tt.key)
		}
		_, err := NewSet([]Source{src}, quiet())
		if (err == nil) != (tt.want == "") || err != nil && (!strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "f.yaml:1:2: ") || !strings.Contains(err.Error(), b.dir)) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		if secret := base64.StdEncoding.EncodeToString(pkcs8)[40:80]; err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the key is in the error", tt.name)
		}
	}
	_, err = NewSet([]Source{{CertFile: b.dir + "/none"}, {CertFile: b.dir + "/neither"}}, quiet())
	if err == nil || !strings.Contains(err.Error(), "/none") || !strings.Contains(err.Error(), "/neither") {
		t.Errorf("two that are not there: %v", err)
	}
}

func TestDirectories(t *testing.T) {
	b := newBed(t)
	src := Source{Directory: b.dir, Where: "f.yaml:1:2"}
	if _, err := NewSet([]Source{src}, quiet()); err == nil || !strings.Contains(err.Error(), "found no certificate") {
		t.Errorf("an empty directory: %v", err)
	}
	_, first := b.pair("one", testenv.Leaf{Names: []string{"one.test"}})
	if err := os.Rename(b.dir+"/one.key", b.dir+"/of-another-name.pem"); err != nil {
		t.Fatal(err)
	}
	b.pair("two", testenv.Leaf{Names: []string{"two.test"}})
	b.file("ca.crt", b.ca.PEM())
	b.file("README", []byte("not a certificate"))
	b.file(".hidden", []byte("-----BEGIN nonsense"))
	b.file("cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: first.Certificate[0]})) // as certbot has it, without the chain
	s := b.set(src)
	if n := len(s.List()); n != 2 {
		t.Fatalf("%d certificates, want 2: %+v", n, s.List())
	}
	if c, err := s.Get(modern("one.test")); err != nil || len(c.Certificate) != 2 {
		t.Errorf("one.test is shown without its chain: %v", err)
	}
	// One breaks, one is replaced, one is new.
	b.file("two.crt", []byte("-----BEGIN CERTIFICATE-----\nbroken"))
	b.pair("three", testenv.Leaf{Names: []string{"three.test"}})
	err := s.Reload()
	if err == nil || !strings.Contains(err.Error(), "two.crt") || !strings.HasPrefix(err.Error(), "f.yaml:1:2: ") {
		t.Errorf("a broken one: %v", err)
	}
	for _, name := range []string{"one.test", "two.test", "three.test"} {
		if c, err := s.Get(modern(name)); err != nil || c.Leaf.DNSNames[0] != name {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A link that is exchanged, as Kubernetes does it.
	mount := b.dir + "/mount"
	for i, name := range []string{"old.test", "new.test"} {
		data := fmt.Sprintf("%s/data%d", mount, i)
		if err := os.MkdirAll(data, 0o700); err != nil {
			t.Fatal(err)
		}
		if _, _, err := testenv.WritePair(data, "tls", b.issue(testenv.Leaf{Names: []string{name}})); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, at string) {
		if err := errors.Join(os.Symlink(to, at+"~"), os.Rename(at+"~", at)); err != nil {
			t.Fatal(err)
		}
	}
	link("data0", mount+"/..data")
	link("..data/tls.crt", mount+"/tls.crt")
	link("..data/tls.key", mount+"/tls.key")
	k := b.set(Source{Directory: mount})
	link("data1", mount+"/..data")
	if err := k.Reload(); err != nil || len(k.List()) != 1 || k.List()[0].Names[0] != "new.test" {
		t.Errorf("after the exchange: %v, %+v", err, k.List())
	}
}

func TestReloadTakesWhatIsGoodAndKeepsWhatWas(t *testing.T) {
	b := newBed(t)
	one, _ := b.pair("one", testenv.Leaf{Names: []string{"one.test"}})
	two, _ := b.pair("two", testenv.Leaf{Names: []string{"two.test"}})
	s := b.set(one, two)
	was, _ := s.Get(modern("one.test"))
	if err := s.Reload(); err != nil {
		t.Fatal(err)
	}
	if same, _ := s.Get(modern("one.test")); same != was {
		t.Error("nothing has changed, and the certificate is another one")
	}
	_, next := b.pair("two", testenv.Leaf{Names: []string{"two.test"}})
	b.file("one.key", nil)
	err := s.Reload()
	if err == nil || !strings.Contains(err.Error(), "one.key") || strings.Contains(err.Error(), "two") {
		t.Errorf("got %v", err)
	}
	if c, _ := s.Get(modern("one.test")); c != was {
		t.Error("the broken pair's old one is gone")
	}
	if c, _ := s.Get(modern("two.test")); c.Leaf.SerialNumber.Cmp(next.Leaf.SerialNumber) != 0 {
		t.Error("the good pair is not taken")
	}
	if files := s.Files(); len(files) != 4 || !slices.Contains(files, one.KeyFile) {
		t.Errorf("files: %q", files)
	}
}

func TestWarnings(t *testing.T) {
	b := newBed(t)
	src, _ := b.pair("a", testenv.Leaf{Names: []string{"a.test"}})
	if w := b.set(src).Warnings(); len(w) > 0 {
		t.Errorf("of a good pair: %q", w)
	}
	if err := os.Chmod(src.KeyFile, 0o640); err != nil {
		t.Fatal(err)
	}
	if w := b.set(src).Warnings(); len(w) > 0 {
		t.Errorf("of a key that its group may read: %q", w)
	}
	if err := os.Chmod(src.KeyFile, 0o644); err != nil {
		t.Fatal(err)
	}
	early, _ := b.pair("early", testenv.Leaf{Names: []string{"b.test"}, NotBefore: time.Now().Add(time.Hour)})
	nameless, _ := b.pair("nameless", testenv.Leaf{})
	must, _ := b.pair("must", testenv.Leaf{Names: []string{"c.test"}, MustStaple: true})
	fetch, _ := b.pair("fetch", testenv.Leaf{Names: []string{"d.test"}})
	fetch.FetchOCSP = true
	for _, tt := range []struct {
		src  Source
		want string
	}{{src, "0644"}, {early, "not valid before"}, {nameless, "no subject alternative name"}, {must, "must be stapled"}, {fetch, "names no responder"}} {
		w := b.set(tt.src).Warnings()
		if len(w) != 1 || !strings.Contains(w[0], tt.want) || !strings.Contains(w[0], b.dir) {
			t.Errorf("%s: %q, want %q", tt.src.CertFile, w, tt.want)
		}
	}
}

// response is an OCSP response about a certificate.
func (b *bed) response(c tls.Certificate, status int, from, until time.Time) []byte {
	b.t.Helper()
	ca, key := b.ca.Signer()
	der, err := ocsp.CreateResponse(ca, ca, ocsp.Response{Status: status, SerialNumber: c.Leaf.SerialNumber, ThisUpdate: from, NextUpdate: until, RevokedAt: from}, key)
	if err != nil {
		b.t.Fatal(err)
	}
	return der
}

func TestStaplesFromFiles(t *testing.T) {
	b := newBed(t)
	src, c := b.pair("a", testenv.Leaf{Names: []string{"a.test"}})
	_, other := b.pair("b", testenv.Leaf{Names: []string{"b.test"}})
	stranger := newBed(t)
	now := time.Now()
	hour := time.Hour
	for _, tt := range []struct {
		name string
		der  []byte
		want string // of the warning; "" is stapled
	}{
		{"good", b.response(c, ocsp.Good, now.Add(-hour), now.Add(hour)), ""},
		{"revoked", b.response(c, ocsp.Revoked, now.Add(-hour), now.Add(hour)), "revoked"},
		{"unknown", b.response(c, ocsp.Unknown, now.Add(-hour), now.Add(hour)), "unknown"},
		{"over", b.response(c, ocsp.Good, now.Add(-2*hour), now.Add(-hour)), "out of date"},
		{"early", b.response(c, ocsp.Good, now.Add(hour), now.Add(2*hour)), "not valid before"},
		{"of another certificate", b.response(other, ocsp.Good, now.Add(-hour), now.Add(hour)), "not stapled"},
		{"by somebody else", stranger.response(c, ocsp.Good, now.Add(-hour), now.Add(hour)), "not stapled"},
		{"nonsense", []byte("x"), "not stapled"},
	} {
		src.OCSPFile = b.file("a.ocsp", tt.der)
		s := b.set(src)
		got, err := s.Get(modern("a.test"))
		w := strings.Join(s.Warnings(), "\n")
		if err != nil || (got.OCSPStaple != nil) != (tt.want == "") || !strings.Contains(w, tt.want) || (w == "") != (tt.want == "") {
			t.Errorf("%s: stapled %t, %v, warnings %q", tt.name, got.OCSPStaple != nil, err, w)
		}
	}
	// It ends without anybody looking.
	src.OCSPFile = b.file("a.ocsp", b.response(c, ocsp.Good, now.Add(-hour), now.Add(hour)))
	clock := now
	s, err := NewSet([]Source{src}, Options{Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return clock }})
	if err != nil {
		t.Fatal(err)
	}
	for _, stapled := range []bool{true, false} {
		if c, _ := s.Get(modern("a.test")); (c.OCSPStaple != nil) != stapled {
			t.Errorf("at %s: stapled %t", clock, !stapled)
		}
		clock = now.Add(2 * hour)
	}
}

func TestStaplesAreFetched(t *testing.T) {
	b := newBed(t)
	var leaf tls.Certificate
	var asked atomic.Int64
	responder := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		req, err := ocsp.ParseRequest(body)
		if err != nil || req.SerialNumber.Cmp(leaf.Leaf.SerialNumber) != 0 || r.Header.Get("Content-Type") != "application/ocsp-request" {
			t.Errorf("the request: %v", err)
		}
		asked.Add(1)
		now := time.Now()
		_, _ = w.Write(b.response(leaf, ocsp.Good, now.Add(-time.Minute), now.Add(time.Hour)))
	}))
	defer responder.Close()
	src, c := b.pair("a", testenv.Leaf{Names: []string{"a.test"}, OCSPServer: responder.URL, MustStaple: true})
	leaf, src.FetchOCSP = c, true
	s := b.set(src)
	s.Start(t.Context())
	defer s.Close()
	wait := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := testenv.Poll(ctx, func() (bool, error) {
			c, err := s.Get(modern("a.test"))
			return err == nil && c.OCSPStaple != nil, err
		}); err != nil {
			t.Fatalf("nothing is stapled: %v", err)
		}
	}
	wait()
	// A client sees it, and it stays when nothing has changed.
	if err := s.Reload(); err != nil {
		t.Fatal(err)
	}
	wait()
	client, server := net.Pipe()
	go func() { _ = tls.Server(server, &tls.Config{GetCertificate: s.Get}).Handshake(); _ = server.Close() }()
	conn := tls.Client(client, b.ca.ClientConfig("a.test"))
	if err := conn.Handshake(); err != nil || len(conn.OCSPResponse()) == 0 {
		t.Errorf("the client: %v, %d bytes", err, len(conn.OCSPResponse()))
	}
	_ = client.Close()
	if n := asked.Load(); n != 1 {
		t.Errorf("the responder was asked %d times", n)
	}
	// A new certificate has a response of its own.
	_, leaf = b.pair("a", testenv.Leaf{Names: []string{"a.test"}, OCSPServer: responder.URL})
	if err := s.Reload(); err != nil {
		t.Fatal(err)
	}
	wait()
	if c, _ := s.Get(modern("a.test")); c.Leaf.SerialNumber.Cmp(leaf.Leaf.SerialNumber) != 0 || asked.Load() != 2 {
		t.Errorf("asked %d times", asked.Load())
	}
}

func FuzzParse(f *testing.F) {
	b := newBed(f)
	src, _ := b.pair("a", testenv.Leaf{Names: []string{"a.test"}})
	other, _ := b.pair("b", testenv.Leaf{Names: []string{"b.test"}, RSA: true})
	for _, files := range [][]string{{src.CertFile}, {src.KeyFile}, {src.CertFile, src.KeyFile}, {other.CertFile, src.KeyFile, other.KeyFile}, {other.CertFile, src.KeyFile}} {
		var seed []byte
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			seed = append(seed, data...)
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := parse(data)
		if err != nil || len(p.chain) == 0 {
			return
		}
		pair, err := newPair("f", "f", p.chain, p.keys)
		if err != nil {
			return
		}
		// The raw field may have bytes after the key, which x509 passes over.
		key, err := x509.MarshalPKIXPublicKey(pair.bare.PrivateKey.(crypto.Signer).Public())
		want, err2 := x509.MarshalPKIXPublicKey(p.chain[0].PublicKey)
		if err := errors.Join(err, err2); err != nil || !bytes.Equal(key, want) {
			t.Errorf("a certificate with the key of another one (%v)", err)
		}
	})
}

func BenchmarkGet(b *testing.B) {
	d := newBed(b)
	rsaBoth, _ := d.pair("rsa", testenv.Leaf{Names: []string{"both.test"}, RSA: true})
	ecBoth, _ := d.pair("ec", testenv.Leaf{Names: []string{"both.test"}})
	s := d.set(rsaBoth, ecBoth)
	hello := modern("both.test")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Get(hello); err != nil {
			b.Fatal(err)
		}
	}
}
