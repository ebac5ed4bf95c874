// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"encoding/binary"
	"math"
	"net/netip"
	"time"
)

// try is one thing that a Connect has tried in vain.
type try struct {
	target *target
	addr   *address // nil: its lookup
	reason Reason
	err    error
}

// tier is how far a Connect goes down in what it takes. Within a tier the
// policy decides. No address is tried twice.
type tier uint8

const (
	otherTarget  tier = iota // not tried yet, with an address that is in
	otherAddress             // any target, with an untried address that is in
	lastResort               // any untried address
	tiers
)

// pick chooses the target of the next attempt, or nil if nothing is left, and
// counts a connection on it. The caller holds p.mu.
func (p *Pool) pick(client netip.Addr, tries []try, now time.Time) *target {
	// A connection that is tried again has had its chance of being refused.
	if len(p.shares) > 0 && len(tries) == 0 {
		if t := p.share(client); t.refuse != nil {
			t.active++
			return t
		}
	}
	var room [16]*target
	for tier := range tiers {
		list := room[:0]
		for i := range p.targets {
			if t := &p.targets[i]; t.weight > 0 && t.refuse == nil && t.fits(tier, tries, now) {
				list = append(list, t)
			}
		}
		if len(list) == 0 {
			continue
		}
		t := list[0]
		if len(list) > 1 {
			t = p.choose(list, client)
		}
		t.active++
		return t
	}
	return nil
}

// share decides whether a target that refuses gets the connection. That is up to the
// weights alone: neither what is out nor how many connections there are has a say.
func (p *Pool) share(client netip.Addr) *target {
	if p.policy == SourceHash {
		return rendezvous(p.shares, client)
	}
	return smooth(p.shares)
}

// sharesOf are the targets that refuse, and the others: each one, or all as one. nil:
// no target refuses.
func (p *Pool) sharesOf() []*target {
	var shares, takers []*target
	others := &target{}
	for i := range p.targets {
		switch t := &p.targets[i]; {
		case t.weight <= 0:
		case t.refuse != nil:
			shares = append(shares, t)
		default:
			takers = append(takers, t)
			others.weight += t.weight
		}
	}
	switch {
	case shares == nil || others.weight == 0:
		return shares
	case p.policy == SourceHash:
		return append(shares, takers...)
	}
	return append(shares, others)
}

func (t *target) fits(tier tier, tries []try, now time.Time) bool {
	if tier == otherTarget || len(t.addrs) == 0 {
		for i := range tries {
			if tries[i].target == t {
				return false
			}
		}
	}
	if len(t.addrs) == 0 {
		// A name that failed to resolve is out until it does.
		return tier == lastResort || tier == otherTarget && t.lookup.err == nil
	}
	for _, a := range t.addrs {
		if (tier == lastResort || a.in(now)) && !tried(tries, a) {
			return true
		}
	}
	return false
}

func tried(tries []try, a *address) bool {
	for i := range tries {
		if tries[i].addr == a {
			return true
		}
	}
	return false
}

// choose applies the policy to two targets or more.
func (p *Pool) choose(list []*target, client netip.Addr) *target {
	switch p.policy {
	case LeastConnections:
		return smooth(leastLoaded(list))
	case RandomTwoChoices:
		first := p.draw(list, nil)
		second := p.draw(list, first)
		if second.lighter(first) {
			return second
		}
		return first
	case SourceHash:
		return rendezvous(list, client)
	}
	return smooth(list)
}

// smooth is smooth weighted round robin: each target earns its weight, the
// richest is picked and pays for all.
func smooth(list []*target) *target {
	var best *target
	total := 0
	for _, t := range list {
		t.credit += t.weight
		total += t.weight
		if best == nil || t.credit > best.credit {
			best = t
		}
	}
	best.credit -= total
	return best
}

// lighter compares connections per weight, without dividing.
func (t *target) lighter(o *target) bool { return t.active*o.weight < o.active*t.weight }

// leastLoaded cuts list, in place, to its lightest members.
func leastLoaded(list []*target) []*target {
	least := list[:1]
	for _, t := range list[1:] {
		if t.lighter(least[0]) {
			least = append(list[:0], t)
		} else if !least[0].lighter(t) {
			least = append(least, t)
		}
	}
	return least
}

// draw picks a member of list but not at random, by weight.
func (p *Pool) draw(list []*target, not *target) *target {
	total := 0
	for _, t := range list {
		if t != not {
			total += t.weight
		}
	}
	n := p.intN(total)
	for _, t := range list {
		if t == not {
			continue
		}
		if n -= t.weight; n < 0 {
			return t
		}
	}
	panic("upstream: a random number is out of its range")
}

// rendezvous is weighted highest random weight hashing: with u uniform in (0, 1),
// the share of targets that score highest by w / -ln(u) is in proportion to w.
func rendezvous(list []*target, client netip.Addr) *target {
	var best *target
	var most float64
	for _, t := range list {
		u := (float64(hash(t.seed, client)>>11) + 0.5) / (1 << 53)
		if score := float64(t.weight) / -math.Log(u); best == nil || score > most {
			best, most = t, score
		}
	}
	return best
}

// addresses chooses whom of t to dial: one address, or one of each family, IPv6
// first (RFC 8305, section 4). Both are to be settled. Those that are in come
// before the others; among equals they take turns, but for SourceHash. nil: t has
// no address that is not tried. The caller holds p.mu.
func (p *Pool) addresses(t *target, client netip.Addr, tries []try, now time.Time) (first, second *address) {
	for _, out := range [...]bool{false, true} {
		var v4, v6 *address
		for _, a := range t.addrs {
			if !out && !a.in(now) || tried(tries, a) {
				continue
			}
			best := &v6
			if a.addr.Addr().Is4() {
				best = &v4
			}
			if *best == nil || p.before(a, *best, client) {
				*best = a
			}
		}
		for _, a := range [...]*address{v6, v4} {
			if a != nil {
				p.clock++
				a.used, a.trial = p.clock, !a.ejected.IsZero()
			}
		}
		if v6 == nil {
			v6, v4 = v4, nil
		}
		if v6 != nil {
			return v6, v4
		}
	}
	return nil, nil
}

// before tells whether a, of the same family and health as b, is dialled rather.
func (p *Pool) before(a, b *address, client netip.Addr) bool {
	if p.policy == SourceHash {
		return hash(hash(0, a.addr.Addr()), client) > hash(hash(0, b.addr.Addr()), client)
	}
	return a.used < b.used
}

// hash mixes an address into h. The same everywhere and for ever: two gateways
// must agree on where a client goes.
func hash(h uint64, ip netip.Addr) uint64 {
	b := ip.As16()
	h = mix(h ^ binary.BigEndian.Uint64(b[:8]))
	return mix(h ^ binary.BigEndian.Uint64(b[8:]))
}

// mix is the finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// seed is a target's name as a number (FNV-1a).
func seed(name string) uint64 {
	h := uint64(0xcbf29ce484222325)
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 0x100000001b3
	}
	return h
}
