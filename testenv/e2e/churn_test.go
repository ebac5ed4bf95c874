// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/spliceway/spliceway/testenv"
)

// Connection after connection: each is served and logged, none leaves anything.
func TestShortConnections(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	b := plainBackend(t, n.Backends[0], "a")
	r := start(t, n, "endpoints:\n"+endpoint("a", sni("a.test"), at(n.Backends[0], b)))
	greeting := hello(t, "a.test")
	once := func(ctx context.Context) error {
		c, err := n.Clients[0].Dial(ctx, r.gateway())
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		if _, err := c.Write(greeting); err != nil {
			return err
		}
		reply, err := testenv.Ask(c, testenv.Request{})
		if err != nil {
			return err
		}
		if reply.Backend != "a" {
			return fmt.Errorf("answered by %q", reply.Backend)
		}
		return testenv.ExpectEOF(c, patience)
	}
	if err := once(short(t)); err != nil {
		t.Fatal(err)
	}
	r.expectMetric("connections_open", 0)
	before := r.held()
	const workers, rounds = 8, 200
	g, ctx := errgroup.WithContext(short(t))
	for range workers {
		g.Go(func() error {
			for i := range rounds {
				if err := once(ctx); err != nil {
					return fmt.Errorf("connection %d: %w", i, err)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	const all = workers*rounds + 1
	r.expectMetric(`connections_total{outcome="routed"}`, all)
	r.expectMetric("connections_open", 0)
	r.expectMetric("log_lines_dropped_total", 0)
	r.expectHeld(before)
	lines := 0
	for _, l := range r.Log().Lines() {
		if says("connection")(l) {
			lines++
		}
	}
	if lines != all {
		t.Errorf("%d access lines for %d connections", lines, all)
	}
	if b.Accepted() != all {
		t.Errorf("the backend saw %d connections, %d were made", b.Accepted(), all)
	}
}
