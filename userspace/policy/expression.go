// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"go.yaml.in/yaml/v3"

	"github.com/spliceway/spliceway/userspace/config"
)

// expression is a compiled CEL expression.
type expression struct {
	source  string
	program cel.Program
	loops   bool // it may take long, and can be stopped
	slow    bool // it may take long
}

// loopTime bounds how long all evaluations of a run together take of expressions with
// loops or slow functions in them, and loopCheck is after how many rounds that is looked at.
const (
	loopTime  = 100 * time.Millisecond
	loopCheck = 10
)

// condition compiles an expression that is true or false.
func (r *reader) condition(n *yaml.Node, path, source string) (expression, bool) {
	// Conditions are written with and without the ${} of strings.
	if s := strings.TrimSpace(source); len(s) > 2 && strings.HasPrefix(s, "${") && closing(s[2:]) == len(s)-3 {
		source = s[2 : len(s)-1]
	}
	x, result, ok := r.compile(n, path, source)
	if ok && result != cel.BoolType && result != cel.DynType {
		r.wrong(n, path, "expected an expression that is true or false, this is of type %s", result)
		return x, false
	}
	return x, ok
}

// expression compiles one of any type.
func (r *reader) expression(n *yaml.Node, path, source string) (expression, bool) {
	x, _, ok := r.compile(n, path, source)
	return x, ok
}

func (r *reader) compile(n *yaml.Node, path, source string) (x expression, result *cel.Type, ok bool) {
	if len(source) > maxExpression {
		r.wrong(n, path, "an expression of %d bytes; at most %d are taken", len(source), maxExpression)
		return x, nil, false
	}
	env := environment()
	parsed, issues := env.Parse(source)
	if issues.Err() != nil {
		r.issues(n, path, source, issues)
		return x, nil, false
	}
	found := survey(parsed.NativeRep().Expr())
	for _, name := range found.tested {
		if _, known := variables[name]; known {
			r.wrong(n, path, "has(%s) says nothing: it is always there, and empty as long as it is not known; compare it", name)
			ok = true
		}
	}
	for _, name := range found.names {
		if why := unknown(name); why != "" {
			r.wrong(n, path, "%s", why)
			ok = true
		}
	}
	if ok {
		return x, nil, false
	}
	checked, issues := env.Check(parsed)
	if issues.Err() != nil {
		r.issues(n, path, source, issues)
		return x, nil, false
	}
	options := []cel.ProgramOption{cel.EvalOptions(cel.OptOptimize), cel.CustomDecoratorV2(bounds(env, checked.NativeRep()))}
	if found.loops {
		options = append(options, cel.InterruptCheckFrequency(loopCheck))
	}
	program, err := env.Program(checked, options...)
	if err != nil {
		r.wrong(n, path, "%v", err)
		return x, nil, false
	}
	return expression{source, program, found.loops, found.slow}, checked.OutputType(), true
}

// issues reports what CEL says of an expression.
func (r *reader) issues(n *yaml.Node, path, source string, issues *cel.Issues) {
	for _, e := range issues.Errors() {
		place := ""
		if e.Location.Line() == 1 && e.Location.Column() > 0 {
			place = fmt.Sprintf(" (at character %d)", e.Location.Column()+1)
		}
		r.wrong(n, path, "%s%s in %q", e.Message, place, source)
	}
}

// features are what survey finds in an expression.
type features struct {
	names  []string // dotted
	tested []string // those of them that has() is asked for
	loops  bool
	slow   bool // a function takes long for large operands
}

// survey goes through an expression.
func survey(root ast.Expr) (found features) {
	inner := make(map[int64]bool) // operands of a select that is part of a longer name
	ast.PreOrderVisit(root, ast.NewExprVisitor(func(e ast.Expr) {
		switch e.Kind() {
		case ast.ComprehensionKind:
			found.loops = true
		case ast.CallKind:
			found.slow = found.slow || slow[e.AsCall().FunctionName()]
		case ast.SelectKind:
			inner[e.AsSelect().Operand().ID()] = true
			if name := dotted(e); name != "" && !inner[e.ID()] {
				found.names = append(found.names, name)
				if e.AsSelect().IsTestOnly() {
					found.tested = append(found.tested, name)
				}
			}
		}
	}))
	return found
}

// dotted is a.b.c for a chain of selects that begins with a name.
func dotted(e ast.Expr) string {
	switch e.Kind() {
	case ast.IdentKind:
		return e.AsIdent()
	case ast.SelectKind:
		if of := dotted(e.AsSelect().Operand()); of != "" {
			return of + "." + e.AsSelect().FieldName()
		}
	}
	return ""
}

// elsewhere are names that ngrok's policies know and this agent does not.
var elsewhere = []struct{ name, why string }{
	{"conn.geo", "this agent has no geographical data"},
	{"conn.client_ip.geo", "this agent has no geographical data"},
	{"conn.client_ip.categories", "this agent has no data about addresses"},
	{"conn.client_ip.is_on_blocklist", "this agent has no data about addresses"},
	{"conn.server_region", "this agent is one host"},
	{"conn.k8s", "endpoints here have no binding to Kubernetes"},
	{"secrets", "this agent has no vault"},
	{"req", "a TLS endpoint has no requests"},
	{"res", "a TLS endpoint has no responses"},
}

// unknown says what is wrong with a dotted name; nothing if it may be known.
func unknown(name string) string {
	for _, e := range elsewhere {
		if name == e.name || strings.HasPrefix(name, e.name+".") {
			return fmt.Sprintf("%s is not to be had: %s", e.name, e.why)
		}
	}
	root, _, _ := strings.Cut(name, ".")
	if root != "conn" && root != "endpoint" && root != "time" && root != "actions" {
		return ""
	}
	for prefix := name; prefix != ""; {
		if _, ok := variables[prefix]; ok {
			return ""
		}
		i := strings.LastIndexByte(prefix, '.')
		if i < 0 {
			break
		}
		prefix = prefix[:i]
	}
	var all, below []string
	for known := range variables {
		all = append(all, known)
		if rest, ok := strings.CutPrefix(known, name+"."); ok {
			field, _, _ := strings.Cut(rest, ".")
			below = append(below, field)
		}
	}
	if len(below) > 0 {
		slices.Sort(below)
		return fmt.Sprintf("%s has no value of its own: write %[1]s. and one of %s", name, strings.Join(slices.Compact(below), ", "))
	}
	return fmt.Sprintf("unknown variable %q%s", name, config.DidYouMean(name, all))
}

var (
	errNotBoolean = errors.New("it is neither true nor false")
	errTooLong    = fmt.Errorf("it takes more than %s, with those before it", loopTime)
)

// holds evaluates a condition.
func (x *expression) holds(r *Run) (bool, error) {
	v, err := x.eval(r)
	if err != nil {
		return false, err
	}
	b, ok := v.(types.Bool)
	if !ok {
		return false, fmt.Errorf("%s: %w", x.source, errNotBoolean)
	}
	return bool(b), nil
}

func (x *expression) eval(r *Run) (v ref.Val, err error) {
	if x.loops {
		start := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), loopTime-r.spent)
		defer cancel()
		v, _, err = x.program.ContextEval(ctx, r)
		r.spent += time.Since(start)
		if ctx.Err() != nil {
			err = errTooLong
		}
	} else if x.slow {
		start := time.Now()
		v, _, err = x.program.Eval(r)
		if r.spent += time.Since(start); r.spent > loopTime {
			err = errTooLong
		}
	} else {
		v, _, err = x.program.Eval(r)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", x.source, err)
	}
	return v, nil
}
