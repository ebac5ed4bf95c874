// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/userspace/clienthello"
	"github.com/spliceway/spliceway/userspace/telemetry"
)

// deferAccept is for how many seconds the kernel keeps a connection that says
// nothing (TCP_DEFER_ACCEPT) before the agent sees it.
const deferAccept = 1

// Peeking reads from the start each time, so a client that sends byte by byte
// could have the agent copy a hello thousands of times. Past freePeek bytes it
// waits peekPause for every peekUnit bytes that it has copied, which bounds the
// work until the deadline and is never met by a client that means well. What a
// single look costs is bounded by the receive buffer: see sock.Conn.WaitReadable.
const (
	freePeek     = 1 << 20
	peekUnit     = 64 << 10
	peekPause    = time.Millisecond
	longestPause = 50 * time.Millisecond
)

// helloBuffers lends memory for peeked bytes, in three sizes, each for as long as
// one look at them takes: while a client is silent its bytes are the kernel's only.
type helloBuffers struct {
	pools [3]sync.Pool
	used  atomic.Int64
}

// helloSizes: an ordinary hello; a large one; the largest one in records of one
// byte each (5 bytes of header for every byte).
var helloSizes = [3]int{4 << 10, 72 << 10, 6*clienthello.MaxSize + 4<<10}

// get lends a buffer of at least n bytes, or the largest. false: over limit.
func (h *helloBuffers) get(n int, limit int64) ([]byte, bool) {
	class := 0
	for class < len(helloSizes)-1 && helloSizes[class] < n {
		class++
	}
	size := int64(helloSizes[class])
	if h.used.Add(size) > limit {
		h.used.Add(-size)
		return nil, false
	}
	if b, ok := h.pools[class].Get().(*[]byte); ok {
		return *b, true
	}
	return make([]byte, size), true
}

func (h *helloBuffers) put(b []byte) {
	h.used.Add(-int64(len(b)))
	for class, size := range helloSizes {
		if size == len(b) {
			h.pools[class].Put(&b)
		}
	}
}

// look is one peek's verdict.
type look struct {
	outcome telemetry.Outcome // Routed: it is all there
	need    int               // > 0: not yet; look again when so many bytes are there
}

// await peeks until examine has its answer, the client ends or the deadline is
// over. examine sees the bytes that are there, from the start.
func (c *conn) await(examine func([]byte) look) telemetry.Outcome {
	var ctx context.Context // made at the first wait: most hellos are there
	need, size, copied, had, vain := 1, helloSizes[0], 0, -1, 0
	for {
		buf, ok := c.s.buffers.get(size, c.snap.MaxHelloMemory)
		if !ok {
			return c.overLimit(telemetry.LimitHelloMemory)
		}
		n, err := c.client.Peek(buf)
		if c.until.IsZero() { // the PROXY header's part counts, too
			c.until = c.deadline(n)
		}
		l := look{need: 1}
		if n > 0 {
			l = examine(buf[:n])
		}
		full := n == len(buf)
		c.s.buffers.put(buf)
		switch {
		case n == 0 && err == nil:
			return c.gone(nil)
		case err != nil && !errors.Is(err, unix.EAGAIN):
			return c.gone(err)
		case n > 0 && l.need == 0:
			return l.outcome
		case full && size < helloSizes[len(helloSizes)-1]:
			size = max(l.need, size+1)
			continue
		case c.client.HungUp() && n == had:
			return c.gone(c.client.Err())
		}
		c.turn.Leave()
		if ctx == nil {
			var cancel context.CancelFunc
			ctx, cancel = context.WithDeadline(c.s.ctx, c.until)
			defer cancel()
		}
		copied += n
		if vain++; n != had {
			vain = 0
		}
		if !c.pause(ctx, copied, vain) {
			return c.waitOutcome(ctx, ctx.Err())
		}
		had, need = n, l.need
		if err := c.client.WaitReadable(ctx, need); err != nil {
			return c.waitOutcome(ctx, err)
		}
	}
}

