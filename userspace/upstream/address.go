// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"net/netip"
	"time"
)

// address is one address of a target, and what is known of it.
type address struct {
	target *target
	addr   netip.AddrPort

	used   uint64 // Pool.clock at the last pick: the smallest is next
	active int

	failures int       // failed connects in a row
	ejected  time.Time // out until then, and for a trial then; zero: in
	trial    bool      // a connect that decides about an ejection is under way

	gone bool // the name or the pool has ended: its state is told no more

	sick   bool // the verdict of the checks
	streak int  // checks in a row that contradict it
	stop   context.CancelFunc
}

// up tells whether nothing speaks against a.
func (a *address) up() bool { return !a.sick && a.ejected.IsZero() }

// in tells whether a may be picked without need: it is up, or it is its turn to
// show that it is.
func (a *address) in(now time.Time) bool {
	return !a.sick && (a.ejected.IsZero() || !a.trial && !now.Before(a.ejected))
}

// result is what a connect says about an address.
type result uint8

const (
	inconclusive result = iota // not made, given up, or failed for a want of this host
	worked
	failed
)

// leave ends a's checks and tells whether it was down, as far as anybody knows.
// The caller holds Pool.mu.
func (a *address) leave() (down bool) {
	if a.stop != nil {
		a.stop()
	}
	down = !a.gone && !a.up()
	a.gone = true
	return down
}

// settle notes the result of a connect to a; each pick of an address is settled
// once. why is for the log.
func (p *Pool) settle(a *address, r result, why string) {
	p.mu.Lock()
	was, eject := a.up(), false
	a.trial = false
	switch r {
	case worked:
		a.failures, a.ejected = 0, time.Time{}
		why = "connected"
	case failed:
		a.failures++
		// An address that is out already stays out as long as it was to: who
		// tried it had nothing better.
		now := time.Now()
		due := !a.ejected.IsZero() || a.failures >= p.ejectAfter
		if eject = p.ejectAfter > 0 && due && !now.Before(a.ejected); eject {
			a.ejected = now.Add(p.ejectFor)
		}
	}
	is, gone := a.up(), a.gone
	p.mu.Unlock()
	if eject && p.observer != nil {
		p.observer.Ejected(a.target.name, a.addr)
	}
	if was != is && !gone {
		p.changed(a, is, why)
	}
}
