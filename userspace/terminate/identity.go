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

// What a stranger's certificate may take of a line: characters of a text, and names.
const (
	shownText  = 200
	shownNames = 8
)

// about is a certificate in an error message.
func about(c *x509.Certificate) string {
	names := sans(c)
	more := ""
	if n := len(names) - shownNames; n > 0 {
		names, more = names[:shownNames], fmt.Sprintf(" and %d more", n)
	}
	return fmt.Sprintf("%.*q (names %.*q%s, serial %s, of %.*q, valid from %s to %s)", shownText, c.Subject.String(), shownText, names, more,
		short(c.SerialNumber.Text(16)), shownText, c.Issuer.String(),
		c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339))
}

// short is the beginning of a text.
func short(s string) string {
	if len(s) > shownText {
		return s[:shownText] + "..."
	}
	return s
}
