// SPDX-License-Identifier: Apache-2.0

package web

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spliceway/spliceway/userspace/route"
)

func TestRules(t *testing.T) {
	rule := func(host, path string, exact bool) Rule {
		return Rule{From: host + path + map[bool]string{true: " exactly"}[exact], Hostname: host, Path: path, Exact: exact}
	}
	s := NewSite("s", []Rule{
		rule("a.test", "/x", false), rule("a.test", "/x", true), rule("a.test", "/x/y/z", false),
		rule("*.test", "", false), rule("*.b.test", "/only", false), rule("*", "/any", false), rule("*", "/dir/", true),
	})
	for _, tt := range []struct{ host, path, want string }{
		{"a.test", "/x", "a.test/x exactly"},
		{"a.test", "/x/", "a.test/x"},
		{"a.test", "/x/q", "a.test/x"},
		{"a.test", "/xq", "*.test"}, // elements, not characters
		{"a.test", "/x/y/z/1/2/3", "a.test/x/y/z"},
		{"a.test", "/x/y/zz", "a.test/x"},
		{"a.test", "/x/../q", "*.test"}, // what a backend makes of it
		{"a.test", "/q/../x", "a.test/x exactly"},
		{"a.test", "//x", "a.test/x exactly"},
		{"a.test", "/q/./../x/y/", "a.test/x"},
		{"c.b.test", "/only/1", "*.b.test/only"},
		{"c.b.test", "/other", "*.test"}, // the next less specific host has a rule for it
		{"test", "/any/1", "*/any"},
		{"", "/any", "*/any"},
		{"x.y", "/dir/", "*/dir/ exactly"},
		{"x.y", "/dir", ""},
		{"x.y", "/q/../dir/", "*/dir/ exactly"},
		{"x.y", "*", ""},
		{"x.y", "", ""},
		{"a.test", "/x" + strings.Repeat("/a", 5000), "a.test/x"},
	} {
		got := ""
		if r := s.rule(tt.host, cleanPath(tt.path)); r != nil {
			got = r.From
		}
		if got != tt.want {
			t.Errorf("%q %.40q: %q, want %q", tt.host, tt.path, got, tt.want)
		}
	}
}

func TestHostname(t *testing.T) {
	for in, want := range map[string]string{
		"A.Test": "a.test", "a.test:80": "a.test", "a.test.": "a.test", "a.test.:80": "a.test", "[::1]": "::1", "[::1]:80": "::1", "": "", "127.0.0.1:1": "127.0.0.1", "a.test:": "a.test",
	} {
		if got, ok := hostname(in); got != want || !ok {
			t.Errorf("%q: %q, %t, want %q", in, got, ok, want)
		}
	}
	for _, in := range []string{"a.test:b.test", "[a.test]", "a.test]", "[::1", "[::1]x", "::1", "a.test:80:80", "a.test:123456"} {
		if got, ok := hostname(in); ok {
			t.Errorf("%q: %q", in, got)
		}
	}
}

