// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/spliceway/spliceway/testenv"
)

// TestSockmapOff: nothing takes the short cut that is not to.
func TestSockmapOff(t *testing.T) {
	for name, c := range map[string][2]string{"everywhere": {"sockmap: off\n", ""}, "for an endpoint": {"", "sockmap: off"}} {
		t.Run(name, func(t *testing.T) {
			var more []string
			if c[1] != "" {
				more = append(more, c[1])
			}
			s := sockmapStart(t, c[0], more...)
			for _, p := range sockmapPlaces {
				f := s.open(p)
				if err := errors.Join(f.talk(1000), f.moveBoth(1<<20, whole)); err != nil {
					t.Fatal(err)
				}
				want := tookRoad(nil)
				if p.name == "host" {
					want = wasNot("mss") // nobody told the client to send smaller segments
				}
				s.end(f, want)
			}
		})
	}
}

// TestSockmapIdle: what goes by the short cut is traffic, and a flow without any ends.
func TestSockmapIdle(t *testing.T) {
	const idle = 2 * time.Second
	s := sockmapStart(t, "timeouts: {idle: "+idle.String()+"}\n")
	busy, silent := s.flow(sockmapTwo[0]), s.flow(sockmapTwo[1])
	road := s.shortcut(busy)
	begin := time.Now()
	// The pace is what is tested.
	tick := time.NewTicker(idle / 8)
	defer tick.Stop()
	for time.Since(begin) < idle*3/2 {
		<-tick.C
		if err := busy.talk(1); err != nil {
			t.Fatalf("the flow with traffic, after %s: %v", time.Since(begin), err)
		}
	}
	if now := s.shortcut(busy); now.Ends[0].Road != road.Ends[0].Road || now.Ends[1].Road != road.Ends[1].Road {
		t.Errorf("there was traffic by the road: %+v", now)
	}
	for end := range silent.ends {
		if err := testenv.ExpectReset(silent.tcp(end), patience); err != nil {
			t.Errorf("the silent flow: %v", err)
		}
	}
	s.expectLine(silent.address, map[string]any{"engine": "packet+sockmap", "end": "idle_timeout", "closed_by": "agent"})
	s.end(busy, tookShortcut)
}

// TestSockmapKill: a flow that is ended by hand is ended for both.
func TestSockmapKill(t *testing.T) {
	s := sockmapStart(t, "")
	for _, p := range sockmapTwo {
		f := s.flow(p)
		var flows []struct {
			Endpoint, Engine string
			In               int64 `json:"sockmap_bytes_in"`
			Out              int64 `json:"sockmap_bytes_out"`
		}
		asked(t, s.net, s.state, &flows, "list")
		if len(flows) != 1 || flows[0].Engine != "packet+sockmap" || flows[0].In == 0 || flows[0].Out == 0 {
			t.Errorf("the flows are %+v", flows)
		}
		var killed int
		asked(t, s.net, s.state, &killed, "kill", flows[0].Endpoint)
		if killed != 1 {
			t.Errorf("%d flows were ended, want 1", killed)
		}
		for end := range f.ends {
			if err := testenv.ExpectReset(f.tcp(end), patience); err != nil {
				t.Errorf("%s, end %d: %v", p, end, err)
			}
		}
		f.close()
		l := s.line(func(m map[string]any) bool { return m["client"] == f.address.String() && m["end"] == "killed" })
		if l["engine"] != "packet+sockmap" {
			t.Errorf("the line is %v", l)
		}
	}
}

// expectNothing waits until nothing of a flow is in the maps.
func (s sockmapSite) expectNothing() {
	s.t.Helper()
	for _, name := range []string{"tuples", "flows", "records", "shortcuts", "sockets"} {
		left := 0
		if err := testenv.Poll(short(s.t), func() (bool, error) {
			left = entries(s.t, filepath.Join(s.state, "v1", name))
			return left == 0, nil
		}); err != nil {
			s.t.Errorf("%d %s are left", left, name)
		}
	}
}

