// SPDX-License-Identifier: Apache-2.0

// Package admin is the agent's HTTP server for those who watch it: metrics, health,
// readiness, profiles. It changes nothing, and is not for clients.
package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"
)

// Options of New. The zero value serves health and an agent that is always ready.
type Options struct {
	// Metrics answers /metrics; nil: nothing is there.
	Metrics http.Handler
	// Ready says why the agent is not ready, nil when it is. It must not block.
	Ready func() error
	// Degraded says why what is served may be old, nil if it is not: the agent is ready
	// all the same. It must not block; nil: it never is.
	Degraded func() error
	// Pprof serves /debug/pprof/ too.
	Pprof bool
	// Logger takes what goes wrong while serving; nil: nobody does.
	Logger *slog.Logger
}

// writeTimeout is from a request's header to the end of its answer.
const writeTimeout = time.Minute

// Server is the HTTP server. Make it with New.
type Server struct{ http *http.Server }

// New returns a server that serves nothing yet.
func New(o Options) *Server {
	mux := http.NewServeMux()
	plain := func(w http.ResponseWriter, status int, text string) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(status)
		_, _ = fmt.Fprintln(w, text)
	}
	index := "spliceway\n\n/healthz\n/readyz"
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if o.Ready != nil {
			if err := o.Ready(); err != nil {
				plain(w, http.StatusServiceUnavailable, err.Error())
				return
			}
		}
		if o.Degraded != nil {
			if err := o.Degraded(); err != nil {
				plain(w, http.StatusOK, err.Error())
				return
			}
		}
		plain(w, http.StatusOK, "ok")
	})
	if o.Metrics != nil {
		index += "\n/metrics"
		mux.Handle("GET /metrics", o.Metrics)
	}
	if o.Pprof {
		index += "\n/debug/pprof/"
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("POST /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, index) })
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{&http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		// A reader that stalls must not keep its place among the few scrapes
		// that run at once. A profile's own seconds come on top: pprof sees
		// to it.
		WriteTimeout:   writeTimeout,
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 16 << 10,
		ErrorLog:       slog.NewLogLogger(o.Logger.Handler(), slog.LevelWarn),
	}}
}

// Serve answers on l until Shutdown, after which it returns nil.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve admin: %w", err)
	}
	return nil
}

// Shutdown lets requests that run end until ctx ends, then cuts them.
func (s *Server) Shutdown(ctx context.Context) error {
	if err := s.http.Shutdown(ctx); err != nil {
		return s.http.Close()
	}
	return nil
}
