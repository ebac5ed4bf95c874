// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"errors"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/spliceway/spliceway/maps"
	"github.com/spliceway/spliceway/userspace/splice"
	"github.com/spliceway/spliceway/userspace/telemetry"
)

// spliced is a flow that the kernel moves: little more than whom its end must be told
// to, as there may be very many. What its log line needs is in the kernel, where the
// next agent finds it, too. Fields are guarded by Engine.mu once it is in
// Engine.spliced.
type spliced struct {
	id              maps.FlowID
	idle, halfClose time.Duration
	hello           uint32
	finished        bool          // its end was told
	killed          telemetry.End // why the agent is ending it, if it is
	gone            time.Duration // of CLOCK_MONOTONIC: when the tuples were taken out; 0: they are in
	counted         [2]uint64     // of moved
	cut             shortcutCount // of the short cut
	moved           [2]*atomic.Int64
	done            func(*telemetry.Record, splice.Result)
}

func newSpliced(p *pending) *spliced {
	fl := &p.flow
	return &spliced{id: p.id, idle: fl.Idle, halfClose: fl.HalfClose, hello: uint32(p.hello), done: fl.Done, moved: fl.Moved}
}

const (
	// sweepInterval is how often flows are looked at without being asked.
	sweepInterval = time.Second
	// sweepShare bounds the sweep's part of one processor: after each it rests for
	// as many times as long.
	sweepShare = 20
	// linger is how long an ended flow's last packets, and their repetitions, are
	// still translated.
	linger = 2 * time.Second
	// doubt is how long an RST may turn out not to have been believed.
	doubt = time.Second
	// quarantine is how long a flow stays whose tuples are out: longer than any
	// program runs.
	quarantine = time.Second
)

// sweep looks at all flows: what has moved, which have ended without an event, which
// are idle, which can be forgotten.
func (e *Engine) sweep() {
	rest := sweepInterval
	var calm calm
	for {
		select {
		case <-e.stop:
			return
		case <-time.After(rest):
		}
		start := time.Now()
		e.expire(start.Add(-flipPatience))
		for id, f := range e.kernel.Flows.All() {
			withShortcut(e.kernel.Shortcuts, id, &f)
			e.check(id, &f)
		}
		calm.look(e.next.Load())
		rest = max(sweepInterval/4, min(sweepShare*time.Since(start), time.Minute))
	}
}

// calm gives the memory that a burst of connections took back to the host, once it is
// over: what is left of a flow in the agent is small, what setting it up takes is not.
type calm struct {
	flows uint64 // the last number given
	since time.Time
}

// calmAfter is how long no flow must have come.
const calmAfter = 2 * time.Second

func (c *calm) look(flows uint64) {
	now := time.Now()
	switch {
	case flows != c.flows:
		c.flows, c.since = flows, now
	case !c.since.IsZero() && now.Sub(c.since) > calmAfter:
		c.since = time.Time{}
		debug.FreeOSMemory()
	}
}

// look looks at one flow, because something has happened to it.
func (e *Engine) look(id maps.FlowID) {
	if f, err := e.get(id); err == nil {
		e.check(id, &f)
	}
}

// get returns a flow with all that moved.
func (e *Engine) get(id maps.FlowID) (maps.Flow, error) {
	f, err := e.kernel.Flows.Get(id)
	if err == nil {
		withShortcut(e.kernel.Shortcuts, id, &f)
	}
	return f, err
}

// check acts on what the kernel knows of a flow.
func (e *Engine) check(id maps.FlowID, f *maps.Flow) {
	e.mu.Lock()
	s, waits := e.spliced[id], e.pending[id] != nil
	e.mu.Unlock()
	now := maps.Monotonic()
	switch {
	case s == nil && waits:
		if f.State == maps.FlowSpliced && now-f.Spliced > flipPatience {
			e.settle(id, telemetry.FallbackNone) // the event was lost
		}
		return
	case s == nil:
		return // on its way in or out
	case f.State != maps.FlowSpliced && f.State != maps.FlowDone:
		return // f was read before the flow was spliced, and says nothing of it
	}
	e.count(s, f)
	if f.SameHost {
		e.lateReaders(s, f)
		if f.Shortcut.Waits() {
			e.wakeJoin() // the event was lost
		}
	}
	switch {
	case f.State == maps.FlowDone:
		e.mu.Lock()
		killed := s.killed
		e.mu.Unlock()
		r := endOf(f)
		if killed != telemetry.EndNone { // and its killer is a step behind
			r = splice.Result{End: killed, ClosedBy: telemetry.SideAgent}
		}
		e.finish(s, f, r)
		e.remove(s, f)
	case f.FINAcked == [2]bool{true, true}:
		e.finish(s, f, endOf(f))
		if now-f.Closed > linger {
			e.remove(s, f)
		}
	case f.RST != [2]bool{}:
		// Whoever got it and did not believe it goes on as if nothing had been
		// (RFC 5961): that shows by packets that come later.
		if f.Seen > f.Closed+doubt/4 {
			e.timeouts(s, f, now)
			return
		}
		if now-f.Closed > doubt {
			e.finish(s, f, endOf(f))
			e.remove(s, f)
		}
	default:
		e.timeouts(s, f, now)
	}
}

