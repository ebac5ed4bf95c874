// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// sessions opens, greets with one of the hellos, reads an answer and closes, over and
// over.
func (b *bed) sessions(hello map[string][]byte, d time.Duration) ([]float64, error) {
	e, err := b.timed(func() (int64, error) {
		var total atomic.Int64
		var all errgroup.Group
		end := time.Now().Add(d)
		for worker := range sessionWorkers {
			all.Go(func() error {
				return b.client.Do(func() error {
					for i := worker; time.Now().Before(end); i++ {
						if err := b.session(i, session(worker), hello); err != nil {
							return fmt.Errorf("after %d connections: %w", total.Load(), err)
						}
						total.Add(1)
					}
					return nil
				})
			})
		}
		err := all.Wait()
		return total.Load(), err
	})
	return []float64{e.rate(), e.perUnit() * 1e6, e.gatewayPerUnit() * 1e6}, err
}

func (b *bed) session(number int, service string, hello map[string][]byte) error {
	c, err := dialBlocking(b.sources[number%len(b.sources)], b.target(service))
	if err != nil {
		return err
	}
	defer c.Close()
	if err := b.greet(c, hello[service]); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, answerSize))
	return err
}

// handshakes is the time from connect to the end of a real TLS 1.3 handshake, one
// after the other.
func (b *bed) handshakes(ctx context.Context, d time.Duration) ([]float64, error) {
	config := b.authority.ClientConfig(sni("tls"))
	config.MinVersion = tls.VersionTLS13
	var times []time.Duration
	// One thread in the namespace for all of them: entering it is not measured.
	err := b.client.Do(func() error {
		for end := time.Now().Add(d); time.Now().Before(end); {
			start := time.Now()
			if err := b.handshake(ctx, config, len(times)); err != nil {
				return fmt.Errorf("after %d handshakes: %w", len(times), err)
			}
			times = append(times, time.Since(start))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return []float64{micros(percentile(times, 50)) / 1e3}, nil
}

// handshake dials a literal address, which keeps net.Dialer on this thread.
func (b *bed) handshake(ctx context.Context, config *tls.Config, number int) error {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: b.sources[number%len(b.sources)].AsSlice()}}
	dialer.SetMultipathTCP(false)
	c, err := dialer.DialContext(ctx, "tcp", b.target("tls").String())
	if err != nil {
		return err
	}
	err = c.SetDeadline(time.Now().Add(patience))
	if err == nil {
		err = tls.Client(c, config).HandshakeContext(ctx)
	}
	if err == nil {
		b.opened.Add(1)
	}
	return errors.Join(err, c.Close())
}
