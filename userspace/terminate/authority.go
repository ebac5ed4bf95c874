// SPDX-License-Identifier: Apache-2.0

package terminate

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// authorities are who vouches for certificates, and what they have taken back.
type authorities struct {
	pool  *x509.CertPool
	lists map[string]*revocations // by issuer
}

// revocations is one authority's list (RFC 5280, section 5).
type revocations struct {
	file       string
	thisUpdate time.Time
	nextUpdate time.Time
	serials    map[string]bool
}

// issuerKey tells authorities apart: names alone would not.
func issuerKey(ca *x509.Certificate) string {
	return string(ca.RawSubject) + string(ca.RawSubjectPublicKeyInfo)
}

// readAuthorities makes them of the content of CA and CRL files.
func readAuthorities(files contents, caFiles, crlFiles []string) (*authorities, error) {
	a := &authorities{pool: x509.NewCertPool(), lists: make(map[string]*revocations)}
	var cas []*x509.Certificate
	for _, file := range caFiles {
		list, err := parseCertificates(file, files[file])
		if err != nil {
			return nil, err
		}
		for _, ca := range list {
			a.pool.AddCert(ca)
		}
		cas = append(cas, list...)
	}
	for _, file := range crlFiles {
		if err := a.addLists(file, files[file], cas); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// parseCertificates reads PEM.
func parseCertificates(file string, data []byte) ([]*x509.Certificate, error) {
	blocks, err := pemBlocks(file, data)
	if err != nil {
		return nil, err
	}
	var list []*x509.Certificate
	for _, block := range blocks {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: certificate %d: %w", file, len(list)+1, err)
		}
		list = append(list, c)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s: expected certificates in PEM (-----BEGIN CERTIFICATE-----), found none in %d bytes", file, len(data))
	}
	return list, nil
}

// pemBlocks are those of a file; none where it is not PEM. Decode passes over what is broken:
// a file that was cut would be taken without its end, and what is revoked there let in.
func pemBlocks(file string, data []byte) ([]*pem.Block, error) {
	var blocks []*pem.Block
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		blocks = append(blocks, block)
	}
	if n := bytes.Count(data, []byte("-----BEGIN ")); n != len(blocks) {
		return nil, fmt.Errorf("%s: %d of the %d PEM blocks in it are broken: was it cut?", file, n-len(blocks), n)
	}
	return blocks, nil
}

// addLists reads a file of revocation lists, in PEM or DER, each signed by one of cas.
func (a *authorities) addLists(file string, data []byte, cas []*x509.Certificate) error {
	blocks, err := pemBlocks(file, data)
	if err != nil {
		return err
	}
	var ders [][]byte
	for _, block := range blocks {
		if block.Type == "X509 CRL" {
			ders = append(ders, block.Bytes)
		}
	}
	if len(ders) == 0 {
		ders = [][]byte{data}
	}
	for _, der := range ders {
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return fmt.Errorf("%s: expected a certificate revocation list, in PEM or DER: %w", file, err)
		}
		for _, e := range list.Extensions {
			// RFC 5280, section 5.2: deltas and parts of lists (issuing distribution
			// point) are critical, and not to be taken for the whole.
			if e.Critical {
				return fmt.Errorf("%s: the list of %s has the critical extension %s: it is not a whole list (a delta, or a part), which is not supported", file, list.Issuer, e.Id)
			}
		}
		ca := signer(list, cas)
		if ca == nil {
			return fmt.Errorf("%s: the list of %s is signed by none of caFiles", file, list.Issuer)
		}
		r := &revocations{file: file, thisUpdate: list.ThisUpdate, nextUpdate: list.NextUpdate, serials: make(map[string]bool, len(list.RevokedCertificateEntries))}
		for i := range list.RevokedCertificateEntries {
			r.serials[string(list.RevokedCertificateEntries[i].SerialNumber.Bytes())] = true
		}
		if known := a.lists[issuerKey(ca)]; known == nil || known.thisUpdate.Before(r.thisUpdate) {
			a.lists[issuerKey(ca)] = r
		}
	}
	return nil
}

func signer(list *x509.RevocationList, cas []*x509.Certificate) *x509.Certificate {
	for _, ca := range cas {
		if bytes.Equal(ca.RawSubject, list.RawIssuer) && list.CheckSignatureFrom(ca) == nil {
			return ca
		}
	}
	return nil
}

// revokedError is a certificate that its authority has taken back, or may have.
type revokedError struct {
	cert    *x509.Certificate
	unknown bool // the list is out of date
	list    *revocations
}

func (e *revokedError) Error() string {
	if e.unknown {
		return fmt.Sprintf("certificate %s: the revocation list %s of its authority is out of date since %s", about(e.cert), e.list.file, e.list.nextUpdate.UTC().Format(time.RFC3339))
	}
	return fmt.Sprintf("certificate %s is revoked (%s)", about(e.cert), e.list.file)
}

// check looks for one chain in which nothing is revoked.
func (a *authorities) check(chains [][]*x509.Certificate, now time.Time) error {
	var first error
	for _, chain := range chains {
		err := a.checkChain(chain, now)
		if err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
	}
	return first
}

func (a *authorities) checkChain(chain []*x509.Certificate, now time.Time) error {
	for i, c := range chain[:max(len(chain)-1, 0)] {
		list := a.lists[issuerKey(chain[i+1])]
		switch {
		case list == nil:
		case list.serials[string(c.SerialNumber.Bytes())]:
			return &revokedError{cert: c, list: list}
		case !list.nextUpdate.IsZero() && now.After(list.nextUpdate):
			return &revokedError{cert: c, list: list, unknown: true}
		}
	}
	return nil
}

// warnings are of lists that are out of date.
func (a *authorities) warnings(now time.Time) []string {
	var all []string
	for _, l := range a.lists {
		if !l.nextUpdate.IsZero() && now.After(l.nextUpdate) {
			all = append(all, fmt.Sprintf("%s: the revocation list is out of date since %s: certificates of its authority are refused until there is a newer one",
				l.file, l.nextUpdate.UTC().Format(time.RFC3339)))
		}
	}
	return all
}

var errNotVerified = errors.New("the session's certificate was never verified")

// verify is tls.Config.VerifyConnection where certificates are verified. Unlike
// VerifyPeerCertificate it is called for resumed sessions, too, whose certificate may
// have been revoked in the meantime, or have expired. Whatever it returns, the client is told
// bad_certificate (42): crypto/tls leaves no choice.
func (a *authorities) verify(cs tls.ConnectionState, now time.Time) error {
	if len(cs.PeerCertificates) == 0 || len(cs.VerifiedChains) == 0 {
		return errNotVerified
	}
	if leaf := cs.PeerCertificates[0]; now.After(leaf.NotAfter) {
		return &tls.CertificateVerificationError{UnverifiedCertificates: cs.PeerCertificates, Err: x509.CertificateInvalidError{Cert: leaf, Reason: x509.Expired}}
	}
	return a.check(cs.VerifiedChains, now)
}
