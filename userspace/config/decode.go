// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// decoder turns nodes into the schema's types. Unlike the library's own, it
// knows the place of everything that it refuses, goes on after an error, and
// takes no value for what it is not.
type decoder struct {
	*report
	elements map[reflect.Type]reflect.Value // what a list's elements, and pointers' targets, start as
	structs  map[reflect.Type]*fields
}

// fields are the keys of a struct type.
type fields struct {
	keys  []string
	index map[string]int
}

func newDecoder(r *report, p prototypes) *decoder {
	return &decoder{
		report: r,
		elements: map[reflect.Type]reflect.Value{
			reflect.TypeFor[Endpoint]():    reflect.ValueOf(p.endpoint),
			reflect.TypeFor[Target]():      reflect.ValueOf(p.target),
			reflect.TypeFor[Termination](): reflect.ValueOf(p.termination),
			reflect.TypeFor[MutualTLS]():   reflect.ValueOf(p.mutualTLS),
			reflect.TypeFor[UpstreamTLS](): reflect.ValueOf(p.upstreamTLS),
		},
		structs: map[reflect.Type]*fields{},
	}
}

// decode puts the node's value into v, which holds the default.
func (d *decoder) decode(node *yaml.Node, p *path, v reflect.Value) {
	switch {
	case node.Kind == yaml.AliasNode:
		d.undecodable(node, p, "aliases (*%s) are not supported, write the value out", node.Value)
		return
	case node.Anchor != "":
		d.add(node, p, "anchors (&%s) are not supported", node.Anchor)
	}
	switch v.Type() {
	case reflect.TypeFor[time.Duration]():
		d.duration(node, p, v)
		return
	case reflect.TypeFor[netip.Prefix]():
		d.prefix(node, p, v)
		return
	case reflect.TypeFor[netip.Addr]():
		d.address(node, p, v)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.structure(node, p, v)
	case reflect.Map:
		d.mapping(node, p, v)
	case reflect.Slice:
		d.list(node, p, v)
	case reflect.Pointer: // nil: not set
		if !isNull(node) {
			v.Set(reflect.New(v.Type().Elem()))
			if start, ok := d.elements[v.Type().Elem()]; ok {
				v.Elem().Set(start)
			}
			d.decode(node, p, v.Elem())
		}
	case reflect.String:
		if d.scalar(node, p, "a string", "!!str") {
			v.SetString(node.Value)
		}
	case reflect.Bool:
		if d.scalar(node, p, "true or false", "!!bool") {
			v.SetBool(strings.EqualFold(node.Value, "true"))
		}
	case reflect.Int:
		d.integer(node, p, v)
	default:
		panic(fmt.Sprintf("config: no decoding for %s", v.Type()))
	}
}

func (d *decoder) structure(node *yaml.Node, p *path, v reflect.Value) {
	if isNull(node) {
		return // all of its keys are comments
	}
	f := d.fieldsOf(v.Type())
	if node.Kind != yaml.MappingNode {
		d.undecodable(node, p, "expected a mapping with keys such as %q, found %s", f.keys[0], describe(node))
		return
	}
	seen := make([]*yaml.Node, v.NumField())
	mistyped := map[int]int{} // where in Content a key stands that was meant for a field
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if !d.isKey(key, p) {
			continue
		}
		at := p.key(key.Value)
		field, ok := f.index[key.Value]
		switch {
		case !ok:
			field, ok := d.unknownKey(key, p, f)
			if _, taken := mistyped[field]; ok && !taken {
				mistyped[field] = i
			}
		case seen[field] != nil:
			d.add(key, at, "key given twice, first on line %d", seen[field].Line)
		default:
			seen[field] = key
			d.decode(value, at, v.Field(field))
		}
	}
	// The file is refused already: what is wrong below a mistyped key is worth
	// telling all the same, unless the right key is there as well.
	// In the tree it gets its right name, by which its place is found.
	for _, name := range f.keys {
		i, ok := mistyped[f.index[name]]
		if !ok || seen[f.index[name]] != nil {
			continue
		}
		node.Content[i].Value = name
		d.decode(node.Content[i+1], p.key(name), v.Field(f.index[name]))
	}
}

// isKey reports a key that is not a plain name.
func (d *decoder) isKey(key *yaml.Node, p *path) bool {
	switch {
	case key.Kind != yaml.ScalarNode:
		d.add(key, p, "expected a key, found %s", describe(key))
	case key.Value == "":
		d.add(key, p, "expected a key, found an empty one")
	case key.ShortTag() == "!!merge":
		d.add(key, p, "merge keys (<<) are not supported, write the keys out")
	case key.Anchor != "":
		d.add(key, p, "anchors (&%s) are not supported", key.Anchor)
	default:
		return true
	}
	return false
}

