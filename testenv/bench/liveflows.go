// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv"
)

const (
	liveFlows     = 100                    // of a subject that is reloaded or killed
	liveEvery     = 20 * time.Millisecond  // between two messages of one
	liveBefore    = 300 * time.Millisecond // of load, before anything happens
	liveAnswer    = 3 * time.Second        // for a message, or the flow is lost
	reloads       = 5
	reloadWorkers = 4 // that open connections all the time
	reloadServes  = 15 * time.Second
	afterReload   = 300 * time.Millisecond
)

// live is flows with messages going there and back on each.
type live struct {
	lost atomic.Int64
	all  errgroup.Group
	stop context.CancelFunc
}

// live opens flows; end counts those lost.
func (b *bed) live(ctx context.Context) (*live, error) {
	conns, err := b.dialAll(ctx, "echo", liveFlows, time.Minute)
	if err != nil {
		return nil, err
	}
	l := new(live)
	ctx, l.stop = context.WithCancel(ctx)
	for _, c := range conns {
		l.all.Go(func() error {
			defer c.Close()
			buf, every := make([]byte, messageSize), time.NewTicker(liveEvery)
			defer every.Stop()
			for last := false; ; {
				_ = c.SetDeadline(time.Now().Add(liveAnswer)) // an error: closed; echo has it, too
				if err := echo(c, buf); err != nil {
					l.lost.Add(1)
					return nil
				}
				if last {
					return nil
				}
				select {
				case <-every.C:
				case <-ctx.Done():
					last = true // one message more: after all that happened
				}
			}
		})
	}
	return l, nil
}

func (l *live) end() (lost int64) {
	l.stop()
	_ = l.all.Wait()
	return l.lost.Load()
}

// kill ends all processes of the subject at once, without a word.
func (b *bed) kill(ctx context.Context) ([]float64, error) {
	if b.process == nil {
		return nil, nil
	}
	flows, err := b.live(ctx)
	if err != nil {
		return nil, err
	}
	defer flows.end()
	if err := pause(ctx, liveBefore); err != nil {
		return nil, err
	}
	pids, err := b.gatewayProcesses()
	if err != nil {
		return nil, err
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return nil, os.NewSyscallError("kill", err)
		}
	}
	select {
	case <-b.process.Done():
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if err := pause(ctx, liveBefore); err != nil {
		return nil, err
	}
	return []float64{float64(liveFlows - flows.end())}, nil
}

// reloads gives the subject one route more each time, while connections come and go and
// others live on.
func (b *bed) reloads(ctx context.Context) ([]float64, error) {
	if b.process == nil {
		return nil, nil
	}
	flows, err := b.live(ctx)
	if err != nil {
		return nil, err
	}
	defer flows.end()
	opened := b.openAlways(ctx)
	defer opened.end()
	processes, err := b.gatewayProcesses()
	if err != nil {
		return nil, err
	}
	var served []time.Duration
	for range reloads {
		if err := pause(ctx, liveBefore); err != nil {
			return nil, err
		}
		took, err := b.reload(ctx)
		if errors.Is(err, errCannotReload) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		served = append(served, took)
	}
	if err := pause(ctx, afterReload); err != nil {
		return nil, err
	}
	after, err := b.gatewayProcesses()
	if err != nil {
		return nil, err
	}
	total, failed := opened.end()
	return []float64{float64(total), float64(failed), float64(flows.end()), micros(percentile(served, 50)) / 1e3,
		float64(len(processes)), float64(len(after))}, nil
}

// reload adds a route and returns how long it takes until it is served.
func (b *bed) reload(ctx context.Context) (time.Duration, error) {
	name := addedService(b.added)
	b.added++
	hello, err := testenv.Hello(sni(name), testenv.HelloOptions{})
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := b.subject.reload(ctx, b); err != nil {
		return 0, err
	}
	wait, cancel := context.WithTimeout(ctx, reloadServes)
	defer cancel()
	err = testenv.Poll(wait, func() (bool, error) {
		select {
		case <-b.process.Done():
			return false, errors.New("it has ended")
		default:
		}
		c, err := b.dialHello(ctx, b.first, hello, 0)
		if err != nil {
			return false, nil // not yet
		}
		return true, c.Close()
	})
	if err != nil {
		return 0, fmt.Errorf("wait until the route that a reload brings is served: %w", err)
	}
	return time.Since(start), nil
}

// always opens connections all the time, each with an answer.
type always struct {
	total, failed atomic.Int64
	all           errgroup.Group
	stop          context.CancelFunc
}

func (b *bed) openAlways(ctx context.Context) *always {
	a := new(always)
	ctx, a.stop = context.WithCancel(ctx)
	for worker := range reloadWorkers {
		a.all.Go(func() error {
			return b.client.Do(func() error {
				for i := worker; ctx.Err() == nil; i++ {
					a.total.Add(1)
					if err := b.session(i, session(worker), b.hello); err != nil {
						a.failed.Add(1)
					}
				}
				return nil
			})
		})
	}
	return a
}

func (a *always) end() (total, failed int64) {
	a.stop()
	_ = a.all.Wait()
	return a.total.Load(), a.failed.Load()
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
