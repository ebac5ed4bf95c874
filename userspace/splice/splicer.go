// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/spliceway/spliceway/userspace/telemetry"
)

// Splicer is the engine "splice": event loops that move large bursts with
// splice(2) through pooled pipes and small ones with recv and send. A flow costs
// no goroutine, and while it is idle no pipe and no buffer.
//
// What either side sees is what it would have seen without a gateway: FIN is
// passed on in each direction by itself, after the bytes before it; a reset
// arrives as a reset; a reader that does not read stops its writer.
//
// Flows with TLS on a side (Flow.TLS) are copied.
type Splicer struct {
	name    string
	workers []*worker
	next    atomic.Uint32
	pipes   pipePool
	burst   int // the size of scratch, and of the workers'
	scratch sync.Pool
	running sync.WaitGroup
}

var _ Engine = (*Splicer)(nil)

// SplicerOptions of NewSplicer; the zero value works.
type SplicerOptions struct {
	// Workers is the number of event loops. Default: one per processor.
	Workers int
	// Relay makes it the engine "relay": the same for flows with TLS, with room
	// for larger bursts of bytes that are to be copied in any case.
	Relay bool
}

// NewSplicer starts the engine's event loops.
func NewSplicer(opts SplicerOptions) (*Splicer, error) {
	n := opts.Workers
	if n <= 0 {
		n = runtime.NumCPU()
	}
	s := newSplicer("splice", scratchSize)
	if opts.Relay {
		s = newSplicer("relay", relayScratch)
	}
	for range n {
		w, err := newWorker(&s.pipes, s.burst)
		if err != nil {
			for _, w := range s.workers {
				w.close()
			}
			return nil, fmt.Errorf("start engine splice: %w", err)
		}
		s.workers = append(s.workers, w)
	}
	for _, w := range s.workers {
		s.running.Go(w.run)
	}
	return s, nil
}

func newSplicer(name string, burst int) *Splicer {
	return &Splicer{name: name, burst: burst, scratch: sync.Pool{New: func() any { b := make([]byte, burst); return &b }}}
}

// Name is "splice", or "relay".
func (s *Splicer) Name() string { return s.name }

// Start forwards what has already arrived (the hello) on the caller's goroutine
// and gives the rest to an event loop.
func (s *Splicer) Start(fl Flow) {
	w := s.workers[int(s.next.Add(1))%len(s.workers)]
	f := &flow{
		w: w, fds: [2]int{fl.Client.Detach(), fl.Upstream.Detach()},
		idle: fl.Idle, halfClose: fl.HalfClose, first: none, dead: none,
		done: fl.Done, record: fl.Record, moved: fl.Moved, last: w.clock(),
	}
	if fl.Record != nil {
		fl.Record.Engine = s.Name()
	}
	f.dir[In] = direction{rest: fl.Preface, preface: len(fl.Preface), bytes: fl.Forwarded, readable: true, writable: true}
	if m := fl.Moved[In]; m != nil {
		m.Add(fl.Forwarded)
	}
	f.dir[Out] = direction{writable: true}
	for side, l := range fl.TLS {
		if l != nil {
			// It may have read already what epoll will not tell of again.
			f.tls[side], f.dir[side].readable = l, true
			f.full[side] = true // it has answers of its own to send
			l.Detach(f.fds[side])
		}
	}
	f.mu.Lock()
	defer f.unlock()
	look := f.idle
	if look > 0 {
		look += f.last
	}
	scratch := s.scratch.Get().(*[]byte)
	more := f.pump(In, *scratch)
	if f.tls[Out] != nil {
		more = f.pump(Out, *scratch) || more
	}
	s.scratch.Put(scratch)
	if err := w.add(f, look); err != nil {
		f.err = err
		f.finish(telemetry.EndError, telemetry.SideAgent, true)
		return
	}
	if f.dead != none || f.dir[In].closed || f.dir[Out].closed || more {
		// The loop hears of what happens from now on, and of what is
		// readable or broken by the time of add; not of what pump found, nor of
		// what TLS has in its buffers.
		w.lookAgain(f, 1)
	}
}

// Flows is how many flows are open.
func (s *Splicer) Flows() int {
	var n int64
	for _, w := range s.workers {
		n += w.flows.Load()
	}
	return int(n)
}

// Abort ends every flow with a reset on both sides.
func (s *Splicer) Abort(end telemetry.End) {
	for _, w := range s.workers {
		w.each(func(f *flow) { f.finish(end, telemetry.SideAgent, true) })
	}
}

// Close aborts what still runs and ends the event loops.
func (s *Splicer) Close() error {
	s.Abort(telemetry.EndDrain)
	for _, w := range s.workers {
		w.stop()
	}
	s.running.Wait()
	for _, w := range s.workers {
		w.close()
	}
	s.pipes.close()
	return nil
}
