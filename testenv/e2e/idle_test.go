// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv"
)

// Thousands of clients that say nothing, or half a hello: each is closed in time
// and counted, and meanwhile others are served as if nothing were.
func TestIdleClients(t *testing.T) {
	testenv.CheckLeaks(t)
	raiseOpenFiles(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{Clients: 2})
	ca := testenv.MustCA(t)
	b := tlsBackend(t, n.Backends[0], ca, "a", "a.test")
	const helloTimeout = 3 * time.Second
	r := start(t, n, "timeouts: {hello: "+helloTimeout.String()+"}\nendpoints:\n"+endpoint("a", sni("a.test"), at(n.Backends[0], b)))
	serve := func() (handshake time.Duration, err error) {
		begin := time.Now()
		c, err := n.Clients[1].DialTLS(short(t), r.gateway(), ca.ClientConfig("a.test"))
		if err != nil {
			return 0, err
		}
		defer func() { _ = c.Close() }()
		handshake = time.Since(begin)
		_, err = testenv.TransferBoth(short(t), c, b, 1, 10_000, 10_000)
		return handshake, err
	}
	if _, err := serve(); err != nil {
		t.Fatal(err)
	}
	r.expectMetric("connections_open", 0)
	before, memory := r.held(), r.memory()

	const clients = 5000
	half := hello(t, "a.test")
	half = half[:len(half)/2]
	type idle struct {
		c     net.Conn
		since time.Time
	}
	open := make([]idle, 0, clients)
	if err := n.Clients[0].Do(func() error {
		for i := range clients {
			c, err := new(net.Dialer).DialContext(t.Context(), "tcp", r.gateway().String())
			if err != nil {
				return fmt.Errorf("client %d: %w", i, err)
			}
			open = append(open, idle{c, time.Now()})
			if i%2 == 0 {
				if _, err := c.Write(half); err != nil {
					return fmt.Errorf("client %d: %w", i, err)
				}
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d clients opened in %s", clients, time.Since(open[0].since).Round(time.Millisecond))

	ctx, cancel := context.WithCancel(t.Context())
	var served int
	var slowest time.Duration
	var g errgroup.Group
	g.Go(func() error {
		for ctx.Err() == nil {
			took, err := serve()
			if err != nil {
				return fmt.Errorf("while %d clients are idle: %w", clients, err)
			}
			served++
			slowest = max(slowest, took)
		}
		return nil
	})
	grown := r.memory() - memory
	held := r.held()
	var longest time.Duration
	for i, o := range open {
		if data, end := seen(o.c); len(data) > 0 || end != "FIN" {
			t.Fatalf("client %d sees %q and %s", i, data, end)
		}
		longest = max(longest, time.Since(o.since))
		_ = o.c.Close()
	}
	cancel()
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	t.Logf("closed after %s at most; meanwhile %d others were served, the slowest handshake took %s; the agent held %d sockets and %d KB for each",
		longest.Round(time.Millisecond), served, slowest.Round(time.Millisecond), held.sockets, grown>>10/clients)
	// With TCP_DEFER_ACCEPT the kernel wakes the agent for a silent client one
	// to a few seconds late, by its SYN-ACK timer.
	if slack := 5 * time.Second; longest > helloTimeout+slack {
		t.Errorf("a client was closed after %s; the timeout is %s", longest, helloTimeout)
	}
	if slowest > time.Second {
		t.Errorf("a handshake took %s meanwhile", slowest)
	}
	r.expectMetric(`connections_total{outcome="hello_timeout"}`, clients)
	r.expectMetric(`connections_total{outcome="routed"}`, float64(served+1))
	r.expectMetric("connections_open", 0)
	r.expectHeld(before)
}

// raiseOpenFiles lifts the test's own limit as far as it goes.
func raiseOpenFiles(t *testing.T) {
	t.Helper()
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	l.Cur = l.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
}
