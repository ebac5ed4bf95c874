// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/userspace/sock"
)

// Dialer dials so that the flow can be spliced: from the agent's source ports, and
// telling the backend what segments the client takes. It is upstream.Dialer.
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
	known := d.engine.segments.of(remote)
	limit := sock.MaxSegmentOf(ctx)
	// A socket with TCP_MAXSEG does not know any more what its peer takes: that has to
	// be known from one without.
	free := limit == 0 || limit >= known.own
	if free {
		ctx = sock.WithMaxSegment(ctx, 0)
	}
	c, err := d.dial(ctx, remote)
	if err == nil && free && time.Since(known.learned) > relearn {
		d.engine.segments.learn(remote, c)
	}
	return c, err
}

func (d *Dialer) dial(ctx context.Context, remote netip.AddrPort) (*sock.Conn, error) {
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

// segments knows what the connections to backends have for segments.
type segments struct {
	mu sync.Mutex
	to map[netip.AddrPort]segment
}

// segment is of one backend: what it takes, and what it is told that this host does.
type segment struct {
	peer, own int
	learned   time.Time
}

// relearn is how often that is looked at again: routes and devices change.
const relearn = 10 * time.Second

func (s *segments) of(to netip.AddrPort) segment {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.to[to]
}

func (s *segments) learn(to netip.AddrPort, c *sock.Conn) {
	peer, own := c.MaxSegment(), c.OwnSegment()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.to == nil || len(s.to) >= destinationsKept {
		s.to = make(map[netip.AddrPort]segment)
	}
	s.to[to] = segment{peer, own, time.Now()}
}
