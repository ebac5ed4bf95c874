// SPDX-License-Identifier: Apache-2.0

// Package proxy is the way of a connection: accept, limits, PROXY header, peek at
// the ClientHello, route, dial, hand over to an engine, log line. It holds no
// configuration but the Snapshot it is given, and moves no bytes itself.
package proxy

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spliceway/spliceway/userspace/clienthello"
	"github.com/spliceway/spliceway/userspace/sock"
	"github.com/spliceway/spliceway/userspace/telemetry"
	"github.com/spliceway/spliceway/userspace/web"
)

// Options of a Server.
type Options struct {
	Metrics *telemetry.Metrics   // required
	Access  *telemetry.AccessLog // nil: no access log
	Logger  *slog.Logger         // required; for what concerns no single connection
	Web     *web.Server          // serves HTTP; nil: no endpoint is of HTTP
}

// Server serves connections from any number of listeners by its Snapshot.
type Server struct {
	metrics *telemetry.Metrics
	access  *telemetry.AccessLog
	logger  *slog.Logger
	web     *web.Server

	snapshot  atomic.Pointer[Snapshot]
	perClient clients
	rate      acceptRate
	buffers   helloBuffers
	parsers   sync.Pool
	idPrefix  string
	idNext    atomic.Uint64

	ctx    context.Context // of connections that no engine has yet
	cancel context.CancelFunc
	open   atomic.Int64
	// empty has a token whenever open may have become 0.
	empty chan struct{}
}

// NewServer returns a server that serves by snap.
func NewServer(snap *Snapshot, opts Options) *Server {
	s := &Server{
		metrics: opts.Metrics, access: opts.Access, logger: opts.Logger, web: opts.Web,
		parsers:  sync.Pool{New: func() any { return new(clienthello.Parser) }},
		idPrefix: newIDPrefix(),
		empty:    make(chan struct{}, 1),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.snapshot.Store(snap)
	return s
}

// newIDPrefix makes connection IDs of different runs and hosts different.
func newIDPrefix() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:]) + "-"
}

// Update has connections accepted from now on served by snap.
func (s *Server) Update(snap *Snapshot) { s.snapshot.Store(snap) }

// Open is how many connections there are, in any phase.
func (s *Server) Open() int { return int(s.open.Load()) }

// ListenOptions are how a listener for this server is to be opened.
func ListenOptions(helloTimeout time.Duration, freeBind bool) sock.ListenOptions {
	o := sock.ListenOptions{FreeBind: freeBind}
	if helloTimeout > deferAccept*time.Second {
		o.DeferAccept = deferAccept
	}
	return o
}

// Serve accepts from l until l is closed.
func (s *Server) Serve(l *sock.Listener) {
	var complained time.Time
	l.Serve(s.accepted, func(err error) {
		s.metrics.AcceptError()
		if time.Since(complained) > time.Second {
			complained = time.Now()
			s.logger.Error("cannot accept connections", "listener", l.Addr().String(), "error", err, "open", s.Open())
		}
	})
}

// accepted counts a connection, and is told of it before anybody can ask for the count.
func (s *Server) accepted(client *sock.Conn) sock.Handler {
	c := &conn{held: held{s: s}, snap: s.snapshot.Load(), client: client, from: client.Remote, to: client.Local}
	c.rec = &telemetry.Record{
		ID: s.idPrefix + strconv.FormatUint(s.idNext.Add(1), 36), Start: time.Now(),
		Client: client.Remote, Listener: client.Local,
	}
	c.nth = s.open.Add(1)
	s.metrics.Accepted()
	return c
}

func (s *Server) leave() {
	s.metrics.Left()
	if s.open.Add(-1) == 0 {
		select {
		case s.empty <- struct{}{}:
		default:
		}
	}
}

// Interrupt ends the connections that are still being set up, with the outcome
// shutdown. Those that an engine has are the engine's to end.
func (s *Server) Interrupt() { s.cancel() }

// Wait returns when no connection is open any more, or ctx ends. Listeners must
// be closed before.
func (s *Server) Wait(ctx context.Context) error {
	for s.open.Load() > 0 {
		select {
		case <-s.empty:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
