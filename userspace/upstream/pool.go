// SPDX-License-Identifier: Apache-2.0

// Package upstream connects to the targets of one endpoint: it resolves their
// names, picks one, dials it, goes on to the next when that fails, and keeps
// track of which addresses work.
//
// It moves no bytes, knows no TLS beyond its own health checks, and reads no
// configuration file: a Pool is made from a Spec and lives until the Spec changes.
//
// Being out, by ejection or by a failed check, is a preference and not a ban: an
// address that is out gets connections only when a Connect has nothing better
// left. So a pool all of whose addresses are out fails open: a connection that is
// not tried has failed for certain, and a check may be wrong.
package upstream

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/spliceway/spliceway/userspace/sock"
)

// Dialer makes TCP connections; *sock.Poller is one. Dial must return soon after
// ctx has ended.
type Dialer interface {
	Dial(ctx context.Context, remote netip.AddrPort) (*sock.Conn, error)
}

// Resolver looks up host names; *net.Resolver is one. network is "ip", "ip4" or
// "ip6".
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Options are what a Pool needs from its surroundings.
type Options struct {
	// Endpoint is whose pool it is, for log lines.
	Endpoint string
	// Dialer connects. Required.
	Dialer Dialer
	// Resolver looks up host names. nil: net.DefaultResolver.
	Resolver Resolver
	// Logger tells when an address goes down or comes up again, and when a
	// name stops or starts resolving; never a single check. nil: silence.
	Logger *slog.Logger
	// Observer counts. nil: nobody does.
	Observer Observer
}

// Pool connects to the targets of one endpoint. Make one with New; it is safe for
// concurrent use. A pool of IP addresses without checks has no goroutine and costs
// well under a kilobyte.
type Pool struct {
	endpoint string
	dialer   Dialer
	logger   *slog.Logger
	observer Observer
	bg       *background // nil: nothing to do in the background

	policy         Policy
	retries        int
	connectTimeout time.Duration
	ejectAfter     int
	ejectFor       time.Duration
	intN           func(int) int // rand.IntN but for tests

	// mu guards all that follows, in targets and addresses too. Nothing under
	// it blocks or calls out.
	mu      sync.Mutex
	targets []target
	shares  []*target // to choose from before targets; see share
	clock   uint64    // counts picks of an address
	closed  bool
}

// target is a Target at work.
type target struct {
	name   string // host:port as configured
	spec   Target
	weight int
	seed   uint64 // of name, for SourceHash
	port   uint16
	active int // connections, those under way included
	credit int // smooth weighted round robin
	addrs  []*address
	lookup *lookup // nil: an IP address, or refuse
	refuse error   // nil: it takes connections
}

// New makes a pool. Nothing happens in the background before Start.
func New(spec Spec, opts Options) *Pool {
	p := &Pool{
		endpoint: opts.Endpoint, dialer: opts.Dialer, logger: opts.Logger, observer: opts.Observer,
		policy: spec.Policy, retries: spec.Retries, connectTimeout: spec.ConnectTimeout,
		ejectAfter: spec.EjectAfter, ejectFor: spec.EjectFor,
		intN:    rand.IntN,
		targets: make([]target, len(spec.Targets)),
	}
	named := false
	for i, from := range spec.Targets {
		t := &p.targets[i]
		t.name = net.JoinHostPort(from.Host, strconv.Itoa(int(from.Port)))
		t.spec = from
		t.weight, t.port, t.seed = from.Weight, from.Port, seed(t.name)
		if from.Refuse != "" {
			t.refuse = errors.New(from.Refuse)
			t.seed = seed(strconv.Itoa(i) + " " + t.name) // several may have no name
		} else if ip, err := netip.ParseAddr(from.Host); err == nil {
			t.addrs = []*address{{target: t, addr: netip.AddrPortFrom(ip.Unmap(), from.Port)}}
		} else {
			t.lookup = &lookup{host: from.Host}
			named = true
		}
	}
	p.shares = p.sharesOf()
	if named || spec.Check.Type != NoCheck {
		p.bg = newBackground(spec, opts.Resolver)
	}
	return p
}

