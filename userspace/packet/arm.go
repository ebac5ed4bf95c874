// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/maps"
	"github.com/spliceway/spliceway/userspace/splice"
	"github.com/spliceway/spliceway/userspace/telemetry"
)

// helloMax is how many bytes are forwarded before the flip, PROXY header included:
// any hello that a limit lets in, and some early data.
const helloMax = 96 << 10

// flipPatience is how long a flow stays armed. The backend's ACK of the hello comes
// after one round trip, at the latest when its delayed-ACK timer ends.
const flipPatience = time.Second

// pending is a flow that is armed. Its sockets are whoever's takes it out of
// Engine.pending.
type pending struct {
	mu    sync.Mutex // held while the flow is armed and the hello written
	id    maps.FlowID
	flow  splice.Flow
	where maps.Endpoints
	hello int // bytes in the client's queue that Upstream has
	since time.Time
}

// Start arms the flow and forwards the hello, or gives the flow to the fallback.
func (e *Engine) Start(fl splice.Flow) {
	if why := e.arm(fl); why != telemetry.FallbackNone {
		e.fallBack(fl, why)
	}
}

// fallBack has the other engine go on from where the flow stands.
func (e *Engine) fallBack(fl splice.Flow, why telemetry.Fallback) {
	e.metrics.FellBack(why)
	if fl.Record != nil {
		fl.Record.EngineReason = why.String()
	}
	e.fallback.Start(fl)
}

// arm returns why it did nothing, or FallbackNone: then the flow is settled later.
func (e *Engine) arm(fl splice.Flow) telemetry.Fallback {
	c, u := fl.Client, fl.Upstream
	switch {
	case c.Local.Addr().Is4() != u.Local.Addr().Is4():
		return telemetry.FallbackFamilies
	case !e.ports.has(u.Local.Port()):
		return telemetry.FallbackSourcePort
	}
	// The address that the client came from may not be one that a route leads to,
	// but its packets' way back is what counts.
	if why := e.device(c.Remote.Addr(), c.Local.Addr()); why != telemetry.FallbackNone {
		return why
	}
	if why := e.device(u.Remote.Addr(), u.Local.Addr()); why != telemetry.FallbackNone {
		return why
	}
	buffer := e.buffers.Get().(*[helloMax]byte)
	defer e.buffers.Put(buffer)
	first := copy(buffer[:], fl.Preface)
	n, err := c.Peek(buffer[first:])
	switch {
	case err != nil && !errors.Is(err, unix.EAGAIN):
		return telemetry.FallbackClosing
	case n == len(buffer)-first:
		return telemetry.FallbackHelloSize
	case n <= 0:
		return telemetry.FallbackInFlight
	}
	p := &pending{
		id: maps.FlowID(e.next.Add(1)), flow: fl, hello: n, since: time.Now(),
		where: maps.Endpoints{Client: c.Remote, Listener: c.Local, Backend: u.Remote, Local: u.Local},
	}
	// From enter on a packet may decide about the flow. Whoever hears of it waits for
	// the lock: the backend gets the hello first, and p says how much of it.
	p.mu.Lock()
	defer p.mu.Unlock()
	if why, ok := e.enter(p, first+n); !ok {
		return why
	}
	sent, err := u.Send(buffer[:first+n])
	if sent == first+n {
		return telemetry.FallbackNone
	}
	// Not all of it went out, so the programs cannot have spliced it.
	sent = max(sent, 0)
	p.hello = max(sent-first, 0)
	p.flow.Preface = fl.Preface[min(sent, first):]
	if !e.take(p) {
		return telemetry.FallbackNone // declined already: settle goes on with p
	}
	e.decline(p)
	e.leave(p)
	why := telemetry.FallbackBackpressure
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		why = telemetry.FallbackClosing
	}
	e.giveBack(p, why)
	return telemetry.FallbackNone
}

// enter puts the flow into the maps, armed, and into pending. Not ok is why it did not;
// FallbackNone: a packet declined the flow before, and settle goes on with it.
func (e *Engine) enter(p *pending, written int) (why telemetry.Fallback, ok bool) {
	var room [maps.RecordBytes]byte
	memo, fits := appendMemo(room[:0], &p.flow, p.hello)
	if !fits {
		return telemetry.FallbackNames, false
	}
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return telemetry.FallbackUnavailable, false
	}
	e.pending[p.id] = p
	e.mu.Unlock()
	e.late.push(p)
	err := e.kernel.Records.Put(p.id, memo)
	if err == nil {
		err = e.kernel.Flows.Arm(p.id, maps.Arming{
			Endpoints: p.where, Unread: uint32(p.hello), Written: uint32(written), BackendMSS: uint32(e.segments.of(p.where.Backend).peer),
			Shortcut: p.flow.Shortcut && e.shortcuts.wants(p.where),
		})
	}
	var holder maps.FlowID
	for range 2 {
		if err != nil {
			break
		}
		// The last step: from here on the programs see the flow's packets.
		if holder, err = e.kernel.Tuples.Put(p.id, p.where); !errors.Is(err, maps.ErrExists) {
			break
		}
		if !e.evict(holder) {
			break
		}
		err = nil
		if _, err = e.kernel.Tuples.Put(p.id, p.where); err == nil {
			break
		}
	}
	if err == nil {
		e.ports.use(p.where)
		return telemetry.FallbackNone, true
	}
	if !e.take(p) {
		p.hello = 0 // nothing of it was sent
		return telemetry.FallbackNone, false
	}
	e.forget(p.id, false)
	switch {
	case errors.Is(err, maps.ErrExists):
		return telemetry.FallbackTupleInUse, false
	case errors.Is(err, unix.E2BIG):
		return telemetry.FallbackFull, false
	}
	e.complain.about(e.logger, "a flow has engine splice", err)
	return telemetry.FallbackInternal, false
}

