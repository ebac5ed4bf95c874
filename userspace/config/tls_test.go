// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/tls"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// terminating is a file with one endpoint, which has the given keys besides its own.
func terminating(keys, upstream, more string) []byte {
	return []byte("endpoints:\n- name: a\n  url: tls://a.test\n" + keys + "  upstream: " + upstream + "\n" + more)
}

const pairOfFiles = "  tlsTermination: {certificates: [{certFile: a.crt, keyFile: /k/a.key}]"

func TestTerminationIsFilledIn(t *testing.T) {
	cfg, err := Parse("/etc/sw/f.yaml", terminating(pairOfFiles+`, minVersion: "1.3", curves: [X25519], mutualTLS: {caFiles: [ca/x.pem], crlFiles: [/y.crl]}}
`, `{url: "tls://b.test:1", tls: {caFile: up.pem, serverName: Up.Test}}`, "sessionTickets: {keyFile: tickets}\nacme: {cache: cache}\n"))
	if err != nil {
		t.Fatal(err)
	}
	e := cfg.Endpoints[0]
	c, m, u := e.TLSTermination.Certificates[0], e.TLSTermination.MutualTLS, e.Upstream.TLS
	got := []string{c.CertFile, c.KeyFile, m.CAFiles[0], m.CRLFiles[0], m.Mode, u.CAFile, u.ServerName, cfg.SessionTickets.KeyFile, cfg.ACME.Cache}
	want := []string{"/etc/sw/a.crt", "/k/a.key", "/etc/sw/ca/x.pem", "/y.crl", "require-and-verify", "/etc/sw/up.pem", "up.test", "/etc/sw/tickets", "/etc/sw/cache"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if x := e.TLSTermination; x.MinTLS != tls.VersionTLS13 || x.MaxTLS != tls.VersionTLS13 || len(x.Groups) != 1 || x.Groups[0] != tls.X25519 || !x.SessionTickets || c.Pos.Line != 4 {
		t.Errorf("%+v", x)
	}
	if !e.Upstream.All[0].TLS || u.MinTLS != tls.VersionTLS12 {
		t.Errorf("upstream: %+v, %+v", e.Upstream.All, u)
	}
}

func TestTerminationRefuses(t *testing.T) {
	const plain = `{url: "tcp://b.test:1"}`
	tests := []struct{ keys, upstream, more, want string }{
		{"  tlsTermination: {}\n", plain, "", "f:4:19: endpoints[0].tlsTermination: certificates is needed"},
		{"  tlsTermination: {certificates: [{}]}\n", plain, "", "certFile or directory is needed"},
		{"  tlsTermination: {certificates: [{certFile: a, directory: b}]}\n", plain, "", "expected one of them"},
		{"  tlsTermination: {certificates: [{certFile: a, ocsp: ask}]}\n", plain, "", `ocsp: expected "" or "fetch", found "ask"`},
		{"  tlsTermination: {acme: true, certificates: [{certFile: a}]}\n", plain, "acme: {acceptTerms: true}\n", "expected one of them"},
		{"  tlsTermination: {acme: true}\n", plain, "", "acme.acceptTerms: an endpoint has acme: true"},
		{pairOfFiles + ", minVersion: \"1.1\"}\n", plain, "", `minVersion: expected "1.2" or "1.3", found "1.1"`},
		{pairOfFiles + ", minVersion: \"1.3\", maxVersion: \"1.2\"}\n", plain, "", "minVersion: 1.3 is above maxVersion, 1.2"},
		{pairOfFiles + ", cipherSuites: [TLS_AES_128_GCM_SHA256]}\n", plain, "", "is of TLS 1.3"},
		{pairOfFiles + ", cipherSuites: [TLS_RSA_WITH_RC4_128_SHA]}\n", plain, "", "is broken"},
		{pairOfFiles + ", cipherSuites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA25]}\n", plain, "", `did you mean "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"`},
		{pairOfFiles + ", curves: [x25519]}\n", plain, "", `curves[0]: expected "X25519MLKEM768"`},
		{pairOfFiles + ", alpn: [\"\"]}\n", plain, "", "alpn[0]: expected a protocol of 1 to 255 bytes"},
		{pairOfFiles + ", mutualTLS: {}}\n", plain, "", "mutualTLS.caFiles: at least one file is needed"},
		{pairOfFiles + ", mutualTLS: {mode: request, caFiles: [a]}}\n", plain, "", "mode request verifies nothing"},
		{pairOfFiles + ", mutualTLS: {mode: require, caFiles: [a]}}\n", plain, "", `expected "require-and-verify", "require-any" or "request", found "require"`},
		{"", `{url: "tls://b.test:1", tls: {}}`, "", "this endpoint passes TLS through"},
		{pairOfFiles + "}\n", `{url: "tcp://b.test:1", tls: {}}`, "", "no target's url is tls://"},
		{pairOfFiles + "}\n", `{url: "tls://b.test:1", tls: {keyFile: k}}`, "", "without certFile"},
		{pairOfFiles + "}\n", `{url: "tls://b.test:1", tls: {insecureSkipVerify: true, caFile: k}}`, "", "expected one of them"},
		{pairOfFiles + "}\n", `{url: "tls://b.test:1", tls: {insecure: true}}`, "", `unknown key "insecure", expected "insecureSkipVerify"`},
		{pairOfFiles + "}\n  engine: splice\n", plain, "", "endpoints[0].engine: engines are for TLS that passes through"},
		{pairOfFiles + "}\n  sockmap: on\n", plain, "", "endpoints[0].sockmap: sockmap is for"},
		{pairOfFiles + "}\n", plain, "fallback: {notTLS: a}\n", "fallback.notTLS: \"a\" terminates TLS"},
		{pairOfFiles + "}\n", plain, "acme: {directoryURL: \"http://x\"}\n", "acme.directoryURL: expected https://HOST/PATH"},
		{pairOfFiles + "}\n", plain, "acme: {externalAccount: {keyID: x}}\n", "keyID and hmacKeyFile are needed both, or neither"},
		{pairOfFiles + "}\n", plain, "sessionTickets: {rotation: 1s}\n", "expected 1m0s or more"},
	}
	for _, tt := range tests {
		_, err := Parse("f", terminating(tt.keys, tt.upstream, tt.more))
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "f:") {
			t.Errorf("%s %s %s\ngot  %v\nwant %s", tt.keys, tt.upstream, tt.more, err, tt.want)
		}
	}
	_, err := Parse("f", []byte("endpoints: [{name: a, url: 'tls://*.a.test', tlsTermination: {acme: true}, upstream: {url: 'tcp://b.test:1'}}]\nacme: {acceptTerms: true}\n"))
	if err == nil || !strings.Contains(err.Error(), "wildcard") {
		t.Errorf("a wildcard from an authority: %v", err)
	}
}
