// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// roundTrips sends a message on each connection, waits for it to come back, sends
// the next.
func (b *bed) roundTrips(ctx context.Context, connections int, d time.Duration) ([]float64, error) {
	conns, err := b.dialAll(ctx, "echo", connections, d)
	if err != nil {
		return nil, err
	}
	defer closeAll(conns)
	times := make([][]time.Duration, connections)
	e, err := b.timed(func() (units int64, err error) {
		var all errgroup.Group
		for i, c := range conns {
			all.Go(func() (err error) {
				times[i], err = echoFor(c, d)
				return err
			})
		}
		err = all.Wait()
		for _, t := range times {
			units += int64(len(t))
		}
		return units, err
	})
	if err != nil {
		return nil, err
	}
	each := slices.Concat(times...)
	return []float64{e.rate(), micros(percentile(each, 50)), micros(percentile(each, 99)), micros(percentile(each, 99.9)),
		e.perUnit() * 1e6, e.gatewayPerUnit() * 1e6}, nil
}

// pinned is one connection whose client, backend and gateway share one processor,
// and with them the kernel's work for it: nobody waits for a halted processor to
// wake, which takes longer than all the rest and is random.
func (b *bed) pinned(_ context.Context, d time.Duration) ([]float64, error) {
	pids := []int{os.Getpid()}
	if b.process != nil {
		pids = append(pids, b.process.Pid())
	}
	unpin, err := pin(pids...)
	if err != nil {
		return nil, err
	}
	defer unpin()
	var times []time.Duration
	err = b.client.Do(func() error {
		c, err := dialBlocking(b.sources[0], b.target("blocking"))
		if err != nil {
			return err
		}
		defer c.Close()
		if err := b.greet(c, b.hello["blocking"]); err != nil {
			return err
		}
		times, err = echoFor(c, d)
		return err
	})
	if err != nil {
		return nil, err
	}
	return []float64{micros(percentile(times, 50))}, nil
}

// echoFor returns how long each round trip took.
func echoFor(c io.ReadWriter, d time.Duration) ([]time.Duration, error) {
	var times []time.Duration
	buf := make([]byte, messageSize)
	for start, last := time.Now(), time.Duration(0); last < d; {
		if err := echo(c, buf); err != nil {
			return times, err
		}
		now := time.Since(start)
		times, last = append(times, now-last), now
	}
	return times, nil
}

func echo(c io.ReadWriter, buf []byte) error {
	if _, err := c.Write(buf); err != nil {
		return err
	}
	_, err := io.ReadFull(c, buf)
	return err
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
