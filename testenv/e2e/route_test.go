// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"testing"

	"github.com/spliceway/spliceway/testenv"
)

func TestRouting(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	const otherPort = gatewayPort + 1
	config := "endpoints:\n"
	for _, e := range []struct{ name, url, more string }{
		{"exact", sni("www.a.test"), "description: x"},
		{"wide", sni("*.a.test"), "description: x"},
		{"long", sni("*.b.a.test"), "description: x"},
		{"h2", sni("alpn.test"), "alpn: [h2, h3]"},
		{"acme", sni("alpn.test"), "alpn: [acme-tls/1]"},
		{"rest", sni("alpn.test"), "description: x"},
		{"only-h2", sni("strict.test"), "alpn: [h2]"},
		{"other-port", fmt.Sprintf("tls://www.a.test:%d", otherPort), "description: x"},
	} {
		config += endpoint(e.name, e.url, at(n.Backends[0], plainBackend(t, n.Backends[0], e.name)), e.more)
	}
	r := start(t, n, config+"listen: [\"10.0.0.1\", \"fd00::1\"]\n")

	for _, tt := range []struct {
		about, name string
		alpn        []string
		want, match string
	}{
		{"an exact name", "www.a.test", nil, "exact", "www.a.test"},
		{"an exact name in capitals", "WWW.a.TEST", nil, "exact", "www.a.test"},
		{"a label under a wildcard", "x.a.test", nil, "wide", "*.a.test"},
		{"three labels under a wildcard", "z.y.x.a.test", nil, "wide", "*.a.test"},
		{"a name under an exact one", "x.www.a.test", nil, "wide", "*.a.test"},
		{"a longer wildcard before a shorter one", "x.b.a.test", nil, "long", "*.b.a.test"},
		{"the apex of the longer wildcard", "b.a.test", nil, "wide", "*.a.test"},
		{"the endpoint of an ALPN protocol", "alpn.test", []string{"h2", "http/1.1"}, "h2", "alpn.test"},
		{"the client's order of ALPN protocols", "alpn.test", []string{"acme-tls/1", "h2"}, "acme", "alpn.test"},
		{"the endpoint without ALPN for other protocols", "alpn.test", []string{"http/1.1"}, "rest", "alpn.test"},
		{"the endpoint without ALPN for none", "alpn.test", nil, "rest", "alpn.test"},
		{"an endpoint for ALPN alone", "strict.test", []string{"http/1.1", "h2"}, "only-h2", "strict.test"},
	} {
		t.Run("takes "+tt.about, func(t *testing.T) {
			r := *r
			r.t = t
			got, client := r.identify(n.Clients[0], testenv.MustHello(t, tt.name, testenv.HelloOptions{ALPN: tt.alpn}))
			if got != tt.want {
				t.Errorf("answered by %q, want %q", got, tt.want)
			}
			l := r.expectLine(client, map[string]any{"endpoint": tt.want, "match": tt.match, "outcome": "routed"})
			if ja4, _ := l["ja4"].(string); len(ja4) != 36 {
				t.Errorf("JA4 %q", ja4)
			}
		})
	}
}
