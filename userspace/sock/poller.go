// SPDX-License-Identifier: Apache-2.0

package sock

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// ErrClosed is returned by a wait on a closed Poller, Listener or Conn.
var ErrClosed = errors.New("use of closed socket")

// Poller waits for sockets: one epoll instance, and one goroutine at a time that sleeps
// in it. That one serves what listeners accept, too, until that has to wait for
// something: then another takes its turn (see Turn), and so a connection whose hello is
// there costs no goroutine and wakes no thread. Make one with NewPoller; it is safe for
// concurrent use.
type Poller struct {
	epfd    int
	eventfd int
	closed  atomic.Bool
	ended   chan struct{} // the loop has

	// Of the goroutine whose turn it is.
	events  [128]unix.EpollEvent
	next    []unix.EpollEvent // of events, not looked at yet
	waiting []Handler         // accepted, not served yet
	pause   Pause

	mu   sync.Mutex
	byFD map[int]*waiter
	gen  int32 // of the youngest waiter
}

// waiter is one descriptor's place in the poller.
type waiter struct {
	ready chan struct{} // capacity 1; spurious wake-ups are allowed
	serve func()        // instead of it: on the goroutine whose turn it is
	gen   int32         // tells it from an older one of the same number
	hup   atomic.Bool   // the peer has closed, or the connection is broken
}

// Turn is the poller's loop, for as long as it runs on somebody's goroutine.
type Turn struct {
	p    *Poller
	left bool
}

// Leave lets another goroutine go on with the loop, once. It is to be called by the
// goroutine that has been given the turn, before whatever may take long. A nil Turn has
// been left.
func (t *Turn) Leave() {
	if t == nil || t.left {
		return
	}
	t.left = true
	go t.p.run()
}

type turnKey struct{}

// WithTurn has t be left by waits that are given the context.
func WithTurn(ctx context.Context, t *Turn) context.Context {
	if t == nil {
		return ctx
	}
	return context.WithValue(ctx, turnKey{}, t)
}

// LeaveTurn leaves the context's turn, if it has one.
func LeaveTurn(ctx context.Context) {
	t, _ := ctx.Value(turnKey{}).(*Turn)
	t.Leave()
}

// eventToken is the eventfd's place in the poller, which no descriptor has.
const eventToken = -1

// NewPoller makes a poller and starts its goroutine; Close ends both.
func NewPoller() (*Poller, error) {
	p := &Poller{byFD: make(map[int]*waiter), ended: make(chan struct{})}
	var err error
	if p.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("create epoll instance: %w", err)
	}
	if p.eventfd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		_ = unix.Close(p.epfd)
		return nil, fmt.Errorf("create epoll instance: %w", err)
	}
	if err = EpollControl(p.epfd, unix.EPOLL_CTL_ADD, p.eventfd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: eventToken}); err != nil {
		_ = unix.Close(p.eventfd)
		_ = unix.Close(p.epfd)
		return nil, fmt.Errorf("create epoll instance: %w", err)
	}
	go p.run()
	return p, nil
}

// crowd is how many accepted connections that wait for the loop have it serve them side
// by side: setting one up takes a tenth of a millisecond, on a host without delay.
const crowd = 4

// run is the loop, on the goroutine whose turn it is.
func (p *Poller) run() {
	turn := &Turn{p: p}
	for {
		woken := p.look()
		for len(p.waiting) > 0 {
			h := p.waiting[0]
			p.waiting[0] = nil
			p.waiting = p.waiting[1:]
			if len(p.waiting) >= crowd {
				go h.Serve(nil)
				continue
			}
			if h.Serve(turn); turn.left {
				return
			}
		}
		p.waiting = nil
		if woken {
			runtime.Gosched() // who was woken goes first: this goroutine may sleep for long
		}
		p.pause.Now()
		n, err := unix.EpollWait(p.epfd, p.events[:], -1)
		if p.closed.Load() || err != nil && !errors.Is(err, unix.EINTR) {
			close(p.ended)
			return
		}
		p.next = p.events[:max(n, 0)]
	}
}

// look goes through what epoll has told. woken: somebody was waiting for it.
func (p *Poller) look() (woken bool) {
	for len(p.next) > 0 {
		serve, signalled := p.wake(&p.next[0])
		p.next = p.next[1:]
		woken = woken || signalled
		if serve != nil {
			serve()
		}
	}
	return woken
}

// Pause is the breath that an event loop takes. A goroutine that never comes by the Go
// scheduler, since it only sleeps in the kernel, has the runtime take its processor away
// every 10 ms (retake), and look for such ones every 20 us from then on.
type Pause struct{ last time.Time }

const breath = 5 * time.Millisecond

// Now takes one, if it is time.
func (p *Pause) Now() {
	if now := time.Now(); now.Sub(p.last) > breath {
		p.last = now
		runtime.Gosched()
	}
}

// wake tells whoever waits for the event's descriptor, or returns what serves it.
func (p *Poller) wake(ev *unix.EpollEvent) (serve func(), signalled bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// The number may stand for a younger descriptor by now: its owner tries, finds
	// nothing and waits again.
	w := p.byFD[int(ev.Fd)]
	if w == nil || w.gen != ev.Pad {
		return nil, false
	}
	if w.serve != nil {
		return w.serve, false
	}
	if ev.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		w.hup.Store(true)
	}
	w.signal()
	return nil, true
}

func (w *waiter) signal() {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

// Close ends the poller's goroutine and every wait, with ErrClosed.
func (p *Poller) Close() error {
	if p.closed.Swap(true) {
		return ErrClosed
	}
	p.mu.Lock()
	for _, w := range p.byFD {
		if w.ready != nil {
			w.signal()
		}
	}
	p.mu.Unlock()
	one := [8]byte{1}
	_, _ = unix.Write(p.eventfd, one[:])
	<-p.ended
	return errors.Join(unix.Close(p.eventfd), unix.Close(p.epfd))
}

// enter gives fd a place.
func (p *Poller) enter(fd int, w *waiter) {
	p.mu.Lock()
	p.gen++
	w.gen = p.gen
	p.byFD[fd] = w
	p.mu.Unlock()
}

// wait blocks until fd has one of events (epoll's), or ctx ends. It may return
// early: the caller tries again and waits again. at is fd's place, nil before the
// first wait; the caller keeps it, and calls forget at the end if there is one.
func (p *Poller) wait(ctx context.Context, fd int, events uint32, at **waiter) error {
	op := unix.EPOLL_CTL_MOD
	if *at == nil {
		op = unix.EPOLL_CTL_ADD
		*at = &waiter{ready: make(chan struct{}, 1)}
		p.enter(fd, *at)
	}
	w := *at
	LeaveTurn(ctx)
	if p.closed.Load() {
		return ErrClosed
	}
	ev := unix.EpollEvent{Events: events | unix.EPOLLONESHOT, Fd: int32(fd), Pad: w.gen}
	if err := EpollControl(p.epfd, op, fd, &ev); err != nil {
		return fmt.Errorf("wait for socket: %w", err)
	}
	select {
	case <-w.ready:
		if p.closed.Load() {
			return ErrClosed
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// forget takes fd out, before it is closed or given away.
func (p *Poller) forget(fd int) {
	p.mu.Lock()
	delete(p.byFD, fd)
	p.mu.Unlock()
	if !p.closed.Load() {
		_ = unix.EpollCtl(p.epfd, unix.EPOLL_CTL_DEL, fd, nil)
	}
}
