// SPDX-License-Identifier: Apache-2.0

package terminate

import (
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spliceway/spliceway/userspace/certificate"
)

// Certificates is where a server's certificates come from.
type Certificates interface {
	Get(*tls.ClientHelloInfo) (*tls.Certificate, error)
}

// ClientAuth is what is wanted of clients.
type ClientAuth uint8

// The wants.
const (
	NoClientCert     ClientAuth = iota
	Request                     // a certificate, if there is one; it is not verified
	RequireAny                  // a certificate; it is not verified
	RequireAndVerify            // a certificate of one of the CAs
)

var clientAuth = map[ClientAuth]tls.ClientAuthType{
	NoClientCert: tls.NoClientCert, Request: tls.RequestClientCert, RequireAny: tls.RequireAnyClientCert, RequireAndVerify: tls.RequireAndVerifyClientCert,
}

// ServerOptions of NewServer.
type ServerOptions struct {
	// Endpoint is the name: a session of one endpoint is none at another.
	Endpoint     string
	Certificates Certificates
	// MinVersion and MaxVersion; 0: TLS 1.2 and 1.3.
	MinVersion, MaxVersion uint16
	CipherSuites           []uint16      // of TLS 1.2; nil: forward secrecy and AEAD
	Curves                 []tls.CurveID // nil: the post-quantum ones, and all but P-521
	ALPN                   []string      // by preference
	ClientAuth             ClientAuth
	CAFiles, CRLFiles      []string
	CAPEM                  []byte           // CAs besides those of CAFiles; nil: none
	Where                  string           // place in the configuration, for errors
	Tickets                *Tickets         // nil: no session is resumed
	Now                    func() time.Time // nil: time.Now
}

// Server is how handshakes with an endpoint's clients are done. Safe for concurrent
// use.
type Server struct {
	o       ServerOptions
	current atomic.Pointer[server]

	mu   sync.Mutex // of Reload
	read digests    // of the files
}

// server is a Server between two changes of its files.
type server struct {
	config      *tls.Config
	authorities *authorities
	context     []byte        // what ticket keys are bound to
	mu          sync.Mutex    // of exchanging ticket keys, which does not wait for files
	tickets     atomic.Uint64 // version of the keys that config has
}

// Suites of TLS 1.2 with forward secrecy and AEAD. What is left out (CBC, RSA key
// exchange, 3DES, RC4) is what scanners complain of.
var defaultSuites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

var defaultCurves = []tls.CurveID{
	tls.X25519MLKEM768, tls.SecP256r1MLKEM768, tls.SecP384r1MLKEM1024, tls.X25519, tls.CurveP256, tls.CurveP384,
}

// NewServer reads the CA and CRL files.
func NewServer(o ServerOptions) (*Server, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.CipherSuites == nil {
		o.CipherSuites = defaultSuites
	}
	if o.Curves == nil {
		o.Curves = defaultCurves
	}
	s := &Server{o: o}
	return s, s.Reload()
}

// Files are what Reload reads.
func (s *Server) Files() []string { return append(slices.Clone(s.o.CAFiles), s.o.CRLFiles...) }

// authorities are the names of what has CAs.
func (s *Server) authorities() []string {
	if s.o.CAPEM == nil {
		return s.o.CAFiles
	}
	return append(slices.Clone(s.o.CAFiles), memory(s.o.Where))
}

// Reload reads the files again. If they are broken, what was there stays.
func (s *Server) Reload() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	files, err := readFiles(s.Files())
	if err != nil {
		return at(s.o.Where, err)
	}
	if s.o.CAPEM != nil {
		files[memory(s.o.Where)] = s.o.CAPEM
	}
	read := files.digests()
	if s.current.Load() != nil && maps.Equal(read, s.read) {
		return nil
	}
	a, err := readAuthorities(files, s.authorities(), s.o.CRLFiles)
	if err != nil {
		return at(s.o.Where, err)
	}
	s.read = read
	next := &server{authorities: a, context: s.context(read)}
	next.config = s.newConfig(a)
	s.setTickets(next)
	s.current.Store(next)
	return nil
}

// context is all that a session must have in common with the connection that resumes
// it: the endpoint, and who may be its client. (Lists of revoked certificates are looked
// at again.)
func (s *Server) context(read digests) []byte {
	h := sha256.New()
	fmt.Fprintf(h, "%d %q %d\n", len(s.o.Endpoint), s.o.Endpoint, s.o.ClientAuth)
	for _, file := range s.authorities() {
		fmt.Fprintf(h, "%x\n", read[file])
	}
	return h.Sum(nil)
}

func (s *Server) newConfig(a *authorities) *tls.Config {
	c := &tls.Config{
		MinVersion: s.o.MinVersion, MaxVersion: s.o.MaxVersion,
		CipherSuites: s.o.CipherSuites, CurvePreferences: s.o.Curves, NextProtos: s.o.ALPN,
		ClientAuth:             clientAuth[s.o.ClientAuth],
		GetCertificate:         s.certificate,
		SessionTicketsDisabled: s.o.Tickets == nil,
		Time:                   s.o.Now,
	}
	if c.MinVersion == 0 {
		c.MinVersion = tls.VersionTLS12
	}
	if s.o.ClientAuth == RequireAndVerify {
		c.ClientCAs = a.pool
		c.VerifyConnection = func(cs tls.ConnectionState) error { return a.verify(cs, s.o.Now()) }
	}
	return c
}

// certificateError is a failure of Certificates.
type certificateError struct{ err error }

func (e *certificateError) Error() string { return "no certificate to show: " + e.err.Error() }
func (e *certificateError) Unwrap() error { return e.err }

// certificate is tls.Config.GetCertificate.
func (s *Server) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	c, err := s.o.Certificates.Get(hello)
	switch {
	case errors.Is(err, certificate.ErrNoneSupported):
		// To an error crypto/tls would answer internal_error. A certificate without
		// a key fits no client, to which it answers handshake_failure.
		return new(tls.Certificate), nil
	case err != nil:
		return nil, &certificateError{err}
	}
	return c, nil
}

// Config is for one handshake: the next one asks again. It must not be changed.
func (s *Server) Config() *tls.Config {
	c := s.current.Load()
	if t := s.o.Tickets; t != nil && t.version(s.o.Now()) != c.tickets.Load() {
		s.setTickets(c)
	}
	return c.config
}

// setTickets gives c the keys of the moment.
func (s *Server) setTickets(c *server) {
	if s.o.Tickets == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	keys, version := s.o.Tickets.keysFor(c.context)
	c.config.SetSessionTicketKeys(keys)
	c.tickets.Store(version)
}

// Warnings are what is odd, though it works.
func (s *Server) Warnings() []string { return s.current.Load().authorities.warnings(s.o.Now()) }
