// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	k8s "k8s.io/apimachinery/pkg/util/validation"

	"github.com/spliceway/spliceway/userspace/config"
)

// object reads one object, and adds it or its problems.
func (l *loader) object(file string, n *yaml.Node) {
	v := &validation{file: file}
	o, known := v.object(n)
	l.warnings = append(l.warnings, v.warnings...)
	if o != nil && len(v.problems) == 0 {
		if first, ok := l.seen[o.Key]; ok {
			v.wrong(n, nil, "%s is the second one; the first is at %s", o.Key, first)
		}
	}
	if len(v.problems) > 0 {
		l.problems = append(l.problems, v.problems...)
		if v.named {
			l.broken = append(l.broken, known)
		} else {
			l.breaks(file)
		}
		return
	}
	if o != nil {
		l.seen[o.Key] = o.Pos
		l.objects = append(l.objects, o)
	}
}

// validation is of one object.
type validation struct {
	file     string
	node     *yaml.Node
	version  string
	problems config.Errors
	warnings []Warning
	about    string // the object, in front of messages
	named    bool   // it is known which object it is
	secret   bool   // its values may not be told
}

// maxProblems is how many are told of one object.
const maxProblems = 50

func (v *validation) wrong(n *yaml.Node, path []any, format string, args ...any) {
	if len(v.problems) > maxProblems {
		return
	}
	msg := fmt.Sprintf(format, args...)
	if len(v.problems) == maxProblems {
		msg = "and more is wrong with it"
	}
	if v.about != "" {
		msg = v.about + ": " + msg
	}
	v.problems = append(v.problems, &config.Error{Pos: config.Position{File: v.file, Line: n.Line, Column: n.Column}, Path: PathText(path), Msg: msg})
}

// at is the node at a path of the object, or the nearest one around it.
func (v *validation) at(path ...any) *yaml.Node {
	n, _ := find(v.node, path)
	return n
}

func (v *validation) warn(n *yaml.Node, format string, args ...any) {
	v.warnings = append(v.warnings, Warning{config.Position{File: v.file, Line: n.Line, Column: n.Column}, v.about + ": " + fmt.Sprintf(format, args...)})
}

// object reads an object; nil: it is wrong, or none of those that matter here. known is
// what it is called, as far as that can be told.
func (v *validation) object(n *yaml.Node) (o *Object, known Key) {
	v.node = n
	if n.Kind != yaml.MappingNode {
		v.wrong(n, nil, "expected an object with apiVersion, kind and metadata")
		return nil, known
	}
	group, version, grouped := strings.Cut(text(n, "apiVersion"), "/")
	if !grouped {
		group, version = "", group
	}
	known = Key{group, text(n, "kind"), text(n, "metadata", "namespace"), text(n, "metadata", "name")}
	v.version = version
	switch {
	case known.Kind == "":
		v.wrong(v.at("kind"), []any{"kind"}, "kind is needed: what the object is")
		return nil, known
	case version == "":
		v.wrong(v.at("apiVersion"), []any{"apiVersion"}, "apiVersion is needed: GROUP/VERSION, or v1")
		return nil, known
	}
	k := kinds[[2]string{group, known.Kind}]
	if k == nil {
		v.about = Key{"", clean(known.Kind), clean(known.Namespace), clean(known.Name)}.String()
		v.warn(n, "objects of apiVersion %s are not used%s", clean(text(n, "apiVersion")), otherKind(group, known.Kind))
		return nil, known
	}
	v.secret = known.Kind == "Secret"
	switch {
	case k.cluster:
		known.Namespace = ""
	case known.Namespace == "":
		known.Namespace = "default"
	}
	v.about = Key{"", known.Kind, clean(known.Namespace), clean(known.Name)}.String()
	v.names(known, k)
	if !slices.Contains(k.versions, version) {
		v.wrong(v.at("apiVersion"), []any{"apiVersion"}, "version %s is not known; expected one of %s", config.Quote(version), strings.Join(k.versions, ", "))
		return nil, known
	}
	if slices.Contains(k.deprecated, version) {
		v.warn(v.at("apiVersion"), "%s is deprecated: write %s/%s", text(n, "apiVersion"), group, k.versions[0])
	}
	value := reflect.New(k.of)
	tree := v.tree(n, k.of, nil)
	if len(v.problems) > 0 {
		return nil, known
	}
	m := tree.(map[string]any)
	if meta, ok := m["metadata"].(map[string]any); ok {
		delete(meta, "managedFields") // large, and for the API server only
		if k.cluster {
			delete(meta, "namespace")
		} else {
			meta["namespace"] = known.Namespace
		}
	}
	v.schema(m, schemas().of(known.Kind, version))
	if len(v.problems) > 0 {
		return nil, known
	}
	data, err := json.Marshal(m)
	if err == nil {
		err = json.Unmarshal(data, value.Interface())
	}
	if err != nil {
		v.wrong(n, nil, "%v", err)
		return nil, known
	}
	if k.validate != nil {
		k.validate(v, value.Interface())
		if len(v.problems) > 0 {
			return nil, known
		}
	}
	return &Object{Key: known, Version: version, Pos: config.Position{File: v.file, Line: n.Line, Column: n.Column}, Value: value.Interface(), node: lean(n), file: v.file}, known
}

// lean is an object without what nobody asks for, and may be large.
func lean(n *yaml.Node) *yaml.Node {
	without := func(n *yaml.Node, key string) *yaml.Node {
		thin := *n
		thin.Content = nil
		for i := 0; i+1 < len(n.Content); i += 2 {
			if resolve(n.Content[i]).Value != key {
				thin.Content = append(thin.Content, n.Content[i], n.Content[i+1])
			}
		}
		return &thin
	}
	thin := without(n, "status")
	for i := 0; i+1 < len(thin.Content); i += 2 {
		if value := thin.Content[i+1]; thin.Content[i].Value == "metadata" && child(resolve(value), "managedFields") != nil {
			thin.Content[i+1] = without(resolve(value), "managedFields")
		}
	}
	return thin
}

// names checks the object's name and namespace.
func (v *validation) names(known Key, k *kind) {
	isName := k8s.IsDNS1123Subdomain
	if k.label {
		isName = k8s.IsDNS1123Label
	}
	before := len(v.problems)
	if known.Name == "" {
		v.wrong(v.at("metadata", "name"), []any{"metadata", "name"}, "a name is needed")
	} else if why := isName(known.Name); len(why) > 0 {
		v.wrong(v.at("metadata", "name"), []any{"metadata", "name"}, "%s is no name: %s", config.Quote(known.Name), why[0])
	}
	if known.Namespace != "" && !k.cluster {
		if why := k8s.IsDNS1123Label(known.Namespace); len(why) > 0 {
			v.wrong(v.at("metadata", "namespace"), []any{"metadata", "namespace"}, "%s is no namespace: %s", config.Quote(known.Namespace), why[0])
		}
	}
	v.named = len(v.problems) == before
}

// otherKind is the kind of the group that was meant, if that is clear, as a question.
func otherKind(group, name string) string {
	var names []string
	for k := range kinds {
		if k[0] == group {
			names = append(names, k[1])
		}
	}
	slices.Sort(names)
	return config.DidYouMean(name, names)
}

// clean is a text as it is, if it can be put into a message like that.
func clean(s string) string {
	if len(s) <= 253 && utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 {
		return s
	}
	return config.Quote(s)
}
