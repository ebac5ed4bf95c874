// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// pipeSize is what a pipe is asked to hold: the largest that anybody may have
	// (pipe-max-size). What a burst is moved by costs little more for a large one.
	pipeSize = 1 << 20
	// pipesKept is how many empty pipes wait for the next burst.
	pipesKept = 64
)

// pipe is a kernel pipe, the vessel between two splice(2) calls.
type pipe struct{ r, w int }

// pipePool keeps empty pipes. A direction borrows one for as long as bytes are
// in it, so that an idle flow holds none. The zero value works.
type pipePool struct {
	mu   sync.Mutex
	free []pipe
}

func (p *pipePool) get() (pipe, error) {
	p.mu.Lock()
	if n := len(p.free); n > 0 {
		got := p.free[n-1]
		p.free = p.free[:n-1]
		p.mu.Unlock()
		return got, nil
	}
	p.mu.Unlock()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		return pipe{}, err
	}
	// Refused (pipe-user-pages-soft): the default of 64 KiB works as well.
	_, _ = unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, pipeSize)
	return pipe{r: fds[0], w: fds[1]}, nil
}

// put takes back a pipe; one with bytes in it is closed.
func (p *pipePool) put(v pipe, empty bool) {
	if empty {
		p.mu.Lock()
		if len(p.free) < pipesKept {
			p.free = append(p.free, v)
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
	}
	_ = unix.Close(v.r)
	_ = unix.Close(v.w)
}

func (p *pipePool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, v := range p.free {
		_ = unix.Close(v.r)
		_ = unix.Close(v.w)
	}
	p.free = nil
}
