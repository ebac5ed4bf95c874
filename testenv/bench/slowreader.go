// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	slowOffer  = 2 << 30                // bytes
	slowTick   = 20 * time.Millisecond  // between two reads
	slowBytes  = 1e6 / (1e9 / slowTick) // of each: 1 MB/s
	slowBefore = 25                     // looks at the machine's memory before
	slowLasts  = 5 * time.Second
)

// slowReader is offered much and reads little of it. It looks at its own queue and at
// the machine's memory, where it would be seen if bytes waited anywhere else.
func (b *bed) slowReader(ctx context.Context, d time.Duration) ([]float64, error) {
	conns, err := b.dialWarm(ctx, 1, messageSize, d)
	if err != nil {
		return nil, err
	}
	defer closeAll(conns)
	c := conns[0].(*net.TCPConn) // what dial yields
	tick := time.NewTicker(slowTick)
	defer tick.Stop()
	var before, during []int64
	for range slowBefore {
		if before, err = lookAtMemory(ctx, tick, before); err != nil {
			return nil, err
		}
	}
	if _, err := c.Write(request(messageSize, 0, slowOffer)); err != nil {
		return nil, err
	}
	buf, greatest := make([]byte, slowBytes), 0
	for end := time.Now().Add(d); time.Now().Before(end); {
		if during, err = lookAtMemory(ctx, tick, during); err != nil {
			return nil, err
		}
		queue, err := queued(c)
		if err != nil {
			return nil, err
		}
		greatest = max(greatest, queue)
		if _, err := io.ReadFull(c, buf); err != nil {
			return nil, err
		}
	}
	// The later half: by then all that can fill up is full.
	more := percentile(before, 50) - percentile(during[len(during)/2:], 50)
	return []float64{float64(greatest) / 1e6, float64(more) / 1e6}, nil
}

// slowDownload is the same through a gateway on a host of its own: its memory is looked
// at, too.
func (b *bed) slowDownload(ctx context.Context, d time.Duration) ([]float64, error) {
	tick := time.NewTicker(slowTick)
	defer tick.Stop()
	var before, during []int64
	for range slowBefore {
		var err error
		if before, err = lookAtMemory(ctx, tick, before); err != nil {
			return nil, err
		}
	}
	held, err := b.held()
	if err != nil {
		return nil, err
	}
	// Dialled late: it sends from its first moment on.
	offered, err := b.dial(ctx, "source", d)
	if err != nil {
		return nil, err
	}
	defer offered.Close()
	buf, greatest := make([]byte, slowBytes), 0.0
	for end := time.Now().Add(d); time.Now().Before(end); {
		if during, err = lookAtMemory(ctx, tick, during); err != nil {
			return nil, err
		}
		now, err := b.held()
		if err != nil {
			return nil, err
		}
		greatest = max(greatest, now-held)
		if _, err := io.ReadFull(offered, buf); err != nil {
			return nil, err
		}
	}
	more := percentile(before, 50) - percentile(during[len(during)/2:], 50)
	return []float64{greatest / 1e6, float64(more) / 1e6}, nil
}

// held is the PSS of the subject's processes in bytes, [nothing] without any.
func (b *bed) held() (float64, error) {
	if b.process == nil {
		return nothing, nil
	}
	bytes, err := b.gatewayMemory()
	return float64(bytes), err
}

// queued is the memory of what waits in a socket's receive queue, in bytes, as the
// kernel accounts for it: SK_MEMINFO_RMEM_ALLOC, the first of SO_MEMINFO.
func queued(c *net.TCPConn) (n int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	if ctlErr := raw.Control(func(fd uintptr) {
		n, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MEMINFO)
	}); ctlErr != nil {
		return 0, ctlErr
	}
	return n, os.NewSyscallError("getsockopt SO_MEMINFO", err)
}

// lookAtMemory waits for the next tick and adds what the machine has available.
func lookAtMemory(ctx context.Context, tick *time.Ticker, seen []int64) ([]int64, error) {
	select {
	case <-tick.C:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	page, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return nil, fmt.Errorf("read memory of the machine: %w", err)
	}
	kb, err := strconv.ParseInt(value(page, "MemAvailable:", 0), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("read memory of the machine: /proc/meminfo: %w", err)
	}
	return append(seen, kb<<10), nil
}
