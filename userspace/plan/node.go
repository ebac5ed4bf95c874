// SPDX-License-Identifier: Apache-2.0

package plan

import (
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/spliceway/spliceway/userspace/gateway"
	"github.com/spliceway/spliceway/userspace/manifest"
)

// onNode are objects in which Services that have endpoints on a node, ready ones, have no
// others. Without a node they are as they are.
func onNode(objects []*manifest.Object, node string) []*manifest.Object {
	if node == "" {
		return objects
	}
	service := func(s *discoveryv1.EndpointSlice) string {
		return s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName]
	}
	local := make(map[string]bool)
	here := func(e *discoveryv1.Endpoint) bool { return e.NodeName != nil && *e.NodeName == node }
	for _, o := range objects {
		if s, ok := o.Value.(*discoveryv1.EndpointSlice); ok {
			for i := range s.Endpoints {
				if e := &s.Endpoints[i]; here(e) && gateway.Takes(e.Conditions) {
					local[service(s)] = true
				}
			}
		}
	}
	all := make([]*manifest.Object, len(objects))
	for i, o := range objects {
		all[i] = o
		s, ok := o.Value.(*discoveryv1.EndpointSlice)
		if !ok || !local[service(s)] {
			continue
		}
		own := *s
		own.Endpoints = nil
		for j := range s.Endpoints {
			if here(&s.Endpoints[j]) {
				own.Endpoints = append(own.Endpoints, s.Endpoints[j])
			}
		}
		copied := *o
		copied.Value, all[i] = &own, &copied
	}
	return all
}
