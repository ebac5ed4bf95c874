// SPDX-License-Identifier: Apache-2.0

package certificate

import (
	"cmp"
	"context"
	"crypto/rsa"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Source is where certificates come from: one certificate with its key, from files or from
// memory, or a directory.
type Source struct {
	// CertFile is PEM: the certificate, then those between it and the root. KeyFile
	// is PEM; empty: the key is in CertFile.
	CertFile, KeyFile string
	// CertPEM and KeyPEM, if either is not nil, are in place of CertFile and KeyFile.
	// They must not change. Where is their origin.
	CertPEM, KeyPEM []byte
	// Directory stands for all certificates in it whose key is in it, too.
	Directory string
	OCSPFile  string // DER response to staple, with CertFile or CertPEM
	FetchOCSP bool   // ask the certificate's responder
	Where     string // place in the configuration, for errors
}

// Options of NewSet.
type Options struct {
	Logger     *slog.Logger     // required
	HTTPClient *http.Client     // for OCSP; nil: one with timeouts
	Now        func() time.Time // nil: time.Now
}

// ErrNoneSupported is Get's where the client takes none of the certificates.
var ErrNoneSupported = errors.New("the client takes none of the certificates")

// Set is an endpoint's certificates. Safe for concurrent use.
type Set struct {
	sources []Source
	o       Options
	current atomic.Pointer[snapshot]
	stapler *stapler // nil: none of the sources wants it

	mu sync.Mutex // of Reload
}

// snapshot is a Set between two changes. It is immutable, but for staples.
type snapshot struct {
	bySource [][]*pair
	all      []*pair            // by preference
	byName   map[string][]*pair // by preference
}

// NewSet reads everything. The error has all that is wrong, joined.
func NewSet(sources []Source, o Options) (*Set, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Set{sources: sources, o: o}
	if slices.ContainsFunc(sources, func(s Source) bool { return s.FetchOCSP }) {
		s.stapler = newStapler(o)
	}
	next, errs := s.load(nil)
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	s.current.Store(next)
	return s, nil
}

// load reads the sources. What is broken is as in old.
func (s *Set) load(old *snapshot) (next *snapshot, errs []error) {
	next = &snapshot{bySource: make([][]*pair, len(s.sources)), byName: make(map[string][]*pair)}
	for i := range s.sources {
		src := &s.sources[i]
		var had []*pair
		if old != nil {
			had = old.bySource[i]
		}
		pairs, wrong := s.loadSource(src, had)
		for _, err := range wrong {
			if src.Where != "" {
				err = fmt.Errorf("%s: %w", src.Where, err)
			}
			errs = append(errs, err)
		}
		next.bySource[i] = pairs
		next.all = append(next.all, pairs...)
	}
	slices.SortStableFunc(next.all, func(a, b *pair) int { return cmp.Compare(rank(a), rank(b)) })
	for _, p := range next.all {
		for _, name := range p.leaf().DNSNames {
			name = strings.ToLower(name)
			next.byName[name] = append(next.byName[name], p)
		}
	}
	return next, errs
}

func (s *Set) loadSource(src *Source, had []*pair) ([]*pair, []error) {
	if src.Directory == "" {
		var old *pair
		if len(had) > 0 {
			old = had[0]
		}
		p, err := loadPair(src, old, s.o.Now())
		if err != nil {
			return had, []error{err}
		}
		return []*pair{p}, nil
	}
	old := make(map[string]*pair, len(had))
	for _, p := range had {
		old[p.origin] = p
	}
	pairs, errs := loadDirectory(src, old)
	if len(errs) == 0 {
		return pairs, nil
	}
	// Something is broken: nothing that was served goes, unless it is replaced.
	for _, p := range had {
		if !slices.ContainsFunc(pairs, func(n *pair) bool { return n.origin == p.origin }) {
			pairs = add(pairs, p)
		}
	}
	return pairs, errs
}

// rank is the order of preference among certificates that a client takes: signing with
// RSA costs ten times as much.
func rank(p *pair) int {
	if _, ok := p.leaf().PublicKey.(*rsa.PublicKey); ok {
		return 1
	}
	return 0
}

// Get chooses the certificate for a handshake: one that has the name that the client
// asks for, if there is one, that the client takes, and that is valid now; if none is, the
// first that the client takes. It is tls.Config's GetCertificate.
func (s *Set) Get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	c := s.current.Load()
	candidates := c.all
	if name := strings.ToLower(hello.ServerName); name != "" {
		if named := c.byName[name]; len(named) > 0 {
			candidates = named
		} else if _, parent, ok := strings.Cut(name, "."); ok {
			if named := c.byName["*."+parent]; len(named) > 0 {
				candidates = named
			}
		}
	}
	if len(candidates) == 1 {
		return candidates[0].certificate(s.o.Now), nil
	}
	// The name has been looked at: without it SupportsCertificate does not do so again.
	nameless := *hello
	nameless.ServerName = ""
	var outOfDate *pair
	now := s.o.Now()
	for _, p := range candidates {
		if nameless.SupportsCertificate(p.bare) != nil {
			continue
		}
		if p.validAt(now) {
			return p.certificate(s.o.Now), nil
		}
		outOfDate = cmp.Or(outOfDate, p)
	}
	if outOfDate == nil {
		return nil, ErrNoneSupported
	}
	return outOfDate.certificate(s.o.Now), nil
}

// Files are the files and directories that Reload reads.
func (s *Set) Files() []string {
	var files []string
	for i := range s.sources {
		src := &s.sources[i]
		for _, f := range []string{src.CertFile, src.KeyFile, src.OCSPFile, src.Directory} {
			if f != "" && !slices.Contains(files, f) {
				files = append(files, f)
			}
		}
	}
	return files
}

// Reload reads everything again. What is broken stays as it was, and is in the error;
// the rest is exchanged.
func (s *Set) Reload() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next, errs := s.load(s.current.Load())
	s.current.Store(next)
	s.order()
	return errors.Join(errs...)
}

// List tells of every certificate.
func (s *Set) List() []Info {
	var all []Info
	for _, p := range s.current.Load().all {
		all = append(all, p.info())
	}
	return all
}

// Warnings are what is odd, though it works.
func (s *Set) Warnings() []string {
	var all []string
	for _, p := range s.current.Load().all {
		all = append(all, p.warnings(s.o.Now())...)
	}
	return all
}

// Start asks for OCSP responses where they are wanted, until ctx ends or Close.
func (s *Set) Start(ctx context.Context) {
	if s.stapler == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stapler.start(ctx)
	s.order()
}

// order tells the stapler whom to ask about. s.mu is held.
func (s *Set) order() {
	if s.stapler != nil {
		s.stapler.order(s.current.Load().all)
	}
}

// Close ends what Start began. Get goes on.
func (s *Set) Close() {
	if s.stapler != nil {
		s.stapler.close()
	}
}
