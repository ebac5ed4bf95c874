// SPDX-License-Identifier: Apache-2.0

package terminate

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// ClientOptions of NewClient.
type ClientOptions struct {
	CAFile     string // PEM
	CAPEM      []byte // besides CAFile; without both: the system's CAs
	ServerName string // empty: the target's host
	// CertFile and KeyFile are PEM; KeyFile empty: the key is in CertFile; both empty:
	// no certificate.
	CertFile, KeyFile string
	// CertPEM and KeyPEM are in place of CertFile and KeyFile, if CertPEM is not nil.
	CertPEM, KeyPEM []byte
	// SANs, if there are any, are what is verified in place of the name: the server's
	// certificate must have one of them. "DNS:NAME" is one that the certificate is
	// good for, or a wildcard that it has; "URI:..." is compared as it is (Gateway
	// API, BackendTLSPolicy).
	SANs               []string
	MinVersion         uint16 // 0: TLS 1.2
	InsecureSkipVerify bool
	Where              string // place in the configuration, for errors
}

// Client is how handshakes with an endpoint's upstreams are done. Safe for concurrent
// use.
type Client struct {
	o ClientOptions

	reloading sync.Mutex // Config does not wait for files
	read      digests    // of the files

	mu          sync.Mutex
	roots       *x509.CertPool // nil: the system's
	certificate *tls.Certificate
	configs     map[[2]string]*tls.Config // by host and ALPN protocol
}

// sessionsKept is how many sessions with upstreams are remembered for each name.
const sessionsKept = 64

// NewClient reads the files.
func NewClient(o ClientOptions) (*Client, error) {
	if o.MinVersion == 0 {
		o.MinVersion = tls.VersionTLS12
	}
	if o.CertFile != "" && o.KeyFile == "" {
		o.KeyFile = o.CertFile
	}
	if o.CertPEM != nil && o.KeyPEM == nil {
		o.KeyPEM = o.CertPEM
	}
	if len(o.SANs) > 0 && o.InsecureSkipVerify {
		return nil, at(o.Where, errors.New("InsecureSkipVerify and SANs are both there: expected one of them"))
	}
	for _, san := range o.SANs {
		if !strings.HasPrefix(san, "DNS:") && !strings.HasPrefix(san, "URI:") {
			return nil, at(o.Where, fmt.Errorf("expected DNS:NAME or URI:..., found %q", san))
		}
	}
	c := &Client{o: o}
	return c, c.Reload()
}

// Files are what Reload reads.
func (c *Client) Files() []string {
	files := slices.DeleteFunc([]string{c.o.CAFile, c.o.CertFile, c.o.KeyFile}, func(f string) bool { return f == "" })
	return slices.Compact(files)
}

// Reload reads the files again. If they are broken, what was there stays.
func (c *Client) Reload() error {
	c.reloading.Lock()
	defer c.reloading.Unlock()
	files, err := readFiles(c.Files())
	if err != nil {
		return at(c.o.Where, err)
	}
	read := files.digests()
	if c.read != nil && maps.Equal(read, c.read) {
		return nil
	}
	roots, err := c.authorities(files)
	if err != nil {
		return at(c.o.Where, err)
	}
	var own *tls.Certificate
	switch {
	case c.o.CertPEM != nil:
		pair, err := tls.X509KeyPair(c.o.CertPEM, c.o.KeyPEM)
		if err != nil {
			return at(c.o.Where, fmt.Errorf("certificate with its key: %w", err))
		}
		own = &pair
	case c.o.CertFile != "":
		pair, err := tls.X509KeyPair(files[c.o.CertFile], files[c.o.KeyFile])
		if err != nil {
			return at(c.o.Where, fmt.Errorf("certificate %s with key %s: %w", c.o.CertFile, c.o.KeyFile, err))
		}
		own = &pair
	}
	// Sessions go, too: they were made with who is not trusted any more.
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read, c.roots, c.certificate, c.configs = read, roots, own, make(map[[2]string]*tls.Config)
	return nil
}

// authorities are whose certificates are good; nil: the system's.
func (c *Client) authorities(files contents) (*x509.CertPool, error) {
	if c.o.CAFile == "" && c.o.CAPEM == nil {
		return nil, nil
	}
	roots := x509.NewCertPool()
	add := func(name string, data []byte) error {
		list, err := parseCertificates(name, data)
		for _, ca := range list {
			roots.AddCert(ca)
		}
		return err
	}
	if c.o.CAFile != "" {
		if err := add(c.o.CAFile, files[c.o.CAFile]); err != nil {
			return nil, err
		}
	}
	if c.o.CAPEM != nil {
		if err := add(memory(c.o.Where), c.o.CAPEM); err != nil {
			return nil, err
		}
	}
	return roots, nil
}

// Config is for a handshake with a target, whose host is a DNS name or an IP address;
// alpn is the one protocol that is offered, or empty. It must not be changed.
func (c *Client) Config(host, alpn string) *tls.Config {
	if c.o.ServerName != "" {
		host = c.o.ServerName
	}
	host = strings.TrimSuffix(host, ".")
	key := [2]string{host, alpn}
	c.mu.Lock()
	defer c.mu.Unlock()
	if cfg := c.configs[key]; cfg != nil {
		return cfg
	}
	cfg := &tls.Config{
		ServerName: host, RootCAs: c.roots, MinVersion: c.o.MinVersion, InsecureSkipVerify: c.o.InsecureSkipVerify,
		ClientSessionCache: tls.NewLRUClientSessionCache(sessionsKept),
	}
	if len(c.o.SANs) > 0 {
		// The name is not to be verified, and all else is: verifySANs does.
		cfg.InsecureSkipVerify = true
		cfg.VerifyConnection = func(cs tls.ConnectionState) error { return verifySANs(cs, cfg.RootCAs, c.o.SANs) }
	}
	if alpn != "" {
		cfg.NextProtos = []string{alpn}
	}
	if own := c.certificate; own != nil {
		// Whatever authorities the server names: there is no other one to show.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own, nil }
	}
	c.configs[key] = cfg
	return cfg
}

// Warnings are what is odd, though it works.
func (c *Client) Warnings() []string {
	var all []string
	if c.o.InsecureSkipVerify {
		all = append(all, "upstream.tls.insecureSkipVerify: whoever answers for the upstream is taken for it")
	}
	if c.o.KeyFile != "" {
		if w := readableByOthers(c.o.KeyFile); w != "" {
			all = append(all, w)
		}
	}
	return all
}

// Expiry is the end of the client's own certificate, and its file, or Where if it is from
// memory; false: it has none.
func (c *Client) Expiry() (notAfter time.Time, file string, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.certificate == nil || c.certificate.Leaf == nil {
		return time.Time{}, "", false
	}
	if c.o.CertPEM != nil {
		return c.certificate.Leaf.NotAfter, c.o.Where, true
	}
	return c.certificate.Leaf.NotAfter, c.o.CertFile, true
}
