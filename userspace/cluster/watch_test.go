// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// told is an API server's answer to what it has.
type told struct {
	discovery.DiscoveryInterface
	lists []*metav1.APIResourceList
	err   error
}

func (d told) ServerGroupsAndResources() ([]*metav1.APIGroup, []*metav1.APIResourceList, error) {
	return nil, d.lists, d.err
}

// What discovery cannot tell leaves what is watched as it is, and what is not watched unknown:
// else the agent would take a cluster without Gateways for all there is.
func TestWhatDiscoveryCannotTell(t *testing.T) {
	group := gatewayv1.GroupName
	list := func(version string, resources ...string) *metav1.APIResourceList {
		l := &metav1.APIResourceList{GroupVersion: group + "/" + version}
		for _, r := range resources {
			l.APIResources = append(l.APIResources, metav1.APIResource{Name: r})
		}
		return l
	}
	other := &metav1.APIResourceList{GroupVersion: "v1", APIResources: []metav1.APIResource{{Name: "services"}}}
	failed := &discovery.ErrGroupDiscoveryFailed{Groups: map[schema.GroupVersion]error{{Group: group, Version: "v1"}: errors.New("503")}}
	routes := kindOf[gatewayv1.TLSRoute](group, "TLSRoute", "tlsroutes", "v1", "v1alpha2")
	key := watched{group: group, name: "TLSRoute"}
	watching := &watch{kind: &routes, resource: schema.GroupVersionResource{Group: group, Version: "v1", Resource: "tlsroutes"}}
	for _, tt := range []struct {
		name    string
		watches map[watched]*watch
		answer  told
		known   bool
		fails   bool
	}{
		{"nothing at all", nil, told{err: errors.New("refused")}, false, true},
		{"the group is not there", nil, told{lists: []*metav1.APIResourceList{other}}, true, false},
		{"the group cannot be asked", nil, told{lists: []*metav1.APIResourceList{other}, err: failed}, false, true},
		{"an error that names no group", nil, told{lists: []*metav1.APIResourceList{other}, err: errors.New("half of it")}, false, true},
		{"the group cannot be asked any more", map[watched]*watch{key: watching}, told{lists: []*metav1.APIResourceList{other}, err: failed}, true, false},
		{"only an older version is told", map[watched]*watch{key: watching}, told{lists: []*metav1.APIResourceList{list("v1alpha2", "tlsroutes")}, err: failed}, true, false},
		{"all is as it was", map[watched]*watch{key: watching}, told{lists: []*metav1.APIResourceList{list("v1", "tlsroutes")}}, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &Cluster{kinds: []kind{routes}, discovery: tt.answer, watches: tt.watches}
			err := c.served(t.Context())
			if c.known != tt.known || (err != nil) != tt.fails {
				t.Errorf("known %t, %v; want %t, fails %t", c.known, err, tt.known, tt.fails)
			}
			if tt.watches != nil && c.watches[key] != watching {
				t.Error("it is watched otherwise")
			}
		})
	}
}
