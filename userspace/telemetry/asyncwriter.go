// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"bytes"
	"io"
	"sync"
	"time"
)

// asyncLimit is how many bytes of lines may wait for a slow sink: some seconds of
// a very busy agent.
const asyncLimit = 8 << 20

// AsyncWriter takes lines without ever waiting for where they go: a full disk or a
// stopped terminal must not stop connections. Lines that find the buffer full, or
// that the sink refuses, are dropped and counted. It is safe for concurrent use.
type AsyncWriter struct {
	sink    io.Writer
	dropped func()

	mu     sync.Mutex // guards what is below
	wake   sync.Cond
	buf    []byte
	closed bool

	stopped chan struct{} // closed when all is written
}

// NewAsyncWriter starts a writer to sink, which several lines reach in one Write;
// dropped is called for each lost line, from several goroutines.
func NewAsyncWriter(sink io.Writer, dropped func()) *AsyncWriter {
	w := &AsyncWriter{sink: sink, dropped: dropped, stopped: make(chan struct{})}
	w.wake.L = &w.mu
	go w.run()
	return w
}

// Write takes one line, its newline included. It never fails.
func (w *AsyncWriter) Write(line []byte) (int, error) {
	w.mu.Lock()
	full := w.closed || len(w.buf)+len(line) > asyncLimit
	if !full {
		w.buf = append(w.buf, line...)
	}
	w.mu.Unlock()
	if full {
		w.dropped()
	} else {
		w.wake.Signal()
	}
	return len(line), nil
}

func (w *AsyncWriter) run() {
	defer close(w.stopped)
	var writing []byte
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		for len(w.buf) == 0 && !w.closed {
			w.wake.Wait()
		}
		if len(w.buf) == 0 {
			return
		}
		writing, w.buf = w.buf, writing[:0]
		w.mu.Unlock()
		if n, err := w.sink.Write(writing); err != nil {
			// There is nowhere to say more: a line that was cut is lost too.
			for range bytes.Count(writing[n:], []byte{'\n'}) {
				w.dropped()
			}
		}
		if cap(writing) > asyncLimit/8 {
			writing = nil // a burst is over: give its memory back
		}
		w.mu.Lock()
	}
}

// closePatience is how long Close waits for a sink that takes nothing: nobody reads
// it, and a process that has to end must not wait for somebody to begin.
const closePatience = time.Second

// Close writes what is there and ends the writer. A sink that blocks costs the
// lines that are left. The sink stays open: it is its owner's.
func (w *AsyncWriter) Close() error {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.wake.Signal()
	select {
	case <-w.stopped:
	case <-time.After(closePatience):
	}
	return nil
}
