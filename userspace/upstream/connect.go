// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"net/netip"
	"time"

	"github.com/spliceway/spliceway/userspace/sock"
	"github.com/spliceway/spliceway/userspace/tlsconn"
)

// Dialed is a connection to a target.
type Dialed struct {
	// Conn is the caller's.
	Conn *sock.Conn
	// TLS is what Secure made of it.
	TLS *tlsconn.Conn
	// Target is host:port as configured, Addr where that led to.
	Target string
	Addr   netip.AddrPort
	// Attempts is how many addresses and lookups it took, this one included.
	Attempts int
	*Lease
}

// Secure does a TLS handshake on a connection to a target, if the target wants one: nil
// if not. It bounds its time itself, besides by ctx. When it fails the connection is
// closed, and the attempt has failed as if there had been no connection: a
// *HandshakeError says why.
type Secure func(ctx context.Context, target Target, conn *sock.Conn) (*tlsconn.Conn, error)

// established is a connection with what Secure made of it.
type established struct {
	conn *sock.Conn // nil: none
	tls  *tlsconn.Conn
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
	return p.ConnectSecurely(ctx, client, nil)
}

// ConnectSecurely is Connect, with secure as a part of each attempt.
func (p *Pool) ConnectSecurely(ctx context.Context, client netip.Addr, secure Secure) (*Dialed, error) {
	var tries []try
	for range p.retries + 1 {
		p.mu.Lock()
		now := time.Now()
		t := p.pick(client, tries, now)
		if t == nil {
			p.mu.Unlock()
			break
		}
		if t.refuse != nil {
			t.active--
			p.mu.Unlock()
			f := try{target: t, reason: Invalid, err: t.refuse}
			p.count(f)
			return nil, p.dialError([]try{f})
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
			var e established
			var a *address
			if e, a, tries = p.dialEither(ctx, first, second, secure, tries); e.conn != nil {
				return p.dialed(e, a, len(tries)+1), nil
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

func (p *Pool) dialed(e established, a *address, attempts int) *Dialed {
	p.mu.Lock()
	a.active++
	p.mu.Unlock()
	return &Dialed{Conn: e.conn, TLS: e.tls, Target: a.target.name, Addr: a.addr, Attempts: attempts, Lease: &Lease{p, a}}
}

// dialEither dials one address, or races two. Failures go to tries.
func (p *Pool) dialEither(ctx context.Context, first, second *address, secure Secure, tries []try) (established, *address, []try) {
	if second != nil {
		return p.race(ctx, first, second, secure, tries)
	}
	e, err := p.dial(ctx, first, secure)
	if err != nil {
		return established{}, nil, append(tries, p.dialFailed(ctx, first, err))
	}
	p.settle(first, worked, "")
	return e, first, tries
}

// dial makes one connection within the connect timeout, and has it secured.
func (p *Pool) dial(ctx context.Context, a *address, secure Secure) (e established, err error) {
	bounded, cancel := p.bounded(ctx)
	defer cancel()
	if e.conn, err = p.dialer.Dial(bounded, a.addr); err != nil || secure == nil {
		return e, err
	}
	if e.tls, err = secure(ctx, a.target.spec, e.conn); err != nil {
		_ = e.conn.CloseGracefully() // an alert may be on its way
		return established{}, err
	}
	return e, nil
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