// What a backend may take for another path is not passed on.
func TestAmbiguous(t *testing.T) {
	for path, want := range map[string]bool{
		"/a/b": false, "/a%2fb": false, "/a//b": false, "/a/../b": false, "/a/./b": false, "/a..b/..c": false, "/.well-known/x": false, "/a;x=1/b": false, "/a/...": false,
		"/admin/%2f..%2f..%2fpub": true, "/admin//../pub": true, "/pub/..;/admin": true, "/pub/%5c../admin": true, `/pub\..\admin`: true, "/a/.;x/b": true, "/a%2f%2e%2e/b": true,
	} {
		u, err := url.ParseRequestURI(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := ambiguous(u); got != want {
			t.Errorf("%s: %t, want %t", path, got, want)
		}
	}
}

// bed is a server with a client's way to it.
type bed struct {
	*Server
	requests chan Request
	closed   chan string // why connections were
}

func newBed(t *testing.T, table *Table) *bed {
	b := &bed{requests: make(chan Request, 10000), closed: make(chan string, 10000)}
	b.Server = New(Options{Logger: slog.New(slog.DiscardHandler), Done: func(r *Request) { b.requests <- *r }})
	b.Update(table)
	done := make(chan error)
	go func() { done <- b.Run() }()
	t.Cleanup(func() {
		b.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return b
}

// dial returns a client's end of a connection, the other end of which is served.
func (b *bed) dial(t *testing.T, c Conn) net.Conn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	served, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c.Conn = &told{Conn: served, closed: b.closed}
	if !c.Place.IsValid() {
		c.Place = netip.MustParseAddrPort("10.0.0.1:80")
	}
	if !c.Client.IsValid() {
		c.Client = netip.MustParseAddrPort("192.0.2.7:1234")
	}
	b.Serve(&c)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// told keeps why it was closed.
type told struct {
	net.Conn
	why    atomic.Pointer[string]
	closed chan string
	once   sync.Once
}

func (c *told) IdleTimeout() { why := "idle"; c.why.CompareAndSwap(nil, &why) }
func (c *told) Drained()     { why := "drained"; c.why.CompareAndSwap(nil, &why) }
func (c *told) Close() error {
	c.once.Do(func() {
		why := ""
		if w := c.why.Load(); w != nil {
			why = *w
		}
		c.closed <- why
	})
	return c.Conn.Close()
}

// get sends a request on a connection of its own.
func (b *bed) get(t *testing.T, c Conn, url string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b.do(t, c, r)
}

func (b *bed) do(t *testing.T, c Conn, r *http.Request) (*http.Response, string) {
	t.Helper()
	transport := &http.Transport{DisableCompression: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return b.dial(t, c), nil }}
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

func entries(t *testing.T, list ...route.Entry) *route.Table {
	t.Helper()
	table, err := route.Build(list)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func targetOf(t *testing.T, s *httptest.Server) Target {
	t.Helper()
	at := netip.MustParseAddrPort(s.Listener.Addr().String())
	return Target{Host: at.Addr().String(), Port: at.Port(), Weight: 1}
}

func backend(t *testing.T, h http.HandlerFunc) Target {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return targetOf(t, s)
}

func echo(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s for=%s proto=%s host=%s forwarded=%s ae=%s", name, r.Host, r.RequestURI, r.Header.Get("X-Forwarded-For"),
			r.Header.Get("X-Forwarded-Proto"), r.Header.Get("X-Forwarded-Host"), r.Header.Get("Forwarded"), r.Header.Get("Accept-Encoding"))
	}
}

// free is a port that nobody listens on.
func free(t *testing.T) Target {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	at := netip.MustParseAddrPort(l.Addr().String())
	return Target{Host: "127.0.0.1", Port: at.Port(), Weight: 1}
}

func TestRequests(t *testing.T) {
	a, dead := backend(t, echo("a")), free(t)
	slow := backend(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	all := backend(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header) })
	secure := netip.MustParseAddrPort("10.0.0.1:443")
	table := &Table{
		Plain: entries(t, route.Entry{Port: 80, Name: "*", Endpoint: 0}, route.Entry{Port: 80, Name: "only.test", Endpoint: 1}, route.Entry{Port: 81, Name: "x.test", Endpoint: 1}),
		Secure: entries(t, route.Entry{Port: 443, Name: "*.s.test", Endpoint: 2}, route.Entry{Port: 443, Name: "pass.s.test", Endpoint: 3},
			route.Entry{Port: 443, Name: "refused.s.test", Endpoint: route.Refuse}, route.Entry{Port: 443, Name: "other.s.test", Endpoint: 4}),
		Sites: []*Site{
			NewSite("any", []Rule{
				{From: "r", Hostname: "*", Targets: []Target{a}},
				{Hostname: "*", Path: "/none"},
				{Hostname: "*", Path: "/slow", Targets: []Target{slow}},
				{Hostname: "*", Path: "/echo", Targets: []Target{all}},
				{Hostname: "*", Path: "/zero", Targets: []Target{{Host: a.Host, Port: a.Port}}},
				{Hostname: "*", Path: "/bad", Targets: []Target{{Weight: 1, Refuse: "why"}}},
				{Hostname: "*", Path: "/unready", Targets: []Target{{Weight: 1, Refuse: "why", Unready: true}}},
				{Hostname: "*", Path: "/dead", Targets: []Target{dead}},
				{Hostname: "*", Path: "/half", Targets: []Target{dead, a}},
				{Hostname: "named.test", Targets: []Target{{Host: "svc.ns", Port: a.Port, Weight: 1}}},
			}),
			NewSite("only", []Rule{{Hostname: "only.test", Path: "/p", Targets: []Target{a}}}),
			NewSite("secure", []Rule{{Hostname: "*.s.test", Targets: []Target{a}}}),
			nil,
			NewSite("other", []Rule{{Hostname: "other.s.test", Targets: []Target{a}}}),
		},
		ConnectTimeout: 5 * time.Second,
		Hosts:          map[string][]netip.Addr{"svc.ns": {netip.MustParseAddr(dead.Host)}},
	}
	b := newBed(t, table)
	s := Conn{Secure: true, Site: "secure", Place: secure}
	for _, tt := range []struct {
		name   string
		conn   Conn
		url    string
		status int
		body   string // contained
		site   string
	}{
		{"as it came", Conn{}, "http://Host.Test/a%2Fb/c?q=1;2&x=%zz", 200, "a Host.Test /a%2Fb/c?q=1;2&x=%zz for=192.0.2.7 proto=http host=Host.Test forwarded= ae=", "any"},
		{"no host", Conn{}, "http://1.2.3.4/", 200, "a 1.2.3.4 /", "any"},
		{"a listener keeps its host", Conn{}, "http://only.test/x", 404, "Not Found", "only"},
		{"its own", Conn{}, "http://only.test:80/p/x", 200, "a only.test:80 /p/x", "only"},
		{"no listener", Conn{Place: netip.MustParseAddrPort("10.0.0.1:81")}, "http://y.test/", 404, "", ""},
		{"no backend", Conn{}, "http://a/none", 500, "", "any"},
		{"no weight", Conn{}, "http://a/zero", 500, "", "any"},
		{"a wrong backend", Conn{}, "http://a/bad", 500, "", "any"},
		{"not ready", Conn{}, "http://a/unready", 503, "", "any"},
		{"nobody there", Conn{}, "http://a/dead", 502, "", "any"},
		{"the next one is", Conn{}, "http://a/half", 200, "a a /half", "any"},
		{"a name of the table", Conn{}, "http://named.test/", 200, "a named.test", "any"},
		{"TLS", s, "http://a.s.test/", 200, "a a.s.test / for=192.0.2.7 proto=https", "secure"},
		{"for another listener", s, "http://other.s.test/", 421, "", ""},
		{"for what passes through", s, "http://pass.s.test/", 421, "", ""},
		{"for what is refused", s, "http://refused.s.test/", 421, "", ""},
		{"for nobody", s, "http://a.test/", 421, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			request, err := http.NewRequest(http.MethodGet, tt.url, nil)
			if err != nil {
				t.Fatal(err)
			}
			// What a client may not say.
			request.Header.Set("X-Forwarded-For", "6.6.6.6")
			request.Header.Set("X-Forwarded-Proto", "gopher")
			request.Header.Set("Forwarded", "for=6.6.6.6")
			response, body := b.do(t, tt.conn, request)
			if response.StatusCode != tt.status || !strings.Contains(body, tt.body) {
				t.Errorf("got %d %q, want %d %q", response.StatusCode, body, tt.status, tt.body)
			}
			r := <-b.requests
			if r.Site != tt.site || r.Status != tt.status || (r.Reason == "") != (tt.status == 200) {
				t.Errorf("recorded %+v", r)
			}
		})
	}
	for _, tt := range []struct {
		name, request, want string
		contains            bool
	}{
		{"an opaque target", "GET x:http://own/secret HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 400", true},
		{"the server itself", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 400", true},
		{"a port that is a name", "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", "HTTP/1.1 400", true},
		{"two ways to read it", "GET /a/..;/b HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 400", true},
		{"absolute, without a path", "GET http://a HTTP/1.1\r\nHost: b\r\n\r\n", "a a / ", true},
		{"forged by underscores", "GET /echo HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX-Forwarded-Port: 6\r\n\r\n", "6.6.6.6", false},
		{"HTTP/2 within", "GET /echo HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", "h2c", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := b.dial(t, Conn{})
			_, _ = io.WriteString(c, strings.Replace(tt.request, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1))
			answer, err := io.ReadAll(c)
			if err != nil || strings.Contains(string(answer), tt.want) != tt.contains {
				t.Errorf("%q, %v", answer, err)
			}
			if !tt.contains && !strings.HasPrefix(string(answer), "HTTP/1.1 200") {
				t.Errorf("%q", answer)
			}
			<-b.requests
		})
	}
	t.Run("half closed", func(t *testing.T) {
		c := b.dial(t, Conn{})
		_, _ = io.WriteString(c, "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
		_ = c.(*net.TCPConn).CloseWrite()
		if answer, _ := io.ReadAll(c); strings.Contains(string(answer), "200 OK") {
			t.Errorf("answered by %q, and not by the backend", answer)
		}
		<-b.requests
	})
	t.Run("another kind of certificate", func(t *testing.T) {
		old := s
		old.ClientAuth = "none"
		if r, _ := b.get(t, old, "http://a.s.test/"); r.StatusCode != http.StatusMisdirectedRequest {
			t.Errorf("status %d", r.StatusCode)
		}
		<-b.requests
	})
	t.Run("CONNECT", func(t *testing.T) {
		c := b.dial(t, Conn{})
		_, _ = io.WriteString(c, "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n")
		if r, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || r.StatusCode != 405 {
			t.Errorf("got %v, %v", r, err)
		}
	})
}

func TestWeights(t *testing.T) {
	a, b, none := backend(t, echo("a")), backend(t, echo("b")), Target{Refuse: "why", Weight: 1}
	a.Weight = 2
	s := newBed(t, &Table{Plain: entries(t, route.Entry{Port: 80, Name: "*"}), Secure: &route.Table{},
		Sites: []*Site{NewSite("s", []Rule{{Hostname: "*", Targets: []Target{a, none, b}}})}})
	// One connection: a share is one of requests.
	c := s.dial(t, Conn{})
	in := bufio.NewReader(c)
	got := map[string]int{}
	const n = 2000
	for range n {
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		r, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(r.Body)
		got[fmt.Sprintf("%d%.1s", r.StatusCode, body)]++
	}
	// Five standard deviations.
	for what, share := range map[string]float64{"200a": .5, "200b": .25, "500I": .25} {
		if f := float64(got[what]) / n; f < share-.06 || f > share+.06 {
			t.Errorf("%s: %v, want %v; all %v", what, f, share, got)
		}
	}
}

// Bodies arrive as they were sent, both ways, at once, by HTTP/1.1 and HTTP/2.
func TestBodies(t *testing.T) {
	target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		w.Header().Set("Trailer", "X-Sum")
		h := sha256.New()
		if _, err := io.Copy(io.MultiWriter(w, h), r.Body); err != nil {
			t.Error(err)
		}
		w.Header().Set("X-Sum", fmt.Sprintf("%x", h.Sum(nil)))
	})
	b := newBed(t, &Table{Plain: entries(t, route.Entry{Port: 80, Name: "*"}), Secure: &route.Table{}, Sites: []*Site{NewSite("s", []Rule{{Hostname: "*", Targets: []Target{target}}})}})
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2 %t", h2), func(t *testing.T) {
			var protocols http.Protocols
			protocols.SetHTTP1(!h2)
			protocols.SetUnencryptedHTTP2(h2)
			client := &http.Client{Transport: &http.Transport{Protocols: &protocols, DialContext: func(context.Context, string, string) (net.Conn, error) { return b.dial(t, Conn{}), nil }}}
			defer client.CloseIdleConnections()
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					sum := sha256.New()
					size := 1<<20 + rand.IntN(1<<20)
					body := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), int64(size)), sum)
					r, err := client.Post("http://a/", "x", body)
					if err != nil {
						t.Error(err)
						return
					}
					defer func() { _ = r.Body.Close() }()
					back := sha256.New()
					n, err := io.Copy(back, r.Body)
					if want := fmt.Sprintf("%x", sum.Sum(nil)); err != nil || int(n) != size || fmt.Sprintf("%x", back.Sum(nil)) != want || r.Trailer.Get("X-Sum") != want {
						t.Errorf("%d of %d bytes back, trailer %v, %v", n, size, r.Trailer, err)
					}
				})
			}
			all.Wait()
		})
	}
}

