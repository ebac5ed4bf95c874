// SPDX-License-Identifier: Apache-2.0

package upstream

import "net/netip"

// Adopt counts in a connection that another process made to an address of a target,
// named host:port as configured. The caller releases it. A target or address that the
// pool does not have is not counted.
func (p *Pool) Adopt(target string, addr netip.AddrPort) *Lease {
	l := &Lease{p: p}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.targets {
		t := &p.targets[i]
		if t.name != target {
			continue
		}
		for _, a := range t.addrs {
			if a.addr == addr {
				a.active++
				t.active++
				l.a = a
				return l
			}
		}
	}
	return l
}
