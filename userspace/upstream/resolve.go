// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/spliceway/spliceway/userspace/sock"
)

const (
	// errorTTL is how long a failed lookup answers for the next one, so that
	// a busy endpoint with a wrong name is no flood of queries.
	errorTTL = time.Second
	// unresolvedRefresh is the longest pause between two lookups in the
	// background as long as a name has no address at all.
	unresolvedRefresh = 5 * time.Second
)

// lookup is the state of a target's name, guarded by Pool.mu.
type lookup struct {
	host       string
	flight     chan struct{} // closed at the end of the lookup under way; nil: none
	err        error         // of the last lookup
	failedAt   time.Time     // if err is not nil
	refreshing bool          // there is a goroutine for it
}

// firstAddresses looks up the name of t and chooses among what it finds.
func (p *Pool) firstAddresses(ctx context.Context, t *target, client netip.Addr) (first, second *address, err error) {
	sock.LeaveTurn(ctx)
	if err := p.resolve(ctx, t); err != nil {
		return nil, nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	first, second = p.addresses(t, client, nil, time.Now())
	return first, second, nil
}

// resolve sees to it that t has addresses. Of several callers one does the lookup
// and the others wait for it; if it gives up, the next one takes over.
func (p *Pool) resolve(ctx context.Context, t *target) error {
	for {
		p.mu.Lock()
		l := t.lookup
		switch {
		case len(t.addrs) > 0:
			p.mu.Unlock()
			return nil
		case l.err != nil && time.Since(l.failedAt) < errorTTL:
			defer p.mu.Unlock()
			return l.err
		case l.flight == nil:
			l.flight = make(chan struct{})
			p.mu.Unlock()
			return p.look(ctx, t)
		}
		flight := l.flight
		p.mu.Unlock()
		select {
		case <-flight:
		case <-ctx.Done():
			return fmt.Errorf("wait for lookup of %s: %w", l.host, context.Cause(ctx))
		}
	}
}

// look does one lookup, for whoever has set t.lookup.flight, and puts the result
// in place. An error leaves the old addresses.
func (p *Pool) look(ctx context.Context, t *target) error {
	l := t.lookup
	bounded, cancel := p.bounded(ctx)
	defer cancel()
	ips, err := p.bg.lookUp(bounded, l.host)

	p.mu.Lock()
	close(l.flight)
	l.flight = nil
	before := l.err
	if err != nil && ctx.Err() != nil {
		// Who gave up has learnt nothing.
		p.mu.Unlock()
		return err
	}
	l.err, l.failedAt = err, time.Now()
	var down []*address
	if err == nil {
		down = p.replace(t, ips)
	}
	p.startRefresh(t)
	p.mu.Unlock()
	p.left(down)
	p.resolved(t, before, err)
	return err
}

// lookUp asks the resolver: at least one address, or an error.
func (b *background) lookUp(ctx context.Context, host string) ([]netip.Addr, error) {
	found, err := b.resolver.LookupNetIP(ctx, b.family.network(), host)
	if err != nil {
		return nil, err
	}
	var ips []netip.Addr
	for _, ip := range found {
		ip = ip.Unmap()
		if b.family == AnyFamily || ip.Is4() == (b.family == IPv4) {
			ips = append(ips, ip)
		}
	}
	if len(ips) == 0 {
		return nil, fmt.Errorf("lookup %s: no address of the family asked for", host)
	}
	return ips, nil
}

// replace gives t the addresses ips. What stays keeps its state; what goes loses
// it, and its connections go on: replace returns those of them that were down.
// The caller holds p.mu.
func (p *Pool) replace(t *target, ips []netip.Addr) (down []*address) {
	old := make(map[netip.Addr]*address, len(t.addrs))
	for _, a := range t.addrs {
		old[a.addr.Addr()] = a
	}
	addrs := make([]*address, 0, len(ips))
	seen := make(map[netip.Addr]bool, len(ips))
	for _, ip := range ips {
		if seen[ip] {
			continue
		}
		seen[ip] = true
		a := old[ip]
		if a == nil {
			a = &address{target: t, addr: netip.AddrPortFrom(ip, t.port), gone: p.closed}
			p.startCheck(a)
		}
		addrs = append(addrs, a)
		delete(old, ip)
	}
	for _, a := range old {
		if a.leave() {
			down = append(down, a)
		}
	}
	t.addrs = addrs
	return down
}

// startRefresh begins to look up t's name again and again, once. The caller holds
// p.mu.
func (p *Pool) startRefresh(t *target) {
	if l := t.lookup; !l.refreshing {
		l.refreshing = p.bg.spawn(func(ctx context.Context) { p.refresh(ctx, t) })
	}
}

func (p *Pool) refresh(ctx context.Context, t *target) {
	for sleep(ctx, p.untilRefresh(t)) {
		p.lookOrWait(ctx, t)
	}
}

// lookOrWait does one lookup, or waits for the end of the one under way.
func (p *Pool) lookOrWait(ctx context.Context, t *target) {
	l := t.lookup
	p.mu.Lock()
	flight := l.flight
	if flight == nil {
		l.flight = make(chan struct{})
	}
	p.mu.Unlock()
	if flight == nil {
		_ = p.look(ctx, t) // look has told
		return
	}
	select {
	case <-flight:
	case <-ctx.Done():
	}
}

// untilRefresh is the pause before the next lookup.
func (p *Pool) untilRefresh(t *target) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case len(t.addrs) > 0:
		return p.jitter(p.bg.refresh)
	case t.lookup.err != nil:
		return p.jitter(min(p.bg.refresh, unresolvedRefresh))
	}
	return 0
}