// A connection that is a request no more (WebSocket) goes on, and ends with the server.
func TestUpgrade(t *testing.T) {
	target := backend(t, func(w http.ResponseWriter, _ *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(c, rw)
		_ = c.Close()
	})
	b := newBed(t, &Table{Plain: entries(t, route.Entry{Port: 80, Name: "*"}), Secure: &route.Table{}, Sites: []*Site{NewSite("s", []Rule{{Hostname: "*", Targets: []Target{target}}})}})
	c := b.dial(t, Conn{})
	in := bufio.NewReader(c)
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if r, err := http.ReadResponse(in, nil); err != nil || r.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", r, err)
	}
	for _, text := range []string{"one\n", "two\n"} {
		_, _ = io.WriteString(c, text)
		if got, err := in.ReadString('\n'); got != text {
			t.Fatalf("%q, %v", got, err)
		}
	}
	b.Close()
	if _, err := in.ReadByte(); err == nil {
		t.Error("it goes on")
	}
	if r := <-b.requests; r.Status != http.StatusSwitchingProtocols {
		t.Errorf("recorded %+v", r)
	}
}

// An update is for the next request of an open connection.
func TestUpdate(t *testing.T) {
	table := func(target Target) *Table {
		return &Table{Plain: entries(t, route.Entry{Port: 80, Name: "*"}), Secure: &route.Table{}, Sites: []*Site{NewSite("s", []Rule{{Hostname: "*", Targets: []Target{target}}})}}
	}
	b := newBed(t, table(backend(t, echo("a"))))
	c := b.dial(t, Conn{})
	in := bufio.NewReader(c)
	ask := func() string {
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		r, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(r.Body)
		return fmt.Sprintf("%d %.1s", r.StatusCode, body)
	}
	for _, want := range []string{"200 a", "200 b", "404 N"} {
		if got := ask(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if want == "200 a" {
			b.Update(table(backend(t, echo("b"))))
		} else {
			b.Update(&Table{Plain: &route.Table{}, Secure: &route.Table{}})
		}
	}
}

func TestIdle(t *testing.T) {
	stuck := make(chan struct{})
	target := backend(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done(); close(stuck) })
	b := newBed(t, &Table{Idle: 50 * time.Millisecond, Plain: entries(t, route.Entry{Port: 80, Name: "*"}), Secure: &route.Table{},
		Sites: []*Site{NewSite("s", []Rule{{Hostname: "*", Targets: []Target{target}}})}})
	c := b.dial(t, Conn{})
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := io.ReadAll(c); err != nil && !errors.Is(err, io.EOF) {
		t.Log(err)
	}
	<-stuck // the backend is told
	if r := <-b.requests; r.Status != 0 || r.Reason == "" {
		t.Errorf("recorded %+v", r)
	}
	if why := <-b.closed; why != "idle" {
		t.Errorf("closed because it is %q", why)
	}
}

