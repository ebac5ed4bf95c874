// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"strings"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/spliceway/spliceway/userspace/config"
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

// Who may write objects of a cluster is not to reach what only the node can; who writes its
// files is.
func TestWhatOnlyTheNodeReaches(t *testing.T) {
	text := ""
	for i, host := range []string{"localhost", "x.localhost.", "127.0.0.1", "[::1]", "169.254.169.254", "[::ffff:127.0.0.1]", "10.0.0.1", "localhost.example.com"} {
		text += agent(string(rune('a'+i)), `{url: "tls://`+string(rune('a'+i))+`.test", upstream: {url: "tcp://`+host+`:1"}}`)
	}
	for own, want := range map[bool]int{false: 2, true: 8} {
		set := manifest.Parse("m.yaml", []byte(text))
		o := Options{Cluster: true, Own: make(map[manifest.Key]bool)}
		for _, x := range set.Objects {
			o.Own[x.Key] = own
		}
		p := Make(&config.Config{}, set, o)
		if len(p.Endpoints) != want {
			t.Errorf("own %t: %d endpoints, want %d: %v", own, len(p.Endpoints), want, p.Problems)
		}
		for i := range p.Endpoints {
			if p.Endpoints[i].Tenant == own {
				t.Errorf("%s: a tenant's: %t", p.Endpoints[i].From, own)
			}
		}
	}
}
