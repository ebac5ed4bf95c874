// SPDX-License-Identifier: Apache-2.0
package certificate

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/http"
	"time"
)

type Source struct {
	CertFile, KeyFile string
	Directory         string
	OCSPFile          string
	FetchOCSP         bool
	Where             string
}
type Options struct {
	Logger     *slog.Logger
	HTTPClient *http.Client
	Now        func() time.Time
}

// ErrNoneSupported is a client that takes none of the certificates.
var ErrNoneSupported = errors.New("the client takes none of the certificates")

type Set struct{ c []tls.Certificate }

func NewSet(sources []Source, opts Options) (*Set, error) {
	s := &Set{}
	for _, src := range sources {
		k := src.KeyFile
		if k == "" {
			k = src.CertFile
		}
		c, err := tls.LoadX509KeyPair(src.CertFile, k)
		if err != nil {
			return nil, err
		}
		s.c = append(s.c, c)
	}
	return s, nil
}
func (s *Set) Get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) { return &s.c[0], nil }
func (s *Set) Files() []string                                          { return nil }
func (s *Set) Reload() error                                            { return nil }
func (s *Set) List() []Info                                             { return nil }
func (s *Set) Warnings() []string                                       { return nil }
func (s *Set) Start(ctx context.Context)                                {}
func (s *Set) Close()                                                   {}
