// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
)

func TestReferences(t *testing.T) {
	set := readAll(t,
		`{"apiVersion":"gateway.networking.k8s.io/v1","kind":"GatewayClass","metadata":{"name":"c"},"spec":{"controllerName":"`+controller+`"}}`,
		`{"apiVersion":"gateway.networking.k8s.io/v1","kind":"ReferenceGrant","metadata":{"namespace":"b","name":"g"},"spec":{"from":[{"group":"gateway.networking.k8s.io","kind":"Gateway","namespace":"a"}],"to":[{"group":"","kind":"Secret","name":"other"},{"group":"","kind":"ConfigMap"}]}}`,
		`{"apiVersion":"gateway.networking.k8s.io/v1","kind":"Gateway","metadata":{"namespace":"0","name":"greedy"},"spec":{"gatewayClassName":"c",
		  "listeners":[{"name":"l","port":443,"protocol":"TLS","tls":{"certificateRefs":[{"name":"own","namespace":"a"},{"name":"x","namespace":"b"}]}}]}}`,
		`{"apiVersion":"gateway.networking.k8s.io/v1","kind":"Gateway","metadata":{"namespace":"a","name":"foreign"},"spec":{"gatewayClassName":"d",
		  "listeners":[{"name":"l","port":443,"protocol":"TLS","tls":{"certificateRefs":[{"name":"foreign"}]}}]}}`,
		`{"apiVersion":"gateway.networking.k8s.io/v1","kind":"Gateway","metadata":{"namespace":"a","name":"g"},"spec":{"gatewayClassName":"c",
		  "tls":{"backend":{"clientCertificateRef":{"name":"client"}},
		    "frontend":{"default":{"validation":{"caCertificateRefs":[{"group":"","kind":"ConfigMap","name":"ca","namespace":"b"}]}},
		      "perPort":[{"port":443,"tls":{"validation":{"caCertificateRefs":[{"group":"","kind":"ConfigMap","name":"port-ca"}]}}}]}},
		  "listeners":[{"name":"l","port":443,"protocol":"TLS","tls":{"certificateRefs":[{"name":"own"},{"name":"other","namespace":"b"},{"kind":"Nonsense","name":"x"}]}}]}}`,
		`{"apiVersion":"gateway.networking.k8s.io/v1","kind":"BackendTLSPolicy","metadata":{"namespace":"a","name":"p"},"spec":{"targetRefs":[],"validation":{"hostname":"h.example.com","caCertificateRefs":[{"group":"","kind":"ConfigMap","name":"backend-ca"}]}}}`,
		`{"apiVersion":"spliceway.dev/v1alpha1","kind":"AgentEndpoint","metadata":{"namespace":"e","name":"e"},"spec":{"url":"tls://a.example.com","upstream":{"url":"tcp://10.0.0.1:80"},
		  "tlsTermination":{"serverCertificateRef":{"name":"server"},"mutualTLS":{"clientCAsRef":{"name":"cas"}}},"clientCertificateRefs":[{"name":"client"}]}}`)
	var got []string
	for r, from := range references(set.Objects, controller) {
		got = append(got, r.kind+" "+r.String()+" of "+from)
	}
	slices.Sort(got)
	want := []string{"ConfigMap a/backend-ca of a", "ConfigMap a/port-ca of a", "ConfigMap b/ca of a", "Secret a/client of a", "Secret a/own of a", "Secret b/other of a", "Secret e/cas of e", "Secret e/client of e", "Secret e/server of e"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("references (-want +got):\n%s\n%v", diff, set.Problems)
	}
}

func TestBounded(t *testing.T) {
	wanted := make(map[reference]string)
	named := func(namespace string, n int) reference {
		return reference{"Secret", types.NamespacedName{Namespace: namespace, Name: fmt.Sprintf("s%03d", n)}}
	}
	for namespace, n := range map[string]int{"greedy": 100, "modest": 3, "second": 20} {
		for i := range n {
			wanted[named(namespace, i)] = namespace
		}
	}
	count := func(all map[reference]bool) (s string) {
		by := make(map[string]int)
		for r := range all {
			by[r.Namespace]++
		}
		return fmt.Sprint(by)
	}
	none := func(reference) bool { return false }
	for _, tt := range []struct {
		limit      int
		kept, left string
	}{
		{1000, "map[greedy:100 modest:3 second:20]", "map[]"},
		{63, "map[greedy:40 modest:3 second:20]", "map[greedy:60]"},
		{30, "map[greedy:14 modest:3 second:13]", "map[greedy:86 second:7]"},
		{1, "map[greedy:1]", "map[greedy:99 modest:3 second:20]"},
	} {
		kept, left := bounded(wanted, none, tt.limit)
		if count(kept) != tt.kept || count(left) != tt.left || len(kept) > tt.limit {
			t.Errorf("%d: kept %s, left %s; want %s, %s", tt.limit, count(kept), count(left), tt.kept, tt.left)
		}
	}
	// Who was there stays.
	kept, _ := bounded(wanted, func(r reference) bool { return r == named("greedy", 99) }, 30)
	if !kept[named("greedy", 99)] {
		t.Error("what was known before makes room for what is new")
	}
	s := &Snapshot{unwatched: map[reference]bool{named("a", 1): true}, limit: 5}
	if err := s.Unwatched("Secret", named("a", 1).NamespacedName); err == nil || !strings.Contains(err.Error(), "the 5 that") {
		t.Errorf("it is said: %v", err)
	}
	if err := s.Unwatched("Secret", named("a", 2).NamespacedName); err != nil {
		t.Error(err)
	}
}
