// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"
	"weak"

	"github.com/spliceway/spliceway/testenv"
	"github.com/spliceway/spliceway/userspace/clienthello"
	"github.com/spliceway/spliceway/userspace/route"
	"github.com/spliceway/spliceway/userspace/sock"
	"github.com/spliceway/spliceway/userspace/splice"
	"github.com/spliceway/spliceway/userspace/telemetry"
	"github.com/spliceway/spliceway/userspace/upstream"
)

// These tests ask the garbage collector what a connection holds.

// patience is far more than any step here takes.
const patience = 10 * time.Second

// site is a server with one endpoint, a.test, and a backend that the kernel accepts
// connections for.
type site struct {
	*Server
	l      *sock.Listener
	poller *sock.Poller
	pool   *upstream.Pool
	// engine takes the flows, and closes their sockets at the end of the test.
	engine keeper
}

// keeper is an engine that moves nothing.
type keeper struct {
	splice.Engine
	flows chan splice.Flow
}

func (k keeper) Name() string        { return "keeper" }
func (k keeper) Start(f splice.Flow) { k.flows <- f }

// change, if not nil, is made before anything is served.
func newSite(t *testing.T, change func(*Server)) *site {
	t.Helper()
	p, err := sock.NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	l, err := p.Listen(netip.MustParseAddrPort("127.0.0.1:0"), sock.ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	to := backend.Addr().(*net.TCPAddr).AddrPort()
	s := &site{l: l, poller: p, engine: keeper{flows: make(chan splice.Flow, 1)}}
	s.pool = upstream.New(upstream.Spec{Targets: []upstream.Target{{Host: to.Addr().String(), Port: to.Port(), Weight: 1}}}, upstream.Options{Dialer: p})
	s.Server = NewServer(s.snapshot(t), Options{Metrics: telemetry.New(telemetry.BuildInfo{}), Logger: slog.New(slog.DiscardHandler)})
	if change != nil {
		change(s.Server)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(l)
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
		s.Interrupt()
		if err := s.Wait(short(t)); err != nil {
			t.Errorf("%d connections did not end", s.Open())
		}
		_ = p.Close()
		_ = backend.Close()
	})
	return s
}

func short(t *testing.T) context.Context {
	t.Helper()
	// Not t.Context: it is over when cleaning up.
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// snapshot makes a configuration of its own each time.
func (s *site) snapshot(t *testing.T) *Snapshot {
	t.Helper()
	table, err := route.Build([]route.Entry{{Port: s.l.Addr().Port(), Name: "a.test"}})
	if err != nil {
		t.Fatal(err)
	}
	return &Snapshot{
		Table: table, HelloTimeout: time.Hour, MaxHello: 64 << 10, MaxHelloMemory: 1 << 20,
		Endpoints: []*Endpoint{{
			Name: "a", Pool: s.pool, Engine: s.engine, Active: new(atomic.Int64),
			Metrics: telemetry.New(telemetry.BuildInfo{}).Endpoint("a"),
		}},
	}
}

func (s *site) send(t *testing.T, b []byte) {
	t.Helper()
	c, err := net.Dial("tcp", s.l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

// collected waits until nothing holds what p points to.
func collected[T any](t *testing.T, p weak.Pointer[T]) bool {
	t.Helper()
	return testenv.Poll(short(t), func() (bool, error) {
		runtime.GC()
		return p.Value() == nil, nil
	}) == nil
}

func TestAFlowDoesNotHoldTheConfigurationOfItsTime(t *testing.T) {
	s := newSite(t, nil)
	s.send(t, testenv.MustHello(t, "a.test", testenv.HelloOptions{}))
	f := <-s.engine.flows
	old := s.Server.snapshot.Load()
	snap, table := weak.Make(old), weak.Make(old.Table)
	old = nil
	s.Update(s.snapshot(t))
	if !collected(t, snap) || !collected(t, table) {
		t.Error("a live flow holds the snapshot that it began with, or its route table")
	}
	_, _ = f.Client.Close(), f.Upstream.Close()
	f.Done(f.Record, splice.Result{})
}

// TestARecordDoesNotHoldTheTablesNames: the pattern in it is a string of its own, not
// a part of the one string that all names of the table are in.
func TestARecordDoesNotHoldTheTablesNames(t *testing.T) {
	s := newSite(t, nil)
	c := &conn{held: held{s: s.Server}, snap: s.Server.snapshot.Load(), rec: &telemetry.Record{}, to: s.l.Addr()}
	if got := c.route(&clienthello.Hello{HasSNI: true, ServerName: "a.test"}, telemetry.OutcomeRouted); got != telemetry.OutcomeRouted {
		t.Fatalf("got %s", got)
	}
	m, _ := c.snap.Table.Lookup(c.to.Addr(), c.to.Port(), "a.test", nil)
	if c.rec.Match != m.Pattern || unsafe.StringData(c.rec.Match) == unsafe.StringData(m.Pattern) {
		t.Errorf("match %q shares its bytes with the table's %q", c.rec.Match, m.Pattern)
	}
}

func TestWhoWaitsForTheRestOfAHelloHoldsNoParser(t *testing.T) {
	made := make(chan weak.Pointer[clienthello.Parser], 1)
	s := newSite(t, func(s *Server) {
		s.parsers.New = func() any {
			p := new(clienthello.Parser)
			select {
			case made <- weak.Make(p):
			default: // the first one is enough
			}
			return p
		}
	})
	hello := testenv.MustHello(t, "a.test", testenv.HelloOptions{})
	s.send(t, hello[:len(hello)-1])
	// A pool drops what is in it at the second collection.
	if !collected(t, <-made) {
		t.Error("the parser is in use while the client is silent")
	}
}

func TestVainWakeUpsSlowDown(t *testing.T) {
	for _, tt := range []struct {
		copied, inVain int
		want           time.Duration
	}{
		{1000, 0, 0},
		{1000, 1, 2 * peekPause},
		{1000, 2, 4 * peekPause},
		{1000, 5, 32 * peekPause},
		{1000, 6, longestPause},
		{1000, 1 << 30, longestPause},
		{freePeek + 3*peekUnit, 0, 3 * peekPause},
		{freePeek + 3*peekUnit, 1, 5 * peekPause},
		{1 << 30, 0, longestPause},
	} {
		if got := pauseFor(tt.copied, tt.inVain); got != tt.want {
			t.Errorf("%d bytes copied, %d times in vain: a pause of %s, want %s", tt.copied, tt.inVain, got, tt.want)
		}
	}
}
