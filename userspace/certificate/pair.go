// SPDX-License-Identifier: Apache-2.0

package certificate

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// pair is a certificate with its key.
type pair struct {
	origin   string            // the certificate's file, or where one from memory is from
	keyFile  string            // empty: from memory
	sum      [sha256.Size]byte // of the files' content
	bare     *tls.Certificate  // without a staple
	staple   atomic.Pointer[staple]
	fetch    bool // staples are asked for
	ocspFile string
	odd      []string // warnings of the staple's file
}

// certificate is what a handshake shows.
func (p *pair) certificate(now func() time.Time) *tls.Certificate {
	if s := p.staple.Load(); s != nil && now().Before(s.until) {
		return s.certificate
	}
	return p.bare
}

func (p *pair) leaf() *x509.Certificate { return p.bare.Leaf }

func (p *pair) validAt(t time.Time) bool {
	return !t.Before(p.leaf().NotBefore) && !t.After(p.leaf().NotAfter)
}

// issuer is the next certificate of the chain; nil: there is none.
func (p *pair) issuer() *x509.Certificate {
	if len(p.bare.Certificate) < 2 {
		return nil
	}
	c, err := x509.ParseCertificate(p.bare.Certificate[1])
	if err != nil {
		return nil
	}
	return c
}

// maxFile is the largest file that is read, in bytes.
const maxFile = 16 << 20

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", path, err)
	case len(b) > maxFile:
		return nil, fmt.Errorf("read %s: larger than %d bytes; is it the right file?", path, maxFile)
	}
	return b, nil
}

// loadPair reads a certificate's file and its key's. old is returned where nothing has
// changed.
func loadPair(s *Source, old *pair, now time.Time) (*pair, error) {
	certFile, keyFile, certData, keyData, err := s.read()
	if err != nil {
		return nil, err
	}
	var ocspData []byte
	if s.OCSPFile != "" {
		if ocspData, err = readFile(s.OCSPFile); err != nil {
			return nil, fmt.Errorf("OCSP response: %w", err)
		}
	}
	sum := sha256.Sum256(bytes.Join([][]byte{certData, keyData, ocspData}, []byte{0}))
	// A response that was refused for being early is looked at again.
	if old != nil && old.sum == sum && (len(old.odd) == 0 || old.staple.Load() != nil) {
		return old, nil
	}
	certs, err := parse(certData)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", certFile, err)
	}
	keys, err := parse(keyData)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", keyFile, err)
	case len(certs.chain) == 0:
		return nil, fmt.Errorf("%s: found no certificate in it", certFile)
	case len(keys.keys) == 0:
		return nil, fmt.Errorf("%s: found no private key in it", keyFile)
	}
	p, err := newPair(certFile, keyFile, certs.chain, keys.keys)
	if err != nil {
		return nil, err
	}
	if s.inMemory() {
		p.origin, p.keyFile = s.Where, ""
	}
	p.sum, p.fetch, p.ocspFile = sum, s.FetchOCSP, s.OCSPFile
	if s.OCSPFile != "" {
		if st, err := p.newStaple(ocspData, now); err != nil {
			p.odd = append(p.odd, fmt.Sprintf("%s: the OCSP response is not stapled: %v", s.OCSPFile, err))
		} else {
			p.staple.Store(st)
		}
	}
	return p, nil
}

func newPair(origin, keyFile string, chain []*x509.Certificate, keys []crypto.Signer) (*pair, error) {
	leaf := chain[0]
	at := slices.IndexFunc(keys, func(k crypto.Signer) bool { return fits(k, leaf) })
	if at < 0 {
		for i, c := range chain[1:] {
			if slices.ContainsFunc(keys, func(k crypto.Signer) bool { return fits(k, c) }) {
				return nil, fmt.Errorf("%s: the private key in %s is that of certificate %d: the certificate itself comes first, then those between it and the root", origin, keyFile, i+2)
			}
		}
		return nil, fmt.Errorf("%s: the private key in %s is that of another certificate", origin, keyFile)
	}
	c := &tls.Certificate{PrivateKey: keys[at], Leaf: leaf}
	for _, link := range chain {
		c.Certificate = append(c.Certificate, link.Raw)
	}
	return &pair{origin: origin, keyFile: keyFile, bare: c}, nil
}

