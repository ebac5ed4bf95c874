// SPDX-License-Identifier: Apache-2.0

package certificate

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/spliceway/spliceway/testenv"
)

// answers is an http.RoundTripper without a network.
type answers func(*http.Request) (*http.Response, error)

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) { return a(r) }

// locked is a writer whose content is read meanwhile.
type locked struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func answer(status int, body []byte) (*http.Response, error) {
	return &http.Response{StatusCode: status, Status: http.StatusText(status), Body: io.NopCloser(bytes.NewReader(body))}, nil
}

// fetching is a set of one certificate whose responder is answers.
func (b *bed) fetching(log io.Writer, a func(c tls.Certificate) answers) *Set {
	b.t.Helper()
	src, c := b.pair("a", testenv.Leaf{Names: []string{"a.test"}, OCSPServer: "http://ocsp.invalid"})
	src.FetchOCSP = true
	s, err := NewSet([]Source{src}, Options{Logger: slog.New(slog.NewTextHandler(log, nil)), HTTPClient: &http.Client{Transport: a(c)}})
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

// TestStaplesThroughADay is about when a responder is asked, and what is stapled while it
// fails. The clock is a test's own.
func TestStaplesThroughADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const life = 4 * time.Hour
		b := newBed(t)
		var log strings.Builder
		var mu sync.Mutex // the clock orders what follows, which the race detector does not know
		asked, works := 0, true
		s := b.fetching(locked{&mu, &log}, func(c tls.Certificate) answers {
			return func(*http.Request) (*http.Response, error) {
				mu.Lock()
				defer mu.Unlock()
				if asked++; !works {
					return nil, errors.New("nobody there")
				}
				return answer(http.StatusOK, b.response(c, ocsp.Good, time.Now(), time.Now().Add(life)))
			}
		})
		expect := func(when string, after time.Duration, stapled bool, minAsked, maxAsked int) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			c, err := s.Get(modern("a.test"))
			if err != nil || (c.OCSPStaple != nil) != stapled || asked < minAsked || asked > maxAsked {
				t.Errorf("%s: stapled %t, asked %d times, want %t and %d to %d (%v)", when, c.OCSPStaple != nil, asked, stapled, minAsked, maxAsked, err)
			}
		}
		expect("before Start", time.Hour, false, 0, 0)
		s.Start(t.Context())
		expect("at once", 0, true, 1, 1)
		expect("before half of its life", life/2-life/20-time.Second, true, 1, 1)
		expect("after half of its life", life/10+2*time.Second, true, 2, 2)
		set := func(to bool) {
			mu.Lock()
			defer mu.Unlock()
			works, asked = to, 0
		}
		told := func(what string) {
			t.Helper()
			mu.Lock()
			defer mu.Unlock()
			if n := strings.Count(log.String(), what); n != 1 {
				t.Errorf("told %d times, want once, %q:\n%s", n, what, &log)
			}
		}
		set(false)
		expect("failing, and still valid", 3*time.Hour, true, 5, 8)
		expect("failing, and over", 90*time.Minute, false, 6, 10)
		expect("failing for a day", 24*time.Hour, false, 27, 37)
		told("level=WARN")
		told("nobody there")
		set(true)
		expect("it works again", lastRetry+lastRetry/10+time.Second, true, 1, 1)
		told("stapled again")
		s.Close()
		expect("after Close", 24*time.Hour, false, 1, 1)
		b.pair("a", testenv.Leaf{Names: []string{"a.test"}, OCSPServer: "http://ocsp.invalid"})
		if err := s.Reload(); err != nil {
			t.Error(err)
		}
		expect("another certificate after Close", time.Hour, false, 1, 1)
	})
}

