// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"

	"github.com/spliceway/spliceway/testenv"
)

// serveTLS answers every connection with its own name and what was negotiated.
func serveTLS(t *testing.T, l *net.TCPListener, id string, cfg *tls.Config) {
	t.Helper()
	done := make(chan struct{})
	t.Cleanup(func() { _ = l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			_ = raw.SetDeadline(time.Now().Add(patience))
			c := tls.Server(raw, cfg)
			if c.Handshake() == nil {
				state := c.ConnectionState()
				subject := ""
				if len(state.PeerCertificates) > 0 {
					subject = state.PeerCertificates[0].Subject.CommonName
				}
				_, _ = fmt.Fprintf(c, "%s sni=%s alpn=%s client=%s resumed=%t", id, state.ServerName, state.NegotiatedProtocol, subject, state.DidResume)
				_ = c.CloseWrite()
				_, _ = io.Copy(io.Discard, c)
			}
			_ = raw.Close()
		}
	}()
}

func TestUpstreamCertificatesAreVerified(t *testing.T) {
	testenv.CheckLeaks(t)
	s := newTermSite(t, testenv.NetworkOptions{Backends: 2})
	otherCA, err := testenv.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	otherFile := s.file("other.pem", otherCA.PEM())
	day := 24 * time.Hour
	own := s.issue(testenv.Leaf{Names: []string{"gateway"}, Client: true})
	ownCert, ownKey, err := testenv.WritePair(s.dir, "own", own)
	if err != nil {
		t.Fatal(err)
	}
	good := testenv.Leaf{Names: []string{"up.test"}, IPs: []net.IP{s.Backends[0].IPv4().AsSlice()}}
	tests := []struct {
		name   string
		leaf   testenv.Leaf
		server tls.Config
		keys   string
		answer string   // what the client gets
		reason []string // or parts of the log's reason
	}{
		{name: "by-name", leaf: good, keys: "caFile: CA, serverName: up.test", answer: "sni=up.test"},
		{name: "by-address", leaf: good, keys: "caFile: CA", answer: "sni= "},
		{name: "unknown-ca", leaf: good, keys: fmt.Sprintf("caFile: %q", otherFile), reason: []string{"tls_handshake", "unknown_ca", "CN=up.test", "unknown authority"}},
		{name: "system-cas", leaf: good, keys: "serverName: up.test", reason: []string{"unknown_ca"}},
		{name: "wrong-name", leaf: good, keys: "caFile: CA, serverName: else.test", reason: []string{"wrong_name", "else.test", "up.test"}},
		{name: "wrong-address", leaf: testenv.Leaf{Names: []string{"up.test"}}, keys: "caFile: CA", reason: []string{"wrong_name"}},
		{name: "expired", leaf: testenv.Leaf{Names: []string{"up.test"}, NotBefore: time.Now().Add(-2 * day), NotAfter: time.Now().Add(-day)}, keys: "caFile: CA, serverName: up.test", reason: []string{"certificate_expired", "valid from"}},
		{name: "skipped", leaf: testenv.Leaf{Names: []string{"x.test"}}, keys: "insecureSkipVerify: true", answer: "sni="},
		{name: "old-version", leaf: good, server: tls.Config{MaxVersion: tls.VersionTLS12}, keys: "caFile: CA, serverName: up.test, minVersion: \"1.3\"", reason: []string{"peer_alert", "protocol version"}},
		{name: "wants-a-certificate", leaf: good, server: tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: s.ca.Pool(), MaxVersion: tls.VersionTLS12},
			keys: "caFile: CA, serverName: up.test", reason: []string{"peer_alert", "handshake failure"}},
		{name: "gets-a-certificate", leaf: good, server: tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: s.ca.Pool()},
			keys: fmt.Sprintf("caFile: CA, serverName: up.test, certFile: %q, keyFile: %q", ownCert, ownKey), answer: "client=gateway"},
	}
	config := "endpoints:\n"
	for i := range tests {
		tt := &tests[i]
		l, at := listenOn(t, s.Backends[0])
		tt.server.Certificates = []tls.Certificate{s.issue(tt.leaf)}
		serveTLS(t, l, "one", &tt.server)
		keys := strings.ReplaceAll(tt.keys, "CA,", fmt.Sprintf("%q,", s.caFile))
		if strings.HasSuffix(keys, "CA") {
			keys = strings.TrimSuffix(keys, "CA") + fmt.Sprintf("%q", s.caFile)
		}
		config += s.terminating(tt.name, fmt.Sprintf("{url: \"tls://%s\", tls: {%s}}", at, keys))
	}
	r := start(t, s.Network, config)
	for i := range tests {
		tt := &tests[i]
		t.Run(tt.name, func(t *testing.T) {
			r := *r
			r.t = t
			c := r.mustConnect(s, s.config(tt.name))
			got, err := io.ReadAll(c)
			if tt.answer != "" && (err != nil || !strings.Contains(string(got), tt.answer)) {
				t.Errorf("got %q, %v, want %q", got, err, tt.answer)
			}
			_ = c.Close()
			line := r.lineOf(c.LocalAddr())
			if tt.answer != "" {
				if line["outcome"] != "routed" || line["upstream_tls_version"] != "1.3" {
					t.Errorf("line: %v", line)
				}
				return
			}
			reason, _ := line["reason"].(string)
			for _, part := range tt.reason {
				if !strings.Contains(reason, part) {
					t.Errorf("reason %q lacks %q", reason, part)
				}
			}
			if line["outcome"] != "dial_failed" || err == nil && len(got) > 0 {
				t.Errorf("outcome %v, the client got %q", line["outcome"], got)
			}
		})
	}
	if got := r.metric(`tls_handshakes_total{endpoint="unknown-ca",result="unknown_ca",side="upstream"}`); got != 1 {
		t.Errorf("the metric says %v failures, want 1", got)
	}
}

