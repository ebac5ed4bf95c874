// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/maps"
	"github.com/spliceway/spliceway/testenv"
	"github.com/spliceway/spliceway/userspace/telemetry"
)

// sockmapPlace is where the two ends of a flow are, both on the gateway's host.
type sockmapPlace struct {
	name, family string
	podClient    bool // else a process of the gateway's namespace
	podBackend   bool
	loopback     bool // by a loopback address, not the gateway's own
}

func (p sockmapPlace) String() string { return p.name + " in " + p.family }

// sni is the server name that leads there, and the endpoint's name.
func (p sockmapPlace) sni() string { return strings.ToLower(p.name + p.family + ".test") }

func (p sockmapPlace) client(n *testenv.Network) *testenv.Namespace {
	if p.podClient {
		return n.Clients[0].Namespace
	}
	return n.Gateway
}

func (p sockmapPlace) pick(ip4, ip6 netip.Addr) netip.Addr {
	if p.family == "IPv6" {
		return ip6
	}
	return ip4
}

func (p sockmapPlace) gateway(n *testenv.Network) netip.AddrPort {
	if p.loopback {
		return netip.AddrPortFrom(p.pick(netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()), gatewayPort)
	}
	return netip.AddrPortFrom(p.pick(n.IPv4, n.IPv6), gatewayPort)
}

// sockmapPlaces are all that tests know; sockmapTwo are those that differ most.
var (
	sockmapPlaces = []sockmapPlace{
		{name: "loopback", family: "IPv4", loopback: true}, {name: "loopback", family: "IPv6", loopback: true},
		{name: "pods", family: "IPv4", podClient: true, podBackend: true}, {name: "pods", family: "IPv6", podClient: true, podBackend: true},
		{name: "host", family: "IPv4", podBackend: true}, {name: "host", family: "IPv6", podBackend: true},
	}
	sockmapTwo = []sockmapPlace{sockmapPlaces[0], sockmapPlaces[3]}
)

// sockmapSite is an agent whose clients and backends are all on its host.
type sockmapSite struct {
	*run
	host, pod *net.TCPListener
	state     string
	seen      map[any]bool // the ids of lines that were expected: ports are used again
}

// sockmapStart runs the agent; settings are lines of its configuration, and more are
// settings of each endpoint.
func sockmapStart(t *testing.T, settings string, more ...string) sockmapSite {
	t.Helper()
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	s := sockmapSite{state: filepath.Join(testenv.MustBPFFS(t), "state"), seen: make(map[any]bool)}
	listen := func(in *testenv.Namespace) (*net.TCPListener, uint16) {
		l, err := in.Listen(netip.AddrPortFrom(netip.IPv6Unspecified(), 0))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return l, l.Addr().(*net.TCPAddr).AddrPort().Port()
	}
	var hostPort, podPort uint16
	s.host, hostPort = listen(n.Gateway)
	s.pod, podPort = listen(n.Backends[0].Namespace)
	config := "log: {access: true}\nengine: auto\nbpffs: " + s.state + "\n" + settings + "endpoints:\n"
	for _, p := range sockmapPlaces {
		to := netip.AddrPortFrom(p.gateway(n).Addr(), hostPort)
		if p.podBackend {
			to = netip.AddrPortFrom(p.pick(n.Backends[0].IPv4(), n.Backends[0].IPv6()), podPort)
		}
		name, _, _ := strings.Cut(p.sni(), ".")
		config += endpoint(name, sni(p.sni()), to, more...)
	}
	s.run = start(t, n, config)
	// The first connection to a backend teaches the agent what segments it takes.
	for _, p := range sockmapPlaces {
		f := s.open(p)
		if err := f.talk(1); err != nil {
			s.t.Fatal(err)
		}
		s.end(f, map[string]any{"outcome": "routed"})
	}
	return s
}

// in is the site in a subtest, which ends what it opens.
func (s sockmapSite) in(t *testing.T) sockmapSite {
	sub := *s.run
	sub.t = t
	s.run = &sub
	return s
}

// each runs a subtest per place.
func (s sockmapSite) each(places []sockmapPlace, test func(s sockmapSite, p sockmapPlace)) {
	s.t.Helper()
	for _, p := range places {
		s.t.Run(p.String(), func(t *testing.T) { test(s.in(t), p) })
	}
}

// sockmapEnd is a socket as an application has it.
type sockmapEnd interface {
	io.ReadWriteCloser
	CloseWrite() error
	// abandon has calls in other goroutines return.
	abandon()
}

// goEnd is a socket of package net.
type goEnd struct{ *net.TCPConn }

func (e goEnd) abandon() { _ = e.SetDeadline(past) } // fails on a closed one only

// The ends of a flow by number.
const (
	clientEnd = iota
	backendEnd
)

