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

const (
	movedBefore = 1_000_000 // bytes each way, of flows that are idle after work
	movedBlock  = 64 << 10
)

// terminateWorks are for subjects that end the clients' TLS.
func terminateWorks(o options) []work {
	handshakeFigures := []figure{{"per CPU second of the gateway", 0, ratio, unguarded}, perSecond}
	handshakes := func(what string, l layout, group tls.CurveID) work {
		return work{
			name: what + ", " + group.String(), layout: l, figures: handshakeFigures,
			run: func(ctx context.Context, b *bed) ([]float64, error) {
				if _, ours := b.subject.(*spliceway); group != tls.X25519 && !ours {
					return nil, nil // OpenSSL before 3.5 has no ML-KEM
				}
				return b.handshakesTLS(ctx, group, l == resuming, o.duration)
			},
		}
	}
	all := []work{
		handshakes("full handshakes", terminating, tls.X25519),
		handshakes("full handshakes", terminating, tls.X25519MLKEM768),
		handshakes("resumed handshakes", resuming, tls.X25519),
	}
	for _, streams := range []int{1, 8} {
		for _, way := range []struct {
			name string
			ask  byte
		}{{"down", askSource}, {"up", askSink}} {
			all = append(all, work{
				name: fmt.Sprintf("bulk %s, streams: %d", way.name, streams), layout: terminating,
				figures: []figure{bitRate, {"CPU s/GB of the gateway", 3, ratio, unguarded}},
				run: func(ctx context.Context, b *bed) ([]float64, error) {
					return b.bulkTLS(ctx, way.ask, streams, o.duration)
				},
			})
		}
	}
	idle := func(after string, moved int) work {
		return work{
			name: fmt.Sprintf("memory, %d idle flows %s", o.idle, after), layout: terminating, once: true,
			figures: []figure{{"KB per flow", 1, ratio, unguarded}, {"before the first flow, MB", 1, ratio, unguarded}},
			run:     func(ctx context.Context, b *bed) ([]float64, error) { return b.idleTLS(ctx, o.idle, moved) },
		}
	}
	return append(all,
		work{
			name: "200-byte round trips, 50 connections", layout: terminating,
			figures: []figure{perSecond, {"CPU ms of the gateway per 1,000", 1, ratio, unguarded}},
			run:     func(ctx context.Context, b *bed) ([]float64, error) { return b.roundTripsTLS(ctx, 50, o.duration) },
		},
		idle("after one round trip", 0),
		idle("after 1 MB each way", movedBefore),
	)
}

// dialAllTLS opens connections from a thread in the client's namespace.
func (b *bed) dialAllTLS(ctx context.Context, ask byte, n int, d time.Duration) (conns []net.Conn, err error) {
	config := b.tlsClient(tls.X25519)
	err = b.client.Do(func() error {
		for i := range n {
			c, err := b.dialTLS(ctx, config, i, ask, d)
			if err != nil {
				return fmt.Errorf("after %d connections: %w", i, err)
			}
			conns = append(conns, c)
			if c.ConnectionState().DidResume {
				return errors.New("a client without sessions resumed one")
			}
		}
		return nil
	})
	if err != nil {
		closeAll(conns)
		return nil, err
	}
	return conns, nil
}

// handshakesTLS opens, reads an answer and closes, over and over. To resume, each
// worker has one session at a time, from its last connection.
func (b *bed) handshakesTLS(ctx context.Context, group tls.CurveID, resumed bool, d time.Duration) ([]float64, error) {
	configs := make([]*tls.Config, sessionWorkers)
	for i := range configs {
		configs[i] = b.tlsClient(group)
		if !resumed {
			continue
		}
		configs[i].ClientSessionCache = tls.NewLRUClientSessionCache(1)
		first := func() error { return b.sessionTLS(ctx, configs[i], i, false) }
		if err := b.client.Do(first); err != nil {
			return nil, fmt.Errorf("get a session: %w", err)
		}
	}
	e, err := b.timedGateway(func() (int64, error) {
		var total atomic.Int64
		var all errgroup.Group
		end := time.Now().Add(d)
		for worker, config := range configs {
			all.Go(func() error {
				return b.client.Do(func() error {
					for i := worker; time.Now().Before(end); i++ {
						if err := b.sessionTLS(ctx, config, i, resumed); err != nil {
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
	return []float64{1 / e.perUnit(), e.rate()}, err
}

// bulkTLS moves bytes one way on each stream.
func (b *bed) bulkTLS(ctx context.Context, ask byte, streams int, d time.Duration) ([]float64, error) {
	conns, err := b.dialAllTLS(ctx, ask, streams, d)
	if err != nil {
		return nil, err
	}
	defer closeRaw(conns)
	e, err := b.timedGateway(func() (int64, error) { return moveFor(conns, ask == askSink, d) })
	return []float64{e.rate() * 8 / 1e9, e.perUnit() * 1e9}, err
}

func (b *bed) roundTripsTLS(ctx context.Context, connections int, d time.Duration) ([]float64, error) {
	conns, err := b.dialAllTLS(ctx, askEcho, connections, d)
	if err != nil {
		return nil, err
	}
	defer closeRaw(conns)
	e, err := b.timedGateway(func() (int64, error) {
		var total atomic.Int64
		var all errgroup.Group
		for _, c := range conns {
			all.Go(func() error {
				times, err := echoFor(c, d)
				total.Add(int64(len(times)))
				return err
			})
		}
		err := all.Wait()
		return total.Load(), err
	})
	return []float64{e.rate(), e.perUnit() * 1e6}, err
}

// idleTLS opens flows, moves some bytes both ways on each, and reads what the subject
// keeps of them while they are idle.
func (b *bed) idleTLS(ctx context.Context, flows, moved int) ([]float64, error) {
	before, err := b.gatewayMemory()
	if err != nil {
		return nil, err
	}
	conns, err := b.dialAllTLS(ctx, askEcho, flows, 5*time.Minute)
	if err != nil {
		return nil, err
	}
	defer closeRaw(conns)
	var all errgroup.Group
	all.SetLimit(sessionWorkers)
	for _, c := range conns {
		all.Go(func() error {
			buf := make([]byte, movedBlock)
			for done := 0; done < moved; done += movedBlock {
				if err := echo(c, buf); err != nil {
					return err
				}
			}
			return echo(c, buf[:messageSize])
		})
	}
	if err := all.Wait(); err != nil {
		return nil, err
	}
	select {
	case <-time.After(idleBefore):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	after, err := b.gatewayMemory()
	return []float64{float64(after-before) / 1e3 / float64(flows), float64(before) / 1e6}, err
}

// closeRaw ends connections without a close_notify, which would wait behind what is
// on the way.
func closeRaw(conns []net.Conn) {
	for _, c := range conns {
		var raw io.Closer = c
		if t, ok := c.(*tls.Conn); ok {
			raw = t.NetConn()
		}
		_ = raw.Close()
	}
}