// TestSockmapShortFlows opens and closes many, at every moment of their way to the short
// cut. As many as SPLICEWAY_TEST_CONNECTIONS says, 2,000 if it says nothing.
func TestSockmapShortFlows(t *testing.T) {
	visits := 2000
	if n, err := strconv.Atoi(os.Getenv("SPLICEWAY_TEST_CONNECTIONS")); err == nil {
		visits = n
	}
	s := sockmapStart(t, "")
	before := s.held()
	// A backend that answers each word with itself, on both listeners.
	var servers errgroup.Group
	for _, l := range []*net.TCPListener{s.host, s.pod} {
		servers.Go(func() error {
			for {
				c, err := l.AcceptTCP()
				if err != nil {
					return nil // it is closed
				}
				servers.Go(func() error {
					defer func() { _ = c.Close() }()
					b := make([]byte, 4096)
					for {
						n, err := c.Read(b)
						if err == nil {
							_, err = c.Write(b[:n])
						}
						if err != nil {
							return nil // the client says whether that was right
						}
					}
				})
			}
		})
	}
	var begun atomic.Int64
	var clients errgroup.Group
	for worker := range 50 {
		clients.Go(func() error {
			words := between(uint64(worker), 1, 40)
			for {
				i := begun.Add(1)
				if i > int64(visits) {
					return nil
				}
				p := sockmapPlaces[int(i)%len(sockmapPlaces)]
				if err := s.visit(p, words()); err != nil {
					return fmt.Errorf("%s, visit %d: %w", p, i, err)
				}
			}
		})
	}
	if err := clients.Wait(); err != nil {
		t.Error(err)
	}
	s.expectMetric("connections_open", 0)
	t.Logf("%v of %d flows took the short cut", s.metric("sockmap_flows_total"), visits)
	if s.metric("sockmap_flows_total") == 0 {
		t.Error("no flow took the short cut")
	}
	_ = errors.Join(s.host.Close(), s.pod.Close())
	_ = servers.Wait()
	s.expectNothing()
	s.expectHeld(before)
}

// visit says hello and some words, and wants them back.
func (s sockmapSite) visit(p sockmapPlace, words int) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := p.client(s.net).Dial(ctx, p.gateway(s.net))
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	first, err := testenv.Hello(p.sni(), testenv.HelloOptions{Classical: true})
	if err != nil {
		return err
	}
	for i := range words + 1 {
		word := first
		if i > 0 {
			word = pattern(100 + i)
		}
		if _, err := c.Write(word); err != nil {
			return fmt.Errorf("word %d of %d: %w", i, words, err)
		}
		if err := netExpect(c, word); err != nil {
			return fmt.Errorf("word %d of %d: %w", i, words, err)
		}
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		return fmt.Errorf("after %d words: %d bytes and %w, want the end", words, n, err)
	}
	return nil
}

// TestSockmapOutlivesTheAgent kills it while flows have traffic. They go on, and the next
// agent accounts for them.
func TestSockmapOutlivesTheAgent(t *testing.T) {
	const count = 200
	s := sockmapStart(t, "")
	var flows []*sockmapFlow
	for i := range count {
		flows = append(flows, s.open(sockmapPlaces[i%len(sockmapPlaces)]))
	}
	var stop atomic.Bool
	var words atomic.Int64
	var g errgroup.Group
	for i, f := range flows {
		g.Go(func() error {
			for !stop.Load() {
				err := f.talk(20)
				if err == nil {
					err = f.moveBoth(100_000, sized(1000+i*7919%20_000))
				}
				if err != nil {
					return fmt.Errorf("flow %d: %w", i, err)
				}
				words.Add(1)
			}
			return nil
		})
	}
	// goOn waits until they have all said something more, or some of them much.
	goOn := func() {
		t.Helper()
		from := words.Load()
		if err := testenv.Poll(short(t), func() (bool, error) { return words.Load() >= from+2*count, nil }); err != nil {
			t.Errorf("the flows do not go on: %v", err)
		}
	}
	s.expectMetric("sockmap_flows_total", count)
	if err := s.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = s.Wait(short(t)) // killed
	goOn()
	next := *s.run
	next.Process = testenv.MustProcess(t, next.options())
	if _, err := next.WaitLine(short(t), says("ready")); err != nil {
		t.Fatal(err)
	}
	goOn()
	stop.Store(true)
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	s.run = &next
	for _, f := range flows {
		s.end(f, tookShortcut)
		f.close()
	}
	s.expectNothing()
}
