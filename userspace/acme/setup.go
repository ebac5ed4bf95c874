// SPDX-License-Identifier: Apache-2.0

package acme

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"golang.org/x/crypto/acme"

	"github.com/spliceway/spliceway/userspace/certificate"
)

// requestTimeout is for one request to the authority, its answer included.
const requestTimeout = 30 * time.Second

// newClient speaks to an authority that the CAs in the file vouch for; without a file,
// the system's.
func newClient(caFile string) (*http.Client, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = attemptsAtOnce
	if caFile != "" {
		data, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("read acme.caFile: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("acme.caFile %s: no certificate in it: it has to be PEM", caFile)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	return &http.Client{Transport: transport, Timeout: requestTimeout}, nil
}

// readBinding returns nil if there is no external account.
func (m *Manager) readBinding() (*acme.ExternalAccountBinding, error) {
	id, file := m.options.KeyID, m.options.HMACKeyFile
	if id == "" && file == "" {
		return nil, nil
	}
	if id == "" || file == "" {
		return nil, errors.New("acme.externalAccount: keyID and hmacKeyFile go together: give both or neither")
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read acme.externalAccount.hmacKeyFile: %w", err)
	}
	if info, err := os.Stat(file); err == nil {
		m.warnOfMode(file, info)
	}
	// The error of a key must not tell of the key.
	key, err := base64.RawURLEncoding.DecodeString(string(bytes.TrimRight(bytes.TrimSpace(data), "=")))
	if err != nil || len(key) == 0 {
		return nil, fmt.Errorf("acme.externalAccount.hmacKeyFile %s: not base64url: put the key there as the authority gave it", file)
	}
	return &acme.ExternalAccountBinding{KID: id, Key: key}, nil
}

// describe is what may be told of a certificate.
func describe(leaf *x509.Certificate) certificate.Info {
	info := certificate.Info{
		Origin: "acme", Names: append([]string(nil), leaf.DNSNames...),
		Subject: leaf.Subject.String(), Issuer: leaf.Issuer.String(),
		Serial: fmt.Sprintf("%x", leaf.SerialNumber), KeyType: keyType(leaf.PublicKey),
		NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
	}
	for _, ip := range leaf.IPAddresses {
		info.Names = append(info.Names, ip.String())
	}
	return info
}

func keyType(key any) string {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA " + k.Curve.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", k.N.BitLen())
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return "unknown"
}
