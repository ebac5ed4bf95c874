// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/spliceway/spliceway/maps"
	"github.com/spliceway/spliceway/userspace/splice"
	"github.com/spliceway/spliceway/userspace/telemetry"
)

// spliced is a flow that the kernel moves: little more than what its end must be told
// to. What its log line needs is in the kernel, too, where the next agent finds it.
type spliced struct {
	id              maps.FlowID
	where           maps.Endpoints
	idle, halfClose time.Duration
	hello           int

	// Guarded by Engine.mu: the sweep, events and whoever ends flows meet here.
	done     func(*telemetry.Record, splice.Result)
	moved    [2]*atomic.Int64
	counted  [2]uint64 // of moved
	gone     time.Time // when the tuples were taken out; zero: they are in
	finished bool      // its end was told
}

func newSpliced(p *pending) *spliced {
	fl := &p.flow
	return &spliced{id: p.id, where: p.where, idle: fl.Idle, halfClose: fl.HalfClose, hello: p.hello, done: fl.Done, moved: fl.Moved}
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
	for {
		select {
		case <-e.stop:
			return
		case <-time.After(rest):
		}
		start := time.Now()
		e.expire(start.Add(-flipPatience))
		for id, f := range e.kernel.Flows.All() {
			e.check(id, &f)
		}
		rest = max(sweepInterval/4, min(sweepShare*time.Since(start), time.Minute))
	}
}

// look looks at one flow, because something has happened to it.
func (e *Engine) look(id maps.FlowID) {
	if f, err := e.kernel.Flows.Get(id); err == nil {
		e.check(id, &f)
	}
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
	switch {
	case f.State == maps.FlowDone:
		e.finish(s, f, endOf(f))
		e.remove(s)
	case f.RST != [2]bool{}:
		// Whoever got it and did not believe it goes on as if nothing had been
		// (RFC 5961): that shows by packets that come later.
		if f.Seen > f.Closed+doubt/4 {
			e.timeouts(s, f, now)
			return
		}
		if now-f.Closed > doubt {
			e.finish(s, f, endOf(f))
			e.remove(s)
		}
	case f.Ended():
		e.finish(s, f, endOf(f))
		if now-f.Closed > linger {
			e.remove(s)
		}
	default:
		e.timeouts(s, f, now)
	}
}

// count adds what has moved since the last time.
func (e *Engine) count(s *spliced, f *maps.Flow) {
	for direction, to := range [2]maps.Side{splice.In: maps.Backend, splice.Out: maps.Client} {
		e.mu.Lock()
		more := f.Delivered[to] - s.counted[direction]
		if f.Delivered[to] < s.counted[direction] {
			more = 0
		}
		s.counted[direction] += more
		m := s.moved[direction]
		e.mu.Unlock()
		if m != nil && more > 0 {
			m.Add(int64(more))
		}
	}
}

// timeouts ends a flow on which nothing has moved for too long.
func (e *Engine) timeouts(s *spliced, f *maps.Flow, now time.Duration) {
	half := f.FIN != [2]bool{}
	limit, end := s.idle, telemetry.EndIdleTimeout
	if half {
		limit, end = s.halfClose, telemetry.EndHalfCloseTimeout
	}
	if limit > 0 && now-max(f.Seen, f.Spliced) > limit {
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
	}
	return splice.Result{End: telemetry.EndError, ClosedBy: telemetry.SideAgent}
}

// finish tells the flow's end, once.
func (e *Engine) finish(s *spliced, f *maps.Flow, r splice.Result) {
	e.mu.Lock()
	if s.finished {
		e.mu.Unlock()
		return
	}
	s.finished = true
	e.mu.Unlock()
	e.count(s, f)
	r.Bytes = [2]int64{splice.In: int64(f.Delivered[maps.Backend]) + int64(s.hello), splice.Out: int64(f.Delivered[maps.Client])}
	record := new(telemetry.Record)
	if b, err := e.kernel.Records.Get(s.id); err == nil {
		if m, err := readMemo(b); err == nil {
			record = m.record
		}
	}
	e.mu.Lock()
	done := s.done
	s.done, s.moved = nil, [2]*atomic.Int64{}
	e.mu.Unlock()
	if done != nil {
		e.completed.Go(func() { done(record, r) })
	}
}