// take takes the flow out of pending: whoever gets true has its sockets.
func (e *Engine) take(p *pending) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.pending[p.id] != p {
		return false
	}
	delete(e.pending, p.id)
	return true
}

// decline takes an armed flow back from the programs, if they have not spliced it. A
// program that has it in hand at the moment is done in a microsecond.
func (e *Engine) decline(p *pending) maps.FlowState {
	for {
		was, err := e.kernel.Transit(p.id, maps.FlowArmed, maps.FlowDeclined)
		switch {
		case err != nil:
			e.complain.about(e.logger, "cannot take a flow back from the kernel", err)
			return maps.FlowArmed
		case was != maps.FlowFlipping:
			return was
		}
	}
}

// settle acts on what the programs decided, or on time that has run out.
func (e *Engine) settle(id maps.FlowID, why telemetry.Fallback) {
	e.mu.Lock()
	p := e.pending[id]
	if p == nil {
		e.mu.Unlock()
		return
	}
	delete(e.pending, id)
	if why == telemetry.FallbackNone {
		e.spliced[id] = newSpliced(p)
	}
	e.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if why == telemetry.FallbackNone {
		p.flow.Client.Vanish()
		p.flow.Upstream.Vanish()
		if m := p.flow.Moved[splice.In]; m != nil {
			m.Add(int64(p.hello))
		}
		return
	}
	e.leave(p)
	e.giveBack(p, why)
}

// leave takes a flow that is not spliced out of the maps.
func (e *Engine) leave(p *pending) {
	_ = e.kernel.Tuples.Delete(p.id, p.where)
	e.ports.free(p.where)
	e.forget(p.id, false)
}

// giveBack hands a flow to the fallback whose hello the backend has, and the client's
// queue still, too.
func (e *Engine) giveBack(p *pending, why telemetry.Fallback) {
	fl := p.flow
	if p.hello > 0 {
		fl.Forwarded = int64(p.hello)
		fl.Preface = nil
		if err := fl.Client.Discard(p.hello); err != nil {
			// Nobody else reads it: only a reset can have emptied the queue, and
			// the fallback will meet it.
			e.complain.about(e.logger, "a client's queue was not as it had been", err)
		}
	}
	e.fallBack(fl, why)
}

// lateList is the armed flows in the order of their time.
type lateList struct {
	mu    sync.Mutex
	flows []*pending
}

func (l *lateList) push(p *pending) {
	l.mu.Lock()
	l.flows = append(l.flows, p)
	l.mu.Unlock()
}

// due takes out those that were armed before.
func (l *lateList) due(before time.Time) []*pending {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for n < len(l.flows) && l.flows[n].since.Before(before) {
		n++
	}
	due := append([]*pending(nil), l.flows[:n]...)
	l.flows = append([]*pending(nil), l.flows[n:]...)
	return due
}

// expire ends the wait of flows that no packet decided about.
func (e *Engine) expire(before time.Time) {
	for _, p := range e.late.due(before) {
		e.mu.Lock()
		waits := e.pending[p.id] == p
		e.mu.Unlock()
		if !waits {
			continue
		}
		switch e.decline(p) {
		case maps.FlowSpliced, maps.FlowDone:
			e.settle(p.id, telemetry.FallbackNone) // its event was lost
		default:
			e.settle(p.id, telemetry.FallbackTimeout)
		}
	}
}

// The memo of a flow in the kernel: what this engine wants to know, then the record.
const memoHeader = 8 + 8 + 4

func appendMemo(b []byte, fl *splice.Flow, hello int) ([]byte, bool) {
	b = binary.NativeEndian.AppendUint64(b, uint64(fl.Idle))
	b = binary.NativeEndian.AppendUint64(b, uint64(fl.HalfClose))
	b = binary.NativeEndian.AppendUint32(b, uint32(hello))
	if fl.Record == nil {
		return (&telemetry.Record{}).AppendMemo(b, maps.RecordBytes-memoHeader)
	}
	fl.Record.Engine = Name
	return fl.Record.AppendMemo(b, maps.RecordBytes-memoHeader)
}

type memo struct {
	idle, halfClose time.Duration
	hello           int
	record          *telemetry.Record
}

func readMemo(b []byte) (m memo, err error) {
	if len(b) < memoHeader {
		return m, telemetry.ErrMemo
	}
	m.idle = time.Duration(binary.NativeEndian.Uint64(b))
	m.halfClose = time.Duration(binary.NativeEndian.Uint64(b[8:]))
	m.hello = int(binary.NativeEndian.Uint32(b[16:]))
	m.record, _, err = telemetry.ReadMemo(b[memoHeader:])
	return m, err
}
