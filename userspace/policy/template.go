// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// template is a string with ${expressions} in it.
type template struct {
	parts []part
}

// part is text, or an expression if it has one.
type part struct {
	text string
	expr *expression
}

// literal is the template's text if there is no expression in it.
func (t *template) literal() (string, bool) {
	switch {
	case t == nil || len(t.parts) == 0:
		return "", true
	case len(t.parts) == 1 && t.parts[0].expr == nil:
		return t.parts[0].text, true
	}
	return "", false
}

// template compiles s.
func (r *reader) template(n *yaml.Node, path, s string) *template {
	t := &template{}
	for s != "" {
		start := strings.Index(s, "${")
		if start < 0 {
			t.parts = append(t.parts, part{text: s})
			break
		}
		if start > 0 {
			t.parts = append(t.parts, part{text: s[:start]})
		}
		s = s[start+2:]
		end := closing(s)
		if end < 0 {
			r.wrong(n, path, "${ without its }")
			return t
		}
		if x, ok := r.expression(n, path, s[:end]); ok {
			t.parts = append(t.parts, part{expr: &x})
		}
		s = s[end+1:]
	}
	return t
}

// closing is where the } is that ends the expression at the beginning of s, -1 if there
// is none: braces within it are in pairs, and those within quotes do not count.
func closing(s string) int {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case '\'', '"':
			i = endOfQuote(s, i)
		case '{':
			depth++
		case '}':
			if depth--; depth < 0 {
				return i
			}
		}
	}
	return -1
}

// endOfQuote is where CEL's literal ends that begins with the quote at s[i]: the literal
// may be raw (r'\'), and its quotes may be three.
func endOfQuote(s string, i int) int {
	raw := false
	for j := i - 1; j >= 0 && j >= i-2 && strings.IndexByte("rRbB", s[j]) >= 0; j-- {
		raw = raw || s[j] == 'r' || s[j] == 'R'
	}
	quote := s[i : i+1]
	if three := strings.Repeat(quote, 3); strings.HasPrefix(s[i:], three) {
		quote = three
	}
	for i += len(quote); i < len(s); i++ {
		switch {
		case s[i] == '\\' && !raw:
			i++
		case strings.HasPrefix(s[i:], quote):
			return i + len(quote) - 1
		}
	}
	return len(s)
}

// text is the template for a run's connection.
func (t *template) text(r *Run) (string, error) {
	if s, ok := t.literal(); ok {
		return s, nil
	}
	var b strings.Builder
	for _, p := range t.parts {
		s := p.text
		if p.expr != nil {
			v, err := p.expr.eval(r)
			if err != nil {
				return "", err
			}
			if s, err = r.text(v); err != nil {
				return "", fmt.Errorf("${%s}: %w", p.expr.source, err)
			}
		}
		if err := r.write(len(s)); err != nil {
			return "", err
		}
		b.WriteString(s)
	}
	return b.String(), nil
}

// value is the template as text, or as what it is if it is one expression and no more:
// CEL's own value if typed, Go's otherwise.
func (t *template) value(r *Run, typed bool) (any, error) {
	if len(t.parts) != 1 || t.parts[0].expr == nil {
		return t.text(r)
	}
	v, err := t.parts[0].expr.eval(r)
	if err != nil {
		return nil, err
	}
	n, err := r.native(v, 0)
	if err != nil {
		return nil, fmt.Errorf("${%s}: %w", t.parts[0].expr.source, err)
	}
	if typed {
		return v, nil
	}
	return n, nil
}

const (
	// maxDepth is how deep metadata and variables may nest.
	maxDepth = 32
	// maxValues is how many values they may have in a policy.
	maxValues = 10_000
)

// tree reads any YAML, with templates for its strings.
func (r *reader) tree(n *yaml.Node, path string, depth int) any {
	if n = resolve(n); depth > maxDepth {
		if r.values < maxValues {
			r.wrong(n, path, "nested too deeply: at most %d levels are taken", maxDepth)
		}
		r.values = maxValues
		return nil
	}
	// Aliases make a short text large.
	if r.values++; r.values >= maxValues {
		if r.values == maxValues {
			r.wrong(n, path, "too large, once its aliases are written out: at most %d values are taken", maxValues)
		}
		return nil
	}
	switch n.Kind {
	case yaml.MappingNode:
		m := make(map[string]any, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i].Value
			if n.Content[i].Kind != yaml.ScalarNode || n.Content[i].ShortTag() == "!!merge" {
				r.wrong(n.Content[i], path, "expected a key; << is not taken")
			}
			if _, ok := m[key]; ok {
				r.wrong(n.Content[i], join(path, key), "key given twice")
			}
			m[key] = r.tree(n.Content[i+1], join(path, key), depth+1)
		}
		return m
	case yaml.SequenceNode:
		list := make([]any, len(n.Content))
		for i, e := range n.Content {
			list[i] = r.tree(e, index(path, i), depth+1)
		}
		return list
	case yaml.ScalarNode:
		if n.ShortTag() == "!!str" {
			if t := r.template(n, path, n.Value); len(t.parts) > 0 {
				if s, ok := t.literal(); ok {
					return s
				}
				return t
			}
			return ""
		}
		var v any
		if err := n.Decode(&v); err != nil {
			r.wrong(n, path, "%v", err)
		}
		return v
	}
	return nil
}