// TestUpstreamWithABadCertificateIsPassedOver for the next target, and a silent one, too.
func TestUpstreamWithABadCertificateIsPassedOver(t *testing.T) {
	testenv.CheckLeaks(t)
	s := newTermSite(t, testenv.NetworkOptions{Backends: 2})
	bad, badAt := listenOn(t, s.Backends[0])
	serveTLS(t, bad, "bad", &tls.Config{Certificates: []tls.Certificate{s.issue(testenv.Leaf{Names: []string{"else.test"}})}})
	_, silentAt := listenOn(t, s.Backends[0]) // the kernel accepts, nobody answers
	ok, okAt := listenOn(t, s.Backends[1])
	serveTLS(t, ok, "ok", &tls.Config{Certificates: []tls.Certificate{s.issue(testenv.Leaf{Names: []string{"up.test"}})}})
	upstream := func(first any) string {
		return fmt.Sprintf("{targets: [{url: \"tls://%s\", weight: 1000}, {url: \"tls://%s\"}], tls: {caFile: %q, serverName: up.test}}", first, okAt, s.caFile)
	}
	r := start(t, s.Network, "endpoints:\n"+s.terminating("bad", upstream(badAt))+s.terminating("silent", upstream(silentAt))+"timeouts: {handshake: 300ms}\n")
	for _, name := range []string{"bad", "silent"} {
		for range 4 { // three failures eject
			c := r.mustConnect(s, s.config(name))
			if got, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(got), "ok ") {
				t.Fatalf("%s: got %q, %v", name, got, err)
			}
			_ = c.Close()
		}
		r.expectMetric(fmt.Sprintf(`upstream_ejections_total{endpoint="%s",target="%s"}`, name, map[string]any{"bad": badAt, "silent": silentAt}[name]), 1)
	}
}

// TestWhatIsNegotiatedGoesOn: the protocol and the session towards the upstream.
func TestWhatIsNegotiatedGoesOn(t *testing.T) {
	testenv.CheckLeaks(t)
	s := newTermSite(t, testenv.NetworkOptions{})
	l, at := listenOn(t, s.Backends[0])
	serveTLS(t, l, "up", &tls.Config{Certificates: []tls.Certificate{s.issue(testenv.Leaf{Names: []string{"up.test"}})}, NextProtos: []string{"http/1.1", "h2"}})
	r := start(t, s.Network, "endpoints:\n"+s.terminating("shop", fmt.Sprintf("{url: \"tls://%s\", tls: {caFile: %q, serverName: up.test}}", at, s.caFile), "alpn: [h2, http/1.1]"))
	for i, want := range []string{"alpn=h2 client= resumed=false", "alpn=h2 client= resumed=true"} {
		client := s.config("shop")
		client.NextProtos = []string{"http/1.1", "h2"}
		c := r.mustConnect(s, client)
		got, err := io.ReadAll(c)
		if err != nil || !strings.Contains(string(got), want) || c.ConnectionState().NegotiatedProtocol != "h2" {
			t.Errorf("%d: got %q, %v, want %q", i, got, err, want)
		}
		_ = c.Close()
		r.expectLine(c.LocalAddr(), map[string]any{"tls_alpn": "h2"})
	}
}

