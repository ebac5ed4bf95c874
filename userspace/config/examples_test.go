// SPDX-License-Identifier: Apache-2.0

package config

import (
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.yaml.in/yaml/v3"
)

const examples = "../../examples"

func TestExamplesLoad(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(examples, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples found: %v", err)
	}
	list, err := os.ReadFile(filepath.Join(examples, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		name := filepath.Base(file)
		t.Run(name, func(t *testing.T) {
			if _, err := Load(file); err != nil {
				t.Error(err)
			}
			if !strings.Contains(string(list), "("+name+")") {
				t.Errorf("README.md does not list it")
			}
		})
	}
}

func TestReferenceHasEveryKey(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(examples, "reference.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	keysOfNode(got, "", doc.Content[0])
	want := map[string]bool{}
	keysOfType(want, "", reflect.TypeFor[Config]())
	sorted := func(m map[string]bool) []string { return slices.Sorted(maps.Keys(m)) }
	if diff := cmp.Diff(sorted(want), sorted(got)); diff != "" {
		t.Errorf("keys of reference.yaml (-schema +file):\n%s", diff)
	}
}

// keysOfNode adds the path of every key below node to keys, with [] for the
// elements of a list.
func keysOfNode(keys map[string]bool, prefix string, node *yaml.Node) {
	switch node.Kind {
	case yaml.MappingNode:
		for i := 0; i < len(node.Content); i += 2 {
			path := prefix + "." + node.Content[i].Value
			keys[path] = true
			keysOfNode(keys, path, node.Content[i+1])
		}
	case yaml.SequenceNode:
		for _, element := range node.Content {
			keysOfNode(keys, prefix+"[]", element)
		}
	}
}

// keysOfType does the same for a type of the schema.
func keysOfType(keys map[string]bool, prefix string, t reflect.Type) {
	switch {
	case t.Kind() == reflect.Slice:
		keysOfType(keys, prefix+"[]", t.Elem())
	case t.Kind() == reflect.Pointer:
		keysOfType(keys, prefix, t.Elem())
	case t.Kind() == reflect.Struct && t.PkgPath() == reflect.TypeFor[Config]().PkgPath():
		for i := range t.NumField() {
			if tag := t.Field(i).Tag.Get("yaml"); tag != "-" {
				path := prefix + "." + tag
				keys[path] = true
				keysOfType(keys, path, t.Field(i).Type)
			}
		}
	}
}

func TestReferenceHasTheDefaults(t *testing.T) {
	got, err := Load(filepath.Join(examples, "reference.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	want, err := Parse(filepath.Join(examples, "minimal.yaml"), []byte(`
endpoints:
- {name: reference, url: tls://reference.example.com, upstream: {url: "tls://10.0.0.1:443"}}
- name: terminated
  url: tls://terminated.example.com
  tlsTermination:
    certificates: [{certFile: tls/terminated.crt, keyFile: tls/terminated.key}, {directory: tls/more.d}]
    mutualTLS: {caFiles: [tls/clients-ca.pem]}
  upstream: {url: "tls://10.0.0.3:8443", tls: {}}
- {name: several-targets, url: tls://several-targets.example.com, upstream: {targets: [{url: "tls://10.0.0.2:443"}]}}
`))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, compare,
		cmpopts.IgnoreTypes(Position{}), cmpopts.IgnoreFields(Admin{}, "AddressSet"), cmpopts.IgnoreFields(Kubernetes{}, "Set")); diff != "" {
		t.Errorf("reference.yaml (-defaults +file):\n%s", diff)
	}
}

// compare lets cmp look into addresses, and takes an empty list or map for one
// that is not there.
var compare = cmp.Options{cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})}
