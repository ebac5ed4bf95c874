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
	"github.com/spliceway/spliceway/userspace/plan"
	"github.com/spliceway/spliceway/userspace/proxy"
	"github.com/spliceway/spliceway/userspace/sock"
)

// address is one place to listen: an address, or all addresses of a prefix.
type address struct {
	prefix netip.Prefix
	port   uint16
}

func (a address) steered() bool { return !a.prefix.IsSingleIP() }

// every tells whether it is for all addresses of its family: not so 0.0.0.0/8.
func (a address) every() bool {
	return a.prefix.Addr().IsUnspecified() && (a.prefix.Bits() == 0 || a.prefix.IsSingleIP())
}

// takes tells whether connections to an address get here.
func (a address) takes(at netip.Addr) bool {
	return a.covers(address{netip.PrefixFrom(at, at.BitLen()), a.port})
}

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

// addresses are all the places to listen on for the places of a route table: those that
// are for every address are what the configuration listens on, and the others are there
// by themselves, unless they are within these. Those that only objects want, on ports that no
// endpoint of the file has, are optional: if they cannot be had, all else goes on without.
func addresses(cfg *config.Config, places []netip.AddrPort, own map[uint16]bool) (all []address, optional map[address]bool) {
	optional = make(map[address]bool)
	prefixes := cfg.Listen
	if len(prefixes) == 0 {
		prefixes = []netip.Prefix{everyIPv4, everyIPv6}
	}
	for _, at := range places {
		if at.Addr().IsValid() {
			continue
		}
		port := at.Port()
		for _, p := range prefixes {
			if p.Bits() == 0 { // 0.0.0.0/0 is the same as 0.0.0.0
				p = netip.PrefixFrom(p.Addr(), p.Addr().BitLen())
			}
			a := address{prefix: p, port: port}
			all = append(all, a)
			optional[a] = !own[port]
		}
	}
	// The pool of a cluster's Gateways is listened on prefix by prefix.
	for _, at := range places {
		for _, p := range cfg.Kubernetes.Addresses {
			pooled := address{prefix: p, port: at.Port()}
			if at.Addr().IsValid() && p.Contains(at.Addr()) && !slices.Contains(all, pooled) {
				all = append(all, pooled)
				optional[pooled] = true
			}
		}
	}
	for _, at := range places {
		if a := at.Addr(); a.IsValid() && !slices.ContainsFunc(all, func(o address) bool { return o.port == at.Port() && o.takes(a) }) {
			one := address{prefix: netip.PrefixFrom(a, a.BitLen()), port: at.Port()}
			all = append(all, one)
			optional[one] = true
		}
	}
	return all, optional
}

// ownPorts are those of the endpoints of the agent's file.
func ownPorts(p *plan.Plan) map[uint16]bool {
	ports := make(map[uint16]bool)
	for i := range p.Endpoints {
		if p.Endpoints[i].From == "" {
			ports[p.Config.Endpoints[i].Port] = true
		}
	}
	return ports
}

// listener is a listening socket at its place. One socket does for all ports of a prefix:
// connections are led to it, whatever its own port is.
type listener struct {
	*sock.Listener
	users int // addresses that it is open for
	// served is closed when nothing is accepted any more; nil before that began.
	served chan struct{}
}

// listeners are the open listening sockets.
type listeners struct {
	poller *sock.Poller
	logger *slog.Logger
	serve  func(*sock.Listener)
	open_  map[address]*listener
	// steering leads a prefix to its socket; nil until one is configured.
	steering *loader.ListenSteering
	serving  sync.WaitGroup
	// failed are optional addresses that could not be had, and why.
	failed map[address]error

	mu sync.Mutex // guards leaving, and keeps its sockets open
	// leaving take no new connections and are about to be closed.
	leaving map[address]*listener
}

// leaveTime is how long a listener stays for handshakes that were under way: as long
// as the kernel waits until it sends a SYN-ACK again, which is how long
// TCP_DEFER_ACCEPT keeps a silent client, and a round trip to a client far away.
const leaveTime = 1500 * time.Millisecond

func newListeners(p *sock.Poller, logger *slog.Logger, serve func(*sock.Listener)) *listeners {
	return &listeners{
		poller: p, logger: logger, serve: serve,
		open_: make(map[address]*listener), leaving: make(map[address]*listener),
	}
}

// change is a set of listeners about to replace the open ones: sockets that are
// new hold their ports already, but nothing is accepted before apply.
type change struct {
	l           *listeners
	made        []*listener // sockets that are new
	opened      map[address]*listener
	revived     map[address]*listener // were leaving
	next        map[address]*listener
	failed      map[address]error
	deferAccept int // seconds of TCP_DEFER_ACCEPT
}

