// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/userspace/sock"
	"github.com/spliceway/spliceway/userspace/telemetry"
)

const (
	// scratchSize is the largest burst that is copied: below it recv and send
	// cost less than two splices and the references to pages between them.
	scratchSize = 16 << 10
	// turn is how many bytes one direction may move before others get theirs.
	turn = 1 << 20
	// bulkPatience is how many small bursts in a row end a bulk transfer: a
	// sender that is slower than the gateway shows up in pieces of any size.
	bulkPatience = 8
	// lingerReset is how long a reset waits for the bytes before it to leave.
	lingerReset = 5 * time.Second
	// lingerFirst and lingerLast are the pauses between two looks at that: they
	// double.
	lingerFirst = 2 * time.Millisecond
	lingerLast  = 100 * time.Millisecond
	none        = -1
)

// flow is one flow's state. Both directions, their order and their end are
// decided under mu, by whichever goroutine holds it.
type flow struct {
	mu        sync.Mutex
	w         *worker
	fds       [2]int // In: client, Out: upstream; also the index of the direction that starts there
	tls       [2]Layer
	dir       [2]direction
	last      time.Duration // of the worker's clock: when a byte last moved
	look      time.Duration // when the worker looks at the flow again, 0: never
	deadline  time.Duration // the same, for the heap; owned by worker.mu
	heapIndex int           // in worker.timers; owned by worker.mu
	slot, gen uint32        // its token's
	full      [2]bool       // a side's socket may have refused bytes once
	idle      time.Duration
	halfClose time.Duration
	first     int           // index of the side that closed first, or none
	dead      int           // index of the side whose connection is broken, or none
	deadSince time.Duration // of the worker's clock
	bothDead  bool          // the other side broke too: nobody is left to hear last words
	err       error         // why it is dead
	finished  bool
	watched   bool                            // by w
	queued    bool                            // in worker.again
	done      func(*telemetry.Record, Result) // nil once called
	result    Result
	record    *telemetry.Record
	moved     [2]*atomic.Int64
}

// direction is one way through a flow.
type direction struct {
	rest     []byte // read (or given) and not yet taken by the other side
	pipe     pipe   // borrowed while inPipe > 0
	inPipe   int
	bytes    int64
	preface  int   // how many of the next bytes delivered do not count
	readable bool  // the source may have something
	hangup   bool  // the source has sent FIN or is broken: read until the end shows
	writable bool  // the target may take something
	bulk     int   // > 0: bursts are large, so splice rather than copy; how many small ones end that
	noSplice bool  // urgent data: tcp_splice_read stops before it, recv does not
	said     bool  // the goodbye of TLS, before the FIN
	failed   error // what decrypt met behind bytes that were good
	eof      bool  // the source has ended
	closed   bool  // nothing more will be delivered: FIN passed on, or given up
}

// pump moves what can be moved in direction i. more: it stopped because its turn
// was over, not because there is nothing to do.
func (f *flow) pump(i int, scratch []byte) (more bool) {
	more = f.move(i, scratch)
	if l := f.tls[i]; l != nil {
		l.Park()
	}
	return more
}

func (f *flow) move(i int, scratch []byte) (more bool) {
	d := &f.dir[i]
	src, dst := f.fds[i], f.fds[1-i]
	burst := 0
	for left := turn; ; {
		if d.closed || !f.flush(i, d, dst) {
			return false
		}
		if d.eof {
			f.passEOF(i, d, dst)
			return false
		}
		if !d.readable || f.tls[i] != nil && f.tls[i].Flooded() && !f.relieve(i) {
			return false
		}
		if left <= 0 {
			return true
		}
		n, err := f.take(i, d, src, scratch)
		switch {
		case errors.Is(err, unix.EAGAIN):
			d.readable = false
			if burst >= scratchSize {
				d.bulk = bulkPatience
			} else if d.bulk > 0 {
				d.bulk--
			}
			continue
		case err != nil:
			f.broken(i, err)
			d.closed = true
			return false
		case n == 0:
			d.eof = true
			continue
		}
		left -= n
		if f.tls[i] != nil {
			left -= max(recordCost-n, 0)
		}
		burst += n
		if d.inPipe > 0 {
			continue // flushed at the top
		}
		if n == len(scratch) {
			d.bulk = bulkPatience
		}
		if n < len(scratch) && !d.hangup && !d.noSplice && f.tls[i] == nil {
			// The queue was empty when recv returned. What comes later
			// is a new edge, so there is no need to ask again.
			d.readable = false
		}
		f.deliver(i, d, dst, scratch[:n])
	}
}

