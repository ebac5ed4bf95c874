// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spliceway/spliceway/testenv"
	"github.com/spliceway/spliceway/userspace/config"
	"github.com/spliceway/spliceway/userspace/proxy"
	"github.com/spliceway/spliceway/userspace/route"
	"github.com/spliceway/spliceway/userspace/sock"
	"github.com/spliceway/spliceway/userspace/splice"
	"github.com/spliceway/spliceway/userspace/telemetry"
	"github.com/spliceway/spliceway/userspace/upstream"
	"github.com/spliceway/spliceway/userspace/web"
)

func TestRunGivesBackWhatItTook(t *testing.T) {
	at := freePlace(t)
	file := filepath.Join(t.TempDir(), "f.yaml")
	content := fmt.Sprintf(`
engine: splice
listen: [127.0.0.1]
admin: {address: "off"}
endpoints:
- {name: a, url: "tls://a.test:%d", upstream: {url: "tls://192.0.2.1:443"}}
`, at.port)
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	run := func() {
		t.Helper()
		if err := Run(over, Options{ConfigFile: file, Log: io.Discard, Access: io.Discard}); err != nil {
			t.Fatal(err)
		}
	}
	run() // what the runtime starts once and keeps, such as the signals' goroutine
	procs, goroutines := runtime.GOMAXPROCS(0), runtime.NumGoroutine()
	for range 3 {
		run()
	}
	if n := runtime.GOMAXPROCS(0); n != procs {
		t.Errorf("GOMAXPROCS was %d, and is %d", procs, n)
	}
	if err := testenv.Poll(short(t), func() (bool, error) { return runtime.NumGoroutine() <= goroutines, nil }); err != nil {
		stacks := make([]byte, 64<<10)
		t.Errorf("%d goroutines, there were %d:\n%s", runtime.NumGoroutine(), goroutines, stacks[:runtime.Stack(stacks, true)])
	}
}

// lateDialer has the second connect wait until it is released, whatever its context
// says: it had just succeeded.
type lateDialer struct {
	upstream.Dialer
	dialled atomic.Int64
	waits   chan struct{}
	release chan struct{}
}

func (d *lateDialer) Dial(_ context.Context, to netip.AddrPort) (*sock.Conn, error) {
	if d.dialled.Add(1) == 2 {
		close(d.waits)
		<-d.release
	}
	return d.Dialer.Dial(context.Background(), to)
}

// TestStopCutsWhoHasJustDialled: a connection that comes to the engine after all
// that it had were cut.
func TestStopCutsWhoHasJustDialled(t *testing.T) {
	p, err := sock.NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	engine, err := splice.NewSplicer(splice.SplicerOptions{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = engine.Close() }()
	relay, err := splice.NewSplicer(splice.SplicerOptions{Workers: 1, Relay: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = relay.Close() }()
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = backend.Close() }() // the kernel accepts for it

	to, at := backend.Addr().(*net.TCPAddr).AddrPort(), freePlace(t)
	table, err := route.Build([]route.Entry{{Port: at.port, Name: "a.test"}})
	if err != nil {
		t.Fatal(err)
	}
	dialer := &lateDialer{Dialer: p, waits: make(chan struct{}), release: make(chan struct{})}
	pool := upstream.New(upstream.Spec{Targets: []upstream.Target{{Host: to.Addr().String(), Port: to.Port(), Weight: 1}}}, upstream.Options{Dialer: dialer})
	logger, metrics := slog.New(slog.DiscardHandler), telemetry.New(telemetry.BuildInfo{})
	a := &agent{
		logger: logger, metrics: metrics, poller: p, engines: engines{splice: engine, relay: relay}, web: web.New(web.Options{Logger: logger}),
		config: &config.Config{Timeouts: config.Timeouts{Drain: time.Hour}},
		server: proxy.NewServer(&proxy.Snapshot{
			Table: table, HelloTimeout: patience, MaxHello: 64 << 10, MaxHelloMemory: 1 << 20,
			Endpoints: []*proxy.Endpoint{{Name: "a", Pool: pool, Engine: engine, Active: new(atomic.Int64), Metrics: metrics.Endpoint("a")}},
		}, proxy.Options{Metrics: metrics, Logger: logger}),
	}
	a.listeners = newListeners(p, logger, a.server.Serve)
	change, err := a.listeners.open([]address{at}, nil, patience)
	if err != nil {
		t.Fatal(err)
	}
	change.apply()

	connect := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", at.bind().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if _, err := c.Write(testenv.MustHello(t, "a.test", testenv.HelloOptions{})); err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := connect()
	if err := testenv.Poll(short(t), func() (bool, error) { return engine.Flows() == 1, nil }); err != nil {
		t.Fatal(err)
	}
	second := connect()
	<-dialer.waits

	stopped := make(chan error, 1)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	go func() { stopped <- a.stop(over, "test", nil) }()
	if err := testenv.ExpectReset(first, patience); err != nil {
		t.Errorf("the one that the engine had: %v", err)
	}
	close(dialer.release)
	if err := testenv.ExpectReset(second, patience); err != nil {
		t.Errorf("the one that had just dialled: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}
