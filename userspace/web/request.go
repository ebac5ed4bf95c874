// SPDX-License-Identifier: Apache-2.0

package web

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"time"

	"github.com/spliceway/spliceway/userspace/route"
)

// exchange is a request on its way.
type exchange struct {
	http.ResponseWriter
	rule   *Rule
	target *Target
	done   Request
}

type exchangeKey struct{}

// serve is the way of a request: whose it is, which rule takes it, which target, and there.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	own := r.Context().Value(connKey{}).(*idler)
	own.active.Add(1)
	defer func() { own.served.Store(true); own.active.Add(-1) }()
	conn := own.conn
	x := &exchange{ResponseWriter: w, done: Request{Conn: conn, Method: r.Method, Host: r.Host, Path: r.URL.Path, Protocol: r.Proto}}
	defer func() { // the proxy panics where an answer breaks off
		if x.done.Took = time.Since(start); s.opts.Done != nil {
			s.opts.Done(&x.done)
		}
	}()
	t := s.table.Load()
	host := hostname(r.Host)
	site, status, why := t.site(conn, host)
	if site == nil {
		x.answer(status, why)
		return
	}
	x.done.Site = site.Name
	if r.Method == http.MethodConnect {
		x.answer(http.StatusMethodNotAllowed, "CONNECT is not served")
		return
	}
	if x.rule = site.rule(host, cleanPath(r.URL.Path)); x.rule == nil {
		x.answer(http.StatusNotFound, "no rule takes this host and path")
		return
	}
	x.done.Rule = x.rule.From
	// Without it the server takes up to 256 KB of the rest of the body away at the first byte of
	// the answer, and whoever reads on is told that the body is over (HTTP/1.1; HTTP/2 has it).
	_ = http.NewResponseController(w).EnableFullDuplex()
	x.target = x.rule.pick()
	switch {
	case x.target == nil:
		x.answer(http.StatusInternalServerError, "the rule has no backend")
		return
	case x.target.Refuse != "" && x.target.Unready:
		x.refused(http.StatusServiceUnavailable)
		return
	case x.target.Refuse != "":
		x.refused(http.StatusInternalServerError)
		return
	}
	s.proxy.ServeHTTP(x, r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x)))
}

// site is whose rules are for a request, or the status of its refusal.
func (t *Table) site(c *Conn, host string) (site *Site, status int, why string) {
	table := t.Plain
	if c.Secure {
		table = t.Secure
	}
	m, ok := table.Lookup(c.Place.Addr(), c.Place.Port(), host, nil)
	if host == "" {
		m, ok = table.LookupAny(c.Place.Addr(), c.Place.Port())
	}
	if ok && m.Endpoint != route.Refuse {
		site = t.Sites[m.Endpoint]
	}
	switch {
	case c.Secure && (site == nil || site.Name != c.Site):
		// RFC 9110, section 15.5.20: the client, who was told that the certificate is good
		// for this name, is to ask by a connection of its own.
		return nil, http.StatusMisdirectedRequest, "the connection was made for another name"
	case site == nil:
		return nil, http.StatusNotFound, "no listener has this host"
	}
	return site, 0, ""
}

// hostname is a Host header's, in lower case; empty: there is none.
func hostname(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
}

// answer is the agent's own.
func (x *exchange) answer(status int, why string) {
	x.done.Reason = why
	http.Error(x, http.StatusText(status), status)
}

func (x *exchange) refused(status int) { x.answer(status, x.target.Refuse) }

// WriteHeader is http.ResponseWriter's.
func (x *exchange) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		x.done.Status = status
	}
	x.ResponseWriter.WriteHeader(status)
}

// Hijack is http.Hijacker's: the proxy takes the connection for an answer of 101.
func (x *exchange) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(x.ResponseWriter).Hijack()
	if err == nil {
		x.done.Status = http.StatusSwitchingProtocols
	}
	return c, rw, err
}

// Unwrap is for http.ResponseController.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// rewrite makes the request to the target. Host, path and query are the client's.
func (s *Server) rewrite(p *httputil.ProxyRequest) {
	x := p.In.Context().Value(exchangeKey{}).(*exchange)
	p.Out.URL.Scheme = "http"
	if x.target.TLS != nil {
		p.Out.URL.Scheme = "https"
	}
	p.Out.URL.Host, p.Out.Host = x.target.address(), p.In.Host
	p.Out.URL.RawQuery = p.In.URL.RawQuery
	p.SetXForwarded()
	if x.done.Conn.Secure {
		p.Out.Header.Set("X-Forwarded-Proto", "https")
	}
}

// failed answers where the target did not.
func (s *Server) failed(w http.ResponseWriter, r *http.Request, err error) {
	x := r.Context().Value(exchangeKey{}).(*exchange)
	x.done.Reason = err.Error()
	if r.Context().Err() != nil {
		return // nobody is there to be answered
	}
	status := http.StatusBadGateway
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		status = http.StatusGatewayTimeout
	}
	http.Error(w, http.StatusText(status), status)
}

// buffers are what bodies are copied by.
type buffers struct{}

var pool = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// Get is httputil.BufferPool's.
func (buffers) Get() []byte { return pool.Get().(*[32 << 10]byte)[:] }

// Put is httputil.BufferPool's.
func (buffers) Put(b []byte) { pool.Put((*[32 << 10]byte)(b)) }
