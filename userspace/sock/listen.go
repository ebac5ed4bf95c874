// SPDX-License-Identifier: Apache-2.0

package sock

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// ListenOptions of a Listener; the zero value works.
type ListenOptions struct {
	// DeferAccept (TCP_DEFER_ACCEPT) leaves a connection in the kernel until
	// its first byte is there, or until it has kept silent for this many seconds
	// (rounded up by the kernel to its SYN-ACK timer). 0: off.
	DeferAccept int
	// FreeBind allows an address that the host does not have (yet).
	FreeBind bool
	// Share allows an address that conflicts with a listener on which Share was
	// called. The listener itself shares with nobody.
	Share bool
}

// Listener accepts connections on one address. Accept may be called from
// several goroutines; Close from any.
type Listener struct {
	addr  netip.AddrPort
	anyIP bool // connections may have another local address than addr
	fd    int
	p     *Poller

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	mu     sync.Mutex // held while fd is used
	at     *waiter    // place in p
	// filtered: what is accepted may have inherited a filter of the listener's.
	filtered atomic.Bool
}

// Listen opens a listening socket: one family only, SO_REUSEADDR, never
// SO_REUSEPORT, so that a second agent on the same port is an error and not half
// of the connections. The backlog is what the machine allows (somaxconn).
func (p *Poller) Listen(addr netip.AddrPort, opts ListenOptions) (*Listener, error) {
	domain, sa := sockaddr(addr)
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: socket: %w", addr, err)
	}
	if err := listen(fd, domain, sa, opts); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	l := &Listener{addr: addr, anyIP: addr.Addr().IsUnspecified() || opts.FreeBind, fd: fd, p: p}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	if addr.Port() == 0 {
		local, err := unix.Getsockname(fd)
		if err != nil {
			_ = unix.Close(fd)
			return nil, fmt.Errorf("listen on %s: getsockname: %w", addr, err)
		}
		l.addr = netip.AddrPortFrom(addr.Addr(), AddrPort(local).Port())
	}
	return l, nil
}

func listen(fd, domain int, sa unix.Sockaddr, opts ListenOptions) error {
	type option struct {
		name           string
		level, opt, to int
	}
	options := []option{{"SO_REUSEADDR", unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}}
	if domain == unix.AF_INET6 {
		options = append(options, option{"IPV6_V6ONLY", unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1})
	}
	if opts.FreeBind {
		options = append(options, option{"IP_FREEBIND", unix.IPPROTO_IP, unix.IP_FREEBIND, 1})
	}
	if opts.DeferAccept > 0 {
		options = append(options, option{"TCP_DEFER_ACCEPT", unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, opts.DeferAccept})
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o.level, o.opt, o.to); err != nil {
			return fmt.Errorf("set %s: %w", o.name, err)
		}
	}
	setConnOptions(fd)
	if opts.Share {
		if err := share(fd, true); err != nil {
			return err
		}
	}
	if err := unix.Bind(fd, sa); err != nil {
		return err
	}
	// The conflict may show only here: SO_REUSEADDR puts it off from bind to
	// listen (inet_csk_get_port).
	if err := unix.Listen(fd, backlog()); err != nil {
		return err
	}
	if opts.Share {
		return share(fd, false)
	}
	return nil
}

// share sets SO_REUSEPORT, by which the kernel lets listeners of one user whose
// addresses conflict stand beside each other: both must have it at the moment of
// the bind (inet_csk_bind_conflict).
func share(fd int, on bool) error {
	v := 0
	if on {
		v = 1
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, v); err != nil {
		return fmt.Errorf("set SO_REUSEPORT: %w", err)
	}
	return nil
}

// Share lets listeners that are opened with ListenOptions.Share stand beside this
// one, or ends that. Like FD it is for as long as the listener is open.
func (l *Listener) Share(on bool) error { return share(l.fd, on) }

// SetDeferAccept changes ListenOptions.DeferAccept. Like FD it is for as long as the
// listener is open.
func (l *Listener) SetDeferAccept(seconds int) error {
	if err := unix.SetsockoptInt(l.fd, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, seconds); err != nil {
		return fmt.Errorf("listen on %s: set TCP_DEFER_ACCEPT: %w", l.addr, err)
	}
	return nil
}

// backlog is the largest accept queue that the machine allows.
func backlog() int {
	const fallback = 4096 // the kernel's default since 5.4
	data, err := os.ReadFile("/proc/sys/net/core/somaxconn")
	if err != nil {
		return fallback
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || n < 1 {
		return fallback
	}
	return n
}

// Addr is the address that the listener is bound to.
func (l *Listener) Addr() netip.AddrPort { return l.addr }

// FD is the listening descriptor, for as long as the listener is open; it stays
// the listener's.
func (l *Listener) FD() int { return l.fd }

// Accept waits for the next connection. It returns ErrClosed after Close, and after
// Stop once the queue is empty; any other error concerns one connection or a want of
// resources (EMFILE, ENFILE, ENOBUFS, ENOMEM), and Accept may be called again.
func (l *Listener) Accept() (*Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		stopped := l.ctx.Err() != nil // asked before the queue is
		c, err := l.take()
		switch {
		case err == nil, errors.Is(err, ErrClosed):
			return c, err
		case stopped:
			return nil, ErrClosed // it is empty, or accepting would not end
		case !errors.Is(err, unix.EAGAIN):
			return nil, fmt.Errorf("accept on %s: %w", l.addr, err)
		}
		if err := l.p.wait(l.ctx, l.fd, unix.EPOLLIN, &l.at); err != nil && l.ctx.Err() == nil {
			return nil, err
		}
	}
}

