// SPDX-License-Identifier: Apache-2.0

package web

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// maxAttempts is how many targets a request is tried to be brought to.
	maxAttempts = 3
	// avoidFor is how long a target that could not be connected to comes last.
	avoidFor = 5 * time.Second
	// idlePerTarget is how many connections to a target are kept for the next requests, for
	// idleFor.
	idlePerTarget = 64
	idleFor       = 60 * time.Second
)

// errDial is that of a target that could not be connected to: nothing was sent.
type errDial struct{ error }

func (e errDial) Unwrap() error { return e.error }

// Timeout is net.Error's.
func (e errDial) Timeout() bool {
	var timeout net.Error
	return errors.As(e.error, &timeout) && timeout.Timeout()
}

// Temporary is net.Error's.
func (e errDial) Temporary() bool { return false }

// transport is the way to targets: the one that was picked, or another one of the rule that
// can be connected to.
type transport Server

// RoundTrip is http.RoundTripper's.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	x := r.Context().Value(exchangeKey{}).(*exchange)
	if r.Body != nil {
		// A transport closes it where it cannot connect. It is the server's to close.
		r.Body = io.NopCloser(r.Body)
	}
	var tried []*Target
	for {
		if next := t.pools.instead(x, tried); next != nil {
			x.target = next
		}
		x.done.Upstream = x.target.address()
		r.URL.Scheme, r.URL.Host = "http", x.target.address()
		if x.target.TLS != nil {
			r.URL.Scheme = "https"
		}
		response, err := t.pools.of(x.target.TLS).RoundTrip(r)
		var dial errDial
		if err == nil || !errors.As(err, &dial) || r.Context().Err() != nil {
			return response, err
		}
		t.pools.failed(x.target)
		if tried = append(tried, x.target); len(tried) == maxAttempts || t.pools.instead(x, tried) == nil {
			return nil, err
		}
	}
}

// pools are connections to targets.
type pools struct {
	s     *Server
	plain *http.Transport
	mu    sync.Mutex
	tls   map[TLS]*http.Transport
	down  map[place]time.Time // targets that could not be connected to, and when
}

// place is a target as far as connecting to it goes.
type place struct {
	address string
	tls     TLS
}

func (t *Target) place() place { return place{t.address(), t.TLS} }

// instead is the target to try: not x's if that was tried, or is to be avoided and another one
// is not. nil: x's own.
func (p *pools) instead(x *exchange, tried []*Target) *Target {
	p.mu.Lock()
	defer p.mu.Unlock()
	avoid := func(t *Target) bool {
		since, ok := p.down[t.place()]
		return ok && time.Since(since) < avoidFor
	}
	if len(tried) == 0 && (len(p.down) == 0 || !avoid(x.target)) {
		return nil
	}
	var last *Target
	start := slices.IndexFunc(x.rule.Targets, func(t Target) bool { return t.address() == x.target.address() })
	for i := range x.rule.Targets {
		t := &x.rule.Targets[(start+1+i)%len(x.rule.Targets)]
		switch {
		case t.Refuse != "" || t.Weight == 0 || slices.Contains(tried, t):
		case !avoid(t):
			return t
		case last == nil:
			last = t
		}
	}
	if len(tried) == 0 {
		return nil
	}
	return last
}

func (p *pools) failed(t *Target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down[t.place()] = time.Now()
}

func (p *pools) of(settings TLS) *http.Transport {
	if settings == nil {
		return p.plain
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tls[settings] == nil {
		p.tls[settings] = p.transport(settings)
	}
	return p.tls[settings]
}

// retain lets go of what the table has no more.
func (p *pools) retain(t *Table) {
	used := make(map[TLS]bool)
	for _, s := range t.Sites {
		if s != nil {
			for _, settings := range s.tls {
				used[settings] = true
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for settings, transport := range p.tls {
		if !used[settings] {
			delete(p.tls, settings)
			transport.CloseIdleConnections()
		}
	}
	maps.DeleteFunc(p.down, func(_ place, since time.Time) bool { return time.Since(since) > avoidFor })
}

func (p *pools) close() {
	p.retain(&Table{})
	p.plain.CloseIdleConnections()
}

// transport makes the one for settings.
func (p *pools) transport(settings TLS) *http.Transport {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Transport{
		Protocols: &protocols, DisableCompression: true, MaxIdleConnsPerHost: idlePerTarget, IdleConnTimeout: idleFor,
		ExpectContinueTimeout: time.Second, WriteBufferSize: 16 << 10, ReadBufferSize: 16 << 10,
		DialContext: p.dial,
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			ctx, cancel := p.bounded(ctx)
			defer cancel()
			host, _, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			c, err := p.dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			secure := tls.Client(c, settings.Config(host, "http/1.1"))
			if err := secure.HandshakeContext(ctx); err != nil {
				_ = c.Close()
				return nil, errDial{err}
			}
			return secure, nil
		},
	}
}

func (p *pools) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if d := p.s.table.Load().ConnectTimeout; d > 0 {
		return context.WithTimeout(ctx, d)
	}
	return context.WithCancel(ctx)
}

// dial connects to a target, whose name may be one of Table.Hosts.
func (p *pools) dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := p.bounded(ctx)
	defer cancel()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	addresses := []string{address}
	if known := p.s.table.Load().Hosts[strings.TrimSuffix(host, ".")]; len(known) > 0 {
		addresses = nil
		for _, a := range known {
			addresses = append(addresses, net.JoinHostPort(netip.Addr.String(a), port))
		}
	}
	// None of them for all connections, and none for all of the time.
	rand.Shuffle(len(addresses), func(i, j int) { addresses[i], addresses[j] = addresses[j], addresses[i] })
	var errs []error
	for i, a := range addresses {
		var d net.Dialer
		if deadline, ok := ctx.Deadline(); ok {
			d.Timeout = time.Until(deadline) / time.Duration(len(addresses)-i)
		}
		c, err := d.DialContext(ctx, network, a)
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	return nil, errDial{errors.Join(errs...)}
}
