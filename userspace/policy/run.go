// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"crypto/x509"
	"net/netip"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
)

// Kind is what a Step asks of the caller.
type Kind uint8

const (
	// End: the policy has no more to say; the connection goes to the upstream.
	End Kind = iota
	// Close: the connection is to be closed.
	Close
	// Forward: it goes to the internal endpoint with the Step's URL. If that fails and
	// OnErrorContinue is set, say so by Forwarded and go on.
	Forward
	// Terminate: TLS is to be terminated. Fill in Connection.TLS and go on; Next adds to
	// it the certificate that the action has.
	Terminate
	// Log: Metadata is to be logged. Go on.
	Log
	// Failed: the policy cannot be evaluated, Err says why: close the connection.
	Failed
)

// Step is what a policy wants next.
type Step struct {
	Kind            Kind
	Action          string // its type, as in the policy
	Rule            string // its name in quotes, or its index
	URL             string
	OnErrorContinue bool
	Termination     *Termination
	Metadata        map[string]any
	Err             error
}

// Trace is told what a policy decides.
type Trace interface {
	// Expression was evaluated for a rule.
	Expression(rule, source string, value bool, err error)
	// Skipped: the rule's expressions are not all true.
	Skipped(rule string)
	// Action is about to be done.
	Action(rule, action string)
}

// Run is a policy at work on one connection; for one goroutine.
type Run struct {
	// Trace, if there is one, is told of each decision.
	Trace Trace

	p            *Policy
	c            *Connection
	rule, action int // what is next
	inside       bool
	vars         map[string]any
	logged       map[string]any
	restricted   restriction
	forwardError string
	shown        *x509.Certificate // by terminate-tls
	// left is how much the run may still write, and spent how long its loops took.
	left  int
	spent time.Duration
}

// restriction is what restrict-ips found.
type restriction struct {
	action string
	cidr   netip.Prefix
	err    string
}

var runs = sync.Pool{New: func() any { return new(Run) }}

// Start begins a run over c, which stays the caller's. Release it in the end.
func (p *Policy) Start(c *Connection) *Run {
	r := runs.Get().(*Run)
	r.p, r.c, r.left = p, c, maxWritten
	return r
}

// Release ends a run.
func (r *Run) Release() {
	*r = Run{}
	runs.Put(r)
}

// Forwarded says that a connection could not be forwarded.
func (r *Run) Forwarded(err error) { r.forwardError = err.Error() }

// Next goes on to what the caller has to do. After End, Close, Failed and a Forward
// without OnErrorContinue there is nothing more: it is End from there on.
func (r *Run) Next() Step {
	if t := r.c.TLS; r.shown != nil && t != nil && t.ServerCertificate == nil {
		t.ServerCertificate = r.shown
	}
	for ; r.rule < len(r.p.rules); r.rule, r.action, r.inside = r.rule+1, 0, false {
		rule := &r.p.rules[r.rule]
		if !r.inside {
			holds, err := r.holds(rule)
			if err != nil {
				r.rule = len(r.p.rules)
				return Step{Kind: Failed, Action: "expressions", Rule: rule.name, Err: err}
			}
			if !holds {
				continue
			}
			r.inside = true
		}
		for r.action < len(rule.actions) {
			a := rule.actions[r.action]
			r.action++
			if r.Trace != nil {
				r.Trace.Action(rule.name, a.kind())
			}
			if step, needed := a.do(r); needed {
				step.Action, step.Rule = a.kind(), rule.name
				if step.Kind == Close || step.Kind == Failed || step.Kind == Forward && !step.OnErrorContinue {
					r.rule = len(r.p.rules)
				}
				return step
			}
		}
	}
	return Step{Kind: End}
}

func (r *Run) holds(rule *rule) (bool, error) {
	for i := range rule.expressions {
		x := &rule.expressions[i]
		ok, err := x.holds(r)
		if r.Trace != nil {
			r.Trace.Expression(rule.name, x.source, ok, err)
		}
		if err != nil {
			return false, err
		}
		if !ok {
			if r.Trace != nil {
				r.Trace.Skipped(rule.name)
			}
			return false, nil
		}
	}
	return true, nil
}

var _ cel.Activation = (*Run)(nil)

// ResolveName is [cel.Activation]'s.
func (r *Run) ResolveName(name string) (any, bool) {
	v, ok := variables[name]
	if !ok {
		return nil, false
	}
	return v.get(r), true
}

// Parent is [cel.Activation]'s.
func (r *Run) Parent() cel.Activation { return nil }