// open prepares to listen on exactly the given addresses, without those that are optional and
// cannot be had. On an error nothing has changed.
func (l *listeners) open(want []address, optional map[address]bool, helloTimeout time.Duration) (_ *change, err error) {
	options := proxy.ListenOptions(helloTimeout, false)
	c := &change{
		l: l, opened: make(map[address]*listener), revived: make(map[address]*listener),
		next: make(map[address]*listener), failed: make(map[address]error), deferAccept: options.DeferAccept,
	}
	defer func() {
		if err != nil {
			c.undo()
		}
	}()
	l.mu.Lock()
	defer l.mu.Unlock()
	for a, s := range l.open_ {
		if stays(a, want) {
			c.next[a] = s
		}
	}
	for _, a := range want {
		if s := l.leaving[a]; s != nil {
			c.revived[a], c.next[a] = s, s
			delete(l.leaving, a)
			if a.steered() {
				if err := l.steer(a, s.Listener); err != nil {
					return nil, err
				}
			}
		}
	}
	// What is to go may stand where something new is to be: 0.0.0.0 and one
	// address, a prefix and a narrower one. So may what stays.
	before := slices.Collect(maps.Values(l.leaving))
	for _, s := range l.open_ {
		before = append(before, s)
	}
	options.Share = len(before) > 0
	defer func() {
		for _, s := range before {
			err = cmp.Or(err, s.Share(false))
		}
	}()
	for _, s := range before {
		if err := s.Share(true); err != nil {
			return nil, err
		}
	}
	homes := make(map[netip.Prefix]*listener) // of prefixes
	for a, s := range c.next {
		if a.steered() {
			homes[a.prefix] = s
		}
	}
	for _, a := range want {
		if c.next[a] != nil {
			continue
		}
		home := homes[a.prefix]
		made, err := l.listen(a, home, options)
		if a.prefix == everyIPv6 && errors.Is(err, unix.EAFNOSUPPORT) {
			l.logger.Info("this host has no such address family", "listener", a.String())
			continue
		}
		if err != nil && optional[a] {
			c.failed[a] = explainListen(err, a.bind())
			if before := l.failed[a]; before == nil || before.Error() != c.failed[a].Error() {
				l.logger.Error("not listened on: "+c.failed[a].Error(), "listener", a.String())
			}
			continue
		}
		if err != nil {
			return nil, explainListen(err, a.bind())
		}
		made.users++
		c.opened[a], c.next[a] = made, made
		if made != home {
			c.made = append(c.made, made)
		}
		if a.steered() {
			homes[a.prefix] = made
		}
	}
	return c, nil
}

// listen opens a socket for an address, or leads an address to home, if that is not nil.
func (l *listeners) listen(a address, home *listener, o sock.ListenOptions) (*listener, error) {
	if home != nil {
		return home, l.steer(a, home.Listener)
	}
	o.FreeBind = a.steered()
	s, err := l.poller.Listen(a.bind(), o)
	if err != nil {
		return nil, err
	}
	if a.steered() {
		if err := l.steer(a, s); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return &listener{Listener: s}, nil
}

// stays tells whether the listener of a is wanted, or its connections are: while it
// is there they come to it and not to a wider one (inet_lookup_listener), and closing
// it would cost those whose handshake is under way.
func stays(a address, want []address) bool {
	return slices.ContainsFunc(want, func(w address) bool {
		return w == a || !a.steered() && w.covers(a)
	})
}

// covers tells whether all connections to b are connections to a.
func (a address) covers(b address) bool {
	if a.port != b.port || a.prefix.Addr().Is4() != b.prefix.Addr().Is4() {
		return false
	}
	if a.every() || b.every() {
		return a.every()
	}
	return a.prefix.Bits() <= b.prefix.Bits() && a.prefix.Contains(b.prefix.Addr())
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
	for a, s := range c.revived {
		c.l.leave(a, s)
	}
}

// apply accepts on what is new and closes what is no longer wanted. A socket whose
// connections are to come to another one takes its leave.
func (c *change) apply() {
	for _, s := range c.made {
		s.served = make(chan struct{})
		c.l.serving.Go(func() {
			defer close(s.served)
			c.l.serve(s.Listener)
		})
	}
	set := make(map[*listener]bool)
	for a, s := range c.next {
		var err error
		if !set[s] {
			set[s], err = true, s.SetDeferAccept(c.deferAccept)
		}
		if c.revived[a] != nil {
			err = errors.Join(err, s.Deafen(false))
		}
		c.l.complain(a, "cannot change a listener", err)
	}
	for a, s := range c.l.open_ {
		switch {
		case c.next[a] != nil:
		case c.handsOver(a):
			c.l.leave(a, s)
		default:
			c.l.shut(a, s)
		}
	}
	c.l.open_, c.l.failed = c.next, c.failed
}

// handsOver tells whether there is a listener now for connections to a.
func (c *change) handsOver(a address) bool {
	for n := range c.next {
		if n.covers(a) || a.covers(n) {
			return true
		}
	}
	return false
}

// leave has a listener take no new connections, and closes it when those whose
// handshake was under way have come. One that has other ports stays for these.
func (l *listeners) leave(a address, s *listener) {
	l.unsteer(a)
	if s.users > 1 {
		s.users--
		return
	}
	l.complain(a, "cannot keep a listener from new connections", s.Deafen(true))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leaving[a] = s
	time.AfterFunc(leaveTime, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.leaving[a] == s {
			delete(l.leaving, a)
			l.end(a, s)
		}
	})
}

func (l *listeners) shut(a address, s *listener) {
	l.unsteer(a)
	if s.users--; s.users == 0 {
		l.end(a, s)
	}
}

func (l *listeners) unsteer(a address) {
	if a.steered() && l.steering != nil {
		l.complain(a, "cannot take a prefix back", l.steering.Remove(a.prefix, a.port))
	}
}

// end closes a listener, after what waits in its queue has been accepted.
func (l *listeners) end(a address, s *listener) {
	s.Stop()
	if s.served != nil {
		<-s.served
	}
	l.complain(a, "cannot close a listener", s.Close())
}

func (l *listeners) complain(a address, what string, err error) {
	if err != nil {
		l.logger.Error(what, "listener", a.String(), "error", err.Error())
	}
}

// close stops accepting everywhere, after what the kernel has accepted already.
// Closing twice does nothing.
func (l *listeners) close() {
	for a, s := range l.open_ {
		l.shut(a, s)
	}
	l.open_ = nil
	l.mu.Lock()
	for a, s := range l.leaving {
		l.end(a, s)
	}
	clear(l.leaving)
	l.mu.Unlock()
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
