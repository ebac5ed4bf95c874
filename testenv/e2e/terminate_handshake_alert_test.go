// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spliceway/spliceway/testenv"
)

// TestAlertsByNumber asks OpenSSL, which says alerts by their numbers (RFC 8446, section
// 6.2), and the line and the metric for the label.
func TestAlertsByNumber(t *testing.T) {
	testenv.CheckLeaks(t)
	s := newTermSite(t, testenv.NetworkOptions{})
	to := tcp(welcomes(t, s.Backends[0]))
	day := 24 * time.Hour
	revoked := testenv.Leaf{Names: []string{"till 8"}, Client: true}
	_, taken := s.pair("revoked", revoked)
	_, _ = s.pair("expired", testenv.Leaf{Names: []string{"till 9"}, Client: true, NotBefore: time.Now().Add(-2 * day), NotAfter: time.Now().Add(-day)})
	_, _ = s.pair("early", testenv.Leaf{Names: []string{"till 10"}, Client: true, NotBefore: time.Now().Add(time.Hour)})
	_, _ = s.pair("server", testenv.Leaf{Names: []string{"till 11"}})
	stranger, err := testenv.MustCA(t).Issue(testenv.Leaf{Names: []string{"stranger"}, Client: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := testenv.WritePair(s.dir, "stranger", stranger); err != nil {
		t.Fatal(err)
	}
	list, err := s.ca.CRL(time.Now().Add(day), taken)
	if err != nil {
		t.Fatal(err)
	}
	entries := make([]string, 2)
	for i := range entries {
		entries[i], _ = s.pair(fmt.Sprintf("two-%d", i), testenv.Leaf{Names: []string{"two.test"}})
	}
	r := start(t, s.Network, "endpoints:\n"+
		fmt.Sprintf("- {name: two, url: %q, tlsTermination: {certificates: [%s, %s]}, upstream: %s}\n", sni("two.test"), entries[0], entries[1], to)+
		s.terminating("new", to, `minVersion: "1.3"`)+s.terminating("old", to, `maxVersion: "1.2"`)+
		s.terminating("suite", to, `maxVersion: "1.2"`, "cipherSuites: [TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384]")+
		s.terminating("group", to, "curves: [CurveP384]")+s.terminating("h2", to, "alpn: [h2]")+
		s.terminating("mutual", to, fmt.Sprintf("mutualTLS: {caFiles: [%q], crlFiles: [%q]}", s.caFile, s.file("clients.crl", list))))
	own := func(name string) []string {
		return []string{"-cert", filepath.Join(s.dir, name+".crt"), "-key", filepath.Join(s.dir, name+".key")}
	}
	tests := []struct {
		endpoint string
		args     []string
		alert    int
		label    string
	}{
		{"new", []string{"-tls1_2"}, 70, "protocol_version"},
		{"old", []string{"-tls1_3"}, 70, "protocol_version"},
		{"suite", []string{"-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"}, 40, "no_shared_cipher"},
		{"old", []string{"-tls1_2", "-cipher", "AES128-SHA"}, 40, "no_shared_cipher"},                 // no forward secrecy
		{"new", []string{"-tls1_3", "-sigalgs", "RSA-PSS+SHA256"}, 40, "no_shared_cipher"},            // the certificate is ECDSA
		{"old", []string{"-tls1_2", "-sigalgs", "RSA+SHA256:RSA-PSS+SHA256"}, 40, "no_shared_cipher"}, // likewise
		{"two", []string{"-tls1_3", "-sigalgs", "RSA-PSS+SHA256"}, 40, "no_shared_cipher"},            // both are
		{"two", []string{"-tls1_2", "-sigalgs", "RSA+SHA256:RSA-PSS+SHA256"}, 40, "no_shared_cipher"},
		{"group", []string{"-tls1_3", "-groups", "X25519"}, 40, "no_shared_group"},
		{"group", []string{"-tls1_2", "-groups", "X25519"}, 40, "no_shared_cipher"}, // so says crypto/tls
		{"h2", []string{"-tls1_3", "-alpn", "mqtt"}, 120, "no_application_protocol"},
		{"h2", []string{"-tls1_2", "-alpn", "mqtt"}, 120, "no_application_protocol"},
		{"mutual", []string{"-tls1_3"}, 116, "certificate_required"},
		{"mutual", []string{"-tls1_2"}, 40, "certificate_required"}, // RFC 5246, section 7.4.6: 116 is of TLS 1.3
		{"mutual", append(own("stranger"), "-tls1_3"), 48, "unknown_ca"},
		{"mutual", append(own("stranger"), "-tls1_2"), 48, "unknown_ca"},
		{"mutual", append(own("expired"), "-tls1_3"), 45, "certificate_expired"},
		{"mutual", append(own("expired"), "-tls1_2"), 45, "certificate_expired"},
		{"mutual", append(own("early"), "-tls1_3"), 45, "certificate_expired"}, // not valid yet
		{"mutual", append(own("revoked"), "-tls1_3"), 42, "certificate_revoked"},
		{"mutual", append(own("revoked"), "-tls1_2"), 42, "certificate_revoked"},
		{"mutual", append(own("server"), "-tls1_3"), 42, "bad_certificate"}, // not for clients
	}
	for _, tt := range tests {
		t.Run(tt.endpoint+strings.ReplaceAll(fmt.Sprint(tt.args), s.dir, ""), func(t *testing.T) {
			r := *r
			r.t = t
			before, seen := r.failures(tt.endpoint, tt.label), len(r.lines("handshake_failed"))
			out := s.tool(t, "GET / HTTP/1.0\r\n\r\n", "openssl", append([]string{
				"s_client", "-connect", r.gateway().String(), "-servername", tt.endpoint + ".test", "-CAfile", s.caFile, "-ign_eof"}, tt.args...)...)
			if want := fmt.Sprintf("SSL alert number %d\n", tt.alert); !strings.Contains(out, want) {
				t.Errorf("%q is not in\n%s", want, out)
			}
			line := r.nextLine("handshake_failed", seen)
			if line["endpoint"] != tt.endpoint || line["handshake_failure"] != tt.label || line["reason"] == "" || line["reason"] == nil {
				t.Errorf("the line says %v, want %s with a reason", line, tt.label)
			}
			if err := testenv.Poll(short(t), func() (bool, error) { return r.failures(tt.endpoint, tt.label) == before+1, nil }); err != nil {
				t.Errorf("the metric went from %v to %v", before, r.failures(tt.endpoint, tt.label))
			}
		})
	}
}

// lines are those of connections, so far, with the outcome.
func (r *run) lines(outcome string) []map[string]any {
	var all []map[string]any
	for _, l := range r.Log().Lines() {
		var m map[string]any
		if json.Unmarshal([]byte(l), &m) == nil && m["msg"] == "connection" && m["outcome"] == outcome {
			all = append(all, m)
		}
	}
	return all
}

// nextLine waits for one more than there were.
func (r *run) nextLine(outcome string, were int) map[string]any {
	r.t.Helper()
	var all []map[string]any
	if err := testenv.Poll(short(r.t), func() (bool, error) {
		all = r.lines(outcome)
		return len(all) > were, nil
	}); err != nil {
		r.t.Fatalf("no line %q: %v", outcome, err)
	}
	return all[were]
}

// failures is the metric of the endpoint's clients.
func (r *run) failures(endpoint, label string) float64 {
	r.t.Helper()
	return r.metric(fmt.Sprintf("tls_handshakes_total{endpoint=%q,result=%q,side=\"client\"}", endpoint, label))
}
