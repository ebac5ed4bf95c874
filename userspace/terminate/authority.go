// SPDX-License-Identifier: Apache-2.0

package terminate

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// authorities are who vouches for certificates, and what they have taken back.
type authorities struct {
	pool  *x509.CertPool
	known []authorityFile
	lists map[string]*revocations // by issuer
	// above has, of the authorities that are known, each one's own by its certificate: a
	// chain ends at the first that is known, where revocation must not.
	above map[string]*x509.Certificate
}

// authorityFile is an authority, and where it stands.
type authorityFile struct {
	certificate *x509.Certificate
	file        string
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
	a := &authorities{pool: x509.NewCertPool(), lists: make(map[string]*revocations), above: make(map[string]*x509.Certificate)}
	for _, file := range caFiles {
		list, err := parseCertificates(file, files[file])
		if err != nil {
			return nil, err
		}
		for _, ca := range list {
			a.pool.AddCert(ca)
			a.known = append(a.known, authorityFile{ca, file})
		}
	}
	for _, ca := range a.known {
		c := ca.certificate
		above := a.signer(c.RawIssuer, c.CheckSignatureFrom)
		if above != nil && issuerKey(above) != issuerKey(c) {
			a.above[string(c.Raw)] = above
		}
	}
	for _, file := range crlFiles {
		if err := a.addLists(file, files[file]); err != nil {
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

// addLists reads a file of revocation lists, in PEM or DER, each signed by an authority
// that is known.
func (a *authorities) addLists(file string, data []byte) error {
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
		if id := critical(list); id != nil {
			return fmt.Errorf("%s: the list of %s has the critical extension %s: it is not a whole list of its own (a delta, a part, or others' certificates), which is not supported", file, list.Issuer, id)
		}
		ca := a.signer(list.RawIssuer, list.CheckSignatureFrom)
		if ca == nil {
			return fmt.Errorf("%s: the list of %s is signed by none of caFiles", file, list.Issuer)
		}
		r := &revocations{file: file, thisUpdate: list.ThisUpdate, nextUpdate: list.NextUpdate, serials: make(map[string]bool, len(list.RevokedCertificateEntries))}
		for _, e := range list.RevokedCertificateEntries {
			r.serials[string(e.SerialNumber.Bytes())] = true
		}
		if known := a.lists[issuerKey(ca)]; known == nil || known.thisUpdate.Before(r.thisUpdate) {
			a.lists[issuerKey(ca)] = r
		}
	}
	return nil
}

// critical is a critical extension of the list or of an entry in it, or nil. Deltas, parts
// of lists (issuing distribution point) and entries of other issuers have one, and are not to
// be taken for the whole (RFC 5280, sections 5.2 and 5.3).
func critical(list *x509.RevocationList) asn1.ObjectIdentifier {
	first := func(extensions []pkix.Extension) asn1.ObjectIdentifier {
		for _, e := range extensions {
			if e.Critical {
				return e.Id
			}
		}
		return nil
	}
	if id := first(list.Extensions); id != nil {
		return id
	}
	for _, e := range list.RevokedCertificateEntries {
		if id := first(e.Extensions); id != nil {
			return id
		}
	}
	return nil
}

// signer is the authority of that name whose signature checks.
func (a *authorities) signer(rawIssuer []byte, check func(*x509.Certificate) error) *x509.Certificate {
	for _, ca := range a.known {
		if bytes.Equal(ca.certificate.RawSubject, rawIssuer) && check(ca.certificate) == nil {
			return ca.certificate
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
	for i, c := range chain[:len(chain)-1] {
		if err := a.checkOne(c, chain[i+1], now); err != nil {
			return err
		}
	}
	c := chain[len(chain)-1]
	for range a.known { // they may have certified each other in a circle
		issuer := a.above[string(c.Raw)]
		if issuer == nil {
			break
		}
		if err := a.checkOne(c, issuer, now); err != nil {
			return err
		}
		c = issuer
	}
	return nil
}

func (a *authorities) checkOne(c, issuer *x509.Certificate, now time.Time) error {
	list := a.lists[issuerKey(issuer)]
	switch {
	case list == nil:
	case list.serials[string(c.SerialNumber.Bytes())]:
		return &revokedError{cert: c, list: list}
	case !list.nextUpdate.IsZero() && now.After(list.nextUpdate):
		return &revokedError{cert: c, list: list, unknown: true}
	}
	return nil
}

// warnings are of authorities and lists that are out of date.
func (a *authorities) warnings(now time.Time) []string {
	var all []string
	for _, ca := range a.known {
		if now.After(ca.certificate.NotAfter) {
			all = append(all, fmt.Sprintf("%s: the authority's certificate %s is out of date: nobody gets in by it", ca.file, about(ca.certificate)))
		}
	}
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
