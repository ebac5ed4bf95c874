// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/spliceway/spliceway/testenv"
)

func TestBytesArriveOverTLS(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	ca := testenv.MustCA(t)
	conf, err := ca.ServerConfig("a.test")
	if err != nil {
		t.Fatal(err)
	}
	b := testenv.MustBackend(t, n.Backends[0].Namespace, testenv.BackendOptions{Name: "a", TLS: conf})
	r := start(t, n, fmt.Sprintf("endpoints:\n- {name: a, url: \"tls://a.test:%d\", upstream: {url: \"tls://%s:%d\"}}\n", gatewayPort, n.Backends[0].IPv4(), b.Port()))
	for _, ip := range []netip.Addr{n.IPv4, n.IPv6} {
		c, err := n.Clients[0].DialTLS(short(t), netip.AddrPortFrom(ip, gatewayPort), ca.ClientConfig("a.test"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := testenv.TransferBoth(short(t), c, b, 1, 8<<20, 16<<20); err != nil {
			t.Errorf("%s: %v", ip, err)
		}
		client := c.LocalAddr()
		_ = c.Close()
		l := r.lineOf(client)
		if l["outcome"] != "routed" || l["end"] != "eof" || l["sni"] != "a.test" {
			t.Errorf("access line: %v", l)
		}
	}
	if v := r.metric(`connections_total{outcome="routed"}`); v != 2 {
		t.Errorf("routed: %v", v)
	}
}
