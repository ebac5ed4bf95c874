// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/spliceway/spliceway/userspace/config"
)

// field is a field of a struct as JSON has it.
type field struct {
	name string
	of   reflect.Type
}

// structs are the fields of struct types.
var structs sync.Map // reflect.Type -> []field

func fieldsOf(t reflect.Type) []field {
	if f, ok := structs.Load(t); ok {
		return f.([]field)
	}
	var all []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported():
		case strings.Contains(options, "inline") || f.Anonymous && name == "":
			all = append(all, fieldsOf(f.Type)...)
		case name != "":
			all = append(all, field{name, f.Type})
		}
	}
	structs.Store(t, all)
	return all
}

var (
	unmarshaler = reflect.TypeFor[json.Unmarshaler]()
	rawType     = reflect.TypeFor[runtime.RawExtension]()
)

// tree is what a node comes to in JSON, if it is right for the type.
func (v *validation) tree(n *yaml.Node, t reflect.Type, path []any) any {
	n = resolve(n) // its place is told, where the value is to be put right
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if isNull(n) {
		return nil
	}
	if t == rawType {
		return v.plain(n, path)
	}
	if reflect.PointerTo(t).Implements(unmarshaler) {
		return v.opaque(n, t, path)
	}
	switch t.Kind() {
	case reflect.Struct:
		return v.structure(n, t, path)
	case reflect.Map:
		return v.mapping(n, t, path)
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return v.bytes(n, path)
		}
		if n.Kind != yaml.SequenceNode {
			v.expected(n, path, "a list")
			return nil
		}
		list := make([]any, len(n.Content))
		for i, e := range n.Content {
			if isNull(resolve(e)) {
				v.wrong(e, with(path, i), "a value is needed")
			}
			list[i] = v.tree(e, t.Elem(), with(path, i))
		}
		return list
	case reflect.String:
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" {
			v.expected(n, path, "a string")
		}
		return n.Value
	case reflect.Bool:
		b, err := strconv.ParseBool(n.Value)
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" || err != nil {
			v.expected(n, path, "true or false")
		}
		return b
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		i, ok := integer(n)
		if !ok || !fits(i, t) {
			v.expected(n, path, "a whole number in plain decimal digits")
		}
		return i
	}
	return v.plain(n, path)
}

// integer reads a whole number. YAML has 010 be eight, and few people do.
func integer(n *yaml.Node) (i int64, ok bool) {
	i, err := strconv.ParseInt(n.Value, 10, 64)
	return i, n.Kind == yaml.ScalarNode && n.ShortTag() == "!!int" && err == nil && strconv.FormatInt(i, 10) == strings.TrimPrefix(n.Value, "+")
}

func fits(i int64, t reflect.Type) bool {
	if k := t.Kind(); k >= reflect.Uint && k <= reflect.Uint64 {
		return i >= 0 && !reflect.Zero(t).OverflowUint(uint64(i))
	}
	return !reflect.Zero(t).OverflowInt(i)
}

func with(path []any, step any) []any { return append(path[:len(path):len(path)], step) }

func (v *validation) expected(n *yaml.Node, path []any, what string) {
	found := "a mapping"
	switch n.Kind {
	case yaml.SequenceNode:
		found = "a list"
	case yaml.ScalarNode:
		found = config.Quote(n.Value)
		if v.hides(path) {
			found = "something else"
		}
		if strings.HasPrefix(what, "a string") {
			found += ": put it in quotes"
		}
	}
	v.wrong(n, path, "expected %s, found %s", what, found)
}

// hides tells whether what stands at a path may not be told: what people put into a
// Secret, also where it is at the wrong place, and copies of it in its annotations.
func (v *validation) hides(path []any) bool {
	return v.secret && (len(path) < 2 || path[0] != "metadata" || path[1] == "annotations")
}

func (v *validation) structure(n *yaml.Node, t reflect.Type, path []any) any {
	if n.Kind != yaml.MappingNode {
		v.expected(n, path, "a mapping")
		return nil
	}
	fields := fieldsOf(t)
	m := make(map[string]any, len(n.Content)/2)
	for _, e := range v.entries(n, path) {
		f := -1
		for j := range fields {
			if fields[j].name == e.key {
				f = j
			}
		}
		if f < 0 {
			names := make([]string, len(fields))
			for j := range fields {
				names[j] = fields[j].name
			}
			v.wrong(e.at, path, "unknown field %s%s", config.Quote(e.key), config.DidYouMean(e.key, names))
			continue
		}
		if len(path) == 0 && e.key == "status" {
			continue
		}
		if value := v.tree(e.value, fields[f].of, with(path, e.key)); value != nil {
			m[e.key] = value
		}
	}
	return m
}

