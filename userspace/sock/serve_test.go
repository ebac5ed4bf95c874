// SPDX-License-Identifier: Apache-2.0

package sock

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// served is a Handler that tells of itself, and goes on when the test says so.
type served struct {
	conn  *Conn
	serve func(*served, *Turn)
}

func (s *served) Serve(turn *Turn) {
	s.serve(s, turn)
	_ = s.conn.Close()
}

// host serves a listener's connections.
type host struct {
	l        *Listener
	accepted atomic.Int32
	failed   chan error
	ended    chan struct{} // Serve has returned
}

func serveOn(t *testing.T, serve func(*served, *Turn)) *host {
	t.Helper()
	h := &host{l: listenOn(t, newPoller(t), "127.0.0.1:0", ListenOptions{}), failed: make(chan error, 100), ended: make(chan struct{})}
	go func() {
		defer close(h.ended)
		h.l.Serve(func(c *Conn) Handler {
			h.accepted.Add(1)
			return &served{c, serve}
		}, func(err error) { h.failed <- err })
	}()
	t.Cleanup(func() {
		_ = h.l.Close()
		await(t, h.ended, "Serve to return")
	})
	return h
}

// connect makes connections to the listener: in its queue, if nobody accepts.
func (h *host) connect(t *testing.T, n int) {
	t.Helper()
	for range n {
		c, err := net.Dial("tcp", h.l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
	}
}

func await[T any](t *testing.T, from <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
	}
	return v
}

func TestWhoLeavesItsTurnHoldsNobodyUp(t *testing.T) {
	turns, release := make(chan *Turn), make(chan struct{})
	h := serveOn(t, func(_ *served, turn *Turn) {
		turn.Leave()
		turn.Leave() // once
		turns <- turn
		<-release
	})
	for range 3 {
		h.connect(t, 1)
		if turn := await(t, turns, "a connection to be served beside those that wait"); turn == nil {
			t.Error("a connection alone is served on a goroutine of its own")
		}
	}
	close(release)
}

// TestAWaitLeavesTheTurn: a handler need not say that it waits, if its context does.
func TestAWaitLeavesTheTurn(t *testing.T) {
	waits, done := make(chan struct{}), make(chan error)
	h := serveOn(t, func(s *served, turn *Turn) {
		waits <- struct{}{}
		done <- s.conn.WaitReadable(WithTurn(short(t), turn), 1)
	})
	silent := make([]net.Conn, 2)
	for i := range silent {
		c, err := net.Dial("tcp", h.l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		silent[i] = c
		await(t, waits, "a connection to be served beside one that waits")
	}
	for _, c := range silent {
		mustWrite(t, c, "x")
		if err := await(t, done, "the end of a wait"); err != nil {
			t.Error(err)
		}
	}
}

// held blocks the loop with a first connection, until release is closed.
func held(t *testing.T, others func(*Turn)) (h *host, release chan struct{}) {
	t.Helper()
	first, release := make(chan struct{}, 1), make(chan struct{})
	first <- struct{}{}
	started := make(chan struct{})
	h = serveOn(t, func(_ *served, turn *Turn) {
		select {
		case <-first:
			close(started)
			<-release
		default:
			others(turn)
		}
	})
	h.connect(t, 1)
	await(t, started, "the first connection")
	return h, release
}

func TestACrowdIsServedSideBySide(t *testing.T) {
	turns := make(chan *Turn, 10)
	h, release := held(t, func(turn *Turn) { turns <- turn })
	h.connect(t, crowd+2)
	close(release)
	beside := 0
	for range crowd + 2 {
		if await(t, turns, "all to be served") == nil {
			beside++
		}
	}
	if beside != 2 {
		t.Errorf("%d of %d are served on goroutines of their own, want 2", beside, crowd+2)
	}
}

// TestServeHasToldOfAllWhenItReturns: whoever counts connections may ask then.
func TestServeHasToldOfAllWhenItReturns(t *testing.T) {
	h, release := held(t, func(*Turn) {})
	h.connect(t, 10)
	h.l.Stop()
	await(t, h.ended, "Serve to return although the loop is held up")
	if n := h.accepted.Load(); n != 11 {
		t.Errorf("told of %d connections when Serve returned, want 11", n)
	}
	close(release)
}

func TestServingPausesWhenDescriptorsRunOut(t *testing.T) {
	got := make(chan struct{}, 1)
	h := serveOn(t, func(*served, *Turn) { got <- struct{}{} })
	domain, to := sockaddr(h.l.Addr())
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	restore := func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
			t.Fatal(err)
		}
	}
	defer restore()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, to); err != nil {
		t.Fatal(err)
	}
	if err := await(t, h.failed, "a complaint"); err == nil {
		t.Error("no reason is given")
	}
	restore()
	await(t, got, "the connection, when there are descriptors again")
	if n := len(h.failed); n > 20 {
		t.Errorf("accepting failed %d more times in a moment: it does not pause", n)
	}
}
