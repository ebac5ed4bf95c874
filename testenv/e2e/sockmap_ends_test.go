// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv"
)

// engineOfWay is in the line of a flow that went one of ways.
func engineOfWay(way string) string {
	if way == ways[0] {
		return "packet+sockmap"
	}
	return "packet"
}

// with is a line with one thing changed.
func with(line map[string]any, key string, value any) map[string]any {
	changed := map[string]any{key: value}
	for k, v := range line {
		if k != key {
			changed[k] = v
		}
	}
	return changed
}

// TestSockmapHalfClose: whoever closes one direction hears all that comes the other way,
// and the other all that was on its way.
func TestSockmapHalfClose(t *testing.T) {
	all := sockmapStart(t, "")
	all.each(sockmapTwo, func(s sockmapSite, p sockmapPlace) {
		for _, way := range ways {
			for by, name := range endsSides {
				s.t.Run("by the "+name+" "+way, func(t *testing.T) {
					s := s.in(t)
					f := s.flowThat(way, p)
					first, second := f.tcp(by), f.tcp(1-by)
					last := pattern(100_000)
					if _, err := first.Write(last); err != nil {
						t.Fatal(err)
					}
					if err := first.CloseWrite(); err != nil {
						t.Fatal(err)
					}
					f.sent[by] += int64(len(last))
					if err := f.move(1-by, 8<<20, whole); err != nil {
						t.Fatal(err)
					}
					if err := expectBytes(second, last); err != nil {
						t.Fatal(err)
					}
					if err := errors.Join(second.CloseWrite(), testenv.ExpectEOF(first, patience)); err != nil {
						t.Fatal(err)
					}
					s.expect(f, map[string]any{"engine": engineOfWay(way), "outcome": "routed", "end": "eof", "closed_by": name})
				})
			}
			s.t.Run("by both before anybody has read "+way, func(t *testing.T) {
				s := s.in(t)
				f := s.flowThat(way, p)
				last := pattern(30_000) // fits into a receive buffer
				for i := range f.ends {
					if _, err := f.tcp(i).Write(last); err != nil {
						t.Fatal(err)
					}
					f.sent[i] += int64(len(last))
				}
				for i := range f.ends {
					if err := f.tcp(i).CloseWrite(); err != nil {
						t.Fatal(err)
					}
				}
				// Each end's TCP is through when the other has acknowledged its FIN.
				s.expect(f, map[string]any{"outcome": "routed", "end": "eof"})
				for i := range f.ends {
					if err := expectBytes(f.tcp(i), last); err != nil {
						t.Errorf("end %d: %v", i, err)
					}
				}
			})
			s.t.Run("by a writer that is gone at once "+way, func(t *testing.T) {
				s := s.in(t)
				f := s.flowThat(way, p)
				last := pattern(30_000) // fits into a receive buffer
				if _, err := f.tcp(clientEnd).Write(last); err != nil {
					t.Fatal(err)
				}
				f.sent[clientEnd] += int64(len(last))
				if err := f.tcp(clientEnd).Close(); err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(expectBytes(f.tcp(backendEnd), last), f.tcp(backendEnd).Close()); err != nil {
					t.Fatal(err)
				}
				s.expect(f, map[string]any{"outcome": "routed", "end": "eof", "closed_by": "client"})
			})
		}
	})
}

// TestSockmapReset: a reset is heard by the other end, and told of.
func TestSockmapReset(t *testing.T) {
	all := sockmapStart(t, "")
	all.each(sockmapTwo, func(s sockmapSite, p sockmapPlace) {
		lines := make(map[*sockmapFlow]map[string]any) // they come a second later
		for _, way := range ways {
			for by, name := range endsSides {
				s.t.Run("by the "+name+" "+way, func(t *testing.T) {
					s := s.in(t)
					f := s.flowThat(way, p)
					if err := f.moveBoth(100_000, whole); err != nil {
						t.Fatal(err)
					}
					f.acknowledged(t)
					if err := errors.Join(testenv.Reset(f.tcp(by)), testenv.ExpectReset(f.tcp(1-by), patience)); err != nil {
						t.Fatal(err)
					}
					lines[f] = map[string]any{"engine": engineOfWay(way), "end": "reset", "closed_by": name}
				})
			}
		}
		for f, want := range lines {
			s.expect(f, want)
		}
	})
}

