// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"strings"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/spliceway/spliceway/userspace/manifest"
)

func TestEndpointsOfTheNode(t *testing.T) {
	slice := func(name, service, endpoints string) string {
		return "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: " + name + ", labels: {kubernetes.io/service-name: " + service + "}}\naddressType: IPv4\nports: [{port: 1}]\nendpoints: [" + endpoints + "]\n"
	}
	set := manifest.Parse("m.yaml", []byte(""+
		slice("a-1", "a", "{addresses: [10.0.0.1], nodeName: here}, {addresses: [10.0.0.2], nodeName: there}")+
		slice("a-2", "a", "{addresses: [10.0.0.3], nodeName: there}, {addresses: [10.0.0.4]}")+
		slice("b-1", "b", "{addresses: [10.0.0.5], nodeName: there}, {addresses: [10.0.0.6], nodeName: here, conditions: {ready: false}}")))
	addresses := func(node string) string {
		var all []string
		for _, o := range onNode(set.Objects, node) {
			for _, e := range o.Value.(*discoveryv1.EndpointSlice).Endpoints {
				all = append(all, e.Addresses...)
			}
		}
		return strings.Join(all, " ")
	}
	everything := "10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6"
	for node, want := range map[string]string{
		"": everything, "elsewhere": everything, "here": "10.0.0.1 10.0.0.5 10.0.0.6", "there": "10.0.0.2 10.0.0.3 10.0.0.5",
	} {
		if got := addresses(node); got != want {
			t.Errorf("on %q: %s, want %s", node, got, want)
		}
	}
}
