// SPDX-License-Identifier: Apache-2.0

// Command bench measures the relay: a directly routed connection, spliceway, and
// HAProxy if it is installed, on the same work in one run, interleaved. It prints
// a Markdown table of medians as ratios to the direct connection. It needs root:
// client, gateway and backend are network namespaces joined by veth.
//
// Absolute figures of one machine say little; ratios from one run say what a
// gateway costs. It measures, and judges nothing.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/spliceway/spliceway/testenv"
)

type options struct {
	agent, haproxy string
	rounds         int
	duration       time.Duration
	idle           int
	only           string
}

func main() {
	var o options
	flag.StringVar(&o.agent, "spliceway", "bin/spliceway", "the agent to measure")
	flag.StringVar(&o.haproxy, "haproxy", os.Getenv("HAPROXY"), "HAProxy to compare with; default: the one in PATH, if any")
	flag.IntVar(&o.rounds, "rounds", 3, "interleaved rounds; medians are printed")
	flag.DurationVar(&o.duration, "duration", 2*time.Second, "of each piece of work")
	flag.IntVar(&o.idle, "idle", 5000, "idle flows whose memory is measured")
	flag.StringVar(&o.only, "only", "", "only work whose name has this in it")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, out io.Writer) error {
	if err := testenv.CheckPrivileges(); err != nil {
		return err
	}
	if err := raiseOpenFiles(); err != nil {
		return err
	}
	// bbr, the default of some kernels, paces by timers and hides what a
	// gateway costs.
	undo, err := testenv.AllowCongestionControl("cubic")
	if err != nil {
		return err
	}
	defer func() { _ = undo() }()
	subjects := []subject{direct{}, &spliceway{path: o.agent}}
	if path := findHAProxy(o.haproxy); path != "" {
		subjects = append(subjects, &haproxy{path: path, splice: true}, &haproxy{path: path})
	}
	results := make(map[string]map[string][]measurement) // by work, subject
	for round := range o.rounds {
		for _, s := range subjects {
			fmt.Fprintf(os.Stderr, "round %d of %d: %s\n", round+1, o.rounds, s.name())
			if err := measure(ctx, o, s, results); err != nil {
				return fmt.Errorf("%s: %w", s.name(), err)
			}
		}
	}
	report(out, subjects, results)
	return nil
}

// measure runs all work once against one subject, in a network of its own.
func measure(ctx context.Context, o options, s subject, results map[string]map[string][]measurement) error {
	b, err := newBed(s)
	if err != nil {
		return err
	}
	defer b.close()
	for _, w := range works(o) {
		if !strings.Contains(w.name, o.only) {
			continue
		}
		m, err := w.run(ctx, b)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		if results[w.name] == nil {
			results[w.name] = make(map[string][]measurement)
		}
		results[w.name][s.name()] = append(results[w.name][s.name()], m)
	}
	return nil
}

// measurement is one piece of work's figures; units are the work's.
type measurement struct {
	rate float64 // more is better; 0: none
	cpu  float64 // CPU seconds of the whole system per unit of work
}

func report(out io.Writer, subjects []subject, results map[string]map[string][]measurement) {
	fmt.Fprint(out, "| work |")
	for _, s := range subjects {
		fmt.Fprintf(out, " %s |", s.name())
	}
	fmt.Fprint(out, "\n|---|", strings.Repeat("---|", len(subjects)), "\n")
	for _, w := range works(options{}) {
		by := results[w.name]
		if by == nil {
			continue
		}
		base := by[direct{}.name()]
		fmt.Fprintf(out, "| %s |", w.name)
		for _, s := range subjects {
			fmt.Fprintf(out, " %s |", w.format(by[s.name()], base))
		}
		fmt.Fprintln(out)
	}
}

func median(ms []measurement, of func(measurement) float64) float64 {
	if len(ms) == 0 {
		return 0
	}
	v := make([]float64, len(ms))
	for i, m := range ms {
		v[i] = of(m)
	}
	slices.Sort(v)
	return v[len(v)/2]
}

func rateOf(m measurement) float64 { return m.rate }
func cpuOf(m measurement) float64  { return m.cpu }
