// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// bulk moves bytes one way on each stream.
func (b *bed) bulk(ctx context.Context, service string, streams int, d time.Duration) ([]float64, error) {
	conns, err := b.dialAll(ctx, service, streams, d)
	if err != nil {
		return nil, err
	}
	defer closeAll(conns)
	return b.move(conns, service == "sink", d)
}

// move sends on each connection, or receives.
func (b *bed) move(conns []net.Conn, up bool, d time.Duration) ([]float64, error) {
	e, err := b.timed(func() (int64, error) { return moveFor(conns, up, d) })
	return []float64{e.rate() * 8 / 1e9, e.perUnit() * 1e9, e.gatewayPerUnit() * 1e9}, err
}

// moveFor returns how many bytes have gone.
func moveFor(conns []net.Conn, up bool, d time.Duration) (int64, error) {
	var total atomic.Int64
	var all errgroup.Group
	end := time.Now().Add(d)
	for _, c := range conns {
		all.Go(func() error {
			move := c.Read
			if up {
				move = c.Write
			}
			for buf := make([]byte, block); time.Now().Before(end); {
				n, err := move(buf)
				total.Add(int64(n))
				if err != nil {
					return fmt.Errorf("after %d bytes of all streams: %w", total.Load(), err)
				}
			}
			return nil
		})
	}
	err := all.Wait()
	return total.Load(), err
}