// unknownKey reports a key, and tells which field was meant if that is clear.
func (d *decoder) unknownKey(key *yaml.Node, p *path, f *fields) (field int, ok bool) {
	if meant := nearest(key.Value, slices.Values(f.keys)); meant != "" {
		d.add(key, p, "unknown key %s, did you mean %q?", quote(key.Value), meant)
		return f.index[meant], true
	}
	d.add(key, p, "unknown key %s, expected %s", quote(key.Value), alternatives(f.keys))
	return 0, false
}

func (d *decoder) fieldsOf(t reflect.Type) *fields {
	if f := d.structs[t]; f != nil {
		return f
	}
	f := &fields{index: map[string]int{}}
	for i := range t.NumField() {
		if key := t.Field(i).Tag.Get("yaml"); key != "-" {
			f.keys = append(f.keys, key)
			f.index[key] = i
		}
	}
	d.structs[t] = f
	return f
}

func (d *decoder) mapping(node *yaml.Node, p *path, v reflect.Value) {
	if isNull(node) {
		return
	}
	if node.Kind != yaml.MappingNode {
		elements := "strings"
		if v.Type().Elem().Kind() == reflect.Slice {
			elements = "lists"
		}
		d.undecodable(node, p, "expected a mapping of names to %s, found %s", elements, describe(node))
		return
	}
	lines := map[string]int{}
	m := reflect.MakeMap(v.Type())
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if !d.isKey(key, p) {
			continue
		}
		at := p.key(key.Value)
		if line, ok := lines[key.Value]; ok {
			d.add(key, at, "key given twice, first on line %d", line)
			continue
		}
		lines[key.Value] = key.Line
		element := reflect.New(v.Type().Elem()).Elem()
		d.decode(value, at, element)
		m.SetMapIndex(reflect.ValueOf(key.Value), element)
	}
	v.Set(m)
}

func (d *decoder) list(node *yaml.Node, p *path, v reflect.Value) {
	if isNull(node) {
		return
	}
	if node.Kind != yaml.SequenceNode {
		d.undecodable(node, p, "expected a list, found %s", describe(node))
		return
	}
	// An element that is refused keeps its place: indices are those of the file.
	v.Set(reflect.MakeSlice(v.Type(), len(node.Content), len(node.Content)))
	start, ok := d.elements[v.Type().Elem()]
	for i, value := range node.Content {
		if ok {
			v.Index(i).Set(start)
		}
		d.decode(value, p.element(i), v.Index(i))
	}
}

// scalar reports a node that is no scalar of one of the tags.
func (d *decoder) scalar(node *yaml.Node, p *path, want string, tags ...string) bool {
	if node.Kind == yaml.ScalarNode && slices.Contains(tags, node.ShortTag()) {
		return true
	}
	hint := ""
	if tags[0] == "!!str" && node.Kind == yaml.ScalarNode && !isNull(node) && tagNames[node.ShortTag()] != "" {
		hint = ": put it in quotes"
	}
	d.undecodable(node, p, "expected %s, found %s%s", want, describe(node), hint)
	return false
}

func (d *decoder) integer(node *yaml.Node, p *path, v reflect.Value) {
	if !d.scalar(node, p, "a whole number", "!!int") {
		return
	}
	// YAML 1.1 reads 010 as eight, and few people do.
	n, err := strconv.Atoi(node.Value)
	if err != nil || strconv.Itoa(n) != strings.TrimPrefix(node.Value, "+") {
		d.undecodable(node, p, "expected a whole number in plain decimal digits, found %s", quote(node.Value))
		return
	}
	v.SetInt(int64(n))
}

func (d *decoder) duration(node *yaml.Node, p *path, v reflect.Value) {
	const want = `a duration such as "1m30s" or "500ms"`
	if !d.scalar(node, p, want, "!!str", "!!int", "!!float") {
		return
	}
	value, err := time.ParseDuration(node.Value) // takes 0 without a unit
	switch {
	case err != nil && node.ShortTag() != "!!str":
		d.undecodable(node, p, "expected %s, found %s without a unit", want, quote(node.Value))
	case err != nil:
		d.undecodable(node, p, "expected %s, found %s", want, quote(node.Value))
	default:
		v.SetInt(int64(value))
	}
}

func (d *decoder) prefix(node *yaml.Node, p *path, v reflect.Value) {
	if !d.scalar(node, p, "an IP address or a prefix", "!!str") {
		return
	}
	prefix, err := parsePrefix(node.Value)
	if err != nil {
		d.undecodable(node, p, "%v", err)
		return
	}
	v.Set(reflect.ValueOf(prefix))
}

func isNull(node *yaml.Node) bool {
	return node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null"
}

var tagNames = map[string]string{
	"!!str":       "the string",
	"!!int":       "the number",
	"!!float":     "the number",
	"!!bool":      "the value",
	"!!timestamp": "the date",
}

// describe names what a node is, for "found ...".
func describe(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	tag := node.ShortTag()
	if tag == "!!null" {
		return "nothing"
	}
	if name := tagNames[tag]; name != "" {
		return name + " " + quote(node.Value)
	}
	return "a value of type " + quote(tag)
}
