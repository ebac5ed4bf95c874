// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spliceway/spliceway/testenv"
)

// echoes sends every connection's bytes back, and FIN for FIN.
func echoes(t *testing.T, h *testenv.Host) netip.AddrPort {
	t.Helper()
	l, at := listenOn(t, h)
	done := make(chan struct{})
	t.Cleanup(func() { _ = l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			go func() {
				_ = c.SetDeadline(time.Now().Add(patience))
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	return at
}

// welcomes is an HTTP server of one answer.
func welcomes(t *testing.T, h *testenv.Host) netip.AddrPort {
	t.Helper()
	l, at := listenOn(t, h)
	done := make(chan struct{})
	t.Cleanup(func() { _ = l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_ = c.SetDeadline(time.Now().Add(patience))
				_, _ = c.Read(make([]byte, 4096))
				_, _ = io.WriteString(c, "HTTP/1.0 200 OK\r\nContent-Length: 7\r\n\r\nwelcome")
				_ = c.Close()
			}()
		}
	}()
	return at
}

// echoed sends a word through the flow and has it back.
func (r *run) echoed(c *tls.Conn) error {
	if _, err := c.Write([]byte("word")); err != nil {
		return err
	}
	b := make([]byte, 4)
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	if string(b) != "word" {
		return fmt.Errorf("got %q back", b)
	}
	return nil
}

// alert is what the other side's alert says; "" for another error.
func alert(err error) string {
	if o, ok := errors.AsType[*net.OpError](err); ok && o.Op == "remote error" {
		return strings.TrimPrefix(o.Err.Error(), "tls: ")
	}
	return ""
}

func TestClientCertificates(t *testing.T) {
	testenv.CheckLeaks(t)
	s := newTermSite(t, testenv.NetworkOptions{})
	at := echoes(t, s.Backends[0])
	day := 24 * time.Hour
	good := s.issue(testenv.Leaf{Names: []string{"till 7"}, Client: true})
	revoked := s.issue(testenv.Leaf{Names: []string{"till 8"}, Client: true})
	expired := s.issue(testenv.Leaf{Names: []string{"till 9"}, Client: true, NotBefore: time.Now().Add(-2 * day), NotAfter: time.Now().Add(-day)})
	otherCA, err := testenv.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := otherCA.Issue(testenv.Leaf{Names: []string{"stranger"}, Client: true})
	if err != nil {
		t.Fatal(err)
	}
	list := func(revoked ...tls.Certificate) string {
		der, err := s.ca.CRL(time.Now().Add(day), revoked...)
		if err != nil {
			t.Fatal(err)
		}
		return s.file("clients.crl", der)
	}
	verify := fmt.Sprintf("mutualTLS: {caFiles: [%q], crlFiles: [%q]}", s.caFile, list(revoked))
	config := "endpoints:\n" + s.terminating("verify", tcp(at), verify) + s.terminating("any", tcp(at), "mutualTLS: {mode: require-any}") +
		s.terminating("request", tcp(at), "mutualTLS: {mode: request}")
	r := start(t, s.Network, config)
	tests := []struct {
		name, endpoint string
		own            []tls.Certificate
		failure, alert string
		verified       any
	}{
		{"good", "verify", []tls.Certificate{good}, "", "", true},
		{"none", "verify", nil, "certificate_required", "certificate required", nil},
		{"revoked", "verify", []tls.Certificate{revoked}, "certificate_revoked", "bad certificate", nil},
		{"expired", "verify", []tls.Certificate{expired}, "certificate_expired", "expired certificate", nil},
		{"of another CA", "verify", []tls.Certificate{stranger}, "unknown_ca", "unknown certificate authority", nil},
		{"any", "any", []tls.Certificate{stranger}, "", "", false},
		{"none where any would do", "any", nil, "certificate_required", "certificate required", nil},
		{"requested", "request", []tls.Certificate{stranger}, "", "", false},
		{"requested in vain", "request", nil, "", "", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := *r
			r.t = t
			c, err := r.connect(s, s.config(tt.endpoint, tt.own...))
			if err == nil { // in TLS 1.3 the client hears later
				err = r.echoed(c)
			}
			if alert(err) != tt.alert || (err == nil) != (tt.failure == "") {
				t.Errorf("the client got %v, want alert %q", err, tt.alert)
			}
			_ = c.Close()
			want := map[string]any{"outcome": "routed", "client_cert_verified": tt.verified}
			if tt.failure != "" {
				want = map[string]any{"outcome": "handshake_failed", "handshake_failure": tt.failure}
			}
			line := r.expectLine(c.NetConn().LocalAddr(), want)
			if tt.verified != nil && (line["client_cert_subject"] != "CN="+tt.own[0].Leaf.Subject.CommonName || len(line["client_cert_fingerprint"].(string)) != 64 || fmt.Sprint(line["client_cert_sans"]) != "[DNS:"+tt.own[0].Leaf.Subject.CommonName+"]") {
				t.Errorf("who the client is: %v", line)
			}
		})
	}

	// What had a session before it was revoked does not get in with it.
	client := s.config("verify", good)
	client.ClientSessionCache = tls.NewLRUClientSessionCache(2)
	for i := range 2 {
		c := r.mustConnect(s, client)
		if err := r.echoed(c); err != nil || c.ConnectionState().DidResume != (i == 1) {
			t.Fatalf("connection %d: %v, resumed %t", i, err, c.ConnectionState().DidResume)
		}
		_ = c.Close()
	}
	list(revoked, good)
	if err := testenv.Poll(short(t), func() (bool, error) {
		c, err := r.connect(s, client)
		if err == nil {
			err = r.echoed(c)
		}
		_ = c.Close()
		return alert(err) == "bad certificate", nil
	}); err != nil {
		t.Errorf("a revoked client still gets in: %v", err)
	}
}

func TestVersionsProtocolsAndKindsOfCertificates(t *testing.T) {
	testenv.CheckLeaks(t)
	s := newTermSite(t, testenv.NetworkOptions{})
	at := echoes(t, s.Backends[0])
	ecdsa, _ := s.pair("ecdsa", testenv.Leaf{Names: []string{"both.test", "*.wild.test"}})
	rsa, _ := s.pair("rsa", testenv.Leaf{Names: []string{"both.test"}, RSA: true})
	through := tlsBackend(t, s.Backends[0], s.ca, "through", "through.test")
	both := fmt.Sprintf("- {name: both, url: %q, tlsTermination: {certificates: [%s, %s]}, upstream: %s}\n", sni("both.test"), rsa, ecdsa, tcp(at))
	wild := fmt.Sprintf("- {name: wild, url: %q, tlsTermination: {certificates: [%s, %s]}, upstream: %s}\n", sni("*.wild.test"), rsa, ecdsa, tcp(at))
	r := start(t, s.Network, "endpoints:\n"+both+wild+s.terminating("new", tcp(at), `minVersion: "1.3"`)+s.terminating("h2", tcp(at), "alpn: [h2]")+
		s.terminating("suite", tcp(at), `maxVersion: "1.2"`, "cipherSuites: [TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256]")+
		s.terminating("curve", tcp(at), "curves: [CurveP384]")+endpoint("through", sni("through.test"), netip.AddrPortFrom(s.Backends[0].IPv4(), through.Port())))
	tests := []struct {
		name, host string
		client     func(*tls.Config)
		failure    string
		alert      string
		line       map[string]any
	}{
		{name: "post-quantum by default", host: "both", line: map[string]any{"tls_group": "X25519MLKEM768", "tls_version": "1.3", "tls_cipher": "TLS_AES_128_GCM_SHA256"}},
		{name: "1.2 with ECDSA", host: "both", client: func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, line: map[string]any{"tls_cipher": "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"}},
		{name: "1.2 with RSA alone", host: "both", client: func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384}
		}, line: map[string]any{"tls_cipher": "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"}},
		{name: "a wildcard", host: "a.wild", line: map[string]any{"endpoint": "wild"}},
		{name: "too old", host: "new", client: func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, failure: "protocol_version", alert: "protocol version not supported"},
		{name: "ancient", host: "both", client: func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, failure: "protocol_version", alert: "protocol version not supported"},
		{name: "protocol", host: "h2", client: func(c *tls.Config) { c.NextProtos = []string{"x", "h2"} }, line: map[string]any{"tls_alpn": "h2"}},
		{name: "no protocol in common", host: "h2", client: func(c *tls.Config) { c.NextProtos = []string{"mqtt"} }, failure: "no_application_protocol", alert: "no application protocol"},
		{name: "the suite", host: "suite", line: map[string]any{"tls_cipher": "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", "tls_version": "1.2"}},
		{name: "another suite", host: "suite", client: func(c *tls.Config) { c.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256} }, failure: "no_shared_cipher", alert: "handshake failure"},
		{name: "the curve", host: "curve", line: map[string]any{"tls_group": "CurveP384"}},
		{name: "another curve", host: "curve", client: func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519} }, failure: "no_shared_group", alert: "handshake failure"},
		{name: "a client that refuses", host: "both", client: func(c *tls.Config) { c.RootCAs = nil }, failure: "peer_alert"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := *r
			r.t = t
			client := s.config(tt.host)
			if tt.client != nil {
				tt.client(client)
			}
			c, err := r.connect(s, client)
			if err == nil {
				err = r.echoed(c)
			}
			if (err == nil) != (tt.failure == "") || tt.alert != "" && alert(err) != tt.alert {
				t.Errorf("got %v, want alert %q", err, tt.alert)
			}
			_ = c.Close()
			want := tt.line
			if tt.failure != "" {
				want = map[string]any{"outcome": "handshake_failed", "handshake_failure": tt.failure}
			}
			r.expectLine(c.NetConn().LocalAddr(), want)
		})
	}
	t.Run("next to one that passes through", func(t *testing.T) {
		c, err := r.connect(s, s.config("through"))
		if err != nil {
			t.Fatal(err)
		}
		reply, err := testenv.Ask(c, testenv.Request{})
		if err != nil || reply.Backend != "through" {
			t.Errorf("answered by %q, %v", reply.Backend, err)
		}
	})
}