// entry is a key with its value.
type entry struct {
	key       string
	at, value *yaml.Node
}

// entries are a mapping's, without those that are mistakes.
func (v *validation) entries(n *yaml.Node, path []any) []entry {
	all := make([]entry, 0, len(n.Content)/2)
	lines := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := resolve(n.Content[i])
		switch {
		case key.Kind != yaml.ScalarNode:
			v.wrong(key, path, "expected a key")
		case key.ShortTag() == "!!merge":
			v.wrong(key, path, "merge keys (<<) are not supported: write the keys out")
		case lines[key.Value] > 0:
			v.wrong(key, with(path, key.Value), "key given twice, first on line %d", lines[key.Value])
		default:
			lines[key.Value] = key.Line
			all = append(all, entry{key.Value, key, n.Content[i+1]})
		}
	}
	return all
}

func (v *validation) mapping(n *yaml.Node, t reflect.Type, path []any) any {
	if n.Kind != yaml.MappingNode {
		v.expected(n, path, "a mapping")
		return nil
	}
	if t.Key().Kind() != reflect.String {
		return v.plain(n, path)
	}
	m := make(map[string]any, len(n.Content)/2)
	for _, e := range v.entries(n, path) {
		m[e.key] = v.tree(e.value, t.Elem(), with(path, e.key))
	}
	return m
}

func (v *validation) bytes(n *yaml.Node, path []any) any {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" {
		v.expected(n, path, "a string of base64")
		return nil
	}
	if _, err := base64.StdEncoding.DecodeString(n.Value); err != nil {
		v.wrong(n, path, "expected base64")
		return nil
	}
	return n.Value
}

// forms are what types expect that read their JSON themselves.
var forms = map[reflect.Type]string{
	reflect.TypeFor[metav1.Time]():        `a time such as "2006-01-02T15:04:05Z"`,
	reflect.TypeFor[metav1.MicroTime]():   `a time such as "2006-01-02T15:04:05.000000Z"`,
	reflect.TypeFor[intstr.IntOrString](): "a whole number in plain decimal digits, or a string",
	reflect.TypeFor[metav1.FieldsV1]():    "a mapping",
}

// opaque is of a type that reads its JSON itself.
func (v *validation) opaque(n *yaml.Node, t reflect.Type, path []any) any {
	if _, ok := integer(n); t == reflect.TypeFor[intstr.IntOrString]() && n.ShortTag() != "!!str" && !ok {
		v.expected(n, path, forms[t])
		return nil
	}
	tree := v.plain(n, path)
	data, err := json.Marshal(tree)
	if err == nil {
		err = json.Unmarshal(data, reflect.New(t).Interface())
	}
	switch form, ok := forms[t]; {
	case err != nil && ok:
		v.expected(n, path, form)
	case err != nil:
		v.expected(n, path, "a "+t.Name())
	}
	return tree
}

// plain is what a node comes to in JSON, whatever it is.
func (v *validation) plain(n *yaml.Node, path []any) any {
	switch n = resolve(n); n.Kind {
	case yaml.MappingNode:
		m := make(map[string]any, len(n.Content)/2)
		for _, e := range v.entries(n, path) {
			m[e.key] = v.plain(e.value, with(path, e.key))
		}
		return m
	case yaml.SequenceNode:
		list := make([]any, len(n.Content))
		for i, e := range n.Content {
			list[i] = v.plain(e, with(path, i))
		}
		return list
	}
	var value any
	switch n.ShortTag() {
	case "!!str", "!!timestamp":
		return n.Value
	case "!!int", "!!float", "!!bool", "!!null":
		if err := n.Decode(&value); err != nil {
			v.expected(n, path, "a value of the kind "+n.ShortTag()[2:])
			return nil
		}
	default:
		v.wrong(n, path, "the tag %s is not supported", clean(n.Tag))
		return nil
	}
	if f, ok := value.(float64); ok && (math.IsNaN(f) || math.IsInf(f, 0)) {
		v.expected(n, path, "a number that JSON has")
		return nil
	}
	return value
}
