// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/userspace/sock"
	"github.com/spliceway/spliceway/userspace/telemetry"
)

// Flows whose bytes are read and written through TLS on one side, or on both, are like
// the others but for what is here.

const (
	// relayScratch is a burst of such flows: four of the largest records.
	relayScratch = 4 * maxPlaintext
	maxPlaintext = 16 << 10 // RFC 8446, section 5.1
	// maxRecords bounds a burst of small records, each of which costs what a large
	// one does but for its bytes.
	maxRecords = 64
	// recordCost is what a burst costs its turn at least, in bytes.
	recordCost = 64 << 10
)

// decrypt fills b, record by record, as far as they are there. An error comes when
// the bytes before it have been passed on.
func (d *direction) decrypt(l Layer, b []byte) (n int, err error) {
	if d.failed != nil {
		return 0, d.failed
	}
	for records := 0; len(b)-n >= maxPlaintext && (n == 0 || records < maxRecords && !l.Flooded()); records++ {
		m, err := l.Read(b[n:])
		n += m
		switch {
		case err == nil:
		case n > 0:
			if errors.Is(err, unix.EAGAIN) {
				d.readable = false
			} else if !errors.Is(err, io.EOF) { // which comes again
				d.failed = err
			}
			return n, nil
		case errors.Is(err, io.EOF):
			return 0, nil
		default:
			return 0, err
		}
	}
	return n, nil
}

// send gives b to side s: to its socket, as much as that takes, or to its TLS, which
// takes all.
func (f *flow) send(s, fd int, b []byte) (int, error) {
	l := f.tls[s]
	if l == nil {
		return sock.Send(fd, b, 0)
	}
	if err := l.Write(b); err != nil {
		return 0, err
	}
	if l.Pending() > 0 {
		f.dir[1-s].writable = false
	}
	return len(b), nil
}

// flushRecords sends the records that direction i's target did not take. False: it
// takes no more for now, or never again.
func (f *flow) flushRecords(i int, d *direction) bool {
	l := f.tls[1-i]
	if l.Pending() == 0 {
		return true
	}
	if !d.writable {
		return false
	}
	waited := l.Pending()
	err := l.Flush()
	if l.Pending() < waited {
		f.last = f.w.clock()
	}
	switch {
	case err == nil:
		return true
	case errors.Is(err, unix.EAGAIN):
		d.writable = false
	default:
		f.broken(1-i, err)
		f.giveUp(d)
	}
	return false
}

// relieve sends what the source of direction i was answered, so that more may be read of
// it. False: it takes no more for now.
func (f *flow) relieve(i int) bool {
	back := &f.dir[1-i]
	if !back.writable {
		return false
	}
	if err := f.tls[i].Flush(); errors.Is(err, unix.EAGAIN) {
		back.writable = false
	} else if err != nil {
		f.broken(i, err)
	}
	return !f.tls[i].Flooded()
}

// sayGoodbye sends close_notify in direction i. False: not all of it is sent yet.
func (f *flow) sayGoodbye(i int, d *direction) bool {
	l := f.tls[1-i]
	if !d.said {
		d.said = true
		_ = l.CloseWrite() // a socket that is broken tells that elsewhere, too
	}
	if l.Pending() > 0 {
		d.writable = false
		return false
	}
	return true
}

// brokenEnd is how a flow ends whose side dead is broken, and who ended it.
func (f *flow) brokenEnd() (telemetry.End, telemetry.Side) {
	errno := unix.Errno(0)
	switch l := f.tls[f.dead]; {
	case l == nil || errors.As(f.err, &errno):
		return telemetry.EndReset, f.side(f.dead)
	case l.Truncated(f.err) && f.dir[1-f.dead].said && l.Pending() == 0:
		// It was told goodbye and left without a word: many clients do, and nothing
		// is missing of what they were told. The other side is reset all the same,
		// since something may be missing of what they said.
		return telemetry.EndEOF, f.side(f.first)
	case l.Truncated(f.err):
		return telemetry.EndTruncated, f.side(f.dead)
	}
	return telemetry.EndTLSError, f.side(f.dead)
}
