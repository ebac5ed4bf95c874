// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

var update = flag.Bool("update", false, "write schemas/gateway.yaml")

// definition is a resource definition.
type definition struct {
	Spec struct {
		Names    struct{ Kind string }
		Versions []version
	}
}

type version struct {
	Name   string
	Schema struct {
		Open struct {
			Properties map[string]yaml.Node
		} `yaml:"openAPIV3Schema"`
	}
}

func sub(n *yaml.Node, step any) *yaml.Node {
	if n == nil {
		return nil
	}
	return child(n, step)
}

// withoutDefaulted removes from what is required what has a default: the API server fills
// it in first.
func withoutDefaulted(s *schema, n *yaml.Node) {
	if s == nil || n == nil {
		return
	}
	s.Required = slices.DeleteFunc(s.Required, func(key string) bool {
		p := sub(sub(n, "properties"), key)
		return p != nil && sub(p, "default") != nil
	})
	for key, p := range s.Properties {
		withoutDefaulted(p, sub(sub(n, "properties"), key))
	}
	withoutDefaulted(s.Items, sub(n, "items"))
	withoutDefaulted(s.AdditionalProperties, sub(n, "additionalProperties"))
}

// TestSchemasAreTheGatewayAPIs in the version of go.mod, with the fields of the
// experimental channel. With -update they are written anew.
func TestSchemasAreTheGatewayAPIs(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api").Output()
	if err != nil {
		t.Fatal(err)
	}
	all := make(schemaSet)
	for _, kind := range []string{"gatewayclasses", "gateways", "tlsroutes", "httproutes", "referencegrants", "backendtlspolicies"} {
		data, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "config/crd/experimental/gateway.networking.k8s.io_"+kind+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		var d definition
		if err := yaml.Unmarshal(data, &d); err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(d.Spec.Versions, func(a, b version) int {
			return len(a.Name) - len(b.Name) // v1 first
		})
		for _, v := range d.Spec.Versions {
			var s schema
			spec := v.Schema.Open.Properties["spec"]
			if err := spec.Decode(&s); err != nil {
				t.Fatal(err)
			}
			withoutDefaulted(&s, &spec)
			if v.Name == "v1" {
				all[d.Spec.Names.Kind] = &s
			} else if !reflect.DeepEqual(&s, all[d.Spec.Names.Kind]) {
				all[d.Spec.Names.Kind+"/"+v.Name] = &s
			}
		}
	}
	var text bytes.Buffer
	text.WriteString("# What the specs of gateway.networking.k8s.io may be, from its resource definitions. Written\n# by go test ./userspace/manifest -run Schemas -update; not to be edited.\n")
	e := yaml.NewEncoder(&text)
	e.SetIndent(1)
	if err := e.Encode(all); err != nil {
		t.Fatal(err)
	}
	const file = "schemas/gateway.yaml"
	if *update {
		if err := os.WriteFile(file, text.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, _ := os.ReadFile(file)
	if diff := cmp.Diff(text.String(), string(have)); diff != "" {
		t.Errorf("run with -update: -want +got:\n%s", diff)
	}
}