// sockmapFlow is a flow with both its ends, and how much each has sent.
type sockmapFlow struct {
	ends  [2]sockmapEnd
	sent  [2]int64
	place sockmapPlace
	// address is the client's.
	address netip.AddrPort
}

// open opens a flow whose backend has said nothing yet.
func (s sockmapSite) open(p sockmapPlace) *sockmapFlow {
	s.t.Helper()
	return s.openBy(p, func(ctx context.Context) (*net.TCPConn, error) {
		return p.client(s.net).Dial(ctx, p.gateway(s.net))
	})
}

func (s sockmapSite) openBy(p sockmapPlace, dial func(context.Context) (*net.TCPConn, error)) *sockmapFlow {
	s.t.Helper()
	l, first := s.host, hello(s.t, p.sni())
	if p.podBackend {
		l = s.pod
	}
	f, _, err := testenv.OpenFlow(short(s.t), dial, l, first)
	if err != nil {
		s.t.Fatal(err)
	}
	flow := &sockmapFlow{
		ends: [2]sockmapEnd{goEnd{f.Client}, goEnd{f.Backend}}, sent: [2]int64{int64(len(first)), 0},
		place: p, address: endsAddress(f.Client.LocalAddr()),
	}
	s.t.Cleanup(flow.close)
	return flow
}

func (f *sockmapFlow) close() {
	for _, e := range f.ends {
		_ = e.Close() // it may be closed already
	}
}

// tcp is an end that is one of package net.
func (f *sockmapFlow) tcp(end int) *net.TCPConn { return f.ends[end].(goEnd).TCPConn }

// talk is one word each way, as of a handshake or a question and its answer. The backend
// begins, as a TLS server does after the hello.
func (f *sockmapFlow) talk(words int) error {
	for range words {
		for _, from := range []int{backendEnd, clientEnd} {
			if err := f.move(from, 100, whole); err != nil {
				return err
			}
		}
	}
	return nil
}

// shortcut is what the programs know of the flow; zero: nothing.
func (s sockmapSite) shortcut(f *sockmapFlow) (cut maps.Shortcut) {
	s.t.Helper()
	pinned := func(name string) *ebpf.Map {
		m, err := ebpf.LoadPinnedMap(filepath.Join(s.state, "v1", name), &ebpf.LoadPinOptions{ReadOnly: true})
		if err != nil {
			s.t.Fatal(err)
		}
		return m
	}
	flows, shortcuts := pinned("flows"), pinned("shortcuts")
	defer func() { _ = errors.Join(flows.Close(), shortcuts.Close()) }()
	var latest maps.FlowID
	for id, flow := range maps.NewFlows(flows).All() {
		if flow.Client == f.address && id >= latest {
			latest = id
		}
	}
	cut, err := maps.NewShortcuts(shortcuts).Get(latest)
	if err != nil && !errors.Is(err, maps.ErrNotFound) {
		s.t.Fatal(err)
	}
	return cut
}

// joining is far more than it takes a flow to have the short cut.
const joining = 5 * time.Second

// until has the ends talk until the programs know of the flow what done wants.
func (s sockmapSite) until(f *sockmapFlow, what string, done func(maps.Shortcut) bool) {
	s.t.Helper()
	if line, err := s.reached(f, done); err != nil {
		s.t.Fatalf("%s: %v; its line is %v", what, err, line)
	}
}

// reached is until for a flow that may not come to it: then it is closed, and line is
// what the log says of it.
func (s sockmapSite) reached(f *sockmapFlow, done func(maps.Shortcut) bool) (line map[string]any, err error) {
	s.t.Helper()
	var cut maps.Shortcut
	ctx, cancel := context.WithTimeout(s.t.Context(), joining)
	defer cancel()
	err = testenv.Poll(ctx, func() (bool, error) {
		if err := f.talk(20); err != nil {
			return false, err
		}
		cut = s.shortcut(f)
		return done(cut), nil
	})
	if err == nil {
		return nil, nil
	}
	f.close()
	line = s.line(func(m map[string]any) bool { return m["client"] == f.address.String() && !s.seen[m["id"]] })
	return line, fmt.Errorf("%w; it is %+v", err, cut)
}

// warmed tells whether what both ends send goes by the short cut, and did not before.
func warmed(before maps.Shortcut) func(maps.Shortcut) bool {
	return func(now maps.Shortcut) bool {
		return now.Ends[0].Sent > before.Ends[0].Sent && now.Ends[1].Sent > before.Ends[1].Sent
	}
}

// warm has the ends talk until what both send goes by the short cut.
func (s sockmapSite) warm(f *sockmapFlow) {
	s.t.Helper()
	s.until(f, "the flow does not take the short cut", warmed(s.shortcut(f)))
}

