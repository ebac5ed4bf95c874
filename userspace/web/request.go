// SPDX-License-Identifier: Apache-2.0

package web

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strconv"
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
	host, why := target(r)
	if why != "" {
		w.Header().Set("Connection", "close")
		x.answer(http.StatusBadRequest, why)
		return
	}
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
	if x.rule = site.rule(host, cleanPath(cmp.Or(r.URL.Path, "/"))); x.rule == nil {
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
	case x.target.Refuse != "":
		status := http.StatusInternalServerError
		if x.target.Unready {
			status = http.StatusServiceUnavailable
		}
		x.answer(status, x.target.Refuse)
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
	case c.Secure && (site == nil || site.Name != c.Site || site.ClientAuth != c.ClientAuth):
		// RFC 9110, section 15.5.20: the client, who was told that the certificate is good
		// for this name, is to ask by a connection of its own; and so is one that was asked for
		// another certificate, or none.
		return nil, http.StatusMisdirectedRequest, "the connection was made for another name"
	case site == nil:
		return nil, http.StatusNotFound, "no listener has this host"
	}
	return site, 0, ""
}

// target is the host that a request is for, in lower case; empty: it names none. why is not
// empty if backends could take the request for another one than it is routed as.
func target(r *http.Request) (host, why string) {
	switch {
	case r.URL.Opaque != "" || r.URL.Path != "" && r.URL.Path[0] != '/':
		return "", "the request's target is no path"
	case ambiguous(r.URL):
		return "", "the path can be read in more than one way"
	}
	host, ok := hostname(r.Host)
	if !ok {
		return "", "the host is no name or address with a port"
	}
	return host, ""
}

// hostname is a Host header's, in lower case; false: it is none (RFC 9110, section 7.2).
func hostname(header string) (host string, ok bool) {
	host = header
	if strings.HasPrefix(host, "[") {
		end := strings.IndexByte(host, ']')
		if end < 0 {
			return "", false
		}
		if a, err := netip.ParseAddr(host[1:end]); err != nil || !a.Is6() || !isPort(host[end+1:]) {
			return "", false
		}
		return strings.ToLower(host[1:end]), true
	}
	if i := strings.IndexByte(host, ':'); i >= 0 {
		if !isPort(host[i:]) {
			return "", false
		}
		host = host[:i]
	}
	if strings.ContainsAny(host, "[]") {
		return "", false
	}
	return strings.TrimSuffix(strings.ToLower(host), "."), true
}

// isPort tells whether s is empty or a colon and a port, which may be empty.
func isPort(s string) bool {
	return s == "" || s[0] == ':' && len(s) <= 6 && strings.Trim(s[1:], "0123456789") == ""
}

// ambiguous tells whether backends differ in what a path means: dot segments beside what is a
// slash for some and none for others, and dot segments with parameters (Tomcat).
func ambiguous(u *url.URL) bool {
	if !strings.Contains(u.Path, "..") && !strings.Contains(u.Path, "/.") {
		return false
	}
	raw := strings.ToLower(u.EscapedPath())
	slashes := strings.Contains(raw, "%2f") || strings.Contains(raw, "%5c") || strings.Contains(u.Path, `\`) || strings.Contains(u.Path, "//")
	for segment := range strings.FieldsFuncSeq(u.Path, func(r rune) bool { return r == '/' || r == '\\' }) {
		if name, _, parameters := strings.Cut(segment, ";"); name == "." || name == ".." {
			if slashes || parameters {
				return true
			}
		}
	}
	return false
}

// answer is the agent's own.
func (x *exchange) answer(status int, why string) {
	x.done.Reason = why
	http.Error(x, http.StatusText(status), status)
}

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

// rewrite makes the request to the target, whose address is transport's to put in. Host, path
// and query are the client's.
func (s *Server) rewrite(p *httputil.ProxyRequest) {
	x := p.In.Context().Value(exchangeKey{}).(*exchange)
	p.Out.Host = p.In.Host
	p.Out.URL.RawQuery = p.In.URL.RawQuery
	if !strings.EqualFold(p.Out.Header.Get("Upgrade"), "websocket") {
		// HTTP/2 in it, say, would be requests that nobody looks at.
		p.Out.Header.Del("Upgrade")
		p.Out.Header.Del("Connection")
	}
	p.Out.Header.Del("Http2-Settings")
	for name := range p.Out.Header {
		// CGI and its heirs do not tell X_Forwarded_For from X-Forwarded-For.
		if plain := http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-")); plain == "Forwarded" || plain == "X-Real-Ip" || strings.HasPrefix(plain, "X-Forwarded-") {
			delete(p.Out.Header, name)
		}
	}
	p.SetXForwarded()
	p.Out.Header.Set("X-Forwarded-Port", strconv.Itoa(int(x.done.Conn.Place.Port())))
	if x.done.Conn.Secure {
		p.Out.Header.Set("X-Forwarded-Proto", "https")
	}
}

// failed answers where the target did not.
func (s *Server) failed(_ http.ResponseWriter, r *http.Request, err error) {
	x := r.Context().Value(exchangeKey{}).(*exchange)
	if r.Context().Err() != nil {
		x.done.Reason = err.Error()
		panic(http.ErrAbortHandler) // to return would be to answer with 200
	}
	status := http.StatusBadGateway
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		status = http.StatusGatewayTimeout
	}
	x.answer(status, err.Error())
}

// buffers are what bodies are copied by.
type buffers struct{}

var pool = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// Get is httputil.BufferPool's.
func (buffers) Get() []byte { return pool.Get().(*[32 << 10]byte)[:] }

// Put is httputil.BufferPool's.
func (buffers) Put(b []byte) { pool.Put((*[32 << 10]byte)(b)) }
