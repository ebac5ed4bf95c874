// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net/netip"
	"sync"

	"golang.org/x/time/rate"
)

// clientBits is how much of an IPv6 address is one client: a /64 is what one
// customer gets, and what one attacker has at least.
const clientBits = 64

// clients counts open connections by client. The zero value works.
type clients struct {
	mu sync.Mutex
	n  map[netip.Addr]int
}

// add changes a client's count by delta and returns it.
func (c *clients) add(a netip.Addr, delta int) int {
	if a.Is6() {
		if p, err := a.WithZone("").Prefix(clientBits); err == nil {
			a = p.Addr()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = make(map[netip.Addr]int)
	}
	n := c.n[a] + delta
	if n <= 0 {
		delete(c.n, a)
		return n
	}
	c.n[a] = n
	return n
}

// acceptRate is a token bucket whose size may change with the configuration.
type acceptRate struct {
	mu      sync.Mutex
	limiter *rate.Limiter
}

// allow takes a token. perSecond 0: always.
func (r *acceptRate) allow(perSecond, burst int) bool {
	if perSecond == 0 {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.limiter == nil {
		r.limiter = rate.NewLimiter(rate.Limit(perSecond), burst)
	} else if r.limiter.Limit() != rate.Limit(perSecond) || r.limiter.Burst() != burst {
		r.limiter.SetLimit(rate.Limit(perSecond))
		r.limiter.SetBurst(burst)
	}
	return r.limiter.Allow()
}
