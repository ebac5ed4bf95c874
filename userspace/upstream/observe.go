// SPDX-License-Identifier: Apache-2.0

package upstream

import "net/netip"

// Observer is told what happens in a pool, for its metrics; Status is what the
// state is. target is host:port as configured, so the set is closed. Calls come
// from many goroutines, must not block, and may call the pool.
type Observer interface {
	// DialFailed is one failed connect or first lookup; reason is a Reason's
	// name, never Canceled's. target is empty for NoTarget.
	DialFailed(target, reason string)
	// Changed is an address that goes down or comes up. Each down has its up,
	// so that a gauge may count those that are down: it comes at the latest
	// when the name loses the address or the pool is closed.
	Changed(target string, addr netip.AddrPort, up bool, why string)
	// Ejected is an address taken out for failed connects, each time.
	Ejected(target string, addr netip.AddrPort)
	// Checked is one active check.
	Checked(target string, addr netip.AddrPort, ok bool)
	// Resolved is one lookup of a target's name.
	Resolved(target string, ok bool)
}

// changed tells of an address that went up or down.
func (p *Pool) changed(a *address, up bool, why string) {
	if p.observer != nil {
		p.observer.Changed(a.target.name, a.addr, up, why)
	}
	switch {
	case p.logger == nil:
	case up:
		p.logger.Info("upstream up", "endpoint", p.endpoint, "target", a.target.name, "address", a.addr, "why", why)
	default:
		p.logger.Warn("upstream down", "endpoint", p.endpoint, "target", a.target.name, "address", a.addr, "why", why)
	}
}

// left tells of addresses that were down and are no longer the pool's: nothing
// for the log.
func (p *Pool) left(addrs []*address) {
	if p.observer == nil {
		return
	}
	for _, a := range addrs {
		p.observer.Changed(a.target.name, a.addr, true, "gone")
	}
}

// resolved tells of a lookup; before is the error of the one before.
func (p *Pool) resolved(t *target, before, err error) {
	if p.observer != nil {
		p.observer.Resolved(t.name, err == nil)
	}
	switch {
	case p.logger == nil:
	case err == nil && before != nil:
		p.logger.Info("upstream name resolves again", "endpoint", p.endpoint, "target", t.name)
	case err != nil && before == nil:
		p.logger.Warn("upstream name does not resolve", "endpoint", p.endpoint, "target", t.name, "error", err)
	}
}
