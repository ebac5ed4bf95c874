// SPDX-License-Identifier: Apache-2.0

// Package demo shows the agent at work on one machine: it builds a network of
// namespaces, runs the agent in its middle as a process of its own, sends real
// TLS through it, and compares what the client, the servers and the agent's
// access log say about each connection.
//
// It is not a benchmark: its times are medians of a few dozen tries, on a
// machine that may be busy with other things. It prints nothing; the command
// that is built on it does.
package demo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spliceway/spliceway/testenv"
)

// longest is for how long the whole demo may run before it gives up.
const longest = 30 * time.Second

// Run runs the demo. executable is the agent, which is started as
// "EXECUTABLE run --config FILE". The error is for a demo that could not be
// run; what ran and was wrong is in [Report.Problems]. Nothing is left of it
// when Run returns, also if ctx ends before.
func Run(ctx context.Context, executable string) (report *Report, err error) {
	if err := testenv.CheckPrivileges(); err != nil {
		return nil, fmt.Errorf("the demo makes network namespaces (sudo spliceway demo): %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, longest, fmt.Errorf("it took more than %s", longest))
	defer cancel()
	start := time.Now()
	s, err := openSite(ctx, executable)
	if err != nil {
		return nil, fmt.Errorf("set up demo: %w", err)
	}
	defer func() {
		if closeErr := s.close(); closeErr != nil {
			report, err = nil, errors.Join(err, fmt.Errorf("clean up demo: %w", closeErr))
		}
	}()
	if report, err = s.run(ctx); err != nil {
		return nil, fmt.Errorf("run demo: %w", err)
	}
	report.Took = milliseconds(time.Since(start))
	return report, nil
}

// run drives all the traffic, ends the agent and then reads its log, in which
// every line is by then.
func (s *site) run(ctx context.Context) (*Report, error) {
	visits := make([]visit, 0, len(routedCases))
	for i, c := range routedCases {
		v := s.visit(ctx, c, uint64(i))
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		visits = append(visits, v)
	}
	attempts := s.attemptAll(ctx, refusedCases)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}

	report := &Report{Gateway: s.listen(), Services: s.describe(), Problems: []string{}}
	if err := s.stopAgent(); err != nil {
		report.problem("the agent did not stop in order: %v", err)
	}
	log, rest := readAccessLog(s.agent.Log().Lines())
	report.AgentLog = rest
	for i, v := range visits {
		report.Routed = append(report.Routed, judgeVisit(report, routedCases[i], v, log))
	}
	for i, a := range attempts {
		report.Refused = append(report.Refused, judgeAttempt(report, refusedCases[i], a, log))
	}
	for _, service := range s.services {
		for _, err := range service.backend.Failures() {
			report.problem("backend %s: %v", service.Name, err)
		}
	}
	return report, nil
}
