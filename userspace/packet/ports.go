// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"

	"github.com/spliceway/spliceway/maps"
)

// PortRange is source ports that nobody but the agent takes, both ends included. The
// zero value is none.
type PortRange struct{ First, Last uint16 }

// ports knows which source ports flows have. A spliced flow has no socket that would
// keep the kernel from giving its port to somebody else: therefore the range, and
// this.
type ports struct {
	mu  sync.Mutex
	all PortRange
	to  map[netip.AddrPort]*portUse // by destination
}

// portUse is the ports of one destination.
type portUse struct {
	used  []uint64 // a bit for each port of the range
	flows int
	next  uint16 // the ports go round
}

// destinationsKept bounds those that have no flow.
const destinationsKept = 4096

func (p *ports) set(r PortRange) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = r
	p.to = make(map[netip.AddrPort]*portUse)
}

func (p *ports) has(port uint16) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.inRange(port)
}

func (p *ports) inRange(port uint16) bool {
	return p.all.First != 0 && port >= p.all.First && port <= p.all.Last
}

func (p *ports) size() int { return int(p.all.Last) - int(p.all.First) + 1 }

// destination is what is known of one, made if there is nothing yet.
func (p *ports) destination(to netip.AddrPort) *portUse {
	u := p.to[to]
	if u == nil {
		if len(p.to) >= destinationsKept {
			for at, u := range p.to {
				if u.flows == 0 {
					delete(p.to, at)
				}
			}
		}
		u = &portUse{used: make([]uint64, (p.size()+63)/64), next: p.all.First + uint16(rand.N(p.size()))}
		p.to[to] = u
	}
	return u
}

func (p *ports) use(e maps.Endpoints) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.inRange(e.Local.Port()) {
		u, i := p.destination(e.Backend), e.Local.Port()-p.all.First
		if u.used[i/64]&(1<<(i%64)) == 0 {
			u.used[i/64] |= 1 << (i % 64)
			u.flows++
		}
	}
}

func (p *ports) free(e maps.Endpoints) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if u := p.to[e.Backend]; u != nil && p.inRange(e.Local.Port()) {
		i := e.Local.Port() - p.all.First
		if u.used[i/64]&(1<<(i%64)) != 0 {
			u.used[i/64] &^= 1 << (i % 64)
			u.flows--
		}
	}
}

// pick returns the port to a destination that was longest not in use, or 0.
func (p *ports) pick(to netip.AddrPort) uint16 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all.First == 0 {
		return 0
	}
	u := p.destination(to)
	for range p.size() {
		i := u.next - p.all.First
		if u.next++; !p.inRange(u.next) {
			u.next = p.all.First
		}
		if u.used[i/64]&(1<<(i%64)) == 0 {
			return p.all.First + i
		}
	}
	return 0
}

// UsePorts sets the range, which must be the agent's alone: see loader.ReservePorts.
func (e *Engine) UsePorts(r PortRange) error {
	if r.First == 0 || r.First > r.Last {
		return fmt.Errorf("source ports %d-%d: not a range", r.First, r.Last)
	}
	e.ports.set(r)
	return nil
}
