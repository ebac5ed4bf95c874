// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/spliceway/spliceway/testenv"
)

// webBackend serves HTTP on the host: it tells who it is, and of the request.
func webBackend(t *testing.T, h *testenv.Host, id string, secure *tls.Config) netip.AddrPort {
	t.Helper()
	l, at := listenOn(t, h)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s %s", id, r.Header.Get("X-Forwarded-For"), r.Header.Get("X-Forwarded-Proto"), r.URL)
	}))
	s.Listener = l
	s.Config.ErrorLog = nil
	if s.TLS = secure; secure != nil {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return at
}

// httpClient connects to the agent whatever the URL's host is, at the URL's port.
func (s *manifestSite) httpClient(h *testenv.Host, host string) *http.Client {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	return &http.Client{Timeout: patience, Transport: &http.Transport{
		TLSClientConfig: s.ca.ClientConfig(host), Protocols: &protocols,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			_, port, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			return h.Dial(ctx, netip.MustParseAddrPort(s.net.IPv4.String()+":"+port))
		},
	}}
}

func fetch(c *http.Client, url string) string {
	r, err := c.Get(url)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = r.Body.Close() }()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %s %s", r.StatusCode, r.Proto, body)
}

// TestHTTP by a Gateway's listeners for HTTP and HTTPS, beside one that passes TLS through.
func TestHTTP(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	ca := testenv.MustCA(t)
	server, err := ca.Certificate("*.web.test")
	if err != nil {
		t.Fatal(err)
	}
	inside, err := ca.Certificate("inside.test")
	if err != nil {
		t.Fatal(err)
	}
	one := webBackend(t, n.Backends[0], "one", nil)
	two := webBackend(t, n.Backends[0], "two", &tls.Config{Certificates: []tls.Certificate{inside}})
	through := tlsBackend(t, n.Backends[0], ca, "through", "pass.web.test")
	route := func(name, spec string) string {
		return fmt.Sprintf("---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: %s}\nspec: {parentRefs: [{name: edge}], %s}\n", name, spec)
	}
	rule := func(path, backend string, port uint16) string {
		return fmt.Sprintf("{matches: [{path: {value: %s}}], backendRefs: [{name: %s, port: %d}]}", path, backend, port)
	}
	s := newManifestSite(t, n, ca, fmt.Sprintf("hosts: {one.default: [%q], two.default: [%[1]q], through.default: [%[1]q]}\n", n.Backends[0].IPv4()), map[string]string{"all.yaml": "" +
		"---\napiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: spliceway}\nspec: {controllerName: spliceway.dev/gateway-controller}\n" +
		tlsSecret(t, "server", server, "") +
		fmt.Sprintf("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: ca}\ndata: {ca.crt: %q}\n", ca.PEM()) +
		"---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: two}\nspec: {targetRefs: [{group: \"\", kind: Service, name: two}], validation: {hostname: inside.test, caCertificateRefs: [{group: \"\", kind: ConfigMap, name: ca}]}}\n" +
		"---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge}\nspec:\n  gatewayClassName: spliceway\n  listeners:\n" +
		"  - {name: http, port: 8080, protocol: HTTP}\n  - {name: own, port: 8080, protocol: HTTP, hostname: own.test}\n" +
		fmt.Sprintf("  - {name: https, port: %d, protocol: HTTPS, hostname: \"*.web.test\", tls: {certificateRefs: [{name: server}]}}\n", gatewayPort) +
		fmt.Sprintf("  - {name: pass, port: %d, protocol: TLS, hostname: pass.web.test, tls: {mode: Passthrough}}\n", gatewayPort) +
		fmt.Sprintf("---\napiVersion: gateway.networking.k8s.io/v1\nkind: TLSRoute\nmetadata: {name: pass}\nspec: {parentRefs: [{name: edge}], hostnames: [pass.web.test], rules: [{backendRefs: [{name: through, port: %d}]}]}\n", through.Port()) +
		route("shop", "hostnames: [shop.web.test, plain.test], rules: ["+rule("/", "one", one.Port())+", "+rule("/secure", "two", two.Port())+"]") +
		route("odd", "hostnames: [odd.test], rules: [{matches: [{method: PUT}], backendRefs: [{name: one, port: 1}]}]"),
	})
	client := n.Clients[0].IPv4().String()
	secure := s.httpClient(n.Clients[0], "shop.web.test")
	defer secure.CloseIdleConnections()
	https := fmt.Sprintf("https://%%s.web.test:%d%%s", gatewayPort)
	for _, tt := range []struct{ url, want string }{
		{"http://plain.test:8080/a?b", "200 HTTP/1.1 one " + client + " http /a?b"},
		{"http://plain.test:8080/secure/x", "200 HTTP/1.1 two " + client + " http /secure/x"},
		{"http://other.test:8080/", "404 HTTP/1.1 Not Found\n"},
		{"http://own.test:8080/", "404 HTTP/1.1 Not Found\n"},
		{"http://odd.test:8080/", "404 HTTP/1.1 Not Found\n"}, // its status says why
		{fmt.Sprintf(https, "shop", "/a"), "200 HTTP/2.0 one " + client + " https /a"},
		{fmt.Sprintf(https, "shop", "/secure"), "200 HTTP/2.0 two " + client + " https /secure"},
	} {
		if got := fetch(secure, tt.url); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.url, got, tt.want)
		}
	}
	// A browser uses a connection for every name that the certificate has.
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf(https, "shop", "/"), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "pass.web.test"
	response, err := secure.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("a request for the name of another listener: %d", response.StatusCode)
	}
	if backend, _, err := s.asked(t, n.Clients[0], "pass.web.test"); backend != "through" {
		t.Errorf("TLS that passes through: %q, %v", backend, err)
	}
	if l := s.lineAbout("request", func(m map[string]any) bool { return m["path"] == "/secure" }); l["endpoint"] != "gateway/default/edge/https" || l["status"] != 200.0 || l["route"] != "HTTPRoute default/shop" {
		t.Errorf("the line of a request: %v", l)
	}
	s.expectMetric(`http_requests_total{endpoint="gateway/default/edge/http",status="4xx"}`, 2)
	s.expectMetric(`http_requests_total{endpoint="gateway/default/edge/https",status="2xx"}`, 2)
	secure.CloseIdleConnections()
	if l := s.line(func(m map[string]any) bool { return m["sni"] == "shop.web.test" }); l["engine"] != "http" || l["end"] != "eof" || l["closed_by"] != "client" {
		t.Errorf("the line of a connection: %v", l)
	}

	// A change is for connections that are open.
	s.put(t, "more.yaml", route("more", "hostnames: [other.test], rules: ["+rule("/", "one", one.Port())+"]"))
	plain := s.httpClient(n.Clients[0], "")
	defer plain.CloseIdleConnections()
	if _, err := s.WaitLine(short(t), says("configuration loaded")); err != nil {
		t.Fatal(err)
	}
	if got := fetch(plain, "http://other.test:8080/"); !strings.HasPrefix(got, "200") {
		t.Errorf("the new route: %s", got)
	}
}

