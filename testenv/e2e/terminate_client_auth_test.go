// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spliceway/spliceway/testenv"
)

const day = 24 * time.Hour

// intermediate is an authority below the site's. Its leaves carry its certificate, so
// that clients send it.
type intermediate struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newIntermediate(t *testing.T, above *testenv.CA) *intermediate {
	t.Helper()
	root, signer := above.Signer()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i := &intermediate{t: t, key: key}
	i.cert = i.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "tills"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}, root, key.Public(), signer)
	return i
}

func (i *intermediate) sign(template, above *x509.Certificate, public, signer any) *x509.Certificate {
	i.t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		i.t.Fatal(err)
	}
	template.SerialNumber, template.NotBefore, template.NotAfter = serial, time.Now().Add(-time.Hour), time.Now().Add(day)
	der, err := x509.CreateCertificate(rand.Reader, template, above, public, signer)
	if err != nil {
		i.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		i.t.Fatal(err)
	}
	return c
}

// issue makes a certificate for clients and servers.
func (i *intermediate) issue(name string) tls.Certificate {
	i.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		i.t.Fatal(err)
	}
	leaf := i.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, i.cert, key.Public(), i.key)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw, i.cert.Raw}, PrivateKey: key, Leaf: leaf}
}

func (i *intermediate) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.cert.Raw})
}

// admitted has a client connect and tells the failure by the line's label; "": it got in.
func (r *run) admitted(s *termSite, client *tls.Config) (failure string, line map[string]any) {
	r.t.Helper()
	c, err := r.connect(s, client)
	if err == nil {
		err = r.echoed(c)
	}
	_ = c.Close()
	line = r.lineOf(c.NetConn().LocalAddr())
	failure, _ = line["handshake_failure"].(string)
	if (err == nil) != (failure == "") {
		r.t.Errorf("the client got %v, the line says %v", err, line)
	}
	return failure, line
}

// becomes waits until a client's failure is the one that is wanted.
func (r *run) becomes(s *termSite, client *tls.Config, want string) {
	r.t.Helper()
	var got string
	if err := testenv.Poll(short(r.t), func() (bool, error) {
		got, _ = r.admitted(s, client)
		return got == want, nil
	}); err != nil {
		r.t.Errorf("%s gets %q, want %q", client.ServerName, got, want)
	}
}

func mustCRL(t *testing.T, ca *testenv.CA, until time.Time, revoked ...tls.Certificate) []byte {
	t.Helper()
	der, err := ca.CRL(until, revoked...)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestClientsOfAnIntermediateAuthority(t *testing.T) {
	testenv.CheckLeaks(t)
	s := newTermSite(t, testenv.NetworkOptions{})
	to := tcp(echoes(t, s.Backends[0]))
	good, bad := newIntermediate(t, s.ca), newIntermediate(t, s.ca)
	list := mustCRL(t, s.ca, time.Now().Add(day), tls.Certificate{Leaf: bad.cert})
	r := start(t, s.Network, "endpoints:\n"+
		s.terminating("root", to, fmt.Sprintf("mutualTLS: {caFiles: [%q], crlFiles: [%q]}", s.caFile, s.file("root.crl", pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: list}))))+
		s.terminating("alone", to, fmt.Sprintf("mutualTLS: {caFiles: [%q]}", s.file("tills.pem", good.pem())))+
		s.terminating("both", to, fmt.Sprintf("mutualTLS: {caFiles: [%q, %q]}", s.caFile, s.file("more.pem", good.pem()))))
	short := func(c tls.Certificate) tls.Certificate { // without the intermediate certificate
		c.Certificate = c.Certificate[:1]
		return c
	}
	direct := s.issue(testenv.Leaf{Names: []string{"direct"}, Client: true})
	tests := []struct {
		name, endpoint string
		own            tls.Certificate
		want           string
	}{
		{"sent", "root", good.issue("till 1"), ""},
		{"not sent", "root", short(good.issue("till 2")), "unknown_ca"},
		{"not sent but known", "both", short(good.issue("till 3")), ""},
		{"trusted by itself", "alone", good.issue("till 4"), ""},
		{"of the root where the intermediate is trusted", "alone", direct, "unknown_ca"},
		{"of another intermediate there", "alone", bad.issue("till 5"), "unknown_ca"},
		{"of a revoked intermediate", "root", bad.issue("till 6"), "certificate_revoked"},
	}
	for _, tt := range tests {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			client := s.config(tt.endpoint, tt.own)
			client.MaxVersion = version
			got, line := r.admitted(s, client)
			if got != tt.want {
				t.Errorf("%s, %s: got %q, want %q: %v", tt.name, tls.VersionName(version), got, tt.want, line)
			}
			if reason, _ := line["reason"].(string); tt.want != "" && !strings.Contains(reason, tt.own.Leaf.Subject.CommonName) && !strings.Contains(reason, "tills") {
				t.Errorf("%s: the reason does not say whose: %s", tt.name, reason)
			}
		}
	}
}

