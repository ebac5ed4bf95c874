// SPDX-License-Identifier: Apache-2.0

package terminate

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/spliceway/spliceway/userspace/telemetry"
)

// issuer is an authority that testenv does not have: one below another, or out of date.
type issuer struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// issue has the authority certify a template's key, which is new; nil: it certifies itself.
func (i *issuer) issue(t *testing.T, template *x509.Certificate) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	if i == nil {
		i = &issuer{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, i.certificate, key.Public(), i.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{c, key}
}

func authority(name string, serial int64) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte(name),
	}
}

func client(name string, serial int64) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

func (i *issuer) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.certificate.Raw})
}

// shown is what a client shows: its certificate and what is above it.
func (i *issuer) shown(above ...*issuer) tls.Certificate {
	c := tls.Certificate{Certificate: [][]byte{i.certificate.Raw}, PrivateKey: i.key}
	for _, a := range above {
		c.Certificate = append(c.Certificate, a.certificate.Raw)
	}
	return c
}

// crl is a list, signed a moment ago, up to date until next.
func (i *issuer) crl(t *testing.T, next time.Time, extra []pkix.Extension, entries ...x509.RevocationListEntry) []byte {
	t.Helper()
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: next.Add(-2 * time.Hour), NextUpdate: next, ExtraExtensions: extra, RevokedCertificateEntries: entries,
	}, i.certificate, i.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func revokes(serial int64, extra ...pkix.Extension) x509.RevocationListEntry {
	return x509.RevocationListEntry{SerialNumber: big.NewInt(serial), RevocationTime: time.Now().Add(-time.Minute), ExtraExtensions: extra}
}

// An authority that stands in caFiles itself is where a chain may end. It is revoked
// nevertheless, if the one above it says so.
func TestAuthoritiesInTheMiddleAreRevoked(t *testing.T) {
	p := newPKI(t)
	var nobody *issuer
	root := nobody.issue(t, authority("root", 1))
	upper := root.issue(t, authority("upper", 2))
	lower := upper.issue(t, authority("lower", 3))
	leaf := lower.issue(t, client("leaf", 4))
	shown := leaf.shown(lower, upper)
	soon, past := time.Now().Add(time.Hour), time.Now().Add(-time.Minute)
	all := [][]byte{root.pem(), upper.pem(), lower.pem()}
	tests := []struct {
		name string
		cas  [][]byte
		list []byte
		want telemetry.HandshakeFailure
		text string
	}{
		{"nothing, the root known", all[:1], root.crl(t, soon, nil), telemetry.HandshakeNone, ""},
		{"nothing, all known", all, root.crl(t, soon, nil), telemetry.HandshakeNone, ""},
		{"the one below the root, the root known", all[:1], root.crl(t, soon, nil, revokes(2)), telemetry.HandshakeRevoked, "CN=upper"},
		{"the one below the root, all known", all, root.crl(t, soon, nil, revokes(2)), telemetry.HandshakeRevoked, "CN=upper"},
		{"the one in the middle, all known", all, upper.crl(t, soon, nil, revokes(3)), telemetry.HandshakeRevoked, "CN=lower"},
		{"the client, all known", all, lower.crl(t, soon, nil, revokes(4)), telemetry.HandshakeRevoked, "CN=leaf"},
		{"unknown, all known", all, root.crl(t, past, nil), telemetry.HandshakeRevocationUnknown, "CN=upper"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := p.options()
			o.ClientAuth = RequireAndVerify
			for i, ca := range tt.cas {
				o.CAFiles = append(o.CAFiles, p.write("ca"+string(rune('0'+i)), ca))
			}
			o.CRLFiles = []string{p.write("list", tt.list)}
			m := meet(t, mustServer(t, o).Config(), p.clientConfig(shown))
			if m.server == nil {
				if tt.want != telemetry.HandshakeNone {
					t.Fatal("it gets in")
				}
				return
			}
			if got, text := Failure(m.server); got != tt.want || !strings.Contains(text, tt.text) {
				t.Errorf("got %s: %s, want %s: %q", got, text, tt.want, tt.text)
			}
		})
	}
}

// RFC 5280, sections 5.2 and 5.3: what has a critical extension that is not understood must
// not be used. Taken for a whole list, such a one would hide the whole one.
func TestListsThatAreNotWholeAreRefused(t *testing.T) {
	p := newPKI(t)
	var nobody *issuer
	root := nobody.issue(t, authority("root", 1))
	caFile := p.write("root", root.pem())
	soon := time.Now().Add(time.Hour)
	id := func(last int) asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 5, 29, last} }
	integer := []byte{2, 1, 1}
	tests := []struct {
		name string
		list []byte
		want string
	}{
		{"a delta", root.crl(t, soon, []pkix.Extension{{Id: id(27), Critical: true, Value: integer}}, revokes(7)), "2.5.29.27"},
		{"of authorities only", root.crl(t, soon, []pkix.Extension{{Id: id(28), Critical: true, Value: []byte{0x30, 3, 0x82, 1, 0xff}}}, revokes(7)), "2.5.29.28"},
		{"with an entry of somebody else's", root.crl(t, soon, nil, revokes(7, pkix.Extension{Id: id(29), Critical: true, Value: []byte{0x30, 0}})), "2.5.29.29"},
		{"with what may be ignored", root.crl(t, soon, []pkix.Extension{{Id: id(46), Value: []byte{0x30, 0}}}, revokes(7, pkix.Extension{Id: id(24), Value: []byte{24, 0}})), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := p.options()
			o.ClientAuth, o.CAFiles, o.CRLFiles = RequireAndVerify, []string{caFile}, []string{p.write("list", tt.list)}
			_, err := NewServer(o)
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
			} else if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), o.CRLFiles[0]) {
				t.Errorf("got %v, want an error about %s", err, tt.want)
			}
		})
	}
}

// The text is about the certificate that is out of date, whoever's it is.
func TestAnAuthorityOutOfDate(t *testing.T) {
	p := newPKI(t)
	var nobody *issuer
	old := authority("old root", 1)
	old.NotBefore, old.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	root := nobody.issue(t, old)
	o := p.options()
	o.ClientAuth, o.CAFiles = RequireAndVerify, []string{p.write("root", root.pem())}
	s := mustServer(t, o)
	if w := s.Warnings(); len(w) != 1 || !strings.Contains(w[0], o.CAFiles[0]) || !strings.Contains(w[0], "old root") {
		t.Errorf("warnings: %q", w)
	}
	m := meet(t, s.Config(), p.clientConfig(root.issue(t, client("young", 2)).shown()))
	if m.server == nil {
		t.Fatal("it gets in")
	}
	if got, text := Failure(m.server); got != telemetry.HandshakeExpired || !strings.HasPrefix(text, `certificate "CN=old root"`) || !strings.Contains(text, "CN=young") {
		t.Errorf("got %s: %s", got, text)
	}
}
