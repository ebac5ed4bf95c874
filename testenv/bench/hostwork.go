// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/binary"
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
	warmFor   = 300 * time.Millisecond
	// endless is more than any stream moves.
	endless = 1 << 60
)

// hostWorks are for flows between two processes of the gateway's host.
func hostWorks(l layout, o options) []work {
	slow := slowLasts
	if o.quick {
		slow = time.Second
	}
	return []work{
		{
			name: fmt.Sprintf("%s: 64 KB there and back, 4 connections", l), layout: l, figures: connectionFigures,
			run: func(ctx context.Context, b *bed) ([]float64, error) {
				return b.messages(ctx, 4, largeMessage, o.duration)
			},
		},
		{
			name: fmt.Sprintf("%s: 200 bytes there and back, 50 connections", l), layout: l, figures: connectionFigures,
			run: func(ctx context.Context, b *bed) ([]float64, error) {
				return b.messages(ctx, 50, messageSize, o.duration)
			},
		},
		{
			name: fmt.Sprintf("%s: one-way stream down", l), layout: l, figures: streamFigures,
			run: func(ctx context.Context, b *bed) ([]float64, error) { return b.stream(ctx, false, o.duration) },
		},
		{
			name: fmt.Sprintf("%s: one-way stream up", l), layout: l, figures: streamFigures,
			run: func(ctx context.Context, b *bed) ([]float64, error) { return b.stream(ctx, true, o.duration) },
		},
		{
			name: fmt.Sprintf("%s: 2 GB for a reader of 1 MB/s", l), layout: l, once: true,
			figures: []figure{{"reader's queue, greatest, MB", 2, difference, unguarded}, {"machine's memory, MB more", 1, difference, unguarded}},
			run:     func(ctx context.Context, b *bed) ([]float64, error) { return b.slowReader(ctx, slow) },
		},
	}
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
	return []float64{e.rate(), e.perUnit() * 1e6, e.gatewayPerUnit() * 1e6}, err
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

// trips does round trips for a time, but so many at least. Each message is numbered at
// both of its ends, and its answer must be: bytes that came twice would be answers
// before their time, and a rate too good to be true.
func trips(c net.Conn, size int, least int64, d time.Duration) (n int64, err error) {
	out, in := request(uint64(size), 0, uint64(size)), make([]byte, size)
	for end := time.Now().Add(d); n < least || time.Now().Before(end); n++ {
		number(out, uint64(n))
		if _, err := c.Write(out); err != nil {
			return n, err
		}
		if _, err := io.ReadFull(c, in); err != nil {
			return n, err
		}
		if !bytes.Equal(in[:requestHeader+8], out[:requestHeader+8]) || !bytes.Equal(in[size-8:], out[size-8:]) {
			return n, fmt.Errorf("the answer to message %d is not its own: bytes were lost, doubled or out of order", n)
		}
	}
	return n, nil
}

// number marks a request behind its header and at its end.
func number(request []byte, n uint64) {
	binary.BigEndian.PutUint64(request[requestHeader:], n)
	binary.BigEndian.PutUint64(request[len(request)-8:], n)
}