// take reads a burst: into a pipe if bursts are large (then d.inPipe is set), else
// into scratch.
func (f *flow) take(i int, d *direction, src int, scratch []byte) (int, error) {
	if f.tls[i] != nil {
		return d.decrypt(f.tls[i], scratch)
	}
	if d.bulk == 0 || d.noSplice || f.tls[1-i] != nil {
		return sock.Recv(src, scratch, 0)
	}
	p, err := f.w.pipes.get()
	if err != nil {
		d.noSplice = true // too many open files: copying needs none
		return sock.Recv(src, scratch, 0)
	}
	n, err := sock.Splice(src, p.w, pipeSize)
	if n <= 0 {
		f.w.pipes.put(p, true)
		if err == nil {
			// The end of the stream, or an urgent byte with the FIN behind
			// it: tcp_splice_read says 0 to both. recv tells.
			d.noSplice = true
			return sock.Recv(src, scratch, 0)
		}
		return n, err
	}
	d.pipe, d.inPipe = p, n
	return n, nil
}

// deliver sends b and keeps what the target does not take now.
func (f *flow) deliver(i int, d *direction, dst int, b []byte) {
	n, err := f.send(1-i, dst, b)
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		f.broken(1-i, err)
		f.giveUp(d)
		return
	}
	f.count(i, d, n)
	if n < len(b) {
		d.rest = append(make([]byte, 0, len(b)-n), b[n:]...)
		f.stuck(i, d)
	}
}

// stuck notes that the target of direction i takes no more bytes for now.
func (f *flow) stuck(i int, d *direction) {
	d.writable = false
	if f.full[1-i] {
		return
	}
	f.full[1-i] = true
	if f.watched {
		if err := f.w.watch(f, 1-i, unix.EPOLL_CTL_MOD); err != nil {
			f.broken(1-i, err)
		}
	}
}

// flush sends what was read before. False: the target takes no more for now, or
// never again.
func (f *flow) flush(i int, d *direction, dst int) bool {
	for len(d.rest) > 0 || d.inPipe > 0 {
		if !d.writable {
			return false
		}
		var n int
		var err error
		if len(d.rest) > 0 {
			flags := 0
			if d.preface > 0 && f.tls[i] == nil {
				// The hello follows at once: one segment for both. Where TLS
				// ends here nothing may follow, if the server speaks first.
				flags = unix.MSG_MORE
			}
			n, err = sock.Send(dst, d.rest, flags)
		} else {
			n, err = sock.Splice(d.pipe.r, dst, d.inPipe)
		}
		switch {
		case errors.Is(err, unix.EAGAIN):
			f.stuck(i, d)
			return false
		case err != nil:
			f.broken(1-i, err)
			f.giveUp(d)
			return false
		}
		f.count(i, d, n)
		if len(d.rest) > 0 {
			if d.rest = d.rest[n:]; len(d.rest) == 0 {
				d.rest = nil
			}
		} else if d.inPipe -= n; d.inPipe == 0 {
			f.w.pipes.put(d.pipe, true)
		}
	}
	return f.tls[1-i] == nil || f.flushRecords(i, d)
}

func (f *flow) count(i int, d *direction, n int) {
	f.last = f.w.clock()
	if d.preface > 0 {
		own := min(n, d.preface)
		d.preface -= own
		n -= own
	}
	d.bytes += int64(n)
	if m := f.moved[i]; m != nil {
		m.Add(int64(n))
	}
}

// passEOF hands the source's FIN on. A source that is broken has no FIN to pass:
// its end is a reset, whatever recv says once the error has been read.
func (f *flow) passEOF(i int, d *direction, dst int) {
	d.closed = true
	f.last = f.w.clock()
	if f.dead == i {
		return
	}
	if f.first == none {
		f.first = i
	}
	if f.tls[1-i] != nil && !f.sayGoodbye(i, d) {
		d.closed = false // the FIN comes after it
		return
	}
	if f.dir[1-i].closed && f.dead == none {
		return // the close that follows sends the FIN
	}
	if err := unix.Shutdown(dst, unix.SHUT_WR); err != nil && f.dead == none {
		f.broken(1-i, err)
	}
}

