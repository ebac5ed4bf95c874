// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv"
	"github.com/spliceway/spliceway/userspace/sock"
)

func short(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func newTestListeners(t *testing.T, serve func(*sock.Listener)) *listeners {
	t.Helper()
	p, err := sock.NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	l := newListeners(p, slog.New(slog.DiscardHandler), serve)
	t.Cleanup(func() {
		l.close()
		_ = p.Close()
	})
	return l
}

// freePlace is an address of this host with a port that was free a moment ago.
func freePlace(t *testing.T) address {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	at := l.Addr().(*net.TCPAddr).AddrPort()
	return address{prefix: netip.PrefixFrom(at.Addr(), 32), port: at.Port()}
}

// TestStopServesWhatTheKernelHasAccepted: what nobody has had the time to accept.
func TestStopServesWhatTheKernelHasAccepted(t *testing.T) {
	busy, served := make(chan struct{}), atomic.Int64{}
	l := newTestListeners(t, func(s *sock.Listener) {
		<-busy
		for {
			c, err := s.Accept()
			if err != nil {
				return
			}
			served.Add(1)
			_ = c.Close()
		}
	})
	at := freePlace(t)
	c, err := l.open([]address{at}, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	c.apply()
	const n = 5
	for range n {
		c, err := net.Dial("tcp", at.bind().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
	}
	err = testenv.Poll(short(t), func() (bool, error) { // tcp_get_info: the accept queue
		info, err := unix.GetsockoptTCPInfo(l.open_[at].FD(), unix.IPPROTO_TCP, unix.TCP_INFO)
		return err == nil && info.Unacked == n, err
	})
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		l.close()
	}()
	close(busy)
	<-closed
	if served.Load() != n {
		t.Errorf("%d of %d connections were served", served.Load(), n)
	}
}

func TestKeptListenersFollowTheHelloTimeout(t *testing.T) {
	l := newTestListeners(t, func(s *sock.Listener) {
		for {
			if _, err := s.Accept(); err != nil {
				return
			}
		}
	})
	at := freePlace(t)
	fd := -1
	for _, tt := range []struct {
		timeout time.Duration
		defers  bool
	}{{3 * time.Second, true}, {500 * time.Millisecond, false}, {3 * time.Second, true}} {
		c, err := l.open([]address{at}, nil, tt.timeout)
		if err != nil {
			t.Fatal(err)
		}
		c.apply()
		if fd >= 0 && l.open_[at].FD() != fd {
			t.Error("the listener was not kept")
		}
		fd = l.open_[at].FD()
		v, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT)
		if err != nil || (v > 0) != tt.defers {
			t.Errorf("timeouts.hello %s: TCP_DEFER_ACCEPT is %d, %v", tt.timeout, v, err)
		}
	}
}

// TestAChangeThatFailsLeavesEverythingAsItWas, a listener that takes its leave
// included.
func TestAChangeThatFailsLeavesEverythingAsItWas(t *testing.T) {
	l := newTestListeners(t, func(s *sock.Listener) {
		for {
			if _, err := s.Accept(); err != nil {
				return
			}
		}
	})
	narrow := freePlace(t)
	wide := address{prefix: everyIPv4, port: narrow.port}
	optional := make(map[address]bool)
	change := func(want ...address) error {
		c, err := l.open(want, optional, 0)
		if err == nil {
			c.apply()
		}
		return err
	}
	for _, want := range []address{wide, narrow} {
		if err := change(want); err != nil {
			t.Fatal(err)
		}
	}
	old := l.leaving[wide]
	if old == nil {
		t.Fatal("the wide listener is not about to leave")
	}
	nowhere := address{prefix: netip.MustParsePrefix("192.0.2.1/32"), port: narrow.port}
	if err := change(wide, nowhere); err == nil {
		t.Fatal("listening on an address that is not the host's has no error")
	}
	// One that only an object asks for is gone without.
	optional[nowhere] = true
	if err := change(narrow, nowhere); err != nil || len(l.open_) != 1 || l.failed[nowhere] == nil {
		t.Errorf("open: %v, failed: %v, %v", l.open_, l.failed, err)
	}
	if len(l.open_) != 1 || l.open_[narrow] == nil || l.leaving[wide] != old {
		t.Errorf("open: %v, leaving: %v", l.open_, l.leaving)
	}
	if err := change(wide); err != nil {
		t.Fatal(err)
	}
	if len(l.open_) != 2 || l.open_[wide] != old || len(l.leaving) != 0 {
		t.Errorf("the wide one is not taken back: open: %v, leaving: %v", l.open_, l.leaving)
	}
	c, err := net.DialTimeout("tcp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), wide.port).String(), patience)
	if err != nil {
		t.Fatalf("it takes no new connections: %v", err)
	}
	_ = c.Close()
}

func TestCovers(t *testing.T) {
	place := func(s string) address { return address{prefix: netip.MustParsePrefix(s), port: 443} }
	for _, tt := range []struct {
		wide, narrow string
		want         bool
	}{
		{"0.0.0.0/32", "10.0.0.1/32", true},
		{"10.0.0.1/32", "0.0.0.0/32", false},
		{"0.0.0.0/32", "10.0.0.0/8", true},
		{"10.0.0.0/8", "0.0.0.0/32", false},
		{"0.0.0.0/32", "0.0.0.0/32", true},
		{"::/128", "10.0.0.1/32", false},
		{"::/128", "fd00::1/128", true},
		{"10.0.0.0/8", "10.0.0.1/32", true},
		{"10.0.0.0/8", "10.0.0.0/16", true},
		{"10.0.0.0/16", "10.0.0.0/8", false},
		{"10.0.0.0/8", "11.0.0.1/32", false},
		{"0.0.0.0/8", "0.1.0.1/32", true},
		{"0.0.0.0/8", "10.0.0.1/32", false},
		{"0.0.0.0/0", "10.0.0.1/32", true},
	} {
		if got := place(tt.wide).covers(place(tt.narrow)); got != tt.want {
			t.Errorf("%s covers %s: got %v", tt.wide, tt.narrow, got)
		}
	}
	if other := (address{prefix: everyIPv4, port: 80}); other.covers(place("10.0.0.1/32")) {
		t.Error("another port is covered")
	}
}

// TestOneSocketDoesForAllPortsOfAPrefix, whichever of them come and go.
func TestOneSocketDoesForAllPortsOfAPrefix(t *testing.T) {
	ns := testenv.MustNamespace(t, "sw-agent-ports")
	err := ns.Do(func() error {
		served := make(chan netip.AddrPort, 1)
		l := newTestListeners(t, func(s *sock.Listener) {
			for {
				c, err := s.Accept()
				if err != nil {
					return
				}
				served <- c.Local
				_ = c.Close()
			}
		})
		defer l.close() // in the namespace
		at := func(port uint16) address {
			return address{prefix: netip.MustParsePrefix("127.9.0.0/24"), port: port}
		}
		change := func(want ...address) error {
			c, err := l.open(want, nil, 0)
			if err != nil {
				return err
			}
			c.apply()
			sockets := make(map[*listener]bool)
			for _, s := range l.open_ {
				sockets[s] = true
			}
			if len(sockets) != 1 || len(l.open_) != len(want) {
				t.Errorf("%d addresses have %d sockets, want %d and 1", len(l.open_), len(sockets), len(want))
			}
			for _, a := range want {
				to := netip.AddrPortFrom(netip.MustParseAddr("127.9.0.7"), a.port)
				c, err := net.Dial("tcp", to.String())
				if err != nil {
					return err
				}
				if got := <-served; got != to {
					t.Errorf("a connection to %s came to %s", to, got)
				}
				_ = c.Close()
			}
			return nil
		}
		var many []address
		for port := range uint16(500) {
			many = append(many, at(10000+port))
		}
		for _, want := range [][]address{{at(1000)}, {at(1000), at(1001)}, {at(1001)}, {at(1001), at(1000), at(1002)}, many, {at(1002)}} {
			if err := change(want...); err != nil {
				return err
			}
		}
		if c, err := net.Dial("tcp", "127.9.0.7:1001"); err == nil {
			_ = c.Close()
			t.Error("a port that is not wanted any more is listened on")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
