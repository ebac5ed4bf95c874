// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"net/netip"
	"time"

	"github.com/spliceway/spliceway/userspace/sock"
)

// Dialed is a connection to a target.
type Dialed struct {
	// Conn is the caller's.
	Conn *sock.Conn
	// Target is host:port as configured, Addr where that led to.
	Target string
	Addr   netip.AddrPort
	// Attempts is how many addresses and lookups it took, this one included.
	Attempts int
	*Lease
}

// Lease is a connection's place in the counts of its target.
type Lease struct {
	p *Pool
	a *address // nil once released
}

// Release says that the connection is over, for the count of connections per
// target; it does not close it. Releasing twice does nothing.
func (l *Lease) Release() {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	if l.a != nil {
		l.a.active--
		l.a.target.active--
		l.a = nil
	}
}

// Connect picks a target for client, by the policy, and connects to it. When that
// fails it goes on to another one: at most Retries times, never twice to the same
// address, and until ctx ends. A host name counts as one target per attempt: one
// address, or one of each family in a race (RFC 8305). The error is a *DialError.
func (p *Pool) Connect(ctx context.Context, client netip.Addr) (*Dialed, error) {
	var tries []try
	for range p.retries + 1 {
		p.mu.Lock()
		now := time.Now()
		t := p.pick(client, tries, now)
		if t == nil {
			p.mu.Unlock()
			break
		}
		first, second := p.addresses(t, client, tries, now)
		p.mu.Unlock()

		if first == nil {
			var err error
			if first, second, err = p.firstAddresses(ctx, t, client); err != nil {
				tries = append(tries, p.lookupFailed(ctx, t, err))
			}
		}
		if first != nil {
			var conn *sock.Conn
			var a *address
			if conn, a, tries = p.dialEither(ctx, first, second, tries); conn != nil {
				return p.dialed(conn, a, len(tries)+1), nil
			}
		}

		p.mu.Lock()
		t.active--
		p.mu.Unlock()
		if ctx.Err() != nil {
			break
		}
	}
	return nil, p.dialError(tries)
}

func (p *Pool) dialed(conn *sock.Conn, a *address, attempts int) *Dialed {
	p.mu.Lock()
	a.active++
	p.mu.Unlock()
	return &Dialed{Conn: conn, Target: a.target.name, Addr: a.addr, Attempts: attempts, Lease: &Lease{p, a}}
}

// dialEither dials one address, or races two. Failures go to tries.
func (p *Pool) dialEither(ctx context.Context, first, second *address, tries []try) (*sock.Conn, *address, []try) {
	if second != nil {
		return p.race(ctx, first, second, tries)
	}
	conn, err := p.dial(ctx, first.addr)
	if err != nil {
		return nil, nil, append(tries, p.dialFailed(ctx, first, err))
	}
	p.settle(first, worked, "")
	return conn, first, tries
}

// dial makes one connection within the connect timeout.
func (p *Pool) dial(ctx context.Context, addr netip.AddrPort) (*sock.Conn, error) {
	ctx, cancel := p.bounded(ctx)
	defer cancel()
	return p.dialer.Dial(ctx, addr)
}

// bounded is ctx with the connect timeout.
func (p *Pool) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if p.connectTimeout <= 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, p.connectTimeout)
}

// dialFailed settles and counts a failed connect.
func (p *Pool) dialFailed(ctx context.Context, a *address, err error) try {
	f := try{target: a.target, addr: a, reason: reasonOf(ctx, err), err: err}
	r := failed
	if f.reason == Canceled || localWant(err) {
		r = inconclusive
	}
	p.settle(a, r, f.reason.String())
	p.count(f)
	return f
}

func (p *Pool) lookupFailed(ctx context.Context, t *target, err error) try {
	f := try{target: t, reason: Resolve, err: err}
	if ctx.Err() != nil {
		f.reason = Canceled
	}
	p.count(f)
	return f
}

func (p *Pool) count(f try) {
	if p.observer != nil && f.reason != Canceled {
		p.observer.DialFailed(f.target.name, f.reason.String())
	}
}

func (p *Pool) dialError(tries []try) *DialError {
	if len(tries) == 0 {
		if p.observer != nil {
			p.observer.DialFailed("", NoTarget.String())
		}
		return &DialError{Reason: NoTarget}
	}
	e := &DialError{Reason: tries[len(tries)-1].reason, Attempts: make([]Attempt, len(tries))}
	for i, f := range tries {
		e.Attempts[i] = Attempt{Target: f.target.name, Reason: f.reason, Err: f.err}
		if f.addr != nil {
			e.Attempts[i].Addr = f.addr.addr
		}
	}
	return e
}