// TestHTTPDrains what is asked, and cuts what does not end.
func TestHTTPDrains(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	l, at := listenOn(t, n.Backends[0])
	asked, release := make(chan struct{}, 1), make(chan struct{})
	backend := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		if r.URL.Path == "/stuck" {
			<-r.Context().Done()
			return
		}
		<-release
		_, _ = io.WriteString(w, "whole")
	})}
	go func() { _ = backend.Serve(l) }()
	defer func() { _ = backend.Close() }()
	for _, stuck := range []bool{false, true} {
		t.Run(fmt.Sprintf("stuck %t", stuck), func(t *testing.T) {
			s := newManifestSite(t, n, testenv.MustCA(t), fmt.Sprintf("hosts: {b.default: [%q]}\ntimeouts: {drain: %s}\n", n.Backends[0].IPv4(), map[bool]string{false: "1h", true: "1ms"}[stuck]), map[string]string{"all.yaml": "" +
				"---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge}\nspec: {gatewayClassName: spliceway, listeners: [{name: http, port: 8080, protocol: HTTP}]}\n" +
				fmt.Sprintf("---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: b, port: %d}]}]}\n", at.Port())})
			client := s.httpClient(n.Clients[0], "")
			defer client.CloseIdleConnections()
			got := make(chan string, 1)
			path := map[bool]string{false: "/", true: "/stuck"}[stuck]
			go func() { got <- fetch(client, "http://x.test:8080"+path) }()
			<-asked
			if err := s.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if _, err := s.WaitLine(short(t), says("draining")); err != nil {
				t.Fatal(err)
			}
			if !stuck {
				release <- struct{}{}
			}
			if err := s.Wait(short(t)); err != nil {
				t.Errorf("the agent ends with %v", err)
			}
			want, end := "200 HTTP/1.1 whole", "eof"
			if stuck {
				want, end = "", "drain"
			}
			if answer := <-got; want != "" && answer != want || want == "" && strings.HasPrefix(answer, "200") {
				t.Errorf("got %q, want %q", answer, want)
			}
			if l := s.line(func(m map[string]any) bool { return m["engine"] == "http" }); l["end"] != end {
				t.Errorf("end %v, want %s", l["end"], end)
			}
		})
	}
}
