// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"

	"github.com/spliceway/spliceway/testenv"
)

// wellKnown is a client with every kind of name.
var wellKnown = testenv.Leaf{
	Names: []string{"till 7", "till7.test"}, Client: true, Emails: []string{"till7@shop.test"},
	URIs: []*url.URL{{Scheme: "spiffe", Host: "shop.test", Path: "/till/7"}}, IPs: []net.IP{net.IPv4(192, 0, 2, 7).To4()},
}

// identityOf is what the line of a client with the certificate says of it.
func identityOf(c tls.Certificate, verified bool) map[string]any {
	sum := sha256.Sum256(c.Certificate[0])
	return map[string]any{"client_cert_subject": "CN=till 7", "client_cert_fingerprint": hex.EncodeToString(sum[:]), "client_cert_verified": verified}
}

// expectIdentity compares the line, and its list of names.
func (r *run) expectIdentity(line map[string]any, c tls.Certificate, verified bool) {
	r.t.Helper()
	for k, v := range identityOf(c, verified) {
		if line[k] != v {
			r.t.Errorf("%s is %v, want %v", k, line[k], v)
		}
	}
	var sans []string
	all, _ := line["client_cert_sans"].([]any)
	for _, s := range all {
		sans = append(sans, fmt.Sprint(s))
	}
	want := []string{"DNS:till 7", "DNS:till7.test", "IP:192.0.2.7", "URI:spiffe://shop.test/till/7", "email:till7@shop.test"}
	if slices.Sort(sans); !slices.Equal(sans, want) {
		r.t.Errorf("names %q, want %q", sans, want)
	}
}

// TestOtherClientsShowCertificates of both kinds.
func TestOtherClientsShowCertificates(t *testing.T) {
	testenv.CheckLeaks(t)
	s := newTermSite(t, testenv.NetworkOptions{})
	r := start(t, s.Network, "endpoints:\n"+s.terminating("shop", tcp(welcomes(t, s.Backends[0])), fmt.Sprintf("mutualTLS: {caFiles: [%q]}", s.caFile)))
	gw := r.gateway()
	host, port := gw.Addr().String(), fmt.Sprint(gw.Port())
	for _, rsa := range []bool{false, true} {
		l := wellKnown
		l.RSA = rsa
		name := fmt.Sprintf("client-%t", rsa)
		_, own := s.pair(name, l)
		cert, key := filepath.Join(s.dir, name+".crt"), filepath.Join(s.dir, name+".key")
		tests := []struct {
			name, tool string
			args       []string
		}{
			{"OpenSSL", "openssl", []string{"s_client", "-connect", gw.String(), "-servername", "shop.test", "-CAfile", s.caFile, "-verify_return_error", "-ign_eof", "-cert", cert, "-key", key}},
			{"OpenSSL 1.2", "openssl", []string{"s_client", "-connect", gw.String(), "-servername", "shop.test", "-CAfile", s.caFile, "-verify_return_error", "-ign_eof", "-cert", cert, "-key", key, "-tls1_2"}},
			{"curl", "curl", []string{"-s", "--cacert", s.caFile, "--cert", cert, "--key", key, "--resolve", "shop.test:" + port + ":" + host, "https://shop.test:" + port + "/"}},
			{"GnuTLS", "gnutls-cli", []string{"--x509cafile", s.caFile, "--sni-hostname", "shop.test", "--verify-hostname", "shop.test", "--x509certfile", cert, "--x509keyfile", key, "-p", port, host}},
		}
		for _, tt := range tests {
			t.Run(fmt.Sprintf("%s, RSA %t", tt.name, rsa), func(t *testing.T) {
				r := *r
				r.t = t
				seen := len(r.lines("routed"))
				out := s.tool(t, "GET / HTTP/1.0\r\n\r\n", tt.tool, tt.args...)
				if !strings.Contains(out, "welcome") {
					t.Fatalf("no welcome in\n%s", out)
				}
				r.expectIdentity(r.nextLine("routed", seen), own, true)
			})
		}
	}
}

