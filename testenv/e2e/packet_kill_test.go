// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/spliceway/spliceway/testenv"
)

// TestPacketFlowsOutliveTheAgent kills the agent in the middle of transfers. They all
// end well, with no agent for a while and another one after it, which accounts for
// them as if it had been there from the start.
func TestPacketFlowsOutliveTheAgent(t *testing.T) {
	for _, how := range []struct {
		name   string
		signal syscall.Signal
	}{{"killed", syscall.SIGKILL}, {"stopped", syscall.SIGTERM}} {
		t.Run(how.name, func(t *testing.T) {
			n := testenv.MustNetwork(t, testenv.NetworkOptions{})
			ca := testenv.MustCA(t)
			b := tlsBackend(t, n.Backends[0], ca, "a", "a.test")
			config := fmt.Sprintf("log: {access: true}\nengine: packet\nbpffs: %s/state\nendpoints:\n%s", testenv.MustBPFFS(t), endpoint("a", sni("a.test"), at(n.Backends[0], b)))
			first := start(t, n, config)

			const flows, size = 200, 8 << 20
			var g errgroup.Group
			hello, goOn := make(chan error, flows), make(chan struct{})
			for i := range flows {
				g.Go(func() error {
					c, err := n.Clients[0].DialTLS(short(t), opsGateway(n), ca.ClientConfig("a.test"))
					if err != nil {
						hello <- err
						return err
					}
					defer func() { _ = c.Close() }()
					hello <- nil
					if i%2 == 0 { // the others are in the middle of it when the agent ends
						<-goOn
					}
					if _, err = testenv.TransferBoth(short(t), c, b, uint64(i), size, size); err != nil {
						return fmt.Errorf("flow %d of %s: %w", i, c.LocalAddr(), err)
					}
					return nil
				})
			}
			for range flows {
				if err := <-hello; err != nil {
					t.Fatal(err)
				}
			}
			first.expectMetric(`packets_total{verdict="flips"}`, flows)
			if err := first.Signal(how.signal); err != nil {
				t.Fatal(err)
			}
			if err := first.Wait(short(t)); how.signal == syscall.SIGTERM && err != nil {
				t.Error(err)
			}
			told := strings.Count(first.Log().String(), `"msg":"connection"`)
			close(goOn)
			second := start(t, n, config)
			if err := g.Wait(); err != nil {
				t.Error(err)
			}
			second.expectMetric(`connections_total{outcome="routed"}`, float64(flows-told))
			second.expectMetric("connections_open", 0)
			ids := make(map[string]bool)
			for _, l := range append(first.Log().Lines(), second.Log().Lines()...) {
				if !strings.Contains(l, `"msg":"connection"`) {
					continue
				}
				_, id, _ := strings.Cut(l, `"id":"`)
				id, _, _ = strings.Cut(id, `"`)
				ids[id] = true
				for _, want := range []string{`"sni":"a.test"`, `"endpoint":"a"`, `"engine":"packet"`, `"end":"eof"`, `"listener":"10.0.0.1:`, `"ja4":"`} {
					if !strings.Contains(l, want) {
						t.Errorf("%s is not in %s", want, l)
					}
				}
			}
			if len(ids) != flows {
				t.Errorf("%d flows have a line, want %d", len(ids), flows)
			}
		})
	}
}
