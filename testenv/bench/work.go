// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv"
)

// services are what the backend does once it has read the hello, by name and
// port: send, swallow, or answer each message with itself.
var services = map[string]uint16{"source": 21001, "sink": 21002, "echo": 21003}

func sni(service string) string { return service + ".bench.test" }

const (
	block       = 256 << 10 // of bulk reads and writes
	messageSize = 200
)

// serve starts the backend's services.
func (b *bed) serve() error {
	for name, port := range services {
		l, err := b.net.Backends[0].Listen(netip.AddrPortFrom(b.net.Backends[0].IPv4(), port))
		if err != nil {
			return err
		}
		b.listeners = append(b.listeners, l)
		size := len(b.hello[name])
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go backend(c, name, size)
			}
		}()
	}
	return nil
}

func backend(c net.Conn, service string, hello int) {
	defer func() { _ = c.Close() }()
	if _, err := io.ReadFull(c, make([]byte, hello)); err != nil {
		return
	}
	switch service {
	case "source":
		for buf := make([]byte, block); ; {
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	case "sink":
		for buf := make([]byte, block); ; {
			if _, err := c.Read(buf); err != nil {
				return
			}
		}
	case "echo":
		for buf := make([]byte, messageSize); ; {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
		}
	}
}

// work is one row of the table.
type work struct {
	name   string
	run    func(context.Context, *bed) (measurement, error)
	format func(own, base []measurement) string
}

func works(o options) []work {
	bulk := func(service string, streams int) func(context.Context, *bed) (measurement, error) {
		return func(ctx context.Context, b *bed) (measurement, error) {
			return b.bulk(ctx, service, streams, o.duration)
		}
	}
	return []work{
		{"bulk down, 1 stream", bulk("source", 1), bulkRatios},
		{"bulk up, 1 stream", bulk("sink", 1), bulkRatios},
		{"bulk down, 8 streams", bulk("source", 8), bulkRatios},
		{"200-byte round trips, 50 connections", func(ctx context.Context, b *bed) (measurement, error) {
			return b.roundTrips(ctx, 50, o.duration)
		}, roundTripRatios},
		{"new connections", func(ctx context.Context, b *bed) (measurement, error) {
			return b.connections(ctx, 8, o.duration)
		}, connectionRatios},
		{"memory per idle flow", func(ctx context.Context, b *bed) (measurement, error) {
			return b.idle(ctx, o.idle)
		}, memory},
	}
}

func bulkRatios(own, base []measurement) string {
	return fmt.Sprintf("%.2f rate, %.2f CPU/GB (%.1f Gbit/s, %.2f s/GB)",
		median(own, rateOf)/median(base, rateOf), median(own, cpuOf)/median(base, cpuOf),
		median(own, rateOf)*8/1e9, median(own, cpuOf)*1e9)
}

func roundTripRatios(own, base []measurement) string {
	return fmt.Sprintf("%.2f rate, %.2f CPU (%.0f/s, %.1f us)",
		median(own, rateOf)/median(base, rateOf), median(own, cpuOf)/median(base, cpuOf),
		median(own, rateOf), median(own, cpuOf)*1e6)
}

func connectionRatios(own, base []measurement) string {
	return fmt.Sprintf("%.2f rate, %.2f CPU (%.0f/s, %.0f us)",
		median(own, rateOf)/median(base, rateOf), median(own, cpuOf)/median(base, cpuOf),
		median(own, rateOf), median(own, cpuOf)*1e6)
}

func memory(own, _ []measurement) string {
	if median(own, rateOf) == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f KB", median(own, rateOf)/1024)
}

// timed measures f's units of work and the whole system's CPU while it runs.
func timed(f func() (units int64, err error)) (measurement, error) {
	cpu, err := testenv.ReadSystemCPU()
	if err != nil {
		return measurement{}, err
	}
	start := time.Now()
	units, err := f()
	took := time.Since(start)
	if err != nil {
		return measurement{}, err
	}
	after, err := testenv.ReadSystemCPU()
	if err != nil {
		return measurement{}, err
	}
	if units == 0 {
		return measurement{}, errors.New("no work was done")
	}
	return measurement{rate: float64(units) / took.Seconds(), cpu: after.Sub(cpu).Busy().Seconds() / float64(units)}, nil
}

func (b *bed) bulk(ctx context.Context, service string, streams int, d time.Duration) (measurement, error) {
	conns, err := b.dialAll(ctx, service, streams)
	if err != nil {
		return measurement{}, err
	}
	defer closeAll(conns)
	return timed(func() (int64, error) {
		var total atomic.Int64
		var wg sync.WaitGroup
		end := time.Now().Add(d)
		for _, c := range conns {
			wg.Go(func() {
				move := c.Read
				if service == "sink" {
					move = c.Write
				}
				for buf := make([]byte, block); time.Now().Before(end); {
					n, err := move(buf)
					total.Add(int64(n))
					if err != nil {
						return
					}
				}
			})
		}
		wg.Wait()
		return total.Load(), nil
	})
}

func (b *bed) roundTrips(ctx context.Context, connections int, d time.Duration) (measurement, error) {
	conns, err := b.dialAll(ctx, "echo", connections)
	if err != nil {
		return measurement{}, err
	}
	defer closeAll(conns)
	return timed(func() (int64, error) {
		var total atomic.Int64
		var failed atomic.Pointer[error]
		var wg sync.WaitGroup
		end := time.Now().Add(d)
		for _, c := range conns {
			wg.Go(func() {
				for buf := make([]byte, messageSize); time.Now().Before(end); total.Add(1) {
					if err := echo(c, buf); err != nil {
						failed.Store(&err)
						return
					}
				}
			})
		}
		wg.Wait()
		if err := failed.Load(); err != nil {
			return 0, *err
		}
		return total.Load(), nil
	})
}

func echo(c net.Conn, buf []byte) error {
	if _, err := c.Write(buf); err != nil {
		return err
	}
	_, err := io.ReadFull(c, buf)
	return err
}

// connections opens, exchanges one message and closes, over and over, each worker
// with blocking calls on a thread of its own in the client's namespace: at
// thousands of connections per second a runtime between them would be measured.
func (b *bed) connections(_ context.Context, workers int, d time.Duration) (measurement, error) {
	return timed(func() (int64, error) {
		var total atomic.Int64
		var failed atomic.Pointer[error]
		var wg sync.WaitGroup
		end := time.Now().Add(d)
		for w := range workers {
			wg.Go(func() {
				err := b.net.Clients[0].Do(func() error {
					for i := w; time.Now().Before(end); i++ {
						if err := b.exchange(b.sources[i%len(b.sources)]); err != nil {
							return err
						}
						total.Add(1)
					}
					return nil
				})
				if err != nil {
					failed.Store(&err)
				}
			})
		}
		wg.Wait()
		if err := failed.Load(); err != nil {
			return 0, *err
		}
		return total.Load(), nil
	})
}

// exchange is one short connection.
func (b *bed) exchange(from netip.Addr) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: from.As4()}); err != nil {
		return err
	}
	to := b.target("echo")
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	message := make([]byte, messageSize)
	for _, m := range [][]byte{b.hello["echo"], message} {
		if _, err := unix.Write(fd, m); err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
	for got := 0; got < messageSize; {
		n, err := unix.Read(fd, message)
		if err != nil || n == 0 {
			return fmt.Errorf("read after %d bytes: %w", got, cmp.Or(err, io.ErrUnexpectedEOF))
		}
		got += n
	}
	return nil
}

// idle opens flows, uses each once and reads what they cost the subject (PSS).
func (b *bed) idle(ctx context.Context, flows int) (measurement, error) {
	if b.cmd == nil {
		return measurement{}, nil
	}
	before, err := testenv.ReadMemory(b.cmd.Process.Pid)
	if err != nil {
		return measurement{}, err
	}
	conns, err := b.dialAll(ctx, "echo", flows)
	if err != nil {
		return measurement{}, err
	}
	defer closeAll(conns)
	for _, c := range conns {
		if err := echo(c, make([]byte, messageSize)); err != nil {
			return measurement{}, err
		}
	}
	after, err := testenv.ReadMemory(b.cmd.Process.Pid)
	return measurement{rate: float64(after.PSS-before.PSS) / float64(flows)}, err
}

func (b *bed) dialAll(ctx context.Context, service string, n int) ([]net.Conn, error) {
	var conns []net.Conn
	for range n {
		c, err := b.dial(ctx, service)
		if err != nil {
			closeAll(conns)
			return nil, err
		}
		conns = append(conns, c)
	}
	return conns, nil
}

func closeAll(conns []net.Conn) {
	for _, c := range conns {
		_ = c.Close()
	}
}
