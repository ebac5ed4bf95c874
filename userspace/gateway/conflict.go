// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"fmt"
	"slices"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// findConflicts marks listeners that cannot be told apart. Within a Gateway none
// of them wins; among Gateways on the same address the one that comes first does.
func (c *computation) findConflicts() {
	for _, g := range c.gateways {
		for i, a := range g.listeners {
			for _, b := range g.listeners[i+1:] {
				if reason := clash(a, b); reason != "" && a.basic.ok() && b.basic.ok() {
					a.conflict.set(reason, fmt.Sprintf("listener %s has the same port, and its names or protocol cannot be told apart from this one's", b.spec.Name))
					b.conflict.set(reason, fmt.Sprintf("listener %s has the same port, and its names or protocol cannot be told apart from this one's", a.spec.Name))
				}
			}
		}
	}
	type claim struct {
		place
		name string
	}
	taken := map[claim]*listener{}
	for _, g := range c.gateways {
		for _, l := range g.listeners {
			if !l.claims() {
				continue
			}
			for _, p := range l.places() {
				for _, n := range l.names {
					if first := taken[claim{p, n}]; first != nil && first.gateway != g {
						l.conflict.set(string(gatewayv1.ListenerReasonHostnameConflict), fmt.Sprintf("listener %s of Gateway %s has the same address, port and hostname (%s), and comes first", first.spec.Name, first.gateway.name, n))
					}
				}
			}
			if !l.conflict.ok() {
				continue
			}
			for _, p := range l.places() {
				for _, n := range l.names {
					taken[claim{p, n}] = l
				}
			}
		}
	}
}

// clash returns why two listeners of a Gateway cannot be told apart, or "".
func clash(a, b *listener) string {
	http := func(l *listener) bool { return l.spec.Protocol == gatewayv1.HTTPProtocolType }
	switch {
	case a.spec.Port != b.spec.Port:
		return ""
	case http(a) != http(b):
		return string(gatewayv1.ListenerReasonProtocolConflict)
	case slices.ContainsFunc(a.names, func(n string) bool { return slices.Contains(b.names, n) }):
		return string(gatewayv1.ListenerReasonHostnameConflict)
	}
	return ""
}

// findOverlaps notes which listeners for TLS on a port of a Gateway have names in common.
func (c *computation) findOverlaps() {
	secure := func(l *listener) bool {
		return l.basic.ok() && (l.spec.Protocol == gatewayv1.HTTPSProtocolType || l.spec.Protocol == gatewayv1.TLSProtocolType)
	}
	for _, g := range c.gateways {
		for _, a := range g.listeners {
			for _, b := range g.listeners {
				if a != b && a.spec.Port == b.spec.Port && secure(a) && secure(b) && share(a.names, b.names) {
					a.overlaps = append(a.overlaps, string(b.spec.Name))
				}
			}
			slices.Sort(a.overlaps)
		}
	}
}