// take accepts a connection that is there, or returns EAGAIN. l.mu is held.
func (l *Listener) take() (*Conn, error) {
	for {
		if l.fd < 0 {
			return nil, ErrClosed
		}
		fd, remote, err := accept(l.fd)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNABORTED):
			continue
		case err != nil:
			return nil, err
		}
		if l.filtered.Load() {
			_ = detachFilter(fd)
		}
		c := &Conn{Local: l.addr, Remote: remote, fd: fd, p: l.p}
		if l.anyIP {
			if c.Local, err = localAddr(fd); err != nil {
				_ = c.Close()
				continue
			}
		}
		return c, nil
	}
}

// acceptBackoff is how long accepting pauses when the machine has run out of
// something (descriptors, memory), which only the end of a connection mends.
const acceptBackoff = 50 * time.Millisecond

// Handler serves one connection. If turn is not nil it runs on the poller's own
// goroutine, and has to leave that before it waits for anything.
type Handler interface{ Serve(turn *Turn) }

// Serve has accepted make a Handler for every connection, and that serve it, until Close,
// or until Stop and the end of the queue: when it returns all of them have been told to
// accepted, which must not wait. failed is told why accepting pauses for a moment.
// Accept must not be called beside it.
func (l *Listener) Serve(accepted func(*Conn) Handler, failed func(error)) {
	s := &serving{l: l, accepted: accepted, failed: failed}
	if s.begin() {
		<-l.ctx.Done()
	}
	s.end()
	// What is left in the queue; or all, if the poller has no room.
	for {
		c, err := l.Accept()
		switch {
		case errors.Is(err, ErrClosed):
			return
		case err != nil:
			failed(err)
			time.Sleep(acceptBackoff)
			continue
		}
		go accepted(c).Serve(nil)
	}
}

// serving is a listener that the poller serves.
type serving struct {
	l        *Listener
	accepted func(*Conn) Handler
	failed   func(error)
	over     bool // no longer; under l.mu
}

// begin is false if there is nothing to wait for.
func (s *serving) begin() bool {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if s.l.fd < 0 {
		return false
	}
	s.l.at = &waiter{serve: s.ready}
	s.l.p.enter(s.l.fd, s.l.at)
	return s.watch(unix.EPOLL_CTL_ADD, unix.EPOLLIN) == nil
}

func (s *serving) end() {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	s.over = true
	if s.l.fd >= 0 && s.l.at != nil {
		s.l.p.forget(s.l.fd)
		s.l.at = nil
	}
}

func (s *serving) watch(op int, events uint32) error {
	return EpollControl(s.l.p.epfd, op, s.l.fd, &unix.EpollEvent{Events: events, Fd: int32(s.l.fd), Pad: s.l.at.gen})
}

// batch bounds how many connections are accepted before the first of them is served.
const batch = 64

// ready accepts what there is.
func (s *serving) ready() {
	for range batch {
		h := s.take()
		if h == nil {
			return
		}
		s.l.p.waiting = append(s.l.p.waiting, h)
	}
}

// take is nil when nothing is there, or to be had for now.
func (s *serving) take() Handler {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if s.over {
		return nil
	}
	c, err := s.l.take()
	switch {
	case err == nil:
		return s.accepted(c)
	case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, ErrClosed):
		s.failed(fmt.Errorf("accept on %s: %w", s.l.addr, err))
		if s.watch(unix.EPOLL_CTL_MOD, 0) == nil {
			time.AfterFunc(acceptBackoff, s.resume)
		}
	}
	return nil
}

// resume goes on after a pause.
func (s *serving) resume() {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if !s.over && s.l.fd >= 0 {
		_ = s.watch(unix.EPOLL_CTL_MOD, unix.EPOLLIN)
	}
}

// Stop ends listening without losing what waits in the kernel's queue: Accept
// returns all of it, and then ErrClosed. Close comes after that. Handshakes that are
// under way are given up; Deafen some time before lets them end well.
func (l *Listener) Stop() {
	// Nothing may enter the queue after Accept has found it empty. Without the
	// filter (no memory for it) what does is reset by Close.
	_ = l.filter(dropAll)
	l.cancel()
}

// Close stops listening. Connections that wait in the kernel's queue are reset
// by it; Accept returns ErrClosed. Closing twice does nothing.
func (l *Listener) Close() error {
	l.cancel()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fd < 0 {
		return nil
	}
	if l.at != nil {
		l.p.forget(l.fd)
	}
	err := unix.Close(l.fd)
	l.fd = -1
	return err
}
