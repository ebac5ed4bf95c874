// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// work is what is done through each subject in turn.
type work struct {
	name    string
	layout  layout
	figures []figure
	// run returns one value for each figure, or none where there is nothing to
	// measure.
	run  func(context.Context, *bed) ([]float64, error)
	once bool // it takes long: in the first round only
}

// figure is one row of the table.
type figure struct {
	name    string // with its unit
	digits  int    // behind the point
	compare comparison
}

// comparison is how a figure is set against the direct connection's.
type comparison int

const (
	ratio comparison = iota
	difference
	alone // there is nothing to set it against
)

var streamFigures = []figure{{"Gbit/s", 1, ratio}, {"CPU s/GB", 3, ratio}}

// works is everything whose name holds o.only, in the order of the table.
func works(o options) []work {
	all := relayWorks
	if o.sameHost {
		all = hostWorks
	} else if o.terminate {
		all = terminateWorks
	}
	return slices.DeleteFunc(all(o), func(w work) bool { return !strings.Contains(w.name, o.only) })
}

func relayWorks(o options) []work {
	var all []work
	for _, streams := range []int{1, 8} {
		for _, way := range []struct{ name, service string }{{"down", "source"}, {"up", "sink"}} {
			all = append(all, work{
				name:    fmt.Sprintf("bulk %s, streams: %d", way.name, streams),
				figures: streamFigures,
				run: func(ctx context.Context, b *bed) ([]float64, error) {
					return b.bulk(ctx, way.service, streams, o.duration)
				},
			})
		}
	}
	all = append(all,
		work{
			name:    "200-byte round trips, 50 connections",
			figures: []figure{{"per second", 0, ratio}, {"p50, us", 0, ratio}, {"p99, us", 0, ratio}, {"CPU us each", 1, ratio}},
			run:     func(ctx context.Context, b *bed) ([]float64, error) { return b.roundTrips(ctx, 50, o.duration) },
		},
		work{
			name:    "200-byte round trips, 1 connection, all on one CPU",
			figures: []figure{{"p50, us", 1, ratio}},
			run:     func(ctx context.Context, b *bed) ([]float64, error) { return b.pinned(ctx, o.duration) },
		},
		work{
			name:    fmt.Sprintf("new TLS-like connections, %d clients", sessionWorkers),
			figures: []figure{{"per second", 0, ratio}, {"CPU us each", 0, ratio}},
			run:     func(_ context.Context, b *bed) ([]float64, error) { return b.sessions(o.duration) },
		},
		work{
			name:    "TCP and TLS 1.3 handshake, one after the other",
			figures: []figure{{"p50, ms", 3, difference}},
			run:     func(ctx context.Context, b *bed) ([]float64, error) { return b.handshakes(ctx, o.duration) },
		},
		work{
			name: fmt.Sprintf("memory, %d idle flows", o.idle),
			figures: []figure{{"KB per flow", 2, alone}, {"of it process", 2, alone}, {"of it sockets", 2, alone}, {"of it BPF maps", 2, alone},
				{"before the first flow: process, MB", 1, alone}, {"before the first flow: BPF maps, MB", 1, alone}},
			run: func(ctx context.Context, b *bed) ([]float64, error) { return b.idle(ctx, o.idle) },
		},
	)
	return all
}
