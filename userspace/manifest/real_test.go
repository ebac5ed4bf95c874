// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/spliceway/spliceway/userspace/api/v1alpha1"
)

// TestRealManifests are taken as tools write them.
func TestRealManifests(t *testing.T) {
	for _, tt := range []struct {
		file              string
		objects, warnings []string
	}{
		{"kubectl-get.yaml", []string{
			"AgentEndpoint default/shop", "GatewayClass spliceway", "Gateway infra/edge", "TLSRoute shop/shop", "ReferenceGrant shop/routes", "BackendTLSPolicy shop/shop",
			"Service shop/shop", "EndpointSlice shop/shop-m7k9d", "Secret infra/admin-tls", "ConfigMap shop/shop-ca", "Namespace shop",
		}, nil},
		{"helm-template.yaml", []string{"Secret shop/shop-tls", "Service shop/shop", "TLSRoute shop/shop", "CloudEndpoint shop/shop"}, []string{
			"38:1: Deployment shop/shop: objects of apiVersion apps/v1 are not used",
			"47:13: TLSRoute shop/shop: gateway.networking.k8s.io/v1alpha3 is deprecated: write gateway.networking.k8s.io/v1",
			"76:22: CloudEndpoint shop/shop: spec.trafficPolicyName is deprecated: write trafficPolicy: {targetRef: {name: ...}}",
		}},
	} {
		s := Load([]string{"testdata/real/" + tt.file})
		if len(s.Problems) > 0 {
			t.Errorf("%s: %v", tt.file, s.Problems)
		}
		if diff := cmp.Diff(tt.objects, list(s.Objects)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", tt.file, diff)
		}
		warnings := strings.ReplaceAll(strings.Join(list(s.Warnings), "\n"), "testdata/real/"+tt.file+":", "")
		if diff := cmp.Diff(strings.Join(tt.warnings, "\n"), warnings); diff != "" {
			t.Errorf("%s: -want +got:\n%s", tt.file, diff)
		}
	}
}

// TestWhatIsKept is not what only the API server needs.
func TestWhatIsKept(t *testing.T) {
	o := Load([]string{"testdata/real/kubectl-get.yaml"}).Objects[0]
	if o.Node("status") != nil || o.Node("metadata", "managedFields") != nil || o.Node("metadata", "name") == nil || o.Node("spec", "trafficPolicy", "inline") == nil {
		t.Errorf("kept: %v", o.Node())
	}
	if o.Value.(*v1alpha1.AgentEndpoint).ManagedFields != nil {
		t.Error("managedFields are kept")
	}
}

// TestJSONIsTheSame as YAML (kubectl get -o json).
func TestJSONIsTheSame(t *testing.T) {
	text, err := os.ReadFile("testdata/real/kubectl-get.yaml")
	if err != nil {
		t.Fatal(err)
	}
	compact, err := yaml.YAMLToJSON(text)
	if err != nil {
		t.Fatal(err)
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, compact, "", "\t"); err != nil {
		t.Fatal(err)
	}
	want := Parse("f.yaml", text)
	for _, data := range [][]byte{compact, indented.Bytes()} {
		s := Parse("f.json", data)
		if len(s.Problems) > 0 || len(s.Objects) != len(want.Objects) {
			t.Fatalf("%d objects, %v", len(s.Objects), s.Problems)
		}
		for i, o := range s.Objects {
			if diff := cmp.Diff(want.Objects[i].Value, o.Value); diff != "" {
				t.Errorf("%s: -want +got:\n%s", o, diff)
			}
		}
	}
}
