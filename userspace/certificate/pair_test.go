// SPDX-License-Identifier: Apache-2.0

package certificate

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv"
)

// selfSigned is a certificate as openssl req -x509 makes it: of a CA, with an Ed25519 key.
func selfSigned(t *testing.T, names ...string) tls.Certificate {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	c := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "self"}, DNSNames: names,
		IsCA: true, BasicConstraintsValid: true, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestSelfSignedInADirectory(t *testing.T) {
	b := newBed(t)
	write := func(name string, c tls.Certificate) {
		t.Helper()
		if _, _, err := testenv.WritePair(b.dir, name, c); err != nil {
			t.Fatal(err)
		}
	}
	write("root", selfSigned(t)) // with its key: still no server's
	if _, err := NewSet([]Source{{Directory: b.dir}}, quiet()); err == nil || !strings.Contains(err.Error(), "found no certificate") {
		t.Errorf("nothing but a CA: %v", err)
	}
	write("self", selfSigned(t, "self.test"))
	write("keyless", selfSigned(t, "ca.test"))
	if err := os.Remove(b.dir + "/keyless.key"); err != nil {
		t.Fatal(err)
	}
	list := b.set(Source{Directory: b.dir}).List()
	if len(list) != 1 || list[0].Names[0] != "self.test" || list[0].KeyType != "Ed25519" {
		t.Errorf("got %+v", list)
	}
}

func TestWhatIsNoFileInADirectory(t *testing.T) {
	b := newBed(t)
	b.pair("a", testenv.Leaf{Names: []string{"a.test"}})
	for _, link := range []string{".round", "gone"} {
		if err := os.Symlink(link[:1]+"round", b.dir+"/"+link); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(b.dir+"/pipe", 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := NewSet([]Source{{Directory: b.dir}}, quiet())
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("it waits for a writer of the named pipe")
		if f, err := os.OpenFile(b.dir+"/pipe", os.O_WRONLY, 0); err == nil {
			f.Close()
			<-done
		}
	}
}

// TestTheChainStaysWhereItsFileBreaks: certbot's directory has the same certificate
// without the chain.
func TestTheChainStaysWhereItsFileBreaks(t *testing.T) {
	b := newBed(t)
	_, c := b.pair("fullchain", testenv.Leaf{Names: []string{"a.test"}})
	for _, name := range []string{"cert.pem", "short.pem"} { // read before it, and after
		b.file(name, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}))
	}
	s := b.set(Source{Directory: b.dir})
	if c, err := s.Get(modern("a.test")); err != nil || len(c.Certificate) != 2 || len(s.List()) != 1 {
		t.Errorf("shown without its chain at first: %v, %+v", err, s.List())
	}
	b.file("fullchain.crt", []byte("-----BEGIN CERTIFICATE-----\nbroken"))
	if err := s.Reload(); err == nil || !strings.Contains(err.Error(), "fullchain.crt") {
		t.Errorf("got %v", err)
	}
	if c, err := s.Get(modern("a.test")); err != nil || len(c.Certificate) != 2 || len(s.List()) != 1 {
		t.Errorf("shown without its chain: %v, %+v", err, s.List())
	}
}

func TestMoreWarnings(t *testing.T) {
	b, remade := newBed(t), newBed(t) // two CAs of one name
	_, c := b.pair("chain", testenv.Leaf{Names: []string{"a.test"}})
	withChain := func(name string, next []byte) Source {
		t.Helper()
		certFile, keyFile, err := testenv.WritePair(b.dir, name, tls.Certificate{Certificate: [][]byte{c.Certificate[0], next}, PrivateKey: c.PrivateKey})
		if err != nil {
			t.Fatal(err)
		}
		return Source{CertFile: certFile, KeyFile: keyFile}
	}
	other, _ := remade.ca.Signer()
	if ca, _ := b.ca.Signer(); string(ca.RawSubject) != string(other.RawSubject) {
		t.Fatal("the CAs' names differ: this tests nothing")
	}
	_, leaf := b.pair("leaf", testenv.Leaf{Names: []string{"b.test"}})
	alone := b.issue(testenv.Leaf{Names: []string{"a.test"}, OCSPServer: "http://ocsp.invalid"})
	alone.Certificate = alone.Certificate[:1]
	certFile, keyFile, err := testenv.WritePair(b.dir, "alone", alone)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		src  Source
		want string
	}{
		{withChain("remade", other.Raw), "certificate 2 is not the issuer"},
		{withChain("stranger", leaf.Certificate[0]), "certificate 2 is not the issuer"},
		{Source{CertFile: certFile, KeyFile: keyFile, FetchOCSP: true}, "the issuer's certificate is not in the file"},
	} {
		w := b.set(tt.src).Warnings()
		if len(w) != 1 || !strings.Contains(w[0], tt.want) || !strings.Contains(w[0], tt.src.CertFile) {
			t.Errorf("%s: %q, want %q", tt.src.CertFile, w, tt.want)
		}
	}
}