// count adds what has moved since the last time.
func (e *Engine) count(s *spliced, f *maps.Flow) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for direction, to := range [2]maps.Side{splice.In: maps.Backend, splice.Out: maps.Client} {
		if f.Delivered[to] <= s.counted[direction] {
			continue
		}
		if m := s.moved[direction]; m != nil {
			m.Add(int64(f.Delivered[to] - s.counted[direction]))
		}
		s.counted[direction] = f.Delivered[to]
	}
	e.countShortcut(s, &f.Shortcut)
}

// clockSlack is by how much the programs' clock, which ticks with the kernel's timer (10 ms
// at most, CONFIG_HZ), may be behind: no flow is ended early.
const clockSlack = 12 * time.Millisecond

// timeouts ends a flow on which nothing has moved for too long.
func (e *Engine) timeouts(s *spliced, f *maps.Flow, now time.Duration) {
	half := f.FIN != [2]bool{}
	limit, end := s.idle, telemetry.EndIdleTimeout
	if half {
		limit, end = s.halfClose, telemetry.EndHalfCloseTimeout
	}
	if limit > 0 && now-max(f.Seen, f.Spliced) > limit+clockSlack {
		e.kill(s, end)
	}
}

// endOf is how a flow ended that ended by itself.
func endOf(f *maps.Flow) splice.Result {
	sides := [2]telemetry.Side{maps.Client: telemetry.SideClient, maps.Backend: telemetry.SideUpstream}
	switch {
	case f.FINAcked == [2]bool{true, true}:
		return splice.Result{End: telemetry.EndEOF, ClosedBy: sides[f.First]}
	case f.RST[maps.Client]:
		return splice.Result{End: telemetry.EndReset, ClosedBy: sides[maps.Client]}
	case f.RST[maps.Backend]:
		return splice.Result{End: telemetry.EndReset, ClosedBy: sides[maps.Backend]}
	case f.State == maps.FlowDone: // endPinned
		return splice.Result{End: telemetry.EndKilled, ClosedBy: telemetry.SideAgent}
	}
	return splice.Result{End: telemetry.EndError, ClosedBy: telemetry.SideAgent}
}

// finish tells the flow's end, once.
func (e *Engine) finish(s *spliced, f *maps.Flow, r splice.Result) {
	e.count(s, f)
	e.mu.Lock()
	if s.finished {
		e.mu.Unlock()
		return
	}
	s.finished = true
	done := s.done
	s.done, s.moved = nil, [2]*atomic.Int64{}
	e.mu.Unlock()
	r.Bytes = [2]int64{splice.In: int64(f.Delivered[maps.Backend]) + int64(s.hello), splice.Out: int64(f.Delivered[maps.Client])}
	record := new(telemetry.Record)
	if b, err := e.kernel.Records.Get(s.id); err == nil {
		if m, err := readMemo(b); err == nil {
			record = m.record
		}
	}
	describeShortcut(record, f)
	if why := f.Shortcut.Misfit(); f.SameHost && why != maps.Fits {
		e.metrics.DeclinedShortcut(why.String())
	}
	// A flow without a record is one whose end was told: the next agent must not
	// tell it again.
	_ = e.kernel.Records.Delete(s.id)
	if done != nil {
		e.completed.Go(func() { done(record, r) })
	}
}

// remove takes a finished flow out of the kernel: the tuples now, the rest when no
// program can have it any more.
func (e *Engine) remove(s *spliced, f *maps.Flow) {
	now := maps.Monotonic()
	e.mu.Lock()
	first := s.gone == 0
	if first {
		s.gone = now
	}
	over := now-s.gone > quarantine
	if over {
		delete(e.spliced, s.id)
	}
	e.mu.Unlock()
	if first {
		_ = e.kernel.Tuples.Delete(s.id, f.Endpoints)
		e.ports.free(f.Endpoints)
	}
	if over {
		e.forget(s.id, f.SameHost)
	}
}

// forget deletes a flow that has no tuples.
func (e *Engine) forget(id maps.FlowID, local bool) {
	err := errors.Join(e.kernel.Flows.Delete(id), e.kernel.Records.Delete(id))
	if local {
		err = errors.Join(err, e.kernel.Shortcuts.Delete(id))
	}
	if err != nil {
		e.complain.about(e.logger, "cannot delete a flow in the kernel", err)
	}
}

