// SPDX-License-Identifier: Apache-2.0

package sock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// ErrClosed is returned by a wait on a closed Poller, Listener or Conn.
var ErrClosed = errors.New("use of closed socket")

// Poller waits for sockets: one epoll instance, which is itself a descriptor in
// the Go runtime's poller, so that a wait costs no thread. Make one with
// NewPoller; it is safe for concurrent use.
type Poller struct {
	epfd int
	file *os.File // owns epfd

	closed atomic.Bool

	mu   sync.Mutex
	byFD map[int]*waiter
	gen  int32 // of the youngest waiter
}

// waiter is one descriptor's place in the poller.
type waiter struct {
	ready chan struct{} // capacity 1; spurious wake-ups are allowed
	gen   int32         // tells it from an older one of the same number
	hup   atomic.Bool   // the peer has closed, or the connection is broken
}

// NewPoller makes a poller and starts its goroutine; Close ends both.
func NewPoller() (*Poller, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll instance: %w", err)
	}
	if err := unix.SetNonblock(epfd, true); err != nil {
		_ = unix.Close(epfd)
		return nil, fmt.Errorf("create epoll instance: %w", err)
	}
	p := &Poller{epfd: epfd, file: os.NewFile(uintptr(epfd), "epoll"), byFD: make(map[int]*waiter)}
	raw, err := p.file.SyscallConn()
	if err != nil {
		_ = p.file.Close()
		return nil, fmt.Errorf("create epoll instance: %w", err)
	}
	go func() {
		events := make([]unix.EpollEvent, 128)
		for {
			var n int
			// An error means that the file is closed.
			if err := raw.Read(func(fd uintptr) bool {
				n, _ = unix.EpollWait(int(fd), events, 0)
				return n > 0
			}); err != nil {
				return
			}
			p.wake(events[:n])
		}
	}()
	return p, nil
}

func (p *Poller) wake(events []unix.EpollEvent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range events {
		// The number may stand for a younger descriptor by now: its owner
		// tries, finds nothing and waits again.
		if w := p.byFD[int(events[i].Fd)]; w != nil && w.gen == events[i].Pad {
			if events[i].Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
				w.hup.Store(true)
			}
			w.signal()
		}
	}
}

func (w *waiter) signal() {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

// Close ends the poller's goroutine and every wait, with ErrClosed.
func (p *Poller) Close() error {
	p.closed.Store(true)
	p.mu.Lock()
	for _, w := range p.byFD {
		w.signal()
	}
	p.mu.Unlock()
	return p.file.Close()
}

// wait blocks until fd has one of events (epoll's), or ctx ends. It may return
// early: the caller tries again and waits again. at is fd's place, nil before the
// first wait; the caller keeps it, and calls forget at the end if there is one.
func (p *Poller) wait(ctx context.Context, fd int, events uint32, at **waiter) error {
	op := unix.EPOLL_CTL_MOD
	if *at == nil {
		op = unix.EPOLL_CTL_ADD
		*at = &waiter{ready: make(chan struct{}, 1)}
		p.mu.Lock()
		p.gen++
		(*at).gen = p.gen
		p.byFD[fd] = *at
		p.mu.Unlock()
	}
	w := *at
	if p.closed.Load() {
		return ErrClosed
	}
	ev := unix.EpollEvent{Events: events | unix.EPOLLONESHOT, Fd: int32(fd), Pad: w.gen}
	if err := unix.EpollCtl(p.epfd, op, fd, &ev); err != nil {
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