// After Drain a connection has the answer that it waits for, and ends.
func TestDrain(t *testing.T) {
	asked, release := make(chan struct{}), make(chan struct{})
	target := backend(t, func(w http.ResponseWriter, _ *http.Request) {
		asked <- struct{}{}
		<-release
		_, _ = io.WriteString(w, "whole")
	})
	b := newBed(t, &Table{Plain: entries(t, route.Entry{Port: 80, Name: "*"}), Secure: &route.Table{}, Sites: []*Site{NewSite("s", []Rule{{Hostname: "*", Targets: []Target{target}}})}})
	c := b.dial(t, Conn{})
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	<-asked
	b.Drain()
	close(release)
	all, err := io.ReadAll(c)
	if err != nil || !strings.HasSuffix(string(all), "whole") || !strings.Contains(string(all), "Connection: close") {
		t.Errorf("%q, %v", all, err)
	}
}

// One of HTTP/2 that has nothing to do ends at once.
func TestDrainHTTP2(t *testing.T) {
	b := newBed(t, &Table{Plain: entries(t, route.Entry{Port: 80, Name: "*"}), Secure: &route.Table{}, Sites: []*Site{NewSite("s", []Rule{{Hostname: "*", Targets: []Target{backend(t, echo("a"))}}})}})
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: &protocols, DialContext: func(context.Context, string, string) (net.Conn, error) { return b.dial(t, Conn{}), nil }}}
	defer client.CloseIdleConnections()
	r, err := client.Get("http://a/")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, r.Body)
	_ = r.Body.Close()
	b.Drain()
	if why := <-b.closed; why != "" {
		t.Errorf("it is closed because it is %q", why)
	}
}