// deadline is when the hello must be whole. A connection on which nothing had
// arrived at accept has spent its time in the kernel's hands already.
func (c *conn) deadline(arrived int) time.Time {
	at := c.rec.Start.Add(c.snap.HelloTimeout)
	if arrived == 0 && c.snap.HelloTimeout > deferAccept*time.Second {
		at = at.Add(-deferAccept * time.Second)
	}
	return at
}

// pause slows down a client that makes the agent look often. False: ctx ended.
func (c *conn) pause(ctx context.Context, copied, inVain int) bool {
	d := pauseFor(copied, inVain)
	if d == 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// pauseFor is the pause of a client of whose bytes so many have been copied, and
// that has just woken the agent so many times in a row without a new one.
func pauseFor(copied, inVain int) time.Duration {
	d := time.Duration(max(copied-freePeek, 0)/peekUnit) * peekPause
	if inVain > 0 { // never spin on that
		d += peekPause << min(inVain, 6)
	}
	return min(d, longestPause)
}

// readHello waits for the whole ClientHello and leaves it in the socket.
func (c *conn) readHello(h *clienthello.Hello) telemetry.Outcome {
	outcome := c.await(func(b []byte) look {
		// Lent for one look, as the bytes are: who waits holds neither.
		p := c.s.parsers.Get().(*clienthello.Parser)
		defer c.s.parsers.Put(p)
		p.MaxSize = c.snap.MaxHello
		err := p.Parse(b, h)
		switch {
		case err == nil:
			return look{outcome: telemetry.OutcomeRouted}
		case errors.Is(err, clienthello.ErrIncomplete):
			return look{need: p.Need}
		case errors.Is(err, clienthello.ErrNotTLS):
			return look{outcome: telemetry.OutcomeNotTLS}
		case errors.Is(err, clienthello.ErrTooLarge):
			return look{outcome: telemetry.OutcomeTooLarge}
		}
		c.rec.Reason = err.Error()
		return look{outcome: telemetry.OutcomeMalformed}
	})
	c.rec.Hello = time.Since(c.rec.Start)
	if outcome == telemetry.OutcomeRouted {
		c.s.metrics.ObserveHello(c.rec.Hello)
	}
	return outcome
}

// readProxyHeader takes the PROXY header off a connection from a trusted network.
func (c *conn) readProxyHeader() telemetry.Outcome {
	if !trusted(c.snap.TrustedProxies, c.from.Addr()) {
		return telemetry.OutcomeRouted
	}
	var length int
	outcome := c.await(func(b []byte) look {
		n, need, err := c.parseProxyHeader(b)
		switch {
		case err != nil:
			c.rec.Reason = err.Error()
			return look{outcome: telemetry.OutcomeBadProxyHeader}
		case need > 0:
			return look{need: need}
		}
		length = n
		return look{outcome: telemetry.OutcomeRouted}
	})
	if outcome != telemetry.OutcomeRouted {
		return outcome
	}
	if err := c.client.Discard(length); err != nil {
		return c.gone(err)
	}
	return telemetry.OutcomeRouted
}

// parseProxyHeader reads the header at the start of b: its length, or how many
// bytes it needs at least, or what is wrong.
func (c *conn) parseProxyHeader(b []byte) (length, need int, err error) {
	length, need, err = proxyHeaderLength(b)
	if err != nil || need > 0 {
		return 0, need, err
	}
	from, to, err := decodeProxyHeader(bufio.NewReader(bytes.NewReader(b[:length])))
	if err != nil {
		return 0, 0, err
	}
	if from.IsValid() { // LOCAL and UNKNOWN keep the sockets' addresses
		c.rec.Via = c.from
		c.from, c.to = from, to
		c.rec.Client = from
	}
	return length, 0, nil
}
