// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"time"

	"github.com/spliceway/spliceway/userspace/sock"
)

// headStart is the time that the first family has for itself: the Connection
// Attempt Delay of RFC 8305, section 5.
const headStart = 250 * time.Millisecond

// raced is the end of one connect of a race.
type raced struct {
	addr *address
	established
	err error
}

// race connects to first, and to second when first has failed or had its head
// start. The first to connect wins; the other one is closed before race returns.
func (p *Pool) race(ctx context.Context, first, second *address, secure Secure, tries []try) (established, *address, []try) {
	sock.LeaveTurn(ctx)
	racing, cancel := context.WithCancel(ctx)
	defer cancel()
	ends := make(chan raced)
	start := func(a *address) {
		go func() {
			e, err := p.dial(racing, a, secure)
			ends <- raced{a, e, err}
		}()
	}
	timer := time.NewTimer(headStart)
	defer timer.Stop()

	start(first)
	running, waiting := 1, second
	for running > 0 {
		select {
		case <-timer.C:
		case end := <-ends:
			running--
			if end.err == nil {
				cancel()
				if running > 0 {
					p.lost(<-ends, first)
				}
				if waiting != nil {
					p.settle(waiting, inconclusive, "")
				}
				p.settle(end.addr, worked, "")
				return end.established, end.addr, tries
			}
			tries = append(tries, p.dialFailed(ctx, end.addr, end.err))
		}
		if waiting != nil && ctx.Err() == nil {
			start(waiting)
			running, waiting = running+1, nil
		}
	}
	if waiting != nil {
		p.settle(waiting, inconclusive, "")
	}
	return established{}, nil, tries
}

// lost settles and closes who came second. To lose despite the head start is a
// failure: a family that leads nowhere would cost each connection that time.
func (p *Pool) lost(loser raced, first *address) {
	switch {
	case loser.err == nil:
		_ = loser.conn.Close()
		p.settle(loser.addr, worked, "")
	case loser.addr == first:
		p.settle(loser.addr, failed, "slower than the other family by more than its head start")
	default:
		p.settle(loser.addr, inconclusive, "")
	}
}
