// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"testing"

	"github.com/spliceway/spliceway/testenv"
)

// TestPacketWithSmallSegments: what a client's link takes the backend is told, before
// it sends the first byte: its segments go to the client whole.
func TestPacketWithSmallSegments(t *testing.T) {
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	ca := testenv.MustCA(t)
	b := tlsBackend(t, n.Backends[0], ca, "a", "a.test")
	r := start(t, n, "log: {access: true}\nengine: packet\nendpoints:\n"+endpoint("a", sni("a.test"), at(n.Backends[0], b)))
	for i, mtu := range []int{1500, 1400, 1280, 576} {
		t.Run(fmt.Sprint("MTU ", mtu), func(t *testing.T) {
			if err := n.Clients[0].Device.SetMTU(mtu); err != nil {
				t.Fatal(err)
			}
			c, err := n.Clients[0].DialTLS(short(t), opsGateway(n), ca.ClientConfig("a.test"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := testenv.TransferBoth(short(t), c, b, uint64(i), 1<<20, 1<<20); err != nil {
				t.Error(err)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			r.expectLine(c.LocalAddr(), map[string]any{"engine": "packet", "engine_reason": nil, "end": "eof"})
		})
	}
}