// What comes after Drain is served, and closed then; what does not end is cut by Close, which
// says so.
func TestServeAfterDrain(t *testing.T) {
	stuck := make(chan struct{})
	b := newBed(t, &Table{Plain: entries(t, route.Entry{Port: 80, Name: "*"}), Secure: &route.Table{}, Sites: []*Site{NewSite("s", []Rule{
		{Hostname: "*", Targets: []Target{backend(t, echo("a"))}},
		{Hostname: "*", Path: "/stuck", Targets: []Target{backend(t, func(_ http.ResponseWriter, r *http.Request) { close(stuck); <-r.Context().Done() })}},
	})}})
	b.Drain()
	c := b.dial(t, Conn{})
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if all, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(all), "HTTP/1.1 200") {
		t.Errorf("%q, %v", all, err)
	}
	<-b.closed
	c = b.dial(t, Conn{})
	_, _ = io.WriteString(c, "GET /stuck HTTP/1.1\r\nHost: x\r\n\r\n")
	<-stuck
	b.Close()
	if why := <-b.closed; why != "drained" {
		t.Errorf("closed because it is %q", why)
	}
}

// settings are a target's TLS.
type settings struct{ roots *x509.CertPool }

func (s *settings) Config(host, alpn string) *tls.Config {
	return &tls.Config{ServerName: "example.com", RootCAs: s.roots, NextProtos: []string{alpn}}
}

func TestTLSToTargets(t *testing.T) {
	s := httptest.NewTLSServer(echo("tls"))
	defer s.Close()
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	good, bad := targetOf(t, s), targetOf(t, s)
	good.TLS, bad.TLS = &settings{roots}, &settings{x509.NewCertPool()}
	table := &Table{Plain: entries(t, route.Entry{Port: 80, Name: "*"}), Secure: &route.Table{},
		Sites: []*Site{NewSite("s", []Rule{{Hostname: "*", Targets: []Target{good}}, {Hostname: "*", Path: "/bad", Targets: []Target{bad}}})}}
	b := newBed(t, table)
	if r, body := b.get(t, Conn{}, "http://a/"); r.StatusCode != 200 || !strings.HasPrefix(body, "tls a / ") {
		t.Errorf("%d %q", r.StatusCode, body)
	}
	if r, body := b.get(t, Conn{}, "http://a/bad"); r.StatusCode != 502 {
		t.Errorf("a certificate that nobody vouches for: %d %q", r.StatusCode, body)
	}
	b.Update(&Table{Plain: &route.Table{}, Secure: &route.Table{}})
	if n := len(b.pools.tls); n != 0 {
		t.Errorf("%d transports are kept that nothing uses", n)
	}
}
