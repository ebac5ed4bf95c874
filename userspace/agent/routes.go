// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/spliceway/spliceway/userspace/clienthello"
	"github.com/spliceway/spliceway/userspace/config"
	"github.com/spliceway/spliceway/userspace/plan"
	"github.com/spliceway/spliceway/userspace/policy"
	"github.com/spliceway/spliceway/userspace/route"
	"github.com/spliceway/spliceway/userspace/telemetry"
)

// Routes answers where a name goes, as the running agent would.
type Routes struct {
	cfg   *config.Config
	plan  *plan.Plan
	table *route.Table
}

// NewRoutes returns the routes of a plan.
func NewRoutes(p *plan.Plan) (*Routes, error) {
	t, err := p.Tables()
	if err != nil {
		return nil, fmt.Errorf("build route table: %w", err)
	}
	return &Routes{cfg: p.Config, plan: p, table: t.Outer}, nil
}

// Ports are the ports that have endpoints, in order.
func (r *Routes) Ports() []uint16 { return r.table.Ports() }

// Decision is where a name goes.
type Decision struct {
	Outcome  telemetry.Outcome
	Endpoint *config.Endpoint // nil: refused
	Index    int              // the endpoint's in the plan
	Why      string
}

// Decide routes a ClientHello with the given name ("" for none) and ALPN
// protocols. The error is that of a name that no ClientHello may carry.
func (r *Routes) Decide(address netip.Addr, port uint16, name string, alpn []string) (Decision, error) {
	if name == "" {
		return r.fallback(telemetry.OutcomeNoSNI, "the client names no server", "noSNI", r.cfg.Fallback.NoSNI), nil
	}
	name, err := clienthello.CanonicalName(name)
	if err != nil {
		return Decision{}, err
	}
	m, ok := r.table.Lookup(address, port, name, alpn)
	if !ok {
		return r.fallback(telemetry.OutcomeUnknownName, "no endpoint has this name", "unknownName", r.cfg.Fallback.UnknownName), nil
	}
	if m.Endpoint == route.Refuse {
		return Decision{Outcome: telemetry.OutcomeUnknownName, Why: "a listener has " + m.Pattern + ", and no route of it this name"}, nil
	}
	d := Decision{Outcome: telemetry.OutcomeRouted, Endpoint: &r.cfg.Endpoints[m.Endpoint], Index: m.Endpoint, Why: "exact name"}
	switch m.Kind {
	case route.Wildcard:
		d.Why = "wildcard " + m.Pattern
	case route.Any:
		d.Why = "any name"
	}
	if m.ALPN != "" {
		d.Why += ", ALPN " + m.ALPN
	}
	return d, nil
}

// Follow walks through the policies that a connection to endpoint i meets, and tells what
// they decide. What only a handshake can tell is not known here.
func (r *Routes) Follow(i int, c *policy.Connection) (steps []string, end telemetry.Outcome) {
	w := &walk{r: r, c: c}
	end = w.follow(i, 0)
	return w.steps, end
}

// walk is a Follow. It is policy.Trace.
type walk struct {
	r     *Routes
	c     *policy.Connection
	steps []string
}

func (w *walk) say(format string, args ...any) {
	w.steps = append(w.steps, fmt.Sprintf(format, args...))
}

// Expression is policy.Trace's, as are Skipped and Action.
func (w *walk) Expression(rule, source string, value bool, err error) {
	if err != nil {
		w.say("rule %s: %s: %v", rule, source, err)
		return
	}
	w.say("rule %s: %s is %t", rule, source, value)
}

// Skipped says nothing: the expression has said it.
func (w *walk) Skipped(string) {}

// Action tells what is done.
func (w *walk) Action(rule, action string) { w.say("rule %s: %s", rule, action) }

// maxWalk is more forwards than the agent does.
const maxWalk = 16

func (w *walk) follow(i, hops int) telemetry.Outcome {
	e, x := &w.r.cfg.Endpoints[i], &w.r.plan.Endpoints[i]
	if len(x.Peers) > 0 {
		w.say("one of %d pooled endpoints, at random; here the first", len(x.Peers))
	}
	if x.Policy == nil {
		w.arrive(e)
		return telemetry.OutcomeRouted
	}
	outer := w.c.Endpoint
	w.c.Endpoint = w.r.plan.SelfOf(i)
	defer func() { w.c.Endpoint = outer }()
	run := x.Policy.Start(w.c)
	defer run.Release()
	run.Trace = w
	for {
		switch step := run.Next(); step.Kind {
		case policy.End:
			if len(e.Upstream.All) == 0 {
				w.say("the policy of %s ends without forwarding the connection, and it has no upstream", e.Name)
				return telemetry.OutcomePolicyFailed
			}
			w.arrive(e)
			return telemetry.OutcomeRouted
		case policy.Close:
			w.say("rule %s: %s closes the connection", step.Rule, step.Action)
			return telemetry.OutcomeDenied
		case policy.Failed:
			w.say("rule %s: %s fails: %v", step.Rule, step.Action, step.Err)
			return telemetry.OutcomePolicyFailed
		case policy.Log:
			w.say("rule %s: logs %v", step.Rule, step.Metadata)
		case policy.Terminate:
			w.say("rule %s: TLS is terminated here; what is negotiated is not known in this walk", step.Rule)
			w.c.TLS = &policy.TLS{}
		case policy.Forward:
			to := w.r.plan.ForwardTo(step.URL)
			if to >= 0 && hops < maxWalk {
				w.say("forwarded to %s: endpoint %s, %s", step.URL, w.r.cfg.Endpoints[to].Name, w.r.cfg.Endpoints[to].Pos)
				return w.follow(to, hops+1)
			}
			w.say("forwarded to %s: no internal endpoint has this URL, or endpoints forward in a circle", step.URL)
			if !step.OnErrorContinue {
				return telemetry.OutcomePolicyFailed
			}
			run.Forwarded(errors.New("no internal endpoint has this URL"))
		}
	}
}

// arrive tells where a connection ends.
func (w *walk) arrive(e *config.Endpoint) {
	if len(w.steps) == 0 {
		return // there was nothing to decide
	}
	var targets []string
	for _, t := range e.Upstream.All {
		targets = append(targets, t.URL)
	}
	w.say("->  %s", strings.Join(targets, ", "))
}

func (r *Routes) fallback(o telemetry.Outcome, why, key, endpoint string) Decision {
	for i := range r.cfg.Endpoints {
		if endpoint != "" && r.cfg.Endpoints[i].Name == endpoint {
			return Decision{Outcome: telemetry.OutcomeRouted, Endpoint: &r.cfg.Endpoints[i], Index: i, Why: "fallback." + key + ": " + why}
		}
	}
	return Decision{Outcome: o, Why: why + ", and there is no fallback." + key}
}