// giveUp ends a direction whose target is broken.
func (f *flow) giveUp(d *direction) {
	f.drop(d)
	d.closed = true
}

// drop frees what a direction holds.
func (f *flow) drop(d *direction) {
	d.rest = nil
	if d.inPipe > 0 {
		f.w.pipes.put(d.pipe, false)
		d.inPipe = 0
	}
}

// broken notes that the connection of side s is gone. What it sent before is
// still in its queue, and is delivered before the other side is reset.
func (f *flow) broken(s int, err error) {
	if f.dead != none {
		if s != f.dead {
			f.bothDead = true
			f.giveUp(&f.dir[f.dead])
		}
		return
	}
	f.dead, f.deadSince, f.err = s, f.w.clock(), err
	f.dir[s].readable, f.dir[s].hangup = true, true
	f.giveUp(&f.dir[1-s])
}

// settle ends the flow if it is over, and says when to look again if not.
// Called after the pumps, with mu held. 0: never, unless something happens.
func (f *flow) settle() (next time.Duration) {
	if f.finished {
		return 0
	}
	if f.dead != none {
		return f.settleReset()
	}
	if f.dir[In].closed && f.dir[Out].closed {
		f.finish(telemetry.EndEOF, f.side(f.first), false)
		return 0
	}
	limit, end := f.idle, telemetry.EndIdleTimeout
	if f.dir[In].closed || f.dir[Out].closed {
		limit, end = f.halfClose, telemetry.EndHalfCloseTimeout
	}
	if limit == 0 {
		return 0
	}
	if at := f.last + limit; at > f.w.clock() {
		return at
	}
	f.finish(end, telemetry.SideAgent, true)
	return 0
}

// settleReset resets the side that is left, once it has been sent everything
// that the broken one said before: as it would have without a gateway.
func (f *flow) settleReset() (next time.Duration) {
	limit := f.deadSince + lingerReset
	now := f.w.clock()
	if now >= limit || f.bothDead || f.dir[f.dead].closed && sock.Pending(f.fds[1-f.dead]) == 0 {
		end, by := f.brokenEnd()
		f.finish(end, by, true)
		return 0
	}
	if f.dir[f.dead].closed {
		return min(now+lingerPause(now-f.deadSince), limit)
	}
	return limit
}

// lingerPause is how long to wait after so long: as long again, which doubles it.
func lingerPause(waited time.Duration) time.Duration {
	return min(max(waited, lingerFirst), lingerLast)
}

func (f *flow) side(s int) telemetry.Side {
	switch s {
	case In:
		return telemetry.SideClient
	case Out:
		return telemetry.SideUpstream
	}
	return telemetry.SideAgent
}

// finish closes both sockets. unlock reports it.
func (f *flow) finish(end telemetry.End, by telemetry.Side, reset bool) {
	f.finished = true
	f.drop(&f.dir[In])
	f.drop(&f.dir[Out])
	f.w.remove(f)
	for side, fd := range f.fds {
		switch {
		case !reset && f.tls[side] != nil:
			sock.CloseGracefully(fd) // it may have sent more after its goodbye: that must not reset it
		case !reset:
			_ = unix.Close(fd)
		case (end == telemetry.EndTLSError || end == telemetry.EndEOF) && side == f.dead:
			sock.CloseGracefully(fd) // an alert, or the end of what it was told, is on its way
		default:
			sock.Abort(fd)
		}
	}
	f.result = Result{Bytes: [2]int64{f.dir[In].bytes, f.dir[Out].bytes}, End: end, ClosedBy: by, Err: f.err}
}

// unlock gives f.mu back, and reports the flow's end if it has come.
func (f *flow) unlock() {
	done := f.done
	if f.finished {
		f.done = nil
	} else {
		done = nil
	}
	f.mu.Unlock()
	if done != nil {
		done(f.record, f.result)
	}
}