// flow opens a flow and has it take the short cut.
func (s sockmapSite) flow(p sockmapPlace) *sockmapFlow {
	s.t.Helper()
	for {
		f := s.open(p)
		line, err := s.reached(f, warmed(s.shortcut(f)))
		if err == nil {
			return f
		}
		// On one host a client's port may be used again before the agent has
		// accounted for the flow that had it last.
		if line["engine_reason"] != telemetry.FallbackTupleInUse.String() {
			s.t.Fatalf("the flow does not take the short cut: %v; its line is %v", err, line)
		}
	}
}

// ways are the two that the bytes of a flow can go.
var ways = []string{"by the short cut", "by the road"}

// flowThat opens a flow that goes one of ways: by the road it is one with a socket that is
// left alone, for a setting that changes nothing else here.
func (s sockmapSite) flowThat(way string, p sockmapPlace) *sockmapFlow {
	s.t.Helper()
	if way == ways[0] {
		return s.flow(p)
	}
	f := s.open(p)
	f.set(s.t, backendEnd, unix.IPPROTO_TCP, unix.TCP_INQ, 1)
	if err := f.talk(1); err != nil {
		s.t.Fatal(err)
	}
	return f
}

// set sets a socket option.
func (f *sockmapFlow) set(t *testing.T, end, level, option, value int) {
	t.Helper()
	raw, err := f.tcp(end).SyscallConn()
	if err == nil {
		err = control(raw, func(fd int) error { return unix.SetsockoptInt(fd, level, option, value) })
	}
	if err != nil {
		t.Fatal(err)
	}
}

// acknowledged waits until all that was sent by TCP is: that is what counts as delivered.
func (f *sockmapFlow) acknowledged(t *testing.T) {
	t.Helper()
	for end := range f.ends {
		if err := testenv.Poll(short(t), func() (bool, error) {
			left, err := unsent(f.tcp(end))
			return left == 0, err
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// end closes both ends in order, and expects the line.
func (s sockmapSite) end(f *sockmapFlow, want map[string]any) {
	s.t.Helper()
	if err := f.finish(); err != nil {
		s.t.Fatal(err)
	}
	s.expect(f, want)
}

// finish has both ends say and hear that there is nothing more.
func (f *sockmapFlow) finish() error {
	defer f.watch()()
	for i, e := range f.ends {
		if err := e.CloseWrite(); err != nil {
			return fmt.Errorf("half-close: %w", err)
		}
		if n, err := f.ends[1-i].Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			return fmt.Errorf("after the last byte of end %d: %d bytes and %w, want the end", i, n, err)
		}
	}
	return nil
}

// tookShortcut is in the line of a flow that took it, to an orderly end; the line has
// the bytes that went by it, too.
var tookShortcut = map[string]any{"engine": "packet+sockmap", "engine_reason": nil, "outcome": "routed", "end": "eof"}

// tookRoad is in the line of a flow that did not, for a reason or for none (nil).
func tookRoad(reason any) map[string]any {
	return map[string]any{"engine": "packet", "engine_reason": reason, "outcome": "routed", "end": "eof", "sockmap_bytes_in": nil, "sockmap_bytes_out": nil}
}

// expect compares the line of a flow, to the byte.
func (s sockmapSite) expect(f *sockmapFlow, want map[string]any) map[string]any {
	s.t.Helper()
	l := s.line(func(m map[string]any) bool { return m["client"] == f.address.String() && !s.seen[m["id"]] })
	s.seen[l["id"]] = true
	for k, v := range want {
		if l[k] != v {
			s.t.Errorf("%s is %v, want %v, in the line %v", k, l[k], v, l)
		}
	}
	in, out := float64(f.sent[clientEnd]), float64(f.sent[backendEnd])
	if l["bytes_in"] != in || l["bytes_out"] != out {
		s.t.Errorf("%v bytes in and %v out, want %v and %v: %v", l["bytes_in"], l["bytes_out"], in, out, l)
	}
	if want["engine"] != "packet+sockmap" {
		return l
	}
	for _, key := range []string{"sockmap_bytes_in", "sockmap_bytes_out"} {
		if n, ok := l[key].(float64); !ok || n <= 0 {
			s.t.Errorf("%s is %v in the line %v", key, l[key], l)
		}
	}
	return l
}

// moveBoth moves bytes both ways at once.
func (f *sockmapFlow) moveBoth(n int64, size func() int) error {
	var g errgroup.Group
	for from := range f.ends {
		g.Go(func() error { return f.move(from, n, size) })
	}
	return g.Wait()
}

// watch has calls on the flow return when patience is over, until stop.
func (f *sockmapFlow) watch() (stop func()) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	ends := f.ends
	dont := context.AfterFunc(ctx, func() {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			for _, e := range ends {
				e.abandon()
			}
		}
	})
	return func() { dont(); cancel() }
}