// remove takes a finished flow out of the kernel: the tuples now, the rest when no
// program can have it any more.
func (e *Engine) remove(s *spliced) {
	e.mu.Lock()
	first := s.gone.IsZero()
	if first {
		s.gone = time.Now()
	}
	over := time.Since(s.gone) > quarantine
	if over {
		delete(e.spliced, s.id)
	}
	e.mu.Unlock()
	if first {
		_ = e.kernel.Tuples.Delete(s.id, s.where)
		e.ports.free(s.where)
	}
	if over {
		e.forget(s.id)
	}
}

// forget deletes a flow that has no tuples.
func (e *Engine) forget(id maps.FlowID) {
	if err := errors.Join(e.kernel.Flows.Delete(id), e.kernel.Records.Delete(id)); err != nil {
		e.complain.about(e.logger, "cannot delete a flow in the kernel", err)
	}
}

// kill ends a flow with a reset on both legs. From the change of state on its packets
// are the kernel's, which has no socket for them and says so: that ends a flow that
// moves. For one that is silent the resets are made here.
func (e *Engine) kill(s *spliced, end telemetry.End) {
	was, err := e.kernel.Transit(s.id, maps.FlowSpliced, maps.FlowDone)
	if err != nil {
		e.complain.about(e.logger, "cannot end a flow", err)
		return
	}
	if was != maps.FlowSpliced {
		return
	}
	f, err := e.kernel.Flows.Get(s.id)
	if err != nil {
		return
	}
	if err := e.resets.send(&f); err != nil {
		e.complain.about(e.logger, "cannot send a reset", err)
	}
	e.finish(s, &f, splice.Result{End: end, ClosedBy: telemetry.SideAgent})
	e.remove(s)
}

// Kill ends a flow by its number; false: there is none.
func (e *Engine) Kill(id maps.FlowID, end telemetry.End) bool {
	e.mu.Lock()
	s := e.spliced[id]
	e.mu.Unlock()
	if s == nil {
		return false
	}
	e.kill(s, end)
	return true
}

// evict takes out a flow that has ended and whose tuple has a new connection. False:
// it has not ended.
func (e *Engine) evict(id maps.FlowID) bool {
	e.mu.Lock()
	s := e.spliced[id]
	e.mu.Unlock()
	f, err := e.kernel.Flows.Get(id)
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
	e.remove(s)
	return true
}

// Adopt takes over what an earlier agent left: revive is given each flow's record and
// returns what is to be told of its end. It returns how many there are.
func (e *Engine) Adopt(revive func(*telemetry.Record) (done func(*telemetry.Record, splice.Result), moved [2]*atomic.Int64)) int {
	n := 0
	for id, f := range e.kernel.Flows.All() {
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
		if f.State != maps.FlowSpliced || err != nil {
			// Its sockets died with the agent that had them. What has no record
			// cannot be accounted for: its ends find out by themselves.
			_ = e.kernel.Tuples.Delete(id, f.Endpoints)
			e.forget(id)
			continue
		}
		s := &spliced{id: id, where: f.Endpoints, idle: m.idle, halfClose: m.halfClose, hello: m.hello}
		s.done, s.moved = revive(m.record)
		// What it moved before is in no counter of this process.
		s.counted = [2]uint64{splice.In: f.Delivered[maps.Backend], splice.Out: f.Delivered[maps.Client]}
		e.ports.use(f.Endpoints)
		e.mu.Lock()
		e.spliced[id] = s
		e.mu.Unlock()
		n++
	}
	return n
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
		for id, f := range e.kernel.Flows.All() {
			if f.State != maps.FlowSpliced {
				continue
			}
			e.reroute(id, maps.Client, f.Device[maps.Client], f.Backend, f.Local)
			e.reroute(id, maps.Backend, f.Device[maps.Backend], f.Client, f.Listener)
		}
	}
}
