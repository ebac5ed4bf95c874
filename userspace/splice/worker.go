// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"container/heap"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/userspace/sock"
)

// worker is one event loop: an epoll instance in which both sockets of each of its
// flows are, edge-triggered, from start to end.
type worker struct {
	epfd    int
	eventfd int
	pipes   *pipePool
	epoch   time.Time

	mu      sync.Mutex
	slots   []slot
	free    []uint32
	timers  timers
	wakeAt  time.Duration // when the loop wakes by itself; 0 while it is awake
	stopped bool

	again   []*flow // of the loop alone: their turn was over before their bytes were
	flows   atomic.Int64
	scratch []byte
}

// slot is where an event's token leads. A token outlives its flow by one batch of
// events at most: gen tells.
type slot struct {
	f   *flow
	gen uint32
}

const (
	sideBit   = 1 // of a token's low half: which of the two sockets
	eventSlot = math.MaxInt32
	// longestSleep is for how long a loop without flows sleeps: a first one whose time
	// comes later need not wake it.
	longestSleep = 10 * time.Second
	watched      = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLPRI | unix.EPOLLET&math.MaxUint32
)

func newWorker(pipes *pipePool, burst int) (*worker, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	efd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(epfd)
		return nil, err
	}
	if err := unix.EpollCtl(epfd, unix.EPOLL_CTL_ADD, efd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: eventSlot}); err != nil {
		_ = unix.Close(efd)
		_ = unix.Close(epfd)
		return nil, err
	}
	return &worker{epfd: epfd, eventfd: efd, pipes: pipes, epoch: time.Now(), scratch: make([]byte, burst)}, nil
}

// clock is the worker's monotonic time.
func (w *worker) clock() time.Duration { return time.Since(w.epoch) }

// add gives f a slot and watches its sockets. f.mu is held, so that no event is
// handled before both are watched.
func (w *worker) add(f *flow, look time.Duration) error {
	w.mu.Lock()
	var n uint32
	if k := len(w.free); k > 0 {
		n, w.free = w.free[k-1], w.free[:k-1]
	} else {
		w.slots = append(w.slots, slot{})
		n = uint32(len(w.slots) - 1)
	}
	w.slots[n].f = f
	f.slot, f.gen = n, w.slots[n].gen
	f.heapIndex = none
	w.mu.Unlock()
	w.lookAgain(f, look)
	w.flows.Add(1)
	f.watched = true
	for side := range f.fds {
		if err := w.watch(f, side, unix.EPOLL_CTL_ADD); err != nil {
			return err
		}
	}
	return nil
}

// watch has epoll tell of a side's socket. That it takes bytes again is told only once
// it has taken none: a new one takes some, and to be told so costs a wake-up.
func (w *worker) watch(f *flow, side, op int) error {
	ev := unix.EpollEvent{Events: watched, Fd: int32(f.slot<<1) | int32(side), Pad: int32(f.gen)}
	if f.full[side] {
		ev.Events |= unix.EPOLLOUT
	}
	return sock.EpollControl(w.epfd, op, f.fds[side], &ev)
}

// remove takes f's slot back. f.mu is held; closing the sockets ends their watch.
func (w *worker) remove(f *flow) {
	w.mu.Lock()
	w.slots[f.slot].f = nil
	w.slots[f.slot].gen++
	w.free = append(w.free, f.slot)
	if f.heapIndex != none {
		heap.Remove(&w.timers, f.heapIndex)
	}
	w.mu.Unlock()
	w.flows.Add(-1)
}

// schedule puts f into the heap, or moves it to the front of where it is. w.mu is
// held.
func (w *worker) schedule(f *flow, at time.Duration) {
	f.deadline = at
	if f.heapIndex == none {
		heap.Push(&w.timers, f)
	} else {
		heap.Fix(&w.timers, f.heapIndex)
	}
	if at < w.wakeAt {
		w.wakeAt = at
		w.poke()
	}
}

func (w *worker) poke() {
	one := [8]byte{1}
	_, _ = unix.Write(w.eventfd, one[:])
}

// run is the loop. It returns after stop.
func (w *worker) run() {
	events := make([]unix.EpollEvent, 256)
	var pause sock.Pause
	for {
		timeout, ok := w.sleep()
		if !ok {
			return
		}
		pause.Now()
		n, err := unix.EpollWait(w.epfd, events, timeout)
		w.awake()
		if err != nil && !errors.Is(err, unix.EINTR) {
			return // the descriptor is gone: stop was called
		}
		for i := range max(n, 0) {
			w.handle(&events[i])
		}
		again := w.again
		w.again = nil
		for _, f := range again {
			f.mu.Lock()
			f.queued = false
			w.advance(f)
			f.unlock()
		}
		w.expire()
	}
}

