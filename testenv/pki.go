// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// CA is a certificate authority that lives in memory. Making one, or a leaf,
// is an ECDSA P-256 key and a signature: well below a millisecond.
type CA struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// NewCA makes an authority whose certificates are valid from an hour ago for a
// day, so that neither a skewed clock nor a forgotten file matters.
func NewCA() (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate CA key: %w", err)
	}
	template, err := newTemplate("testenv CA")
	if err != nil {
		return nil, err
	}
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature // the last for OCSP
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("create CA certificate: %w", err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse CA certificate: %w", err)
	}
	return &CA{certificate: certificate, key: key}, nil
}

// Leaf is what a certificate is to say. The zero value of a field is what nobody needs
// to think of.
type Leaf struct {
	// Names are DNS names; the first is the subject's common name, too.
	Names []string
	// Client makes it a client's certificate, not a server's.
	Client bool
	Emails []string
	URIs   []*url.URL
	IPs    []net.IP
	// RSA has an RSA key of 2048 bits, not ECDSA P-256.
	RSA bool
	// NotBefore and NotAfter; zero: an hour ago, a day from now.
	NotBefore, NotAfter time.Time
	// OCSPServer and MustStaple (RFC 7633) are about revocation.
	OCSPServer string
	MustStaple bool
}

// Certificate issues a server certificate. The first name is its subject too;
// names may be wildcards (RFC 6125 section 6.4.3: one label only).
func (ca *CA) Certificate(name string, others ...string) (tls.Certificate, error) {
	return ca.Issue(Leaf{Names: append([]string{name}, others...)})
}

// Issue issues a certificate as described.
func (ca *CA) Issue(l Leaf) (tls.Certificate, error) {
	name := ""
	if len(l.Names) > 0 {
		name = l.Names[0]
	}
	key, err := newKey(l.RSA)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("generate key for %s: %w", name, err)
	}
	template, err := newTemplate(name)
	if err != nil {
		return tls.Certificate{}, err
	}
	template.DNSNames, template.EmailAddresses, template.URIs, template.IPAddresses = l.Names, l.Emails, l.URIs, l.IPs
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	if l.Client {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	if !l.NotBefore.IsZero() {
		template.NotBefore = l.NotBefore
	}
	if !l.NotAfter.IsZero() {
		template.NotAfter = l.NotAfter
	}
	if l.OCSPServer != "" {
		template.OCSPServer = []string{l.OCSPServer}
	}
	if l.MustStaple {
		// RFC 7633: a sequence of the integer 5, status_request.
		template.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}, Value: []byte{0x30, 3, 2, 1, 5}}}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.certificate, key.Public(), ca.key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("create certificate for %s: %w", name, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("parse certificate for %s: %w", name, err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

func newKey(isRSA bool) (crypto.Signer, error) {
	if isRSA {
		return rsa.GenerateKey(rand.Reader, 2048)
	}
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// CRL returns a certificate revocation list, DER, with the given certificates, which
// is up to date until nextUpdate.
func (ca *CA) CRL(nextUpdate time.Time, revoked ...tls.Certificate) ([]byte, error) {
	list := &x509.RevocationList{Number: big.NewInt(time.Now().UnixNano()), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: nextUpdate}
	if nextUpdate.Before(list.ThisUpdate) {
		list.ThisUpdate = nextUpdate.Add(-time.Hour)
	}
	for _, c := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: c.Leaf.SerialNumber, RevocationTime: time.Now().Add(-time.Minute)})
	}
	return x509.CreateRevocationList(rand.Reader, list, ca.certificate, ca.key)
}

// Signer is the authority's certificate and key, to sign what else it may sign.
func (ca *CA) Signer() (*x509.Certificate, crypto.Signer) { return ca.certificate, ca.key }

// EncodePair returns a certificate with its chain, and its key, as PEM.
func EncodePair(c tls.Certificate) (chain, key []byte, err error) {
	for _, der := range c.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		return nil, nil, fmt.Errorf("encode key: %w", err)
	}
	return chain, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// WritePair writes a certificate and its key (PKCS #8, mode 0600) as NAME.crt and
// NAME.key into dir, each replaced at once, as who renews certificates should do it.
func WritePair(dir, name string, c tls.Certificate) (certFile, keyFile string, err error) {
	chain, key, err := EncodePair(c)
	if err != nil {
		return "", "", fmt.Errorf("%s: %w", name, err)
	}
	certFile, keyFile = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	if err := WriteFile(keyFile, key); err != nil {
		return "", "", err
	}
	return certFile, keyFile, WriteFile(certFile, chain)
}

// WriteFile replaces a file, mode 0600, at once.
func WriteFile(path string, data []byte) error {
	next := path + ".next"
	if err := os.WriteFile(next, data, 0o600); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// ServerConfig returns settings that present a certificate for the names.
func (ca *CA) ServerConfig(name string, others ...string) (*tls.Config, error) {
	certificate, err := ca.Certificate(name, others...)
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{certificate}}, nil
}

// ClientConfig returns settings that ask for serverName and trust this
// authority alone.
func (ca *CA) ClientConfig(serverName string) *tls.Config {
	return &tls.Config{ServerName: serverName, RootCAs: ca.Pool()}
}

// Pool returns a new pool that holds this authority.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.certificate)
	return pool
}

// PEM returns the authority's certificate, as programs want to read it from a file.
func (ca *CA) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.certificate.Raw})
}

func newTemplate(name string) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("draw serial number: %w", err)
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(24 * time.Hour),
	}, nil
}
