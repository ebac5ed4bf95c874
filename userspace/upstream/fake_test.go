// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/userspace/sock"
)

var client = netip.MustParseAddr("192.0.2.1")

// behaviour is how a fake address answers a connect.
type behaviour func(ctx context.Context) (*sock.Conn, error)

func refuses(context.Context) (*sock.Conn, error) { return nil, unix.ECONNREFUSED }

// silent never answers.
func silent(ctx context.Context) (*sock.Conn, error) {
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

func fails(err error) behaviour {
	return func(context.Context) (*sock.Conn, error) { return nil, err }
}

// after answers late.
func after(d time.Duration, then behaviour) behaviour {
	return func(ctx context.Context) (*sock.Conn, error) {
		if !sleep(ctx, d) {
			return nil, context.Cause(ctx)
		}
		return then(ctx)
	}
}

// dialer is a network: an address without a behaviour accepts. Its connections
// have no descriptor and must not be closed.
type dialer struct {
	mu    sync.Mutex
	by    map[string]behaviour // by host:port
	calls []string
}

func accepts(context.Context) (*sock.Conn, error) { return &sock.Conn{}, nil }

func (d *dialer) set(addr string, b behaviour) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.by == nil {
		d.by = make(map[string]behaviour)
	}
	d.by[addr] = b
}

func (d *dialer) Dial(ctx context.Context, remote netip.AddrPort) (*sock.Conn, error) {
	d.mu.Lock()
	d.calls = append(d.calls, remote.String())
	b := d.by[remote.String()]
	d.mu.Unlock()
	if b == nil {
		b = accepts
	}
	conn, err := b(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", remote, err)
	}
	return conn, nil
}

// took is the addresses dialled since the last call.
func (d *dialer) took() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	calls := d.calls
	d.calls = nil
	return calls
}

// dns is a resolver: a name without an answer does not exist.
type dns struct {
	mu      sync.Mutex
	by      map[string][]netip.Addr
	delay   time.Duration
	lookups int
}

var errNoSuchHost = errors.New("no such host")

func (d *dns) set(host string, ips ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.by == nil {
		d.by = make(map[string][]netip.Addr)
	}
	delete(d.by, host)
	for _, ip := range ips {
		d.by[host] = append(d.by[host], netip.MustParseAddr(ip))
	}
}

func (d *dns) LookupNetIP(ctx context.Context, _, host string) ([]netip.Addr, error) {
	d.mu.Lock()
	d.lookups++
	delay, ips := d.delay, d.by[host]
	d.mu.Unlock()
	if delay > 0 && !sleep(ctx, delay) {
		return nil, context.Cause(ctx)
	}
	if len(ips) == 0 {
		return nil, errNoSuchHost
	}
	return ips, nil
}

func (d *dns) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lookups
}

// events is an Observer that writes down what it is told.
type events struct {
	mu  sync.Mutex
	all []string
}

func (e *events) add(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, fmt.Sprintf(format, args...))
}

func (e *events) took() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := e.all
	e.all = nil
	return all
}

func (e *events) DialFailed(target, reason string) { e.add("failed %s %s", target, reason) }
func (e *events) Changed(_ string, addr netip.AddrPort, up bool, why string) {
	e.add("changed %s %t: %s", addr, up, why)
}
func (e *events) Ejected(_ string, addr netip.AddrPort) { e.add("ejected %s", addr) }
func (e *events) Checked(_ string, addr netip.AddrPort, ok bool) {
	e.add("checked %s %t", addr, ok)
}
func (e *events) Resolved(target string, ok bool) { e.add("resolved %s %t", target, ok) }

// lines is a log.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, string(line))
	return len(line), nil
}

// want fails the test unless there are n lines.
func (l *lines) want(t *testing.T, n int) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.all) != n {
		t.Errorf("got %d log lines, want %d:\n%s", len(l.all), n, strings.Join(l.all, ""))
	}
}

// bed is a pool and its surroundings.
type bed struct {
	*Pool
	net    dialer
	names  dns
	events events
	log    lines
}

// newBed makes a pool of spec's targets and more (host:port), of weight 1. It is
// not started.
func newBed(t *testing.T, spec Spec, targets ...string) *bed {
	t.Helper()
	for _, name := range targets {
		spec.Targets = append(spec.Targets, weighted(t, name, 1))
	}
	b := &bed{}
	b.Pool = New(spec, Options{
		Dialer: &b.net, Resolver: &b.names, Observer: &b.events,
		Logger: slog.New(slog.NewTextHandler(&b.log, nil)),
	})
	b.intN = func(n int) int { return n / 2 } // no jitter, and the middle of a draw
	return b
}

// start starts the pool until the end of the test.
func (b *bed) start(t *testing.T) {
	t.Helper()
	b.Start(context.Background())
	t.Cleanup(b.Close)
}

func weighted(t *testing.T, name string, weight int) Target {
	t.Helper()
	host, port, err := net.SplitHostPort(name)
	if err != nil {
		t.Fatal(err)
	}
	n, err := net.LookupPort("tcp", port)
	if err != nil {
		t.Fatal(err)
	}
	return Target{Host: host, Port: uint16(n), Weight: weight}
}

// connect is a Connect that must succeed.
func (b *bed) connect(t *testing.T) *Dialed {
	t.Helper()
	d, err := b.Connect(context.Background(), client)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// goes is where n connections go, each released at once.
func (b *bed) goes(t *testing.T, n int) []string {
	t.Helper()
	var to []string
	for range n {
		d := b.connect(t)
		to = append(to, d.Addr.String())
		d.Release()
	}
	return to
}

// fail is a Connect that must not succeed.
func (b *bed) fail(t *testing.T, ctx context.Context) *DialError {
	t.Helper()
	d, err := b.Connect(ctx, client)
	if err == nil {
		t.Fatalf("connected to %s, want an error", d.Addr)
	}
	e := (*DialError)(nil)
	if !errors.As(err, &e) {
		t.Fatalf("got %T, want *DialError", err)
	}
	return e
}

func (b *bed) status(t *testing.T, addr string) TargetStatus {
	t.Helper()
	all := b.Status()
	i := slices.IndexFunc(all, func(s TargetStatus) bool { return s.Addr.String() == addr })
	if i < 0 {
		t.Fatalf("no status of %s", addr)
	}
	return all[i]
}