// sleep is how long the loop may sleep, in milliseconds for epoll_wait.
func (w *worker) sleep() (ms int, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return 0, false
	}
	if len(w.again) > 0 {
		return 0, true
	}
	now := w.clock()
	w.wakeAt = now + longestSleep
	if len(w.timers) > 0 {
		w.wakeAt = min(w.wakeAt, w.timers[0].deadline)
	}
	wait := w.wakeAt - now
	return int(min(max((wait+time.Millisecond-1)/time.Millisecond, 0), math.MaxInt32)), true
}

// awake says that nobody needs to wake the loop: it looks at the timers before it sleeps.
func (w *worker) awake() {
	w.mu.Lock()
	w.wakeAt = 0
	w.mu.Unlock()
}

func (w *worker) handle(ev *unix.EpollEvent) {
	if ev.Fd == eventSlot {
		var b [8]byte
		_, _ = unix.Read(w.eventfd, b[:])
		return
	}
	n, side := uint32(ev.Fd)>>1, int(ev.Fd&sideBit)
	w.mu.Lock()
	f := w.slots[n].f
	if w.slots[n].gen != uint32(ev.Pad) {
		f = nil
	}
	w.mu.Unlock()
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.unlock()
	if f.finished {
		return
	}
	from, to := &f.dir[side], &f.dir[1-side]
	if ev.Events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR|unix.EPOLLPRI) != 0 {
		from.readable = true
	}
	if ev.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		from.hangup = true
	}
	if ev.Events&unix.EPOLLPRI != 0 {
		from.noSplice = true
	}
	if ev.Events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		to.writable = true
	}
	if ev.Events&unix.EPOLLERR != 0 {
		// A read would tell as well, but there may be none for long: what was
		// read before may wait for a reader that does not read.
		if errno, err := unix.GetsockoptInt(f.fds[side], unix.SOL_SOCKET, unix.SO_ERROR); err == nil && errno != 0 {
			f.broken(side, unix.Errno(errno))
		}
	}
	w.advance(f)
}

// advance pumps both ways and settles. f.mu is held.
func (w *worker) advance(f *flow) {
	if f.finished {
		return
	}
	more := f.pump(In, w.scratch)
	more = f.pump(Out, w.scratch) || more
	if f.dead != none {
		// Either pump may have found a side broken whose last words the
		// other one has passed by already.
		more = f.pump(f.dead, w.scratch) || more
	}
	if more && !f.queued {
		f.queued = true
		w.again = append(w.again, f)
	}
	w.lookAgain(f, f.settle())
}

// lookAgain has the loop look at f at the given time, unless it will sooner. A
// busy flow's time only moves back, which costs nothing here. f.mu is held.
func (w *worker) lookAgain(f *flow, at time.Duration) {
	if at == 0 || f.look != 0 && at >= f.look {
		return
	}
	f.look = at
	w.mu.Lock()
	w.schedule(f, at)
	w.mu.Unlock()
}

// expire looks at the flows whose time has come.
func (w *worker) expire() {
	for {
		w.mu.Lock()
		if len(w.timers) == 0 || w.timers[0].deadline > w.clock() {
			w.mu.Unlock()
			return
		}
		f := heap.Pop(&w.timers).(*flow)
		w.mu.Unlock()
		f.mu.Lock()
		f.look = 0
		w.advance(f)
		f.unlock()
	}
}

// each calls fn for every flow, with its mutex held.
func (w *worker) each(fn func(*flow)) {
	w.mu.Lock()
	all := make([]*flow, 0, len(w.slots))
	for _, s := range w.slots {
		if s.f != nil {
			all = append(all, s.f)
		}
	}
	w.mu.Unlock()
	for _, f := range all {
		f.mu.Lock()
		if !f.finished {
			fn(f)
		}
		f.unlock()
	}
}

// stop ends the loop; close frees it when run has returned.
func (w *worker) stop() {
	w.mu.Lock()
	w.stopped = true
	w.mu.Unlock()
	w.poke()
}

func (w *worker) close() {
	_ = unix.Close(w.eventfd)
	_ = unix.Close(w.epfd)
}

// timers is a heap of flows by deadline.
type timers []*flow

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].deadline < t[j].deadline }
func (t timers) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].heapIndex, t[j].heapIndex = i, j
}

func (t *timers) Push(x any) {
	f := x.(*flow)
	f.heapIndex = len(*t)
	*t = append(*t, f)
}

func (t *timers) Pop() any {
	old := *t
	f := old[len(old)-1]
	old[len(old)-1] = nil
	*t = old[:len(old)-1]
	f.heapIndex = none
	return f
}
