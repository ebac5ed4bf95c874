// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"errors"

	"github.com/spliceway/spliceway/userspace/config"
	"github.com/spliceway/spliceway/userspace/manifest"
	"github.com/spliceway/spliceway/userspace/policy"
)

// reference uses a policy that an object names.
func (p *planner) reference(o *manifest.Object, name string, path []any, e *config.Endpoint, x *Endpoint, out *outcome) {
	out.policy = name
	key := manifest.Key{Group: o.Group, Kind: "NgrokTrafficPolicy", Namespace: o.Namespace, Name: name}
	target := p.policies[key]
	if target == nil {
		out.wrongPolicy = p.problem(o, path, "there is no %s", key)
		return
	}
	p.use(target, []any{"spec", "policy"}, e, x, out)
}

// use has an endpoint have the policy that stands at a path of an object.
func (p *planner) use(in *manifest.Object, path []any, e *config.Endpoint, x *Endpoint, out *outcome) {
	c := p.compile(in, path, e.TLSTermination != nil)
	if !c.warned {
		c.warned = true
		p.Warnings = append(p.Warnings, c.warnings...)
	}
	if len(c.errs) == 0 {
		x.Policy = c.policy
		return
	}
	out.wrongPolicy = c.errs[0]
	for _, w := range c.errs[1:] {
		p.addProblem(w)
	}
}

// compiledKey is a place where a policy stands; terminates is of the endpoint that has it.
type compiledKey struct {
	object     *manifest.Object
	path       string
	terminates bool
}

// compiled is what compiling a policy came to. Endpoints share it.
type compiled struct {
	policy   *policy.Policy
	warnings []manifest.Warning
	warned   bool // they are among the plan's
	errs     config.Errors
}

// compile compiles the policy that stands at a path of an object, once.
func (p *planner) compile(in *manifest.Object, path []any, terminates bool) *compiled {
	key := compiledKey{in, manifest.PathText(path), terminates}
	if c := p.compiled[key]; c != nil {
		return c
	}
	c := &compiled{}
	p.compiled[key] = c
	node := in.Node(path...)
	if node == nil {
		c.errs = config.Errors{p.problem(in, path, "there is no policy")}
		return c
	}
	made, warnings, err := policy.Parse(in.Pos.File, node, policy.Options{Terminates: terminates})
	c.policy = made
	for _, w := range warnings {
		c.warnings = append(c.warnings, manifest.Warning{Pos: w.Pos, Text: in.Key.String() + ": " + w.Text})
	}
	errors.As(err, &c.errs)
	for _, w := range c.errs {
		w.Path = manifest.PathText(path) + "." + w.Path
		w.Msg = in.Key.String() + ": " + w.Msg
	}
	return c
}

// addProblem adds one that may be there already: several endpoints may name a policy.
func (p *planner) addProblem(e *config.Error) {
	if !p.told[*e] {
		p.told[*e] = true
		p.Problems = append(p.Problems, e)
	}
}
