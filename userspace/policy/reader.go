// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/spliceway/spliceway/userspace/config"
)

// reader turns nodes into a policy, and goes on after a mistake.
type reader struct {
	file     string
	options  Options
	errs     config.Errors
	warnings []Warning
	values   int // of metadata and variables so far
}

func (r *reader) at(n *yaml.Node) config.Position {
	return config.Position{File: r.file, Line: n.Line, Column: n.Column}
}

func (r *reader) wrong(n *yaml.Node, path, format string, args ...any) {
	if len(r.errs) >= maxMistakes {
		return
	}
	r.errs = append(r.errs, &config.Error{Pos: r.at(n), Path: path, Msg: fmt.Sprintf(format, args...)})
}

func (r *reader) warn(n *yaml.Node, format string, args ...any) {
	r.warnings = append(r.warnings, Warning{r.at(n), fmt.Sprintf(format, args...)})
}

// resolve follows an alias.
func resolve(n *yaml.Node) *yaml.Node {
	for range 8 {
		if n.Kind != yaml.AliasNode {
			return n
		}
		n = n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// fields are the values of a mapping with known keys.
type fields map[string]*yaml.Node

// mapping reads a mapping. Keys that are not known are mistakes; why has what is known of
// some of them.
func (r *reader) mapping(n *yaml.Node, path string, known []string, why map[string]string) fields {
	if n = resolve(n); isNull(n) {
		return fields{}
	}
	if n.Kind != yaml.MappingNode {
		r.wrong(n, path, "expected a mapping with keys such as %q", known[0])
		return nil
	}
	f := fields{}
	lines := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], resolve(n.Content[i+1])
		name := key.Value
		switch {
		case key.Kind != yaml.ScalarNode:
			r.wrong(key, path, "expected a key")
		case lines[name] > 0:
			r.wrong(key, join(path, name), "key given twice, first on line %d", lines[name])
		case slices.Contains(known, name):
			if !isNull(value) {
				f[name] = value
			}
		case why[name] != "":
			r.wrong(key, join(path, name), "%s", why[name])
		default:
			r.wrong(key, path, "unknown key %q%s; expected %s", name, config.DidYouMean(name, known), strings.Join(known, ", "))
		}
		lines[name] = key.Line
	}
	return f
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func index(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

func (r *reader) list(n *yaml.Node, path string) []*yaml.Node {
	if n = resolve(n); isNull(n) {
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		r.wrong(n, path, "expected a list")
		return nil
	}
	all := make([]*yaml.Node, len(n.Content))
	for i, e := range n.Content {
		all[i] = resolve(e)
	}
	return all
}

func (r *reader) text(n *yaml.Node, path string) (string, bool) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" {
		r.wrong(n, path, "expected a string")
		return "", false
	}
	return n.Value, true
}

func (r *reader) boolean(n *yaml.Node, path string) (value, ok bool) {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!bool" {
		if b, err := strconv.ParseBool(strings.ToLower(n.Value)); err == nil {
			return b, true
		}
	}
	r.wrong(n, path, "expected true or false")
	return false, false
}

func (r *reader) oneOf(n *yaml.Node, path string, values ...string) string {
	if n.Kind != yaml.ScalarNode || !slices.Contains(values, n.Value) {
		r.wrong(n, path, "expected one of %s", strings.Join(values, ", "))
		return ""
	}
	return n.Value
}

// The phases, and what is said of those that are not for connections.
const (
	onTCPConnect  = "on_tcp_connect"
	onHTTPRequest = "on_http_request"
)

var otherPhases = map[string]string{
	"on_http_response": "this is for HTTP; a TLS endpoint has on_tcp_connect only",
	"inbound":          "write on_tcp_connect: inbound was the name of a phase of HTTP",
	"outbound":         "outbound was the name of a phase of HTTP; a TLS endpoint has on_tcp_connect only",
	"enabled":          "leave the policy out instead",
}

func (r *reader) policy(n *yaml.Node) *Policy {
	f := r.mapping(n, "", []string{onTCPConnect, onHTTPRequest}, otherPhases)
	p := &Policy{}
	if n := f[onTCPConnect]; n != nil {
		p.rules = r.rules(n, onTCPConnect)
	}
	if n := f[onHTTPRequest]; n != nil {
		before := len(r.errs)
		rules := r.rules(n, onHTTPRequest)
		for i, rule := range rules {
			for j, a := range rule.actions {
				if _, ok := a.(*forwardInternal); !ok && a != nil && len(r.errs) == before {
					r.wrong(n, fmt.Sprintf("%s[%d].actions[%d]", onHTTPRequest, i, j),
						"%s is for HTTP here; a TLS endpoint has on_tcp_connect only, and nothing but forward-internal can be meant for it", a.kind())
				}
			}
		}
		if len(r.errs) == before {
			r.warn(n, "%s on a TLS endpoint is taken as %s", onHTTPRequest, onTCPConnect)
		}
		p.rules = append(p.rules, rules...)
	}
	return p
}

func (r *reader) rules(n *yaml.Node, path string) []rule {
	var rules []rule
	list := r.list(n, path)
	if len(list) > maxRules {
		r.wrong(n, path, "%d rules; at most %d are taken", len(list), maxRules)
		return nil
	}
	for i, e := range list {
		rules = append(rules, r.rule(e, index(path, i), i))
	}
	return rules
}

func (r *reader) rule(n *yaml.Node, path string, i int) rule {
	out := rule{name: strconv.Itoa(i)}
	f := r.mapping(n, path, []string{"name", "expressions", "actions"}, map[string]string{"enabled": "leave the rule out instead"})
	if f == nil {
		return out
	}
	if n := f["name"]; n != nil {
		if s, ok := r.text(n, join(path, "name")); ok {
			out.name = strconv.Quote(s)
		}
	}
	if n := f["expressions"]; n != nil {
		list := r.list(n, join(path, "expressions"))
		if len(list) > maxActions {
			r.wrong(n, join(path, "expressions"), "%d expressions; at most %d are taken", len(list), maxActions)
			return out
		}
		for j, e := range list {
			at := index(join(path, "expressions"), j)
			if s, ok := r.text(e, at); ok {
				if x, ok := r.condition(e, at, s); ok {
					out.expressions = append(out.expressions, x)
				}
			}
		}
	}
	at := join(path, "actions")
	if f["actions"] == nil {
		r.wrong(n, at, "at least one action is needed")
		return out
	}
	list := r.list(f["actions"], at)
	if len(list) == 0 || len(list) > maxActions {
		r.wrong(f["actions"], at, "1 to %d actions are needed", maxActions)
		return out
	}
	for j, e := range list {
		if a := r.action(e, index(at, j)); a != nil {
			out.actions = append(out.actions, a)
		}
	}
	return out
}
