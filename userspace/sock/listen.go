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
	mu     sync.Mutex // held while Accept uses fd
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
		if l.fd < 0 {
			return nil, ErrClosed
		}
		fd, sa, err := unix.Accept4(l.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if errors.Is(err, unix.EAGAIN) {
			if stopped {
				return nil, ErrClosed
			}
			err := l.p.wait(l.ctx, l.fd, unix.EPOLLIN, &l.at)
			if err != nil && l.ctx.Err() == nil {
				return nil, err
			}
			continue
		}
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNABORTED):
			continue
		case err != nil && stopped:
			return nil, ErrClosed // it would not end
		case err != nil:
			return nil, fmt.Errorf("accept on %s: %w", l.addr, err)
		}
		if l.filtered.Load() {
			_ = detachFilter(fd)
		}
		c := &Conn{Local: l.addr, Remote: AddrPort(sa), fd: fd, p: l.p}
		if l.anyIP {
			local, err := unix.Getsockname(fd)
			if err != nil {
				_ = c.Close()
				continue
			}
			c.Local = AddrPort(local)
		}
		return c, nil
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
