// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/userspace/sock"
)

func TestConnectGoesOnToTheNextTarget(t *testing.T) {
	for name, tt := range map[string]struct {
		retries int
		down    []string
		dials   []string
		ok      bool
	}{
		"first works":                     {2, nil, []string{a}, true},
		"second works":                    {2, []string{a}, []string{a, b}, true},
		"third works":                     {2, []string{a, b}, []string{a, b, c}, true},
		"no retries":                      {0, []string{a}, []string{a}, false},
		"too few retries":                 {1, []string{a, b}, []string{a, b}, false},
		"none works, none is tried twice": {9, []string{a, b, c}, []string{a, b, c}, false},
	} {
		t.Run(name, func(t *testing.T) {
			bed := newBed(t, Spec{Retries: tt.retries}, a, b, c)
			for _, addr := range tt.down {
				bed.net.set(addr, refuses)
			}
			d, err := bed.Connect(t.Context(), client)
			if (err == nil) != tt.ok {
				t.Fatalf("got error %v", err)
			}
			if diff := cmp.Diff(tt.dials, bed.net.took()); diff != "" {
				t.Error(diff)
			}
			if tt.ok && d.Attempts != len(tt.dials) {
				t.Errorf("got %d attempts, want %d", d.Attempts, len(tt.dials))
			}
			for _, s := range bed.Status() {
				want := 0
				if tt.ok && s.Addr == d.Addr {
					want = 1
				}
				if s.Active != want {
					t.Errorf("%s: %d active, want %d", s.Target, s.Active, want)
				}
			}
		})
	}
}

func TestConnectTriesOtherTargetsBeforeOtherAddresses(t *testing.T) {
	// The weight would have the name picked again and again.
	bed := newBed(t, Spec{Retries: 9, Targets: []Target{weighted(t, "many.test:1", 9)}}, a)
	bed.names.set("many.test", "192.0.2.1", "192.0.2.2")
	for _, addr := range []string{a, "192.0.2.1:1", "192.0.2.2:1"} {
		bed.net.set(addr, refuses)
	}
	bed.fail(t, t.Context())
	if diff := cmp.Diff([]string{"192.0.2.1:1", a, "192.0.2.2:1"}, bed.net.took()); diff != "" {
		t.Error(diff)
	}
}

func TestDialErrorListsEveryAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bed := newBed(t, Spec{Retries: 4, ConnectTimeout: time.Second}, a, b, c, "gone.test:1", "far.test:1")
		bed.names.set("far.test", "192.0.2.99")
		bed.net.set(a, refuses)
		bed.net.set(b, silent)
		bed.net.set(c, fails(unix.EMFILE))
		bed.net.set("192.0.2.99:1", fails(unix.EHOSTUNREACH))
		start := time.Now()
		err := bed.fail(t, t.Context())
		want := "connect to upstream: 192.0.2.11:1: refused; 192.0.2.12:1: timeout; " +
			"192.0.2.13:1: other: too many open files; gone.test:1: resolve: no such host; " +
			"far.test:1 (192.0.2.99:1): unreachable: no route to host"
		if got := err.Error(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if err.Reason != Unreachable || len(err.Attempts) != 5 {
			t.Errorf("got %s after %d attempts", err.Reason, len(err.Attempts))
		}
		if !errors.Is(err, unix.ECONNREFUSED) || !errors.Is(err, errNoSuchHost) {
			t.Error("the causes are not wrapped")
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("took %s, want the timeout of the one that is silent", took)
		}
		wantEvents := []string{
			"failed 192.0.2.11:1 refused", "failed 192.0.2.12:1 timeout", "failed 192.0.2.13:1 other",
			"resolved gone.test:1 false", "failed gone.test:1 resolve", "resolved far.test:1 true", "failed far.test:1 unreachable",
		}
		if diff := cmp.Diff(wantEvents, bed.events.took()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestConnectWithoutATarget(t *testing.T) {
	for name, spec := range map[string]Spec{
		"none":            {},
		"all of weight 0": {Targets: []Target{{Host: "192.0.2.1", Port: 1}, {Host: "a.test", Port: 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			bed := newBed(t, spec)
			if err := bed.fail(t, t.Context()); err.Reason != NoTarget || len(err.Attempts) != 0 {
				t.Errorf("got %v", err)
			}
			if diff := cmp.Diff([]string{"failed  no_target"}, bed.events.took()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestConnectEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bed := newBed(t, Spec{Retries: 2, ConnectTimeout: time.Minute, EjectAfter: 1, EjectFor: time.Minute}, a, b)
		bed.net.set(a, silent)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := bed.fail(t, ctx); err.Reason != Canceled || len(err.Attempts) != 1 {
			t.Errorf("got %v", err)
		}
		if s := bed.status(t, a); !s.Up() || s.Failures != 0 || s.Active != 0 {
			t.Errorf("the target is blamed: %+v", s)
		}
		if got := bed.events.took(); len(got) != 0 {
			t.Errorf("counted: %q", got)
		}
	})
}

func TestReasons(t *testing.T) {
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		ctx  context.Context
		err  error
		want Reason
		name string
	}{
		{t.Context(), unix.ECONNREFUSED, Refused, "refused"},
		{t.Context(), unix.ETIMEDOUT, Timeout, "timeout"},
		{t.Context(), context.DeadlineExceeded, Timeout, "timeout"},
		{t.Context(), unix.ENETUNREACH, Unreachable, "unreachable"},
		{t.Context(), unix.EHOSTUNREACH, Unreachable, "unreachable"},
		{t.Context(), unix.ECONNRESET, Reset, "reset"},
		{t.Context(), unix.EMFILE, Other, "other"},
		{t.Context(), errors.New("?"), Other, "other"},
		{t.Context(), sock.ErrClosed, Canceled, "canceled"},
		{over, context.DeadlineExceeded, Canceled, "canceled"},
		{over, unix.ECONNREFUSED, Refused, "refused"},
	} {
		got := reasonOf(tt.ctx, fmt.Errorf("connect: %w", tt.err))
		if got != tt.want || got.String() != tt.name {
			t.Errorf("%v: got %s, want %s", tt.err, got, tt.name)
		}
	}
	for r, name := range map[Reason]string{Resolve: "resolve", NoTarget: "no_target", Invalid: "invalid_target"} {
		if r.String() != name {
			t.Errorf("got %s, want %s", r, name)
		}
	}
}

// TestConnectToRealServers goes through the real dialer.
func TestConnectToRealServers(t *testing.T) {
	poller, err := sock.NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = poller.Close() }()
	listener, err := poller.Listen(netip.MustParseAddrPort("127.0.0.1:0"), sock.ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	closed, err := poller.Listen(netip.MustParseAddrPort("127.0.0.1:0"), sock.ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	defer func() { _ = listener.Close() }()
	p := New(Spec{
		Targets: []Target{weighted(t, closed.Addr().String(), 1), weighted(t, listener.Addr().String(), 1)},
		Retries: 1, ConnectTimeout: 10 * time.Second,
	}, Options{Dialer: poller})
	d, err := p.Connect(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	if d.Addr != listener.Addr() || d.Conn.Remote != listener.Addr() || d.Attempts != 2 {
		t.Errorf("got %+v, want %s at the second attempt", d, listener.Addr())
	}
	_ = d.Conn.Close()
	d.Release()
}

func TestConnectFromManyGoroutines(t *testing.T) {
	bed := newBed(t, Spec{Policy: LeastConnections, Retries: 3, EjectAfter: 2, EjectFor: time.Millisecond, Refresh: time.Millisecond}, a, b, c, "many.test:1")
	bed.names.set("many.test", "192.0.2.1", "192.0.2.2", "2001:db8::1")
	bed.net.set(b, refuses)
	bed.start(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 300 {
				d, err := bed.Connect(t.Context(), client)
				if err != nil {
					t.Error(err)
					return
				}
				bed.Status()
				d.Release()
			}
		})
	}
	wg.Wait()
	for _, s := range bed.Status() {
		if s.Active != 0 {
			t.Errorf("%s: %d active at the end", s.Addr, s.Active)
		}
	}
}

// instant is a dialer that costs nothing.
type instant struct{ conn sock.Conn }

func (i *instant) Dial(context.Context, netip.AddrPort) (*sock.Conn, error) { return &i.conn, nil }

func BenchmarkConnect(b *testing.B) {
	p := New(Spec{
		Targets: []Target{{Host: "127.0.0.1", Port: 1, Weight: 1}}, Retries: 2,
		ConnectTimeout: 5 * time.Second, EjectAfter: 3, EjectFor: 10 * time.Second,
	}, Options{Dialer: &instant{}})
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	b.ReportAllocs()
	for b.Loop() {
		d, err := p.Connect(ctx, client)
		if err != nil {
			b.Fatal(err)
		}
		d.Release()
	}
}

// BenchmarkMemory reports what an idle pool takes.
func BenchmarkMemory(b *testing.B) {
	for name, host := range map[string]string{"address": "127.0.0.1", "name": "backend.test"} {
		b.Run(name, func(b *testing.B) {
			const n = 10000
			opts := Options{Dialer: &instant{}}
			pools := make([]*Pool, n)
			for b.Loop() {
				var before, after runtime.MemStats
				clear(pools)
				runtime.GC()
				runtime.ReadMemStats(&before)
				for i := range pools {
					pools[i] = New(Spec{Targets: []Target{{Host: host, Port: uint16(i), Weight: 1}}}, opts)
					pools[i].Start(b.Context())
				}
				runtime.GC()
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "B/pool")
			}
			runtime.KeepAlive(pools)
		})
	}
}
