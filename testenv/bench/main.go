// SPDX-License-Identifier: Apache-2.0

// Command bench measures gateways side by side: a directly routed connection, spliceway
// with each of its engines, and the peers that are installed, on the same work in one
// run, interleaved. It prints Markdown tables of medians beside ratios to the direct
// connection. It needs root: client, gateway and backend are network namespaces joined
// by veth, or three processes of one namespace (loopback).
//
// Absolute figures of one machine say little; ratios from one run say what a gateway
// costs. It measures, and judges nothing, but with -check: then it fails where a ratio
// of spliceway's has fallen behind those of an earlier run.
//
// With -terminate the subjects end the clients' TLS, and the ratios are to nginx
// (stream module) beside HAProxy and the agent: full and resumed handshakes, bulk,
// round trips, memory. CPU is then that of the subject's processes alone.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/spliceway/spliceway/testenv"
)

type options struct {
	agent, haproxy string
	nginx          string
	terminate      bool
	subjects, only string
	layouts        string
	rounds         int
	duration       time.Duration
	idle           int
	quick          bool
	backend        string
	json, docs     string
	check          string
}

func main() {
	var o options
	flag.StringVar(&o.agent, "spliceway", "bin/spliceway", "the agent to measure")
	flag.StringVar(&o.haproxy, "haproxy", os.Getenv("HAPROXY"), "HAProxy to compare with, or several, separated by commas; default: the one in PATH, if any")
	flag.StringVar(&o.nginx, "nginx", "", "nginx to compare with; default: the one in PATH, if any")
	flag.StringVar(&o.subjects, "subjects", "", "who is measured, of "+strings.Join(subjectKeys(), ",")+"; default: all that are installed")
	flag.StringVar(&o.layouts, "layouts", "routed,loopback", "where client and backend are: on hosts of their own (routed), beside the gateway (loopback), or each in a namespace of its host, like pods (namespaces)")
	flag.StringVar(&o.only, "only", "", "only work whose name has this in it")
	flag.IntVar(&o.rounds, "rounds", 3, "interleaved rounds; medians are printed")
	flag.DurationVar(&o.duration, "duration", time.Second, "of each piece of work")
	flag.IntVar(&o.idle, "idle", 5000, "idle flows whose memory is measured")
	flag.BoolVar(&o.quick, "quick", false, "one short round: does it all run? The figures are worth little")
	flag.BoolVar(&o.terminate, "terminate", false, "measure TLS termination, against nginx and HAProxy")
	flag.StringVar(&o.backend, "backend", "", "for its own use: be the backend process at this address and port")
	flag.StringVar(&o.json, "json", "", "also write every sample to this file")
	flag.StringVar(&o.docs, "docs", "", "also put the tables between the marks in this Markdown file")
	flag.StringVar(&o.check, "check", "", "measure spliceway alone, and fail where a ratio is more than 15 % behind those of this file, written by -json")
	flag.Parse()
	if o.quick {
		o.rounds, o.duration, o.idle = 1, 200*time.Millisecond, 200
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	var err error
	switch {
	case o.backend != "":
		err = hostBackend(o.backend)
	case o.check != "":
		err = check(ctx, o, os.Stdout)
	default:
		err = run(ctx, o, os.Stdout)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, out io.Writer) error {
	if o.rounds < 1 || o.idle < 1 || o.duration <= 0 {
		return fmt.Errorf("-rounds %d, -idle %d, -duration %s: each must be more than 0", o.rounds, o.idle, o.duration)
	}
	choose := chooseSubjects
	if o.terminate {
		choose = terminateSubjects
	}
	subjects, err := choose(o)
	if err != nil {
		return err
	}
	todo := works(o)
	if len(todo) == 0 {
		return fmt.Errorf("-layouts %q -only %q: there is no such work", o.layouts, o.only)
	}
	r, done, err := begin(ctx, o, subjects)
	if err != nil {
		return err
	}
	defer done()
	if err := r.measure(ctx, o.rounds, todo, subjects); err != nil {
		return err
	}
	if o.json != "" {
		if err := r.write(o.json); err != nil {
			return err
		}
	}
	if err := r.checkShortcut(subjects); err != nil {
		return err
	}
	if o.docs != "" {
		if err := r.updateDocs(o.docs, todo, subjects); err != nil {
			return err
		}
	}
	r.report(out, todo, subjects)
	return nil
}

// begin makes the machine ready and looks at what it is. The caller calls done.
func begin(ctx context.Context, o options, subjects []subject) (r *results, done func(), err error) {
	if err := testenv.CheckPrivileges(); err != nil {
		return nil, nil, err
	}
	if err := raiseOpenFiles(); err != nil {
		return nil, nil, err
	}
	r = &results{Date: time.Now().UTC().Truncate(time.Second), Rounds: o.rounds, Duration: o.duration, IdleFlows: o.idle, Quick: o.quick}
	if r.Machine, err = readMachine(); err != nil {
		return nil, nil, err
	}
	for _, s := range subjects {
		version, err := s.version()
		if err != nil {
			return nil, nil, err
		}
		r.Subjects = append(r.Subjects, described{Name: s.name(), Version: version})
	}
	// bbr, the default of some kernels, paces by timers and hides what a
	// gateway costs.
	undo, err := testenv.AllowCongestionControl("cubic")
	if err != nil {
		return nil, nil, err
	}
	if r.StartBusy, r.IdleBusy, err = idleMachine(ctx); err != nil {
		return nil, nil, errors.Join(err, undo())
	}
	return r, func() { _ = undo() }, nil
}

// measure takes turns at each piece of work, so that what a ratio compares is
// seconds apart.
func (r *results) measure(ctx context.Context, rounds int, todo []work, subjects []subject) error {
	for round := range rounds {
		for _, w := range todo {
			if w.once && round > 0 {
				continue
			}
			for _, s := range subjects {
				if !takesPart(s, w) {
					continue
				}
				fmt.Fprintf(os.Stderr, "%s round %d of %d: %s: %s\n", time.Now().Format(time.TimeOnly), round+1, rounds, w.name, s.name())
				one, err := r.sample(ctx, w, s)
				if _, ours := s.(*spliceway); err != nil && (ours || s == direct{} || ctx.Err() != nil) {
					return fmt.Errorf("%s: %s: %w", s.name(), w.name, err)
				} else if err != nil { // a peer's failure is a result
					fmt.Fprintf(os.Stderr, "%s: %s: %v\n", s.name(), w.name, err)
					one = sample{Failed: err.Error()}
				}
				one.Round, one.Subject, one.Work = round, s.name(), w.name
				r.Samples = append(r.Samples, one)
			}
		}
	}
	return nil
}

// sample does one piece of work in a network of its own: neither TIME_WAITs nor
// the heap of what ran before are measured.
func (r *results) sample(ctx context.Context, w work, s subject) (one sample, err error) {
	b, err := newBed(ctx, s, w.layout, r.IdleFlows+1000)
	if err != nil {
		return one, err
	}
	defer func() { err = cmp.Or(err, b.close()) }()
	if one.BusyBefore, err = quiet(ctx, r.IdleBusy); err != nil {
		return one, err
	}
	// If the machine was not idle at the start, this is when it is seen.
	r.IdleBusy = min(r.IdleBusy, one.BusyBefore)
	b.idleBusy = r.IdleBusy
	values, err := w.run(ctx, b)
	if err != nil {
		return one, fmt.Errorf("%w%s", err, b.output())
	}
	one.Figures = make(map[string]float64)
	for i, v := range values {
		if !math.IsNaN(v) {
			one.Figures[w.figures[i].name] = v
		}
	}
	one.Connections = b.opened.Load()
	switch s := s.(type) {
	case *spliceway:
		switch {
		case b.ended(): // there is nobody to ask
			one.Connections = 0
		case w.layout.sameHost():
			err = one.readLog(ctx, b, s)
		default:
			one.Engines, err = s.engines(ctx, b)
		}
	case *peer:
		if s.splice && !b.ended() {
			one.Spliced, err = splicedBytes(b)
		}
	}
	return one, err
}
