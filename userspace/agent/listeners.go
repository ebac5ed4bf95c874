// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/loader"
	"github.com/spliceway/spliceway/userspace/config"
	"github.com/spliceway/spliceway/userspace/proxy"
	"github.com/spliceway/spliceway/userspace/sock"
)

// address is one place to listen: an address, or all addresses of a prefix.
type address struct {
	prefix netip.Prefix
	port   uint16
}

func (a address) steered() bool { return !a.prefix.IsSingleIP() }

func (a address) bind() netip.AddrPort { return netip.AddrPortFrom(a.prefix.Addr(), a.port) }

func (a address) String() string {
	if a.steered() {
		return fmt.Sprintf("%s port %d", a.prefix, a.port)
	}
	return a.bind().String()
}

// All addresses of a family, as the configuration has "0.0.0.0" and "::".
var (
	everyIPv4 = netip.PrefixFrom(netip.IPv4Unspecified(), 32)
	everyIPv6 = netip.PrefixFrom(netip.IPv6Unspecified(), 128)
)

// addresses are all the places that a configuration listens on.
func addresses(cfg *config.Config, ports []uint16) []address {
	prefixes := cfg.Listen
	if len(prefixes) == 0 {
		prefixes = []netip.Prefix{everyIPv4, everyIPv6}
	}
	var all []address
	for _, port := range ports {
		for _, p := range prefixes {
			if p.Bits() == 0 { // 0.0.0.0/0 is the same as 0.0.0.0
				p = netip.PrefixFrom(p.Addr(), p.Addr().BitLen())
			}
			all = append(all, address{p, port})
		}
	}
	return all
}

// listeners are the open listening sockets.
type listeners struct {
	poller *sock.Poller
	logger *slog.Logger
	serve  func(*sock.Listener)
	open_  map[address]*sock.Listener
	// steering leads a prefix to its socket; nil until one is configured.
	steering *loader.ListenSteering
	serving  sync.WaitGroup
}

func newListeners(p *sock.Poller, logger *slog.Logger, serve func(*sock.Listener)) *listeners {
	return &listeners{poller: p, logger: logger, serve: serve, open_: make(map[address]*sock.Listener)}
}

// change is a set of listeners about to replace the open ones: sockets that are
// new hold their ports already, but nothing is accepted before apply.
type change struct {
	l      *listeners
	opened map[address]*sock.Listener
	next   map[address]*sock.Listener
}

// open prepares to listen on exactly the given addresses. On an error nothing
// has changed.
func (l *listeners) open(want []address, helloTimeout time.Duration) (_ *change, err error) {
	c := &change{l: l, opened: make(map[address]*sock.Listener), next: make(map[address]*sock.Listener)}
	// What is to go may stand where something new is to be: 0.0.0.0 and one
	// address, a prefix and a narrower one.
	going := l.without(want)
	defer func() {
		for _, s := range going {
			if unshared := s.Share(false); unshared != nil && err == nil {
				err = unshared
				c.undo()
			}
		}
	}()
	for _, s := range going {
		if err := s.Share(true); err != nil {
			return nil, err
		}
	}
	for _, a := range want {
		if s := l.open_[a]; s != nil {
			c.next[a] = s
			continue
		}
		options := proxy.ListenOptions(helloTimeout, a.steered())
		options.Share = len(going) > 0
		s, err := l.poller.Listen(a.bind(), options)
		if a.prefix == everyIPv6 && errors.Is(err, unix.EAFNOSUPPORT) {
			l.logger.Info("this host has no such address family", "listener", a.String())
			continue
		}
		if err == nil && a.steered() {
			if err = l.steer(a, s); err != nil {
				_ = s.Close()
			}
		}
		if err != nil {
			c.undo()
			return nil, explainListen(err, a.bind())
		}
		c.opened[a], c.next[a] = s, s
	}
	return c, nil
}

// without are the open listeners that are not wanted.
func (l *listeners) without(want []address) []*sock.Listener {
	going := maps.Clone(l.open_)
	for _, a := range want {
		delete(going, a)
	}
	return slices.Collect(maps.Values(going))
}

func (l *listeners) steer(a address, s *sock.Listener) error {
	if l.steering == nil {
		steering, err := loader.OpenListenSteering()
		if err != nil {
			return fmt.Errorf("listen on prefix %s: %w", a.prefix, err)
		}
		l.steering = steering
	}
	if err := l.steering.Add(a.prefix, a.port, uintptr(s.FD())); err != nil {
		return fmt.Errorf("listen on prefix %s: %w", a.prefix, err)
	}
	return nil
}

// undo closes what open opened.
func (c *change) undo() {
	for a, s := range c.opened {
		c.l.shut(a, s)
	}
}

// apply accepts on what is new and closes what is no longer wanted.
func (c *change) apply() {
	for _, s := range c.opened {
		c.l.serving.Go(func() { c.l.serve(s) })
	}
	for a, s := range c.l.open_ {
		if c.next[a] == nil {
			c.l.shut(a, s)
		}
	}
	c.l.open_ = c.next
}

func (l *listeners) shut(a address, s *sock.Listener) {
	if a.steered() && l.steering != nil {
		if err := l.steering.Remove(a.prefix, a.port); err != nil {
			l.logger.Error("cannot take a prefix back", "listener", a.String(), "error", err.Error())
		}
	}
	if err := s.Close(); err != nil {
		l.logger.Error("cannot close a listener", "listener", a.String(), "error", err.Error())
	}
}

// close stops accepting everywhere. Closing twice does nothing.
func (l *listeners) close() {
	for a, s := range l.open_ {
		l.shut(a, s)
	}
	l.open_ = nil
	if l.steering != nil {
		if err := l.steering.Close(); err != nil {
			l.logger.Error("cannot detach the listening program", "error", err.Error())
		}
		l.steering = nil
	}
	l.serving.Wait()
}

// String lists the addresses, sorted; a long list is cut.
func (l *listeners) String() string {
	const most = 20
	all := make([]address, 0, len(l.open_))
	for a := range l.open_ {
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b address) int {
		return cmp.Or(cmp.Compare(a.port, b.port), a.prefix.Addr().Compare(b.prefix.Addr()))
	})
	var b strings.Builder
	for i, a := range all {
		if i == most {
			fmt.Fprintf(&b, " and %d more", len(all)-most)
			break
		}
		if i > 0 {
			b.WriteString(" ")
		}
		b.WriteString(a.String())
	}
	return b.String()
}