// TestWhatIsOutOfDateComesLast: a directory often has the certificate of last year beside
// its successor. The clock alone changes the choice, not a Reload.
func TestWhatIsOutOfDateComesLast(t *testing.T) {
	b := newBed(t)
	start := time.Now().Truncate(time.Second) // as certificates have it
	clock := start
	from := func(name string, rsa bool, begin, end time.Duration) {
		b.pair(name, testenv.Leaf{Names: []string{"a.test"}, RSA: rsa, NotBefore: start.Add(begin), NotAfter: start.Add(end)})
	}
	from("1-old", false, -time.Hour, time.Hour)
	from("2-next", false, 2*time.Hour, 4*time.Hour)
	from("3-rsa", true, 0, 3*time.Hour)
	s, err := NewSet([]Source{{Directory: b.dir}}, Options{Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return clock }})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		after time.Duration
		want  string
	}{
		{0, "1-old"},
		{time.Hour, "1-old"}, // its last second
		{time.Hour + time.Second, "3-rsa"},
		{2 * time.Hour, "2-next"},
		{5 * time.Hour, "1-old"}, // none is valid
	} {
		clock = start.Add(tt.after)
		c, err := s.Get(modern("a.test"))
		if err != nil {
			t.Errorf("after %s: %v", tt.after, err)
			continue
		}
		at := slices.IndexFunc(s.current.Load().all, func(p *pair) bool { return p.bare == c })
		if got := filepath.Base(s.current.Load().all[at].origin); got != tt.want+".crt" {
			t.Errorf("after %s: got %s, want %s.crt", tt.after, got, tt.want)
		}
	}
}

// TestNothingTellsTheKey: no error, no warning, no line of the log, and nothing that is
// printed of a set, has a part of the key.
func TestNothingTellsTheKey(t *testing.T) {
	b := newBed(t)
	src, c := b.pair("a", testenv.Leaf{Names: []string{"a.test"}})
	pkcs8, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	scalar, err := c.PrivateKey.(*ecdsa.PrivateKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	d := new(big.Int).SetBytes(scalar)
	secrets := []string{d.String(), d.Text(16), strings.ToUpper(d.Text(16)), fmt.Sprint(scalar)[1:40], string(scalar)}
	// The scalar is bytes 36 to 67: before it is the same in every key, after it the public one.
	for text, i := base64.StdEncoding.EncodeToString(pkcs8), 48; i+16 <= 88; i++ {
		secrets = append(secrets, text[i:i+16])
	}
	var texts []string
	tell := func(s *Set) {
		p := s.current.Load().all[0]
		js, err := json.Marshal([]any{s, s.List(), s.Warnings(), s.Files()})
		if err != nil {
			t.Error(err)
		}
		for _, v := range []any{s, *s.current.Load(), p, s.List(), s.Warnings(), s.Files(), s.sources} {
			texts = append(texts, fmt.Sprintf("%v", v), fmt.Sprintf("%+v", v), fmt.Sprintf("%#v", v))
		}
		texts = append(texts, string(js))
	}
	var log strings.Builder
	o := Options{Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	s, err := NewSet([]Source{src}, o)
	if err != nil {
		t.Fatal(err)
	}
	tell(s)
	good, err := os.ReadFile(src.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	asType := func(name string) []byte { return []byte(strings.ReplaceAll(string(good), "PRIVATE KEY", name)) }
	for name, broken := range map[string][]byte{
		"cut": good[:len(good)-30], "without its begin": good[30:], "DER": pkcs8, "as a certificate": asType("CERTIFICATE"),
		"of another kind": asType("RSA PRIVATE KEY"), "encrypted": asType("ENCRYPTED PRIVATE KEY"), "of no kind": asType("THING"),
		"base64": []byte(base64.StdEncoding.EncodeToString(pkcs8)), "twice": append(good[:len(good):len(good)], good[:60]...),
	} {
		for _, file := range []string{src.KeyFile, src.CertFile} {
			was, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			b.file(file[len(b.dir)+1:], broken)
			for _, source := range []Source{src, {Directory: b.dir}} {
				_, err := NewSet([]Source{source}, o)
				if err == nil {
					t.Errorf("%s, %s: no error", name, file)
					continue
				}
				texts = append(texts, err.Error(), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", err))
			}
			if err := s.Reload(); err == nil {
				t.Errorf("%s, %s: no error of Reload", name, file)
			}
			tell(s)
			b.file(file[len(b.dir)+1:], was)
		}
	}
	for _, text := range append(texts, log.String()) {
		for _, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Fatalf("a part of the key (%q) is in %s", secret, text)
			}
		}
	}
	if i := s.List()[0]; i.KeyType != "ECDSA P-256" || i.Names[0] != "a.test" || i.Serial != c.Leaf.SerialNumber.Text(16) || i.Origin != src.CertFile {
		t.Errorf("%+v", i)
	}
}
