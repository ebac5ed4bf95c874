// SPDX-License-Identifier: Apache-2.0

package terminate

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
)

// verifySANs does what crypto/tls does with a server's certificate, but for the name: one
// of sans has to be in it. It is for new sessions and for those that are resumed.
func verifySANs(cs tls.ConnectionState, roots *x509.CertPool, sans []string) error {
	if len(cs.PeerCertificates) == 0 {
		return errNotVerified
	}
	leaf := cs.PeerCertificates[0]
	o := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
	for _, c := range cs.PeerCertificates[1:] {
		o.Intermediates.AddCert(c)
	}
	_, err := leaf.Verify(o)
	if err == nil && !slices.ContainsFunc(sans, func(san string) bool { return hasSAN(leaf, san) }) {
		err = sanError(sans)
	}
	if err != nil {
		return &tls.CertificateVerificationError{UnverifiedCertificates: cs.PeerCertificates, Err: err}
	}
	return nil
}

func hasSAN(c *x509.Certificate, san string) bool {
	if uri, ok := strings.CutPrefix(san, "URI:"); ok {
		for _, u := range c.URIs {
			if u.String() == uri {
				return true
			}
		}
		return false
	}
	name := strings.TrimPrefix(san, "DNS:")
	if strings.HasPrefix(name, "*.") {
		return slices.ContainsFunc(c.DNSNames, func(n string) bool { return strings.EqualFold(n, name) })
	}
	return c.VerifyHostname(name) == nil
}

// sanError is a certificate that has none of the names that it must have one of.
type sanError []string

func (e sanError) Error() string {
	return fmt.Sprintf("none of the names %q is in it", []string(e))
}
