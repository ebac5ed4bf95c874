// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"os"
	"strings"
	"testing"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"github.com/spliceway/spliceway/userspace/api/v1alpha1"
)

// many is n endpoints with a policy each.
func many(n int) []byte {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `apiVersion: ngrok.k8s.ngrok.com/v1alpha1
kind: AgentEndpoint
metadata:
  name: endpoint-%d
  namespace: default
spec:
  url: tls://host-%d.example.com
  upstream:
    url: tls://service-%d.default:8443
  trafficPolicy:
    inline:
      on_tcp_connect:
      - expressions:
        - "conn.client_ip in ['192.0.2.1'] || inCidrRange(conn.client_ip, '10.0.0.0/8')"
        actions:
        - type: deny
      - actions:
        - type: log
          config:
            metadata: {tenant: "%d"}
---
`, i, i, i, i)
	}
	return []byte(b.String())
}

func BenchmarkParse10000(b *testing.B) {
	data := many(10_000)
	for b.Loop() {
		if s := Parse("f.yaml", data); len(s.Objects) != 10_000 {
			b.Fatal(s.Problems)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, file := range []string{"agentendpoint", "cloudendpoint", "gateway-tlsroute"} {
		data, err := os.ReadFile("../../examples/manifests/" + file + ".yaml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("apiVersion: v1\nkind: Secret\nmetadata: &m {name: s}\ndata: {a: YQ==}\n---\napiVersion: v1\nkind: Service\nmetadata: *m\nspec: {ports: [{port: 1, targetPort: x}]}\n"))
	f.Add([]byte("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s}\naddressType: IPv4\nendpoints: [{addresses: [10.0.0.1], conditions: {ready: true}}]\nports: [{name: a, port: 1}]\n"))
	f.Add([]byte("apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: x}\nspec: {targetRefs: [{kind: Service, name: s, group: ''}], validation: {hostname: a.test, wellKnownCACertificates: System}}\n"))
	f.Add([]byte("{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [{\"apiVersion\": \"v1\", \"kind\": \"ConfigMap\", \"metadata\": {\"name\": \"\\ud83d\\ude00\"}}]}\n%YAML 1.1\n---\nx\n...\n---\n[\n"))
	f.Add([]byte("apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: x, creationTimestamp: 2026-01-02T03:04:05Z}\nspec: {from: [{group: gateway.networking.k8s.io, kind: TLSRoute, namespace: a}], to: [{group: '', kind: Service}]}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := Parse("f.yaml", data)
		for _, p := range s.Problems {
			if p.Pos.Line < 1 || p.Pos.Column < 1 || strings.ContainsAny(p.Error(), "\n\x00\x1b") || len(p.Error()) > 5000 {
				t.Fatalf("problem %q", p.Error())
			}
		}
		for _, o := range s.Objects {
			if e, ok := o.Value.(*v1alpha1.AgentEndpoint); ok && e.Spec.TrafficPolicy != nil && e.Spec.TrafficPolicy.Inline != nil && o.Node("spec", "trafficPolicy", "inline") == nil {
				t.Fatalf("no node of the policy of %s", o)
			}
			first, err := yaml.Marshal(o.Value)
			if err != nil {
				t.Fatal(err)
			}
			again := Parse("f.yaml", first)
			if len(again.Objects) != 1 {
				if r, ok := o.Value.(*gatewayv1.TLSRoute); ok && r.APIVersion != "gateway.networking.k8s.io/v1" {
					return
				}
				t.Fatalf("%s\n%v", first, again.Problems)
			}
			second, err := yaml.Marshal(again.Objects[0].Value)
			if err != nil || string(first) != string(second) {
				t.Fatalf("%v: %s\nbecomes\n%s", err, first, second)
			}
		}
	})
}
