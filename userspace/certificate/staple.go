// SPDX-License-Identifier: Apache-2.0

package certificate

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/ocsp"
)

// staple is a certificate with an OCSP response (RFC 6960; RFC 8446, section 4.4.2.1).
type staple struct {
	certificate *tls.Certificate
	from, until time.Time // of the response
}

// lifetime is that of a response which does not say when there will be a newer one.
const lifetime = 24 * time.Hour

// newStaple checks a response, DER: it must be of this certificate, by its issuer, of
// now, and good.
func (p *pair) newStaple(der []byte, now time.Time) (*staple, error) {
	issuer := p.issuer()
	if issuer == nil {
		return nil, errors.New("the issuer's certificate, by which it is checked, is not in the certificate's file")
	}
	r, err := ocsp.ParseResponseForCert(der, p.leaf(), issuer)
	switch {
	case err != nil:
		return nil, err
	case r.Certificate != nil && !mayRespond(r.Certificate, issuer):
		return nil, fmt.Errorf("it is signed by %s, which may not sign OCSP responses", r.Certificate.Subject)
	case r.Certificate != nil && (now.Before(r.Certificate.NotBefore) || now.After(r.Certificate.NotAfter)):
		return nil, fmt.Errorf("it is signed by %s, whose certificate is not valid now", r.Certificate.Subject)
	case r.Status == ocsp.Revoked:
		return nil, fmt.Errorf("it says that the certificate is revoked since %s", r.RevokedAt.UTC().Format(time.RFC3339))
	case r.Status != ocsp.Good:
		return nil, errors.New("it says that the certificate is unknown")
	case now.Before(r.ThisUpdate.Add(-time.Minute)): // clocks differ
		return nil, fmt.Errorf("it is not valid before %s", r.ThisUpdate.UTC().Format(time.RFC3339))
	}
	until := r.NextUpdate
	if until.IsZero() {
		until = r.ThisUpdate.Add(lifetime)
	}
	if !now.Before(until) {
		return nil, fmt.Errorf("it is out of date since %s", until.UTC().Format(time.RFC3339))
	}
	c := *p.bare
	c.OCSPStaple = der
	return &staple{certificate: &c, from: r.ThisUpdate, until: until}, nil
}

// mayRespond tells whether the certificate that comes with a response, which the issuer
// has signed, is the issuer's own or one for this purpose (RFC 6960, section 4.2.2.2):
// package ocsp takes every one that the issuer has signed.
func mayRespond(c, issuer *x509.Certificate) bool {
	return c.Equal(issuer) || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning)
}

// mustStaple tells whether a certificate has the TLS feature status_request (RFC 7633).
func mustStaple(c *x509.Certificate) bool {
	feature := asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}
	for _, e := range c.Extensions {
		var features []int
		if e.Id.Equal(feature) {
			_, err := asn1.Unmarshal(e.Value, &features)
			return err == nil && slices.Contains(features, 5)
		}
	}
	return false
}

// stapler asks for responses about pairs, each in a goroutine of its own.
type stapler struct {
	logger *slog.Logger
	client *http.Client
	now    func() time.Time

	mu      sync.Mutex
	ctx     context.Context // nil before start
	cancel  context.CancelFunc
	running map[*pair]context.CancelFunc
	wg      sync.WaitGroup
}

func newStapler(o Options) *stapler {
	s := &stapler{logger: o.Logger, client: o.HTTPClient, now: o.Now, running: make(map[*pair]context.CancelFunc)}
	if s.client == nil {
		s.client = &http.Client{Timeout: 15 * time.Second}
	}
	return s
}

func (s *stapler) start(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ctx, s.cancel = context.WithCancel(ctx)
}

// order has responses asked for about pairs, and no others.
func (s *stapler) order(pairs []*pair) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx == nil || s.ctx.Err() != nil {
		return
	}
	for p, stop := range s.running {
		if !slices.Contains(pairs, p) {
			stop()
			delete(s.running, p)
		}
	}
	for _, p := range pairs {
		if s.running[p] != nil || !p.fetch || p.issuer() == nil || len(p.leaf().OCSPServer) == 0 {
			continue
		}
		ctx, stop := context.WithCancel(s.ctx)
		s.running[p] = stop
		s.wg.Go(func() { s.keep(ctx, p) })
	}
}

func (s *stapler) close() {
	s.mu.Lock()
	if s.cancel != nil {
		s.cancel()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// Pauses between two requests: a response is renewed when half of its life is over, and
// a failed request repeated after firstRetry, then twice as long each time.
const (
	firstRetry = time.Minute
	lastRetry  = time.Hour
)

// keep keeps a pair's staple fresh until ctx ends.
func (s *stapler) keep(ctx context.Context, p *pair) {
	retry := firstRetry
	failing := false
	for {
		st, err := s.ask(ctx, p)
		pause := retry
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if !failing {
				s.logger.Warn("no OCSP response to staple", "certificate", p.origin, "responder", p.leaf().OCSPServer[0], "error", err.Error(), "retry_in", retry.String())
			}
			failing, retry = true, min(2*retry, lastRetry)
		default:
			p.staple.Store(st)
			if failing {
				s.logger.Info("OCSP responses are stapled again", "certificate", p.origin)
			}
			failing, retry = false, firstRetry
			pause = max(st.from.Add(st.until.Sub(st.from)/2).Sub(s.now()), firstRetry)
		}
		t := time.NewTimer(pause - pause/10 + rand.N(pause/5+1))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

// maxResponse is the largest response that is read, in bytes.
const maxResponse = 64 << 10

// ask is one request, by POST (RFC 6960, appendix A.1).
func (s *stapler) ask(ctx context.Context, p *pair) (*staple, error) {
	body, err := ocsp.CreateRequest(p.leaf(), p.issuer(), nil)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.leaf().OCSPServer[0], bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Content-Type", "application/ocsp-request")
	req.Header.Set("Accept", "application/ocsp-response")
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the responder answers %s", resp.Status)
	}
	der, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse+1))
	if err != nil {
		return nil, err
	}
	if len(der) > maxResponse {
		return nil, fmt.Errorf("the response is larger than %d bytes", maxResponse)
	}
	return p.newStaple(der, s.now())
}
