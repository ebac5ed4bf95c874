// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/spliceway/spliceway/testenv"
)

// TestPacketWithImpatientClients: clients that send on right behind their hello meet
// the hand-over at every point of it: before the flow is armed, before the hello is
// on its way, before and after the backend's answer.
func TestPacketWithImpatientClients(t *testing.T) {
	n := opsNetwork(t, testenv.NetworkOptions{})
	opsBackend(t, n, 0, "a")
	hello := opsHello(t, "a.test")
	r := start(t, n, "log: {access: false}\nengine: packet\nendpoints:\n"+opsEndpoint("a", opsURL(opsTarget(n, 0))))
	const visits, clients = 12000, 8
	var begun, failed atomic.Int64
	var g sync.WaitGroup
	for range clients {
		g.Go(func() {
			for begun.Add(1) <= visits {
				if err := handoverVisit(short(t), n.Clients[0], opsGateway(n), hello); err != nil && failed.Add(1) <= 3 {
					t.Error(err)
				}
			}
		})
	}
	g.Wait()
	if n := failed.Load(); n > 0 {
		t.Errorf("%d of %d failed", n, visits)
	}
	spliced := `endpoint_connections_total{closed_by="client",end="eof",endpoint="a",engine="packet",outcome="routed"}`
	if n := r.metric(spliced); n == 0 || n == visits {
		t.Errorf("%v of %d flows were spliced: nothing was put to the test", n, visits)
	}
}
