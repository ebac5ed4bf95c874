// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"testing"

	"github.com/spliceway/spliceway/userspace/config"
	"github.com/spliceway/spliceway/userspace/sock"
	"github.com/spliceway/spliceway/userspace/telemetry"
)

func TestPoolsUseTheHostsOfTheFile(t *testing.T) {
	poller, err := sock.NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = poller.Close() }()
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = backend.Close() }() // the kernel accepts for it
	to := backend.Addr().(*net.TCPAddr).AddrPort()
	parse := func(hosts string) *config.Config {
		t.Helper()
		cfg, err := config.Parse("f.yaml", fmt.Appendf(nil, `
endpoints: [{name: a, url: tls://a.test, upstream: {url: "tls://Service.namespace.invalid.:%d"}}]
hosts: %s`, to.Port(), hosts))
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	a := &agent{poller: poller, logger: slog.New(slog.DiscardHandler), metrics: telemetry.New(telemetry.BuildInfo{})}

	cfg := parse("{service.Namespace.invalid: [127.0.0.1]}")
	first := a.pool(cfg, &cfg.Endpoints[0], false)
	defer first.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	d, err := first.Connect(ctx, netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	if d.Addr != to {
		t.Errorf("connected to %s, want %s", d.Addr, to)
	}
	d.Release()
	_ = d.Conn.Close()

	a.current = &generation{pools: map[string]*pool{"a": first}}
	cfg = parse("{service.namespace.invalid: [127.0.0.1], other.test: [127.0.0.2]}")
	if a.pool(cfg, &cfg.Endpoints[0], false) != first {
		t.Error("a pool is made anew for a name that it does not need")
	}
	cfg = parse("{service.namespace.invalid: [127.0.0.2]}")
	second := a.pool(cfg, &cfg.Endpoints[0], false)
	defer second.Close()
	if second == first || second.active != first.active {
		t.Error("a pool goes on with addresses that have changed")
	}
}

func TestNamesThatLeadToTheNodeItself(t *testing.T) {
	addresses := func(list ...string) (all []netip.Addr) {
		for _, a := range list {
			all = append(all, netip.MustParseAddr(a))
		}
		return all
	}
	got, err := notOnlyHere(addresses("127.0.0.1", "10.0.0.1", "fe80::1", "::1"), "x")
	if err != nil || len(got) != 1 || got[0].String() != "10.0.0.1" {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := notOnlyHere(addresses("127.0.0.1", "::ffff:169.254.169.254"), "x"); err == nil {
		t.Errorf("%v", got)
	}
}
