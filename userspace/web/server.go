// SPDX-License-Identifier: Apache-2.0

// Package web serves HTTP: it takes connections that somebody else accepted, and whose TLS
// somebody else terminated, and gives each request to the target that the rules of its
// listener say, with the standard library's server and reverse proxy.
package web

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spliceway/spliceway/userspace/route"
)

// Table is what decides about requests. It is immutable.
type Table struct {
	// Secure is the route table of TLS, Plain that of hosts without. Their matches are
	// indices into Sites.
	Secure, Plain *route.Table
	// Sites has nil where an endpoint is not of HTTP.
	Sites []*Site
	// Idle is how long nothing may move on a connection that is made while the table
	// holds; 0: for ever.
	Idle time.Duration
	// ConnectTimeout bounds a connect to a target, TLS included.
	ConnectTimeout time.Duration
	// Hosts are addresses of targets that are names; of others the system's resolver knows.
	Hosts map[string][]netip.Addr
}

// Options of New.
type Options struct {
	Logger *slog.Logger // required
	// Done is told of each request, in the goroutine that served it; nil: nobody is.
	Done func(*Request)
}

// Request is one that was answered.
type Request struct {
	Conn     *Conn
	Site     string // empty: no listener takes its host
	Rule     string // Rule.From; empty: none took it
	Method   string
	Host     string
	Path     string
	Protocol string // HTTP/1.1, HTTP/2.0
	Status   int    // of the answer; 0: the client was gone before, or the connection was cut
	Upstream string // host:port of the target; empty: none was asked
	Reason   string // why the agent answered by itself
	Took     time.Duration
}

// Conn is a connection to be served.
type Conn struct {
	net.Conn
	// ID is for logs.
	ID string
	// Place is where it came to, by which its listener was found.
	Place netip.AddrPort
	// Client is who it is from.
	Client netip.AddrPort
	// Secure tells that it came by TLS; Site is then whose TLS that was.
	Secure bool
	Site   string
	// ClientAuth is how that asked for a certificate: only a Site that asks for the same serves it.
	ClientAuth string
}

// Server serves connections by its Table.
type Server struct {
	opts  Options
	table atomic.Pointer[Table]
	http  *http.Server
	queue queue
	proxy *httputil.ReverseProxy
	pools pools

	mu   sync.Mutex
	open map[*idler]struct{} // http.Server forgets those that were hijacked
}

// Bounds of what clients send.
const (
	// maxHeader is of a request's header, in bytes. nginx has 32 KB, HAProxy 16.
	maxHeader = 32 << 10
	// headerTimeout is how long a header may take.
	headerTimeout = 10 * time.Second
	// maxStreams is how many requests a connection of HTTP/2 may have at once.
	maxStreams = 100
)

type connKey struct{}

// New returns a server that refuses all until Update, and serves until Close.
func New(o Options) *Server {
	s := &Server{opts: o, open: make(map[*idler]struct{}), queue: queue{conns: make(chan net.Conn), closed: make(chan struct{})}}
	s.table.Store(&Table{Secure: &route.Table{}, Plain: &route.Table{}})
	s.pools = pools{s: s, tls: make(map[TLS]*http.Transport), down: make(map[place]time.Time)}
	s.pools.plain = s.pools.transport(nil)
	errors := slog.NewLogLogger(o.Logger.With("source", "http").Handler(), slog.LevelDebug)
	s.proxy = &httputil.ReverseProxy{
		Rewrite: s.rewrite, Transport: (*transport)(s), ErrorHandler: s.failed, ErrorLog: errors, BufferPool: buffers{},
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true) // TLS, where there is one, is below Conn
	s.http = &http.Server{
		Handler: http.HandlerFunc(s.serve), Protocols: &protocols, ErrorLog: errors,
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: maxStreams}, DisableGeneralOptionsHandler: true,
		MaxHeaderBytes: maxHeader, ReadHeaderTimeout: headerTimeout, // bodies are idler's to look after
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
	}
	return s
}

// Update has requests from now on served by t, those on open connections as well.
func (s *Server) Update(t *Table) {
	s.table.Store(t)
	s.pools.retain(t)
}

// Run serves until Close.
func (s *Server) Run() error {
	defer s.queue.close()
	if err := s.http.Serve(&s.queue); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Serve has c served. It is closed at its end, which may be at once.
func (s *Server) Serve(c *Conn) {
	i := newIdler(s, c, s.table.Load().Idle)
	select {
	case s.queue.conns <- i:
	case <-s.queue.closed:
		_ = i.Close()
	}
}

// Drain has connections end as soon as they have no request. What comes by Serve is served
// once, and then ended: http.Server.Shutdown would refuse it.
func (s *Server) Drain() {
	s.http.SetKeepAlivesEnabled(false)
	// It does not know which connections of HTTP/2 have nothing to do.
	for _, i := range s.all() {
		if i.served.Load() && i.active.Load() == 0 {
			_ = i.Close()
		}
	}
}

// all are the connections that are open.
func (s *Server) all() []*idler {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.open))
}

// Close cuts all connections.
func (s *Server) Close() {
	s.queue.close()
	for _, i := range s.all() {
		if told, ok := i.Conn.(Told); ok {
			told.Drained()
		}
		_ = i.Close()
	}
	_ = s.http.Close()
	s.pools.close()
}