func TestSessionsAreResumed(t *testing.T) {
	testenv.CheckLeaks(t)
	s := newTermSite(t, testenv.NetworkOptions{})
	at := echoes(t, s.Backends[0])
	entry, _ := s.pair("two", testenv.Leaf{Names: []string{"a.test", "b.test"}})
	two := func(name string) string {
		return fmt.Sprintf("- {name: %s, url: %q, tlsTermination: {certificates: [%s]}, upstream: %s}\n", name, sni(name+".test"), entry, tcp(at))
	}
	config := "endpoints:\n" + two("a") + two("b") + s.terminating("never", tcp(at), "sessionTickets: false")
	r := start(t, s.Network, config)
	resumes := func(version uint16, first, second string, between func()) bool {
		t.Helper()
		client := s.config(first)
		client.MaxVersion, client.ClientSessionCache = version, tls.NewLRUClientSessionCache(2)
		c := r.mustConnect(s, client)
		if err := r.echoed(c); err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		between()
		if second != first { // the session, under the other name
			session, _ := client.ClientSessionCache.Get(first + ".test")
			client.ServerName = second + ".test"
			client.ClientSessionCache.Put(second+".test", session)
		}
		c = r.mustConnect(s, client)
		if err := r.echoed(c); err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		line := r.lineOf(c.LocalAddr())
		if resumed := c.ConnectionState().DidResume; resumed != (line["tls_resumed"] == true) {
			t.Errorf("the client says resumed %t, the line %v", resumed, line)
		}
		return c.ConnectionState().DidResume
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		if !resumes(version, "a", "a", func() {}) {
			t.Errorf("%s: no session is resumed", tls.VersionName(version))
		}
		if !resumes(version, "a", "a", func() {
			loads := r.metric(`config_loads_total{result="ok"}`)
			r.write(config + fmt.Sprintf("limits: {maxConnections: %d}\n", 1000+version))
			r.expectMetric(`config_loads_total{result="ok"}`, loads+1)
		}) {
			t.Errorf("%s: no session outlives a reload", tls.VersionName(version))
		}
		if resumes(version, "a", "b", func() {}) {
			t.Errorf("%s: a session of one endpoint is resumed at another", tls.VersionName(version))
		}
		if resumes(version, "never", "never", func() {}) {
			t.Errorf("%s: resumed without tickets", tls.VersionName(version))
		}
	}
}

