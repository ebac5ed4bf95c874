// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestServer(t *testing.T) {
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "the metrics") })
	notReady := errors.New("draining")
	tests := []struct {
		name, method, path string
		pprof              bool
		ready              error
		status             int
		body               string
	}{
		{"metrics", "GET", "/metrics", false, nil, 200, "the metrics"},
		{"health", "GET", "/healthz", false, notReady, 200, "ok"},
		{"ready", "GET", "/readyz", false, nil, 200, "ok"},
		{"not ready says why", "GET", "/readyz", false, notReady, 503, "draining"},
		{"index", "GET", "/", false, nil, 200, "/metrics"},
		{"nothing else", "GET", "/x", false, nil, 404, ""},
		{"head", "HEAD", "/healthz", false, nil, 200, ""},
		{"only reading", "POST", "/metrics", false, nil, 405, ""},
		{"no way out of the tree", "GET", "/debug/../x", false, nil, 404, ""},
		{"no profiles unless asked for", "GET", "/debug/pprof/", false, nil, 404, ""},
		{"profiles", "GET", "/debug/pprof/", true, nil, 200, "goroutine"},
		{"one profile", "GET", "/debug/pprof/goroutine?debug=1", true, nil, 200, "goroutine profile"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			s := New(Options{Metrics: metrics, Ready: func() error { return tt.ready }, Pprof: tt.pprof, Logger: slog.New(slog.DiscardHandler)})
			served := make(chan error, 1)
			go func() { served <- s.Serve(l) }()
			client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			req, err := http.NewRequestWithContext(t.Context(), tt.method, "http://"+l.Addr().String()+tt.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err != nil || res.StatusCode != tt.status || !strings.Contains(string(body), tt.body) {
				t.Errorf("got %d, %q, %v; want %d, %q", res.StatusCode, body, err, tt.status, tt.body)
			}
			if err := s.Shutdown(context.Background()); err != nil {
				t.Error(err)
			}
			if err := <-served; err != nil {
				t.Errorf("Serve: %v", err)
			}
		})
	}
}

func TestTheZeroOptionsServeHealth(t *testing.T) {
	for path, status := range map[string]int{"/": 200, "/healthz": 200, "/readyz": 200, "/metrics": 404} {
		w := httptest.NewRecorder()
		New(Options{}).http.Handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		if w.Code != status {
			t.Errorf("%s: %d, want %d", path, w.Code, status)
		}
	}
}

// An agent that may serve what is old is ready, and says so.
func TestDegradedIsReady(t *testing.T) {
	for _, tt := range []struct {
		name            string
		ready, degraded error
		status          int
		body            string
	}{
		{"up to date", nil, nil, 200, "ok\n"},
		{"degraded", nil, errors.New("degraded: why"), 200, "degraded: why\n"},
		{"not ready goes before", errors.New("draining"), errors.New("degraded: why"), 503, "draining\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			s := New(Options{Ready: func() error { return tt.ready }, Degraded: func() error { return tt.degraded }})
			s.http.Handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/readyz", nil))
			if w.Code != tt.status || w.Body.String() != tt.body {
				t.Errorf("got %d, %q; want %d, %q", w.Code, w.Body, tt.status, tt.body)
			}
		})
	}
}

// A profile lasts as long as its reader asked for: it ends neither with the server's
// write timeout nor with an error about it.
func TestAProfileMayOutlastTheWriteTimeout(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{Pprof: true})
	s.http.WriteTimeout = time.Second / 2
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+l.Addr().String()+"/debug/pprof/trace?seconds=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	if err != nil || res.StatusCode != http.StatusOK || n == 0 {
		t.Errorf("got %d, %d bytes, %v", res.StatusCode, n, err)
	}
	if err := s.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// A request that does not end is cut when the context does.
func TestShutdownCutsARequestThatHangs(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	inside := make(chan struct{})
	s := New(Options{Metrics: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(inside)
		<-r.Context().Done()
	})})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	answered := make(chan error, 1)
	go func() {
		res, err := http.Get("http://" + l.Addr().String() + "/metrics") //nolint:noctx // the server ends it
		if err == nil {
			_ = res.Body.Close()
		}
		answered <- err
	}()
	<-inside
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if err := <-answered; err == nil {
		t.Error("a request that was cut has an answer")
	}
}
