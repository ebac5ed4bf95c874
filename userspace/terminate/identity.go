// SPDX-License-Identifier: Apache-2.0

package terminate

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"time"
)

// Identity is the certificate that a client showed.
type Identity struct {
	Subject     string // RFC 2253
	CommonName  string
	Fingerprint string   // SHA-256 of the certificate, hexadecimal
	SANs        []string // "DNS:...", "email:...", "IP:...", "URI:..."
	Verified    bool     // against the endpoint's CAs and lists
}

// Identity tells who the client is; nil: it showed nothing. Of a resumed session it is
// the client that began it.
func (s *Server) Identity(cs tls.ConnectionState) *Identity {
	if len(cs.PeerCertificates) == 0 {
		return nil
	}
	c := cs.PeerCertificates[0]
	sum := sha256.Sum256(c.Raw)
	return &Identity{
		Subject: c.Subject.String(), CommonName: c.Subject.CommonName, Fingerprint: hex.EncodeToString(sum[:]), SANs: sans(c),
		Verified: s.o.ClientAuth == RequireAndVerify && len(cs.VerifiedChains) > 0,
	}
}

func sans(c *x509.Certificate) []string {
	var all []string
	for _, n := range c.DNSNames {
		all = append(all, "DNS:"+n)
	}
	for _, n := range c.EmailAddresses {
		all = append(all, "email:"+n)
	}
	for _, n := range c.IPAddresses {
		all = append(all, "IP:"+n.String())
	}
	for _, n := range c.URIs {
		all = append(all, "URI:"+n.String())
	}
	return all
}

// about is a certificate in an error message.
func about(c *x509.Certificate) string {
	return fmt.Sprintf("%q (names %.200q, serial %x, of %q, valid from %s to %s)", c.Subject.String(), sans(c), c.SerialNumber, c.Issuer.String(),
		c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339))
}