// tool runs a program in the client's namespace.
func (s *termSite) tool(t *testing.T, stdin string, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is not here: install the packages of .ci/run", name)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := s.Clients[0].Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		out.WriteString("\n" + err.Error())
	}
	return out.String()
}

func TestOtherClients(t *testing.T) {
	ofSplice(t, "terminated flows have the engine relay")
	testenv.CheckLeaks(t)
	s := newTermSite(t, testenv.NetworkOptions{})
	at := welcomes(t, s.Backends[0])
	entries := make([]string, 2)
	entries[0], _ = s.pair("ec", testenv.Leaf{Names: []string{"shop.test"}})
	entries[1], _ = s.pair("rsa", testenv.Leaf{Names: []string{"shop.test"}, RSA: true})
	r := start(t, s.Network, fmt.Sprintf("endpoints:\n- {name: shop, url: %q, tlsTermination: {certificates: [%s, %s]}, upstream: %s}\n", sni("shop.test"), entries[0], entries[1], tcp(at)))
	gw := r.gateway()
	host, port := gw.Addr().String(), fmt.Sprint(gw.Port())
	const get = "GET / HTTP/1.0\r\n\r\n"
	openssl := func(more ...string) []string {
		return append([]string{"s_client", "-connect", gw.String(), "-servername", "shop.test", "-CAfile", s.caFile, "-verify_return_error", "-ign_eof"}, more...)
	}
	curl := func(more ...string) []string {
		return append([]string{"-sv", "--cacert", s.caFile, "--resolve", "shop.test:" + port + ":" + host, "https://shop.test:" + port + "/"}, more...)
	}
	gnutls := func(priority string) []string {
		return []string{"--x509cafile", s.caFile, "--sni-hostname", "shop.test", "--verify-hostname", "shop.test", "--priority", priority, "-p", port, host}
	}
	tests := []struct {
		name, tool string
		args, want []string
	}{
		{"OpenSSL 1.3", "openssl", openssl("-tls1_3"), []string{"welcome", "TLSv1.3", "Verification: OK"}},
		{"OpenSSL 1.2", "openssl", openssl("-tls1_2"), []string{"welcome", "TLSv1.2", "ECDHE-ECDSA-AES128-GCM-SHA256"}},
		{"OpenSSL with RSA", "openssl", openssl("-tls1_2", "-cipher", "ECDHE-RSA-AES256-GCM-SHA384"), []string{"welcome", "ECDHE-RSA-AES256-GCM-SHA384"}},
		{"OpenSSL with signatures of RSA in 1.3", "openssl", openssl("-tls1_3", "-sigalgs", "RSA-PSS+SHA256"), []string{"welcome", "Peer signature type: RSA-PSS"}},
		{"OpenSSL 1.1", "openssl", openssl("-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"), []string{"alert protocol version"}},
		{"curl 1.3", "curl", curl("--tlsv1.3"), []string{"welcome", "TLSv1.3"}},
		{"curl 1.2", "curl", curl("--tls-max", "1.2"), []string{"welcome", "TLSv1.2"}},
		{"GnuTLS 1.3", "gnutls-cli", gnutls("NORMAL:-VERS-ALL:+VERS-TLS1.3"), []string{"welcome", "TLS1.3"}},
		{"GnuTLS 1.2", "gnutls-cli", gnutls("NORMAL:-VERS-ALL:+VERS-TLS1.2"), []string{"welcome", "TLS1.2"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out := s.tool(t, get, tt.tool, tt.args...)
			for _, want := range tt.want {
				if !strings.Contains(out, want) {
					t.Errorf("%q is not in\n%s", want, out)
				}
			}
		})
	}
	t.Run("OpenSSL resumes", func(t *testing.T) {
		for _, version := range []string{"-tls1_2", "-tls1_3"} {
			session := s.dir + "/session" + version
			_ = s.tool(t, get, "openssl", openssl(version, "-sess_out", session)...)
			if out := s.tool(t, get, "openssl", openssl(version, "-sess_in", session)...); !strings.Contains(out, "Reused, TLS") {
				t.Errorf("%s: no session was resumed:\n%s", version, out)
			}
		}
	})
	t.Run("renegotiation", func(t *testing.T) {
		args := openssl("-tls1_2")
		args = slices.DeleteFunc(args, func(a string) bool { return a == "-ign_eof" })
		out := s.tool(t, "R\n", "openssl", args...)
		if !strings.Contains(out, "RENEGOTIATING") || !strings.Contains(out, "unexpected message") && !strings.Contains(out, "no renegotiation") {
			t.Errorf("want a refusal in\n%s", out)
		}
		r.line(func(m map[string]any) bool { return m["end"] == "tls_error" })
	})
}
