// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReferences(t *testing.T) {
	set := readAll(t,
		`{"apiVersion":"gateway.networking.k8s.io/v1","kind":"Gateway","metadata":{"namespace":"a","name":"g"},"spec":{"gatewayClassName":"c",
		  "tls":{"backend":{"clientCertificateRef":{"name":"client"}},
		    "frontend":{"default":{"validation":{"caCertificateRefs":[{"group":"","kind":"ConfigMap","name":"ca","namespace":"b"}]}},
		      "perPort":[{"port":443,"tls":{"validation":{"caCertificateRefs":[{"group":"","kind":"ConfigMap","name":"port-ca"}]}}}]}},
		  "listeners":[{"name":"l","port":443,"protocol":"TLS","tls":{"certificateRefs":[{"name":"own"},{"name":"other","namespace":"b"},{"kind":"Nonsense","name":"x"}]}}]}}`,
		`{"apiVersion":"gateway.networking.k8s.io/v1","kind":"BackendTLSPolicy","metadata":{"namespace":"a","name":"p"},"spec":{"targetRefs":[],"validation":{"hostname":"h.example.com","caCertificateRefs":[{"group":"","kind":"ConfigMap","name":"backend-ca"}]}}}`,
		`{"apiVersion":"spliceway.dev/v1alpha1","kind":"AgentEndpoint","metadata":{"namespace":"e","name":"e"},"spec":{"url":"tls://a.example.com","upstream":{"url":"tcp://10.0.0.1:80"},
		  "tlsTermination":{"serverCertificateRef":{"name":"server"},"mutualTLS":{"clientCAsRef":{"name":"cas"}}},"clientCertificateRefs":[{"name":"client"}]}}`)
	var got []string
	for r := range references(set.Objects) {
		got = append(got, r.kind+" "+r.String())
	}
	slices.Sort(got)
	want := []string{"ConfigMap a/backend-ca", "ConfigMap a/port-ca", "ConfigMap b/ca", "Secret a/client", "Secret a/own", "Secret b/other", "Secret e/cas", "Secret e/client", "Secret e/server"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("references (-want +got):\n%s\n%v", diff, set.Problems)
	}
}