// TestSockmapUnread: a writer hears that its reader is gone with something unread.
func TestSockmapUnread(t *testing.T) {
	all := sockmapStart(t, "")
	all.each(sockmapTwo, func(s sockmapSite, p sockmapPlace) {
		var flows []*sockmapFlow
		for _, way := range ways {
			for by, name := range endsSides {
				s.t.Run("the "+name+" is gone, what it got came "+way, func(t *testing.T) {
					s := s.in(t)
					f := s.flowThat(way, p)
					writer := f.tcp(1 - by)
					if _, err := writer.Write(pattern(50_000)); err != nil {
						t.Fatal(err)
					}
					if err := f.tcp(by).Close(); err != nil {
						t.Fatal(err)
					}
					// What it writes goes nowhere, and it may take a round trip to hear of that.
					defer f.watch()()
					writes := 0
					for err := error(nil); err == nil; writes++ {
						if writes == 10_000 {
							t.Fatal("the writer writes on and on")
						}
						if _, err = writer.Write(pattern(1000)); err != nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
							t.Fatal(err)
						}
					}
					t.Logf("heard at write %d", writes)
					flows = append(flows, f)
				})
			}
		}
		for _, f := range flows {
			s.line(func(m map[string]any) bool { return m["client"] == f.address.String() && !s.seen[m["id"]] })
		}
	})
}

// TestSockmapShutdownInASwitch closes a direction in the moment that its writer changes
// between the two ways: all that was written arrives before the FIN.
func TestSockmapShutdownInASwitch(t *testing.T) {
	const queue = 64 << 10
	const flows = 20
	all := sockmapStart(t, fmt.Sprintf("limits: {sockmapQueue: %d}\n", queue))
	all.each(sockmapTwo, func(s sockmapSite, p sockmapPlace) {
		var switched int
		for visit := range 5 * flows {
			f := s.flow(p)
			random := rand.New(rand.NewPCG(uint64(visit), 1))
			from := visit % 2
			n, late := int64(queue/2+random.IntN(4*queue)), random.Int64N(2*queue)
			before := s.shortcut(f).Ends[from].Switches
			writer, reader := f.tcp(from), f.tcp(1-from)
			number := streams.Add(1)
			stop := f.watch()
			begin := make(chan struct{}) // to read, once so much is written
			var g errgroup.Group
			g.Go(func() error {
				random := between(uint64(visit), 1, 16<<10)
				written, begun := int64(0), false
				_, err := sendStream(writer, number, n, func() int {
					if !begun && written >= late {
						begun = true
						close(begin)
					}
					size := random()
					written += int64(size)
					return size
				})
				if !begun {
					close(begin)
				}
				return errors.Join(err, writer.CloseWrite())
			})
			g.Go(func() error {
				<-begin
				if _, err := receiveStream(reader, number, n, between(uint64(visit), 1, 32<<10)); err != nil {
					return err
				}
				if k, err := reader.Read(make([]byte, 1)); k != 0 || !errors.Is(err, io.EOF) {
					return fmt.Errorf("after all of it: %d bytes and %w", k, err)
				}
				return nil
			})
			err := g.Wait()
			stop()
			if err != nil {
				s.t.Fatalf("visit %d, %d bytes from end %d: %v", visit, n, from, err)
			}
			f.sent[from] += n
			if s.shortcut(f).Ends[from].Switches > before {
				switched++
			}
			if err := errors.Join(reader.CloseWrite(), testenv.ExpectEOF(writer, patience)); err != nil {
				s.t.Fatal(err)
			}
			s.expect(f, with(tookShortcut, "closed_by", endsSides[from]))
		}
		s.t.Logf("%d of %d changed their way", switched, 5*flows)
		if switched == 0 {
			s.t.Error("none has changed its way")
		}
	})
}
