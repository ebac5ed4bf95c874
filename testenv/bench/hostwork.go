// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	largeMessage = 64 << 10
	// A flow takes the short cut some packets after its handshake, and some time
	// after those: it is warm when both are surely over.
	warmTrips = 50
	warmFor   = 400 * time.Millisecond
	// endless is more than any stream moves.
	endless = 1 << 60
)

// hostWorks are for flows between two processes of the gateway's host.
func hostWorks(o options) []work {
	messageFigures := []figure{{"per second", 0, ratio}, {"CPU us each", 1, ratio}}
	var all []work
	for _, l := range []layout{loopback, namespaces} {
		all = append(all,
			work{
				fmt.Sprintf("%s: 64 KB there and back, 4 connections", l), l, messageFigures,
				func(ctx context.Context, b *bed) ([]float64, error) {
					return b.messages(ctx, 4, largeMessage, o.duration)
				},
			},
			work{
				fmt.Sprintf("%s: 200 bytes there and back, 50 connections", l), l, messageFigures,
				func(ctx context.Context, b *bed) ([]float64, error) {
					return b.messages(ctx, 50, messageSize, o.duration)
				},
			},
			work{
				fmt.Sprintf("%s: one-way stream down", l), l, streamFigures,
				func(ctx context.Context, b *bed) ([]float64, error) { return b.stream(ctx, false, o.duration) },
			},
			work{
				fmt.Sprintf("%s: one-way stream up", l), l, streamFigures,
				func(ctx context.Context, b *bed) ([]float64, error) { return b.stream(ctx, true, o.duration) },
			},
			work{
				fmt.Sprintf("%s: 2 GB for a reader of 1 MB/s", l), l,
				[]figure{{"reader's queue, greatest, MB", 2, difference}, {"memory of the machine, MB more", 1, difference}},
				func(ctx context.Context, b *bed) ([]float64, error) { return b.slowReader(ctx, 5*o.duration) },
			},
		)
	}
	return all
}

// messages sends a message on each connection, waits for one of the same size, sends
// the next.
func (b *bed) messages(ctx context.Context, connections, size int, d time.Duration) ([]float64, error) {
	conns, err := b.dialWarm(ctx, connections, size, d)
	if err != nil {
		return nil, err
	}
	defer closeAll(conns)
	e, err := b.timed(func() (units int64, err error) {
		done := make([]int64, connections)
		var all errgroup.Group
		for i, c := range conns {
			all.Go(func() (err error) {
				done[i], err = trips(c, size, 0, d)
				return err
			})
		}
		err = all.Wait()
		for _, n := range done {
			units += n
		}
		return units, err
	})
	return []float64{e.rate(), e.perUnit() * 1e6}, err
}

// stream moves bytes one way on one connection.
func (b *bed) stream(ctx context.Context, up bool, d time.Duration) ([]float64, error) {
	conns, err := b.dialWarm(ctx, 1, messageSize, d)
	if err != nil {
		return nil, err
	}
	defer closeAll(conns)
	order := request(messageSize, 0, endless)
	if up {
		order = request(messageSize, endless, 0)
	}
	if _, err := conns[0].Write(order); err != nil {
		return nil, err
	}
	return b.move(conns, up, d)
}

// dialWarm opens connections that have settled on the way that they will go.
func (b *bed) dialWarm(ctx context.Context, n, size int, d time.Duration) ([]net.Conn, error) {
	conns, err := b.dialAll(ctx, "host", n, d)
	if err != nil {
		return nil, err
	}
	var all errgroup.Group
	for _, c := range conns {
		all.Go(func() error {
			_, err := trips(c, size, warmTrips, warmFor)
			return err
		})
	}
	if err := all.Wait(); err != nil {
		closeAll(conns)
		return nil, fmt.Errorf("warm up: %w", err)
	}
	return conns, nil
}

// trips does round trips for a time, but so many at least.
func trips(c net.Conn, size int, least int64, d time.Duration) (n int64, err error) {
	out, in := request(uint64(size), 0, uint64(size)), make([]byte, size)
	for end := time.Now().Add(d); n < least || time.Now().Before(end); n++ {
		if _, err := c.Write(out); err != nil {
			return n, err
		}
		if _, err := io.ReadFull(c, in); err != nil {
			return n, err
		}
	}
	return n, nil
}
