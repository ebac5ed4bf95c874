// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// report collects what is wrong in a file.
type report struct {
	file string
	root *yaml.Node
	errs Errors
	// broken has the paths of what could not be decoded. What is there is not
	// what the file says, and is not worth another error.
	broken map[string]bool
}

func (r *report) position(node *yaml.Node) Position {
	// A document without content has no position of its own.
	return Position{File: r.file, Line: max(node.Line, 1), Column: max(node.Column, 1)}
}

// undecodable reports a node that is not what the schema wants at p.
func (r *report) undecodable(node *yaml.Node, p *path, format string, args ...any) {
	r.markBroken(p)
	r.add(node, p, format, args...)
}

func (r *report) markBroken(p *path) {
	if r.broken == nil {
		r.broken = map[string]bool{}
	}
	r.broken[p.String()] = true
}

// wrong reports what was decoded at p, unless it was not decoded as a whole.
func (r *report) wrong(p *path, format string, args ...any) {
	if len(r.broken) > 0 {
		for q := p; ; q = q.parent {
			if r.broken[q.String()] {
				return
			}
			if q == nil {
				break
			}
		}
	}
	node, _ := p.find(r.root)
	r.add(node, p, format, args...)
}

func (r *report) add(node *yaml.Node, p *path, format string, args ...any) {
	r.errs = append(r.errs, &Error{Pos: r.position(node), Path: p.String(), Msg: fmt.Sprintf(format, args...)})
}

// at returns where p stands in the file, for use in a message about another
// place.
func (r *report) at(p *path) Position {
	node, _ := p.find(r.root)
	return r.position(node)
}

// oneOf reports a value that is not among those allowed.
func (r *report) oneOf(p *path, value string, allowed ...string) {
	if slices.Contains(allowed, value) {
		return
	}
	r.wrong(p, "expected %s, found %s%s", alternatives(allowed), quote(value), didYouMean(value, slices.Values(allowed)))
}

// within reports a number out of range.
func (r *report) within(p *path, value, low, high int) {
	if value < low || value > high {
		r.wrong(p, "expected a number from %d to %d, found %d", low, high, value)
	}
}

// alternatives returns `"a", "b" or "c"`.
func alternatives(values []string) string {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = strconv.Quote(v)
	}
	if len(quoted) == 1 {
		return quoted[0]
	}
	last := len(quoted) - 1
	return strings.Join(quoted[:last], ", ") + " or " + quoted[last]
}

// quote is strconv.Quote for a value that may be of any length.
func quote(s string) string {
	const limit = 80
	if len(s) <= limit {
		return strconv.Quote(s)
	}
	cut := limit
	for cut > limit-utf8.UTFMax && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return strconv.Quote(s[:cut]) + "..."
}
