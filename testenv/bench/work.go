// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// work is what is done through each subject in turn.
type work struct {
	name    string
	layout  layout
	figures []figure
	// run returns one value for each figure, [nothing] for what this subject has
	// not, or none at all where there is nothing to measure.
	run  func(context.Context, *bed) ([]float64, error)
	once bool // it takes long, or has one answer: in the first round only
}

// nothing is the value of a figure that a subject has not.
var nothing = math.NaN()

// figure is one column of a work's table.
type figure struct {
	name    string // with its unit
	digits  int    // behind the point
	compare comparison
	guard   guard
}

// comparison is how a figure is set against the direct connection's.
type comparison int

const (
	ratio comparison = iota
	difference
	alone // there is nothing to set it against
)

// guard is which way a ratio must not go, when it is checked against an earlier run's.
type guard int

const (
	unguarded guard = iota
	atLeast         // more is better
	atMost          // less is better
)

var (
	bitRate        = figure{"Gbit/s", 1, ratio, atLeast}
	cpuPerGB       = figure{"CPU s/GB", 3, ratio, atMost}
	gatewayPerGB   = figure{"gateway's CPU s/GB", 3, alone, unguarded}
	perSecond      = figure{"per second", 0, ratio, atLeast}
	cpuEach        = figure{"CPU us each", 1, ratio, atMost}
	gatewayCPUEach = figure{"gateway's CPU us each", 1, alone, unguarded}

	streamFigures = []figure{bitRate, cpuPerGB, gatewayPerGB}
	tripFigures   = []figure{perSecond, {"p50, us", 1, ratio, unguarded}, {"p99, us", 1, ratio, unguarded}, {"p999, us", 1, ratio, unguarded},
		cpuEach, gatewayCPUEach}
	connectionFigures = []figure{perSecond, cpuEach, gatewayCPUEach}
)

// works is everything whose layout is asked for and whose name holds o.only, in the
// order of the tables.
func works(o options) []work {
	if o.terminate {
		return slices.DeleteFunc(terminateWorks(o), func(w work) bool { return !strings.Contains(w.name, o.only) })
	}
	var all []work
	for _, name := range strings.Split(o.layouts, ",") {
		if name == routed.String() {
			all = append(all, relayWorks(o)...)
			continue
		}
		for _, l := range []layout{loopback, namespaces} {
			if name == l.String() {
				all = append(all, hostWorks(l, o)...)
			}
		}
	}
	return slices.DeleteFunc(all, func(w work) bool { return !strings.Contains(w.name, o.only) })
}

func relayWorks(o options) []work {
	var all []work
	for _, way := range []struct{ name, service string }{{"down", "source"}, {"up", "sink"}} {
		for _, streams := range []int{1, 8, 64} {
			all = append(all, work{
				name:    fmt.Sprintf("bulk %s, streams: %d", way.name, streams),
				figures: streamFigures,
				run: func(ctx context.Context, b *bed) ([]float64, error) {
					return b.bulk(ctx, way.service, streams, o.duration)
				},
			})
		}
	}
	for _, n := range []int{1, 100} {
		all = append(all, work{
			name:    fmt.Sprintf("200-byte round trips, connections: %d", n),
			figures: tripFigures,
			run:     func(ctx context.Context, b *bed) ([]float64, error) { return b.roundTrips(ctx, n, o.duration) },
		})
	}
	all = append(all, work{
		name:    "200-byte round trips, 1 connection, all on one CPU",
		figures: []figure{{"p50, us", 1, ratio, atMost}},
		run:     func(ctx context.Context, b *bed) ([]float64, error) { return b.pinned(ctx, o.duration) },
	})
	for _, kind := range []struct {
		name   string
		hellos func(*bed) map[string][]byte
	}{
		{"small hello", func(b *bed) map[string][]byte { return b.small }},
		{"post-quantum hello", func(b *bed) map[string][]byte { return b.hello }},
	} {
		all = append(all, work{
			name:    "new TLS connections, " + kind.name,
			figures: connectionFigures,
			run:     func(_ context.Context, b *bed) ([]float64, error) { return b.sessions(kind.hellos(b), o.duration) },
		})
	}
	return append(append(all, work{
		name:    "TCP and TLS 1.3 handshake, one after the other",
		figures: []figure{{"p50, ms", 3, difference, unguarded}},
		run:     func(ctx context.Context, b *bed) ([]float64, error) { return b.handshakes(ctx, o.duration) },
	}), faultWorks(o)...)
}

// faultWorks show what a gateway holds, and what becomes of its flows. Once is enough.
func faultWorks(o options) []work {
	settle, slow := idleBefore, slowLasts
	if o.quick {
		settle, slow = time.Second, time.Second
	}
	return []work{
		{
			name: fmt.Sprintf("memory, %d idle flows", o.idle), once: true,
			figures: []figure{{"KB per flow", 2, alone, unguarded}, {"of it process", 2, alone, unguarded}, {"of it sockets", 2, alone, unguarded},
				{"of it BPF maps", 2, alone, unguarded}, {"process before, MB", 1, alone, unguarded}, {"BPF maps before, MB", 1, alone, unguarded}},
			run: func(ctx context.Context, b *bed) ([]float64, error) { return b.idle(ctx, o.idle, settle) },
		},
		{
			name: "2 GB for a reader of 1 MB/s", once: true,
			figures: []figure{{"gateway's memory, MB more", 2, alone, unguarded}, {"machine's memory, MB more", 1, alone, unguarded}},
			run:     func(ctx context.Context, b *bed) ([]float64, error) { return b.slowDownload(ctx, slow) },
		},
		{
			name: "half-close, 4 MB behind it", once: true,
			figures: []figure{{"client ends first: MB lost of 8", 2, alone, unguarded}, {"backend ends first: MB lost of 8", 2, alone, unguarded}},
			run:     func(ctx context.Context, b *bed) ([]float64, error) { return b.halfClose(ctx) },
		},
		{
			name: fmt.Sprintf("%d reloads under load", reloads), once: true,
			figures: []figure{{"new connections", 0, alone, unguarded}, {"failed", 0, alone, unguarded},
				{fmt.Sprintf("live flows lost, of %d", liveFlows), 0, alone, unguarded}, {"new route served after, ms", 0, alone, unguarded},
				{"processes before", 0, alone, unguarded}, {"processes after", 0, alone, unguarded}},
			run: func(ctx context.Context, b *bed) ([]float64, error) { return b.reloads(ctx) },
		},
		{
			name: "kill -9 under load", once: true,
			figures: []figure{{fmt.Sprintf("live flows that survive, of %d", liveFlows), 0, alone, unguarded}},
			run:     func(ctx context.Context, b *bed) ([]float64, error) { return b.kill(ctx) },
		},
	}
}
