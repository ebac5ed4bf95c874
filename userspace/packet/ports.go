// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/maps"
	"github.com/spliceway/spliceway/userspace/sock"
)

// PortRange is source ports that nobody but the agent takes, both ends included. The
// zero value is none.
type PortRange struct{ First, Last uint16 }

// ports knows which source ports flows have. A spliced flow has no socket that would
// keep the kernel from giving its port to somebody else: therefore the range, and
// this.
type ports struct {
	mu   sync.Mutex
	all  PortRange
	used map[portUse]struct{}
	next map[netip.AddrPort]uint16 // by destination: the ports go round
}

type portUse struct {
	backend netip.AddrPort
	port    uint16
}

// destinationsKept bounds next.
const destinationsKept = 4096

func (p *ports) set(r PortRange) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = r
	if p.used == nil {
		p.used, p.next = make(map[portUse]struct{}), make(map[netip.AddrPort]uint16)
	}
}

func (p *ports) has(port uint16) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all.First != 0 && port >= p.all.First && port <= p.all.Last
}

func (p *ports) use(e maps.Endpoints) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.used != nil {
		p.used[portUse{e.Backend, e.Local.Port()}] = struct{}{}
	}
}

func (p *ports) free(e maps.Endpoints) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.used, portUse{e.Backend, e.Local.Port()})
}

// pick returns the port to a destination that was longest not in use, or 0.
func (p *ports) pick(to netip.AddrPort) uint16 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all.First == 0 {
		return 0
	}
	n := uint32(p.all.Last-p.all.First) + 1
	at, known := p.next[to]
	if !known {
		if len(p.next) >= destinationsKept {
			clear(p.next)
		}
		at = p.all.First + uint16(rand.N(n))
	}
	for range n {
		port := at
		if at++; at > p.all.Last || at < p.all.First {
			at = p.all.First
		}
		if _, taken := p.used[portUse{to, port}]; !taken {
			p.next[to] = at
			return port
		}
	}
	return 0
}

// Dialer dials from the agent's source ports. It is upstream.Dialer.
type Dialer struct {
	engine *Engine
	poller *sock.Poller
}

// Dialer returns a dialer that waits in poller, for connections that this engine may
// get.
func (e *Engine) Dialer(poller *sock.Poller) *Dialer { return &Dialer{e, poller} }

// portTries is how many ports are tried that the kernel says are in use.
const portTries = 4

// Dial connects from a port of the range, or from any if none is free.
func (d *Dialer) Dial(ctx context.Context, remote netip.AddrPort) (*sock.Conn, error) {
	for range portTries {
		port := d.engine.ports.pick(remote)
		if port == 0 {
			break
		}
		c, err := d.poller.DialFrom(ctx, port, remote)
		if errors.Is(err, unix.EADDRINUSE) || errors.Is(err, unix.EADDRNOTAVAIL) {
			continue
		}
		return c, err
	}
	return d.poller.Dial(ctx, remote)
}

// UsePorts sets the range, which must be the agent's alone: see loader.ReservePorts.
func (e *Engine) UsePorts(r PortRange) error {
	if r.First == 0 || r.First > r.Last {
		return fmt.Errorf("source ports %d-%d: not a range", r.First, r.Last)
	}
	e.ports.set(r)
	return nil
}