// kill ends a flow with a reset on both legs. From the change of state on its packets
// are the kernel's, which has no socket for them and says so: that ends a flow that
// moves. For one that is silent the resets are made here.
func (e *Engine) kill(s *spliced, end telemetry.End) bool {
	mark := func(end telemetry.End) {
		e.mu.Lock()
		s.killed = end
		e.mu.Unlock()
	}
	mark(end)
	was, err := e.kernel.Transit(s.id, maps.FlowSpliced, maps.FlowDone)
	if err != nil {
		e.complain.about(e.logger, "cannot end a flow", err)
	}
	if err != nil || was != maps.FlowSpliced {
		mark(telemetry.EndNone)
		return false
	}
	f, err := e.get(s.id)
	if err != nil {
		return false
	}
	if err := e.resets.send(&f); err != nil {
		e.complain.about(e.logger, "cannot send a reset", err)
	}
	e.finish(s, &f, splice.Result{End: end, ClosedBy: telemetry.SideAgent})
	e.remove(s, &f)
	return true
}

// evict takes out a flow that has ended and whose tuple has a new connection. False:
// it has not ended.
func (e *Engine) evict(id maps.FlowID) bool {
	e.mu.Lock()
	s := e.spliced[id]
	e.mu.Unlock()
	f, err := e.get(id)
	if errors.Is(err, maps.ErrNotFound) {
		return true // on its way out; the tuple may be there still
	}
	if err != nil || s == nil || !f.Ended() && f.State != maps.FlowDone {
		return false
	}
	if _, err := e.kernel.Transit(id, maps.FlowSpliced, maps.FlowDone); err != nil {
		return false
	}
	e.finish(s, &f, endOf(&f))
	e.remove(s, &f)
	return true
}

// Adopt takes over what an earlier agent left: revive is given each flow's record and
// returns what is to be told of its end. It returns how many there are.
func (e *Engine) Adopt(revive func(*telemetry.Record) (done func(*telemetry.Record, splice.Result), moved [2]*atomic.Int64)) int {
	n := 0
	for id, f := range e.kernel.Flows.All() {
		withShortcut(e.kernel.Shortcuts, id, &f)
		e.mu.Lock()
		known := e.spliced[id] != nil || e.pending[id] != nil
		e.mu.Unlock()
		if known {
			continue
		}
		b, err := e.kernel.Records.Get(id)
		var m memo
		if err == nil {
			m, err = readMemo(b)
		}
		if f.State == maps.FlowDone && err == nil {
			// Given up while there was no agent: by hand, unless it had ended and
			// a new connection took its tuple.
			r := splice.Result{End: telemetry.EndKilled, ClosedBy: telemetry.SideAgent}
			if f.Ended() {
				r = endOf(&f)
			}
			s := &spliced{id: id, hello: uint32(m.hello)}
			s.done, _ = revive(m.record)
			s.countedBefore(&f)
			e.finish(s, &f, r)
		}
		if f.State != maps.FlowSpliced || err != nil {
			// Its sockets died with the agent that had them. What has no record
			// cannot be accounted for: its ends find out by themselves.
			_ = e.kernel.Tuples.Delete(id, f.Endpoints)
			e.forget(id, f.SameHost)
			continue
		}
		s := &spliced{id: id, idle: m.idle, halfClose: m.halfClose, hello: uint32(m.hello)}
		s.done, s.moved = revive(m.record)
		// What it moved before is in no counter of this process.
		s.countedBefore(&f)
		e.ports.use(f.Endpoints)
		e.mu.Lock()
		e.spliced[id] = s
		e.mu.Unlock()
		n++
	}
	return n
}

// countedBefore is of a flow of an earlier agent, which counted what it moved.
func (s *spliced) countedBefore(f *maps.Flow) {
	s.counted = [2]uint64{splice.In: f.Delivered[maps.Backend], splice.Out: f.Delivered[maps.Client]}
	client, backend := &f.Shortcut.Ends[maps.Client], &f.Shortcut.Ends[maps.Backend]
	s.cut = shortcutCount{[2]uint64{client.Sent, backend.Sent}, client.Switches + backend.Switches}
}

// followRoutes leads flows to other devices when the routes change.
func (e *Engine) followRoutes() {
	for {
		select {
		case <-e.stop:
			return
		case index := <-e.routes.Gone:
			e.kernel.Gone(index)
			continue
		case <-e.routes.Changed:
		}
		e.attachAddressed()
		if err := e.shortcuts.devicesChanged(); err != nil {
			e.complain.about(e.logger, "clients on the loopback device may get engine splice", err)
		}
		for id, f := range e.kernel.Flows.All() {
			if f.State != maps.FlowSpliced {
				continue
			}
			e.reroute(id, maps.Client, f.Device[maps.Client], f.Backend, f.Local)
			e.reroute(id, maps.Backend, f.Device[maps.Backend], f.Client, f.Listener)
		}
	}
}
