// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/spliceway/spliceway/testenv"
)

// TestSockmapMoves: what applications of this host send arrives as it was sent, wherever
// they are, and in whatever pieces.
func TestSockmapMoves(t *testing.T) {
	all := sockmapStart(t, "")
	t.Run("much at once", func(t *testing.T) {
		all.in(t).each(sockmapPlaces, func(s sockmapSite, p sockmapPlace) {
			f := s.flow(p)
			if err := f.moveBoth(16<<20, whole); err != nil {
				s.t.Fatal(err)
			}
			s.warm(f)
			s.end(f, tookShortcut)
		})
	})
	t.Run("little and often", func(t *testing.T) {
		all.in(t).each(sockmapTwo, func(s sockmapSite, p sockmapPlace) {
			f := s.flow(p)
			if err := f.talk(5_000); err != nil {
				s.t.Fatal(err)
			}
			// Nobody waits for an answer.
			if err := f.moveBoth(10_000*20, sized(20)); err != nil {
				s.t.Fatal(err)
			}
			s.end(f, tookShortcut)
		})
	})
	t.Run("in pieces of all sizes", func(t *testing.T) {
		all.in(t).each(sockmapTwo, func(s sockmapSite, p sockmapPlace) {
			f := s.flow(p)
			var g errgroup.Group
			for from := range f.ends {
				g.Go(func() error {
					return f.moveSlowly(from, 16<<20, between(uint64(from), 1, 200<<10), between(uint64(2+from), 1, 100<<10))
				})
			}
			if err := g.Wait(); err != nil {
				s.t.Fatal(err)
			}
			s.end(f, tookShortcut)
		})
	})
}

// TestSockmapSlowReader: a reader that does not keep up holds its writer back as ever,
// and the flow takes the short cut again when it has caught up.
func TestSockmapSlowReader(t *testing.T) {
	const queue = 256 << 10
	all := sockmapStart(t, "limits: {sockmapQueue: 262144}\n")
	all.each(sockmapTwo, func(s sockmapSite, p sockmapPlace) {
		f := s.flow(p)
		for from := range f.ends {
			before := s.shortcut(f)
			const piece, pieces = 50 << 10, 20
			// The pace is what is tested.
			tick := time.NewTicker(time.Second / pieces)
			defer tick.Stop()
			read := 0
			if err := f.moveSlowly(from, 8<<20, whole, func() int {
				if read++; read > pieces {
					return whole()
				}
				<-tick.C
				return piece
			}); err != nil {
				s.t.Fatal(err)
			}
			now := s.shortcut(f)
			if road := now.Ends[from].Road - before.Ends[from].Road; road == 0 {
				s.t.Errorf("nothing went by the road: %+v", now)
			}
			s.warm(f)
			if n := s.shortcut(f).Ends[from].Switches - before.Ends[from].Switches; n < 2 {
				s.t.Errorf("%d switches, want 2: %+v", n, s.shortcut(f))
			}
		}
		f.waiting(s, queue)
		s.end(f, tookShortcut)
	})
}

// waiting fills the way to a reader that sleeps, and expects the queue to be bounded.
func (f *sockmapFlow) waiting(s sockmapSite, queue uint64) {
	s.t.Helper()
	before := s.shortcut(f)
	most := queue + 64<<10 // what one send is over the mark
	number := streams.Add(1)
	const n = 4 << 20
	c := f.tcp(clientEnd)
	wrote := make(chan error, 1)
	go func() {
		_, err := sendStream(c, number, n, whole)
		wrote <- err
	}()
	defer f.watch()()
	if err := testenv.Poll(short(s.t), func() (bool, error) { return s.shortcut(f).Ends[clientEnd].Road > before.Ends[clientEnd].Road, nil }); err != nil {
		s.t.Fatalf("nothing goes by the road: %v", err)
	}
	if sent := s.shortcut(f).Ends[clientEnd].Sent - before.Ends[clientEnd].Sent; sent > most {
		s.t.Errorf("%d bytes wait in the reader's queue, want %d at most", sent, most)
	}
	if _, err := receiveStream(f.ends[backendEnd], number, n, whole); err != nil {
		s.t.Fatal(err)
	}
	if err := <-wrote; err != nil {
		s.t.Fatal(err)
	}
	f.sent[clientEnd] += n
}