// TestClientAuthoritiesAreExchanged while the agent runs: a new CA, a new list, broken
// ones, one that is out of date.
func TestClientAuthoritiesAreExchanged(t *testing.T) {
	testenv.CheckLeaks(t)
	s := newTermSite(t, testenv.NetworkOptions{})
	next := testenv.MustCA(t)
	ours := s.issue(testenv.Leaf{Names: []string{"till 1"}, Client: true})
	theirs, err := next.Issue(testenv.Leaf{Names: []string{"till 2"}, Client: true})
	if err != nil {
		t.Fatal(err)
	}
	bundle := s.file("clients.pem", s.ca.PEM())
	list := s.file("clients.crl", mustCRL(t, s.ca, time.Now().Add(-time.Minute)))
	to := tcp(echoes(t, s.Backends[0]))
	r := start(t, s.Network, "endpoints:\n"+s.terminating("shop", to, fmt.Sprintf("mutualTLS: {caFiles: [%q]}", bundle))+
		s.terminating("bank", to, fmt.Sprintf("mutualTLS: {caFiles: [%q], crlFiles: [%q]}", s.caFile, list)))

	// The list.
	bank := s.config("bank", ours)
	if got, line := r.admitted(s, bank); got != "revocation_unknown" || !strings.Contains(line["reason"].(string), list) {
		t.Errorf("with a list that is out of date: %q, %v", got, line)
	}
	if _, err := r.WaitLine(short(t), func(l string) bool {
		return strings.Contains(l, `"level":"WARN"`) && strings.Contains(l, list) && strings.Contains(l, "out of date")
	}); err != nil {
		t.Errorf("no warning of a list that is out of date: %v", err)
	}
	s.file("clients.crl", mustCRL(t, s.ca, time.Now().Add(day)))
	r.becomes(s, bank, "")
	sessions := []*tls.Config{s.holds("bank", tls.VersionTLS12, ours), s.holds("bank", tls.VersionTLS13, ours)}
	for _, c := range sessions {
		if r.resumes(s, c) || !r.resumes(s, c) {
			t.Errorf("%s: no session is resumed", tls.VersionName(c.MaxVersion))
		}
	}
	s.file("clients.crl", mustCRL(t, s.ca, time.Now().Add(day), ours))
	r.becomes(s, bank, "certificate_revoked")
	for _, c := range sessions {
		if got, _ := r.admitted(s, c); got != "certificate_revoked" {
			t.Errorf("%s: with a session of before: %q, want a refusal", tls.VersionName(c.MaxVersion), got)
		}
	}
	asPEM := func(der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}) }
	// Of two lists in a file the newer one counts; cut, it would be the other.
	two := slices.Concat(asPEM(mustCRL(t, s.ca, time.Now().Add(time.Hour))), asPEM(mustCRL(t, s.ca, time.Now().Add(day), ours)))
	for why, broken := range map[string][]byte{"expected a certificate revocation list": []byte("nothing of the kind"), "cut?": two[:len(two)-50]} {
		s.file("clients.crl", broken)
		r.refused("bank", list, why)
		if got, _ := r.admitted(s, bank); got != "certificate_revoked" {
			t.Errorf("with a broken list (%s): %q, want what was there before", why, got)
		}
	}

	// The authorities.
	shop, other := s.config("shop", ours), s.config("shop", theirs)
	sessions = []*tls.Config{s.holds("shop", tls.VersionTLS12, ours), s.holds("shop", tls.VersionTLS13, ours)}
	for _, c := range sessions {
		if r.resumes(s, c) || !r.resumes(s, c) {
			t.Errorf("%s: no session is resumed", tls.VersionName(c.MaxVersion))
		}
	}
	if got, _ := r.admitted(s, other); got != "unknown_ca" {
		t.Errorf("a client of another authority: %q", got)
	}
	s.file("clients.pem", slices.Concat(s.ca.PEM(), next.PEM()))
	r.becomes(s, other, "")
	if got, _ := r.admitted(s, shop); got != "" {
		t.Errorf("a client of the first of two authorities: %q", got)
	}
	s.file("clients.pem", next.PEM())
	r.becomes(s, shop, "unknown_ca")
	for _, c := range sessions {
		if got, _ := r.admitted(s, c); got != "unknown_ca" {
			t.Errorf("%s: with a session of an authority that is gone: %q", tls.VersionName(c.MaxVersion), got)
		}
	}
	cut := slices.Concat(s.ca.PEM(), next.PEM())
	for why, broken := range map[string][]byte{"found none": nil, "cut?": cut[:len(cut)-50]} {
		s.file("clients.pem", broken)
		r.refused("shop", bundle, why)
		if got, _ := r.admitted(s, other); got != "" {
			t.Errorf("with a broken bundle (%s): %q, want what was there before", why, got)
		}
	}
}

// refused waits for the line about a file that is broken, and why.
func (r *run) refused(endpoint, file, why string) {
	r.t.Helper()
	if _, err := r.WaitLine(short(r.t), func(l string) bool {
		return strings.Contains(l, `"level":"ERROR"`) && strings.Contains(l, "refused") && strings.Contains(l, file) && strings.Contains(l, why) && strings.Contains(l, fmt.Sprintf(`"endpoint":%q`, endpoint))
	}); err != nil {
		r.t.Errorf("no line about a broken %s (%s): %v", file, why, err)
	}
}