// loadDirectory reads every pair in a directory. Broken ones are told of, and do not
// stop the others. old are the pairs of the last time, by origin.
func loadDirectory(s *Source, old map[string]*pair) (pairs []*pair, errs []error) {
	entries, err := os.ReadDir(s.Directory)
	if err != nil {
		return nil, []error{fmt.Errorf("certificates: %w", err)}
	}
	type file struct {
		path string
		data []byte
		parsed
	}
	var files []file
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		path := filepath.Join(s.Directory, e.Name())
		// To open a named pipe would wait for who writes to it.
		if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
			continue
		}
		data, err := readFile(path)
		if err == nil {
			if !bytes.Contains(data, []byte("-----BEGIN")) && old[path] == nil {
				continue // a README, a CRL
			}
			f := file{path: path, data: data}
			if f.parsed, err = parse(data); err == nil {
				files = append(files, f)
				continue
			}
			err = fmt.Errorf("%s: %w", path, err)
		}
		errs = append(errs, err)
	}
	for _, f := range files {
		if len(f.chain) == 0 || isAuthority(f.chain[0]) {
			continue
		}
		var p *pair
		for _, k := range files {
			if slices.ContainsFunc(k.keys, func(key crypto.Signer) bool { return fits(key, f.chain[0]) }) {
				sum := sha256.Sum256(bytes.Join([][]byte{f.data, k.data}, []byte{0}))
				if p = old[f.path]; p == nil || p.sum != sum {
					p, _ = newPair(f.path, k.path, f.chain, k.keys) // it fits
					p.sum, p.fetch = sum, s.FetchOCSP
				}
				break
			}
		}
		switch {
		case p != nil:
			pairs = add(pairs, p)
		case !f.chain[0].IsCA:
			errs = append(errs, fmt.Errorf("%s: there is no private key for this certificate in %s", f.path, s.Directory))
		}
	}
	if len(pairs) == 0 {
		errs = append(errs, fmt.Errorf("%s: found no certificate with its private key in this directory", s.Directory))
	}
	return pairs, errs
}

// add adds a pair. Of those of one certificate (certbot's cert.pem and fullchain.pem) the
// one with the longest chain stays.
func add(pairs []*pair, p *pair) []*pair {
	at := slices.IndexFunc(pairs, func(o *pair) bool { return o.leaf().Equal(p.leaf()) })
	switch {
	case at < 0:
		return append(pairs, p)
	case len(p.bare.Certificate) > len(pairs[at].bare.Certificate):
		pairs[at] = p
	}
	return pairs
}

// isAuthority tells whether a certificate is a CA's and no server's: one that openssl
// req -x509 makes says that it is a CA's, but has the names of a server.
func isAuthority(c *x509.Certificate) bool {
	return c.IsCA && len(c.DNSNames) == 0 && len(c.IPAddresses) == 0
}

// follows tells whether next may have issued c. Its name is not enough: a private CA that
// was made anew often has that of the one before.
func follows(c, next *x509.Certificate) bool {
	if !bytes.Equal(c.RawIssuer, next.RawSubject) {
		return false
	}
	err := c.CheckSignatureFrom(next)
	var insecure x509.InsecureAlgorithmError // SHA-1: cannot be told here
	return err == nil || errors.As(err, &insecure) || errors.Is(err, x509.ErrUnsupportedAlgorithm)
}

// warnings are what is odd about a pair, though it works. That it expires is told by Info.
func (p *pair) warnings(now time.Time) []string {
	all := slices.Clone(p.odd)
	say := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if info, err := os.Stat(p.keyFile); err == nil && info.Mode().Perm()&0o007 != 0 {
		say("%s: the private key may be read by every user of this host (mode %04o): chmod o-rwx", p.keyFile, info.Mode().Perm())
	}
	leaf := p.leaf()
	if now.Before(leaf.NotBefore) {
		say("%s: the certificate is not valid before %s", p.origin, leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	if len(leaf.DNSNames) == 0 && len(leaf.IPAddresses) == 0 {
		say("%s: the certificate has no subject alternative name: clients look at nothing else", p.origin)
	}
	child := leaf
	for i, der := range p.bare.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil || !follows(child, c) {
			say("%s: certificate %d is not the issuer of the one before it: clients may not find the way to the root", p.origin, i+2)
			break
		}
		child = c
	}
	st := p.staple.Load()
	if st != nil && !now.Before(st.until) {
		if p.ocspFile != "" {
			say("%s: the OCSP response is not stapled any more: it is out of date since %s", p.ocspFile, st.until.UTC().Format(time.RFC3339))
		}
		st = nil
	}
	if mustStaple(leaf) && st == nil && !p.fetch {
		say("%s: the certificate says that an OCSP response must be stapled, and there is none: clients may refuse it; set ocspFile, or ocsp: fetch", p.origin)
	}
	if p.fetch && p.issuer() == nil {
		say("%s: OCSP responses cannot be asked for: the issuer's certificate is not in the file", p.origin)
	} else if p.fetch && len(leaf.OCSPServer) == 0 {
		say("%s: OCSP responses cannot be asked for: the certificate names no responder", p.origin)
	}
	return all
}

func (p *pair) info() Info {
	leaf := p.leaf()
	i := Info{
		Origin: p.origin, Names: slices.Clone(leaf.DNSNames),
		Subject: leaf.Subject.String(), Issuer: leaf.Issuer.String(), Serial: leaf.SerialNumber.Text(16),
		KeyType: keyType(leaf), NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
	}
	for _, ip := range leaf.IPAddresses {
		i.Names = append(i.Names, ip.String())
	}
	return i
}
