// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
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
		{"only reading", "POST", "/metrics", false, nil, 405, ""},
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