func TestAnswersThatAreNotStapled(t *testing.T) {
	b := newBed(t)
	now := time.Now()
	for _, tt := range []struct {
		name, want string
		answer     func(c tls.Certificate) (*http.Response, error)
	}{
		{"an error", "the responder answers Not Found", func(tls.Certificate) (*http.Response, error) { return answer(http.StatusNotFound, nil) }},
		{"too much", "larger than", func(tls.Certificate) (*http.Response, error) {
			return answer(http.StatusOK, make([]byte, maxResponse+1))
		}},
		{"a page", "", func(tls.Certificate) (*http.Response, error) { return answer(http.StatusOK, []byte("<html>")) }},
		{"try later", "try later", func(tls.Certificate) (*http.Response, error) {
			return answer(http.StatusOK, ocsp.TryLaterErrorResponse)
		}},
		{"revoked", "revoked since", func(c tls.Certificate) (*http.Response, error) {
			return answer(http.StatusOK, b.response(c, ocsp.Revoked, now.Add(-time.Hour), now.Add(time.Hour)))
		}},
	} {
		var cert tls.Certificate
		s := b.fetching(io.Discard, func(c tls.Certificate) answers {
			cert = c
			return func(*http.Request) (*http.Response, error) { return tt.answer(cert) }
		})
		st, err := s.stapler.ask(t.Context(), s.current.Load().all[0])
		if st != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

// TestAResponseComesOfAge: what is odd of a staple's file follows the clock at a Reload,
// though no file has changed.
func TestAResponseComesOfAge(t *testing.T) {
	b := newBed(t)
	src, c := b.pair("a", testenv.Leaf{Names: []string{"a.test"}, MustStaple: true})
	start := time.Now()
	src.OCSPFile = b.file("a.ocsp", b.response(c, ocsp.Good, start.Add(time.Hour), start.Add(3*time.Hour)))
	clock := start
	s, err := NewSet([]Source{src}, Options{Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return clock }})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		after   time.Duration
		stapled bool
		want    []string
	}{
		{0, false, []string{"not valid before", "must be stapled"}},
		{2 * time.Hour, true, nil},
		{4 * time.Hour, false, []string{"out of date since", "must be stapled"}},
	} {
		clock = start.Add(tt.after)
		if err := s.Reload(); err != nil {
			t.Fatal(err)
		}
		c, err := s.Get(modern("a.test"))
		w := s.Warnings()
		if err != nil || (c.OCSPStaple != nil) != tt.stapled || len(w) != len(tt.want) {
			t.Errorf("after %s: stapled %t, %v, warnings %q", tt.after, c.OCSPStaple != nil, err, w)
			continue
		}
		for i, want := range tt.want {
			if !strings.Contains(w[i], want) {
				t.Errorf("after %s: %q, want %q", tt.after, w[i], want)
			}
		}
	}
}

// responder signs OCSP responses in a CA's name.
func (b *bed) responder(purpose x509.ExtKeyUsage, notAfter time.Time) (*x509.Certificate, crypto.Signer) {
	b.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.t.Fatal(err)
	}
	ca, caKey := b.ca.Signer()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(9), Subject: pkix.Name{CommonName: "responder"}, ExtKeyUsage: []x509.ExtKeyUsage{purpose},
		NotBefore: notAfter.Add(-24 * time.Hour), NotAfter: notAfter,
	}, ca, key.Public(), caKey)
	if err != nil {
		b.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		b.t.Fatal(err)
	}
	return c, key
}

func TestWhoMaySignAResponse(t *testing.T) {
	b := newBed(t)
	src, c := b.pair("a", testenv.Leaf{Names: []string{"a.test"}})
	now := time.Now()
	ca, _ := b.ca.Signer()
	for _, tt := range []struct {
		name    string
		purpose x509.ExtKeyUsage
		end     time.Time
		want    string // of the warning; "" is stapled
	}{
		{"a responder", x509.ExtKeyUsageOCSPSigning, now.Add(time.Hour), ""},
		{"a web server", x509.ExtKeyUsageServerAuth, now.Add(time.Hour), "may not sign"},
		{"a responder that has expired", x509.ExtKeyUsageOCSPSigning, now.Add(-time.Hour), "not valid now"},
	} {
		who, key := b.responder(tt.purpose, tt.end)
		der, err := ocsp.CreateResponse(ca, who, ocsp.Response{
			Status: ocsp.Good, SerialNumber: c.Leaf.SerialNumber, ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(time.Hour), Certificate: who,
		}, key)
		if err != nil {
			t.Fatal(err)
		}
		src.OCSPFile = b.file("a.ocsp", der)
		s := b.set(src)
		got, err := s.Get(modern("a.test"))
		w := strings.Join(s.Warnings(), "\n")
		if err != nil || (got.OCSPStaple != nil) != (tt.want == "") || !strings.Contains(w, tt.want) || (w == "") != (tt.want == "") {
			t.Errorf("%s: stapled %t, %v, warnings %q", tt.name, got.OCSPStaple != nil, err, w)
		}
	}
}