// TestProxyHeaderTellsOfTLS, and of who the client is, before the upstream's own TLS.
func TestProxyHeaderTellsOfTLS(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls %t", secure), func(t *testing.T) {
			testenv.CheckLeaks(t)
			s := newTermSite(t, testenv.NetworkOptions{})
			l, at := listenOn(t, s.Backends[0])
			scheme, more := "tcp", ""
			server := &tls.Config{Certificates: []tls.Certificate{s.issue(testenv.Leaf{Names: []string{"up.test"}})}}
			if secure {
				scheme, more = "tls", fmt.Sprintf(", tls: {caFile: %q, serverName: up.test}", s.caFile)
			}
			r := start(t, s.Network, "endpoints:\n"+s.terminating("shop", fmt.Sprintf("{url: \"%s://%s\", proxyProtocol: v2%s}", scheme, at, more),
				"alpn: [h2]", fmt.Sprintf("mutualTLS: {caFiles: [%q]}", s.caFile)))
			type seen struct {
				header *proxyproto.Header
				data   string
				err    error
			}
			told := make(chan seen, 1)
			go func() {
				var got seen
				defer func() { told <- got }()
				_ = l.SetDeadline(time.Now().Add(patience))
				raw, err := l.AcceptTCP()
				if err != nil {
					got.err = err
					return
				}
				defer raw.Close()
				_ = raw.SetDeadline(time.Now().Add(patience))
				br := bufio.NewReader(raw)
				if got.header, got.err = proxyproto.Read(br); got.err != nil {
					return
				}
				var in io.Reader = br
				if secure {
					in = tls.Server(buffered{raw, br}, server)
				}
				b, err := io.ReadAll(in)
				got.data, got.err = string(b), err
			}()
			id := s.issue(testenv.Leaf{Names: []string{"till 7"}, Client: true})
			client := s.config("shop", id)
			client.NextProtos = []string{"h2"}
			c := r.mustConnect(s, client)
			if _, err := c.Write([]byte("order")); err != nil {
				t.Fatal(err)
			}
			_ = testenv.CloseWrite(c)
			got := <-told
			if got.err != nil || got.data != "order" {
				t.Fatalf("the backend: %q, %v", got.data, got.err)
			}
			if from := got.header.SourceAddr.String(); from != c.LocalAddr().String() {
				t.Errorf("the client is %s, want %s", from, c.LocalAddr())
			}
			tlvs, err := got.header.TLVs()
			if err != nil {
				t.Fatal(err)
			}
			ssl, ok := tlvparse.FindSSL(tlvs)
			version, _ := ssl.SSLVersion()
			cn, _ := ssl.ClientCN()
			cipher, _ := ssl.SSLCipher()
			if !ok || !ssl.ClientSSL() || !ssl.ClientCertConn() || !ssl.Verified() || version != "TLSv1.3" || cn != "till 7" || cipher != "TLS_AES_128_GCM_SHA256" {
				t.Errorf("SSL: %+v, version %q, name %q, cipher %q", ssl, version, cn, cipher)
			}
			var alpn string
			for _, v := range tlvs {
				if v.Type == proxyproto.PP2_TYPE_ALPN {
					alpn = string(v.Value)
				}
			}
			if alpn != "h2" {
				t.Errorf("ALPN %q", alpn)
			}
		})
	}
}

// buffered reads what a reader has first.
type buffered struct {
	net.Conn
	r io.Reader
}

func (b buffered) Read(p []byte) (int, error) { return b.r.Read(p) }