// background is what a pool needs for names and checks.
type background struct {
	resolver Resolver
	family   Family
	refresh  time.Duration
	check    CheckSpec
	probe    func(ctx context.Context, addr netip.AddrPort) error // nil: no checks

	ctx    context.Context // nil before Start; guarded by Pool.mu
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func newBackground(spec Spec, resolver Resolver) *background {
	b := &background{
		resolver: resolver, family: spec.Family,
		refresh: cmp.Or(spec.Refresh, 30*time.Second), check: spec.Check,
	}
	if b.resolver == nil {
		b.resolver = net.DefaultResolver
	}
	b.check.Interval = cmp.Or(b.check.Interval, 5*time.Second)
	b.check.Timeout = cmp.Or(b.check.Timeout, 2*time.Second)
	b.check.Healthy = cmp.Or(b.check.Healthy, 2)
	b.check.Unhealthy = cmp.Or(b.check.Unhealthy, 3)
	b.probe = probeFor(b.check)
	return b
}

// spawn runs f in the background if the pool is started and not closed. The
// caller holds Pool.mu, which is what makes it exclude Close.
func (b *background) spawn(f func(ctx context.Context)) bool {
	if b.ctx == nil || b.ctx.Err() != nil {
		return false
	}
	b.wg.Go(func() { f(b.ctx) })
	return true
}

// Start begins the checks, until ctx ends or Close. Names are looked up at the
// first Connect that needs them, or at once if there are checks, and from then
// on again and again. Call it once.
func (p *Pool) Start(ctx context.Context) {
	if p.bg == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bg.ctx, p.bg.cancel = context.WithCancel(ctx)
	for i := range p.targets {
		t := &p.targets[i]
		for _, a := range t.addrs {
			p.startCheck(a)
		}
		if t.lookup != nil && (p.bg.probe != nil || t.addrs != nil) {
			p.startRefresh(t)
		}
	}
}

// Close ends what Start began and waits for it. Connections live on, and Connect
// keeps working with what is known: a connection that was accepted before a
// reload may still need it. Closing twice does nothing.
func (p *Pool) Close() {
	var down []*address
	p.mu.Lock()
	p.closed = true
	for i := range p.targets {
		for _, a := range p.targets[i].addrs {
			if a.leave() {
				down = append(down, a)
			}
		}
	}
	if p.bg != nil && p.bg.cancel != nil {
		p.bg.cancel()
	}
	p.mu.Unlock()
	p.left(down)
	if p.bg != nil {
		p.bg.wg.Wait()
	}
}

// TargetStatus is the state of one address of one target.
type TargetStatus struct {
	// Target is host:port as configured.
	Target string
	Weight int
	// Addr is invalid if the name is not resolved; Err says why, if that has
	// been tried. Of a target that refuses Err is why.
	Addr netip.AddrPort
	Err  error
	// Healthy is the verdict of the active checks; true without any.
	Healthy bool
	// EjectedUntil is when the next trial is due; zero: not ejected. It stays
	// in the past until a trial succeeds.
	EjectedUntil time.Time
	// Active is the connections that Release has not ended.
	Active int
	// Failures is the failed connects in a row.
	Failures int
}

// Up tells whether connections go there by preference.
func (s TargetStatus) Up() bool { return s.Addr.IsValid() && s.Healthy && s.EjectedUntil.IsZero() }

// Status is the state of every address, in the order of the Spec; a name that is
// not resolved has one entry without an address.
func (p *Pool) Status() []TargetStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []TargetStatus
	for i := range p.targets {
		t := &p.targets[i]
		switch {
		case t.refuse != nil:
			all = append(all, TargetStatus{Target: t.name, Weight: t.weight, Err: t.refuse})
		case len(t.addrs) == 0:
			all = append(all, TargetStatus{Target: t.name, Weight: t.weight, Err: t.lookup.err})
		}
		for _, a := range t.addrs {
			all = append(all, TargetStatus{
				Target: t.name, Weight: t.weight, Addr: a.addr, Healthy: !a.sick,
				EjectedUntil: a.ejected, Active: a.active, Failures: a.failures,
			})
		}
	}
	return all
}

// jitter is d, give or take a tenth, so that pools made together drift apart.
func (p *Pool) jitter(d time.Duration) time.Duration {
	return d - d/10 + time.Duration(p.intN(int(d/5)+1))
}

// sleep waits for d, or returns false when ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
