// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"time"

	"github.com/spliceway/spliceway/testenv"
)

const (
	quietWindow = 200 * time.Millisecond // 20 ticks of each processor's accounting
	quietTries  = 10
	// quietBusy is what may go on beside a measurement, in CPU seconds per
	// second on top of the idle machine's: two ticks of a window.
	quietBusy = 0.1
)

// busy is how many CPU seconds per second the whole system works.
func busy(ctx context.Context, window time.Duration) (float64, error) {
	before, err := testenv.ReadSystemCPU()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	select {
	case <-time.After(window):
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	after, err := testenv.ReadSystemCPU()
	return after.Sub(before).Busy().Seconds() / time.Since(start).Seconds(), err
}

// idleMachine is what the machine does without us, in CPU seconds per second: on
// average, and in its least window: the rest is a load that comes and goes, and
// must not be taken off a measurement.
func idleMachine(ctx context.Context) (average, least float64, err error) {
	for i := range quietTries {
		now, err := busy(ctx, quietWindow)
		if err != nil {
			return 0, 0, err
		}
		average += now / quietTries
		if i == 0 || now < least {
			least = now
		}
	}
	return average, least, nil
}

// quiet waits until the machine does no more than when idle, and returns what it
// does: the kernel takes the last network apart in the background. It gives up
// after a while and leaves the judgement to the report.
func quiet(ctx context.Context, idle float64) (now float64, err error) {
	for range quietTries {
		if now, err = busy(ctx, quietWindow); err != nil || now <= idle+quietBusy {
			return now, err
		}
	}
	return now, nil
}

// effort is what a piece of work took.
type effort struct {
	units int64         // of work
	took  time.Duration // wall time
	cpu   float64       // CPU seconds of the whole system, less those of the idle machine
	// gateway is what the subject's processes took of them, [nothing] without any.
	// What softirqs do for packets is charged to whom they interrupt.
	gateway float64
}

func (e effort) rate() float64           { return float64(e.units) / e.took.Seconds() }
func (e effort) perUnit() float64        { return e.cpu / float64(e.units) }
func (e effort) gatewayPerUnit() float64 { return e.gateway / float64(e.units) }

// timed runs f, which returns how many units of work it has done.
func (b *bed) timed(f func() (units int64, err error)) (effort, error) {
	gatewayBefore, err := b.gatewaySeconds()
	if err != nil {
		return effort{}, err
	}
	before, err := testenv.ReadSystemCPU()
	if err != nil {
		return effort{}, err
	}
	start := time.Now()
	units, err := f()
	took := time.Since(start)
	if err != nil {
		return effort{}, err
	}
	after, err := testenv.ReadSystemCPU()
	if err != nil {
		return effort{}, err
	}
	gatewayAfter, err := b.gatewaySeconds()
	if err != nil {
		return effort{}, err
	}
	if units == 0 {
		return effort{}, errors.New("no work was done")
	}
	cpu := after.Sub(before).Busy().Seconds() - b.idleBusy*took.Seconds()
	return effort{units: units, took: took, cpu: cpu, gateway: gatewayAfter - gatewayBefore}, nil
}
