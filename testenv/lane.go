// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

const (
	// maxGap is how many segments overtake a reordered one, at most. Above 3,
	// TCP takes it for lost (RFC 5681 section 3.2), which is what it is for.
	maxGap = 5

	// patience is how long a reordered segment waits for others to overtake it.
	patience = 5 * time.Millisecond
)

// WireStats counts TCP segments in one direction of a [Wire].
type WireStats struct {
	Segments                    int // that came, lost ones among them
	Lost, Duplicated, Reordered int
}

// lane is one direction of a wire: the segments that wait, and the generator
// of their fates.
type lane struct {
	mu         sync.Mutex
	impairment Impairment
	random     *rand.Rand // nil: unimpaired
	stats      WireStats
	waiting    []waiting
	sent       int // number of the last segment sent in order
}

type waiting struct {
	frame  []byte
	number int // of the segment, from 1; 0 for what is no segment
	due    time.Time
	after  int // also due once this number was sent; 0: in order
}

func (l *lane) impair(i Impairment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.impairment, l.random = i, nil
	if i != (Impairment{}) {
		l.random = rand.New(rand.NewPCG(i.Seed, 0))
	}
}

// admit decides what becomes of a frame. Each segment draws the same number of
// times, so the fate of the nth depends on the seed and on its own fraction.
func (l *lane) admit(frame []byte, segment bool, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	entry := waiting{frame: frame, due: now}
	if !segment {
		l.waiting = append(l.waiting, entry)
		return
	}
	l.stats.Segments++
	entry.number = l.stats.Segments
	copies := 1
	if l.random != nil {
		i, r := l.impairment, l.random
		lost, doubled, overtaken, gap := r.Float64() < i.Loss, r.Float64() < i.Duplicate, r.Float64() < i.Reorder, 1+r.IntN(maxGap)
		entry.due = now.Add(i.Delay + time.Duration((2*r.Float64()-1)*float64(i.Jitter)))
		if lost {
			l.stats.Lost++
			return
		}
		if doubled {
			l.stats.Duplicated++
			copies = 2
		}
		if overtaken {
			l.stats.Reordered++
			entry.after = entry.number + gap
			entry.due = entry.due.Add(patience)
		}
	}
	for range copies {
		l.waiting = append(l.waiting, entry)
	}
}

// due takes out the frames to send now, in the order to send them in.
func (l *lane) due(now time.Time) [][]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	var frames [][]byte
	take := func(ready func(waiting) bool) {
		l.waiting = slices.DeleteFunc(l.waiting, func(w waiting) bool {
			if !ready(w) {
				return false
			}
			frames = append(frames, w.frame)
			if w.after == 0 {
				l.sent = max(l.sent, w.number)
			}
			return true
		})
	}
	take(func(w waiting) bool { return w.after == 0 && !now.Before(w.due) })
	take(func(w waiting) bool { return w.after != 0 && (l.sent >= w.after || !now.Before(w.due)) })
	return frames
}

// next returns when a frame will be due, the zero time if none waits.
func (l *lane) next() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	var next time.Time
	for _, w := range l.waiting {
		if next.IsZero() || w.due.Before(next) {
			next = w.due
		}
	}
	return next
}