// TestProxyHeaderOfClients tells of each what is known of it, and nothing is verified that
// nobody has verified.
func TestProxyHeaderOfClients(t *testing.T) {
	testenv.CheckLeaks(t)
	s := newTermSite(t, testenv.NetworkOptions{})
	l, at := listenOn(t, s.Backends[0])
	upstream := fmt.Sprintf("{url: \"tcp://%s\", proxyProtocol: v2}", at)
	r := start(t, s.Network, "endpoints:\n"+s.terminating("verify", upstream, fmt.Sprintf("mutualTLS: {caFiles: [%q]}", s.caFile))+
		s.terminating("any", upstream, "mutualTLS: {mode: require-any}")+s.terminating("request", upstream, "mutualTLS: {mode: request}")+s.terminating("none", upstream))
	own := s.issue(wellKnown)
	stranger, err := testenv.MustCA(t).Issue(wellKnown)
	if err != nil {
		t.Fatal(err)
	}
	const inTLS, certNow, certOnce = tlvparse.PP2_BITFIELD_CLIENT_SSL, tlvparse.PP2_BITFIELD_CLIENT_CERT_CONN, tlvparse.PP2_BITFIELD_CLIENT_CERT_SESS
	tests := []struct {
		name, endpoint string
		own            []tls.Certificate
		client, again  uint8 // and of the session that is resumed
		verified       bool
	}{
		{"verified", "verify", []tls.Certificate{own}, inTLS | certNow | certOnce, inTLS | certOnce, true},
		{"any", "any", []tls.Certificate{stranger}, inTLS | certNow | certOnce, inTLS | certOnce, false},
		{"a good one that nobody verifies", "request", []tls.Certificate{own}, inTLS | certNow | certOnce, inTLS | certOnce, false},
		{"requested in vain", "request", nil, inTLS, inTLS, false},
		{"not asked", "none", []tls.Certificate{own}, inTLS, inTLS, false},
	}
	for _, tt := range tests {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(tt.name+", "+tls.VersionName(version), func(t *testing.T) {
				r := *r
				r.t = t
				client := s.holds(tt.endpoint, version, tt.own...)
				for i, bits := range []uint8{tt.client, tt.again} {
					c, b := r.termFlow(s, l, client, nil)
					header, err := proxyproto.Read(bufio.NewReader(b))
					if err != nil {
						t.Fatal(err)
					}
					// A ticket of TLS 1.3 comes before data does.
					go func() { _, _ = b.Write([]byte("x")); _ = b.Close() }()
					_, _ = c.Read(make([]byte, 1))
					_ = c.Close()
					tlvs, err := header.TLVs()
					if err != nil {
						t.Fatal(err)
					}
					ssl, _ := tlvparse.FindSSL(tlvs)
					cn, hasCN := ssl.ClientCN()
					spoken, _ := ssl.SSLVersion()
					if ssl.Client != bits || (ssl.Verify == 0) != tt.verified || hasCN != (bits != inTLS) || hasCN && cn != "till 7" || spoken != "TLSv"+strings.TrimPrefix(tls.VersionName(version), "TLS ") {
						t.Errorf("client %b, verify %d, name %q, version %s; want client %b, verified %t", ssl.Client, ssl.Verify, cn, spoken, bits, tt.verified)
					}
					line := r.expectLine(c.LocalAddr(), map[string]any{"endpoint": tt.endpoint})
					if (line["tls_resumed"] == true) != (i == 1) {
						t.Errorf("connection %d: resumed: %v", i, line["tls_resumed"])
					}
					if hasCN {
						r.expectIdentity(line, tt.own[0], tt.verified)
					} else if line["client_cert_verified"] != nil || line["client_cert_subject"] != nil {
						t.Errorf("a client without a certificate has one in %v", line)
					}
				}
			})
		}
	}
}

// TestProxyHeaderDoesNotWaitForTheClient where the server is the one that speaks first.
func TestProxyHeaderDoesNotWaitForTheClient(t *testing.T) {
	testenv.CheckLeaks(t)
	s := newTermSite(t, testenv.NetworkOptions{})
	l, at := listenOn(t, s.Backends[0])
	r := start(t, s.Network, "endpoints:\n"+s.terminating("mail", fmt.Sprintf("{url: \"tcp://%s\", proxyProtocol: v2}", at)))
	fastest := patience
	for range 5 {
		c, b := r.termFlow(s, l, s.config("mail"), nil)
		begin := time.Now()
		if _, err := proxyproto.Read(bufio.NewReader(b)); err != nil {
			t.Fatal(err)
		}
		fastest = min(fastest, time.Since(begin))
		_, _ = b.Close(), c.Close()
	}
	// What the kernel holds back for more to come (MSG_MORE) it holds for 200 ms.
	if fastest > 150*time.Millisecond {
		t.Errorf("the header took %s at least", fastest)
	}
}
