// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// attachable is a route of any kind that wants to attach to Gateways of ours.
type attachable struct {
	object    metav1.Object
	name      types.NamespacedName
	kind      string
	hostnames []string // valid ones; anyName if the object has none
	nameless  bool     // the object has none
	parents   []parent
	refs      finding
	services  []types.NamespacedName // that its backendRefs name
	tls       *gatewayv1.TLSRoute    // nil: of another kind
	backends  []Backend              // of the rule that is served, without TLS
	http      *gatewayv1.HTTPRoute   // nil: of another kind
	rules     []httpRule
	served    []served // of a TLSRoute's connections
	// unsupported is what it asks for in vain.
	unsupported finding
}

// parent is one parentRef.
type parent struct {
	ref     gatewayv1.ParentReference
	gateway *gateway
	// candidates allow the route; their hostnames are not looked at yet.
	candidates []*listener
	refused    finding // why there are no candidates
	attached   []*listener
}

func (c *computation) readRoutes() {
	for _, r := range sorted(c.in.TLSRoutes) {
		if a := c.readRoute(kindTLSRoute, r, r.Spec.ParentRefs, r.Spec.Hostnames); a != nil {
			a.tls = r
			if len(r.Spec.Rules) > 0 {
				a.backends = c.resolveAll(a, r.Spec.Rules[0].BackendRefs)
			}
			if len(r.Spec.Rules) > 1 {
				c.warn(kindTLSRoute, r, fmt.Sprintf("%d rules: all take the same connections, so that only the first is used", len(r.Spec.Rules)))
			}
		}
	}
	for _, r := range sorted(c.in.HTTPRoutes) {
		if a := c.readRoute(kindHTTPRoute, r, r.Spec.ParentRefs, r.Spec.Hostnames); a != nil {
			c.readHTTPRoute(a, r)
		}
	}
}

// readRoute adds a route to c.routes and returns it, or nil if no Gateway of ours
// is among its parents.
func (c *computation) readRoute(kind string, o metav1.Object, refs []gatewayv1.ParentReference, hostnames []gatewayv1.Hostname) *attachable {
	a := &attachable{object: o, name: key(o), kind: kind, nameless: len(hostnames) == 0}
	for _, ref := range refs {
		if value(ref.Group, gatewayv1.GroupName) != gatewayv1.GroupName {
			continue
		}
		if k := value(ref.Kind, "Gateway"); k != "Gateway" {
			c.warn(kind, o, fmt.Sprintf("parentRefs: %s %s: not supported; a Gateway is", k, ref.Name))
			continue
		}
		name := types.NamespacedName{Namespace: string(value(ref.Namespace, gatewayv1.Namespace(o.GetNamespace()))), Name: string(ref.Name)}
		g := c.byName[name]
		if g == nil {
			if c.objects.gateways[name] == nil {
				c.warn(kind, o, fmt.Sprintf("parentRefs: Gateway %s is not there", name))
			}
			continue
		}
		if slices.ContainsFunc(a.parents, func(p parent) bool {
			return p.gateway == g && value(p.ref.SectionName, "") == value(ref.SectionName, "") && value(p.ref.Port, 0) == value(ref.Port, 0)
		}) {
			continue
		}
		p := parent{ref: ref, gateway: g}
		c.findCandidates(&p, kind, o.GetNamespace(), a.nameless)
		group, k := gatewayv1.Group(gatewayv1.GroupName), gatewayv1.Kind("Gateway")
		p.ref.Group, p.ref.Kind = &group, &k
		a.parents = append(a.parents, p)
	}
	if len(a.parents) == 0 {
		return nil
	}
	for _, h := range hostnames {
		if err := checkHostname(string(h)); err != nil {
			c.warn(kind, o, err.Error()+"; left out")
		} else if !slices.Contains(a.hostnames, string(h)) {
			a.hostnames = append(a.hostnames, string(h))
		}
	}
	if a.nameless {
		a.hostnames = []string{anyName}
	}
	c.routes = append(c.routes, a)
	return a
}

// findCandidates finds the listeners that p refers to and that allow such a route.
func (c *computation) findCandidates(p *parent, kind, namespace string, nameless bool) {
	p.refused.set(string(gatewayv1.RouteReasonNoMatchingParent), fmt.Sprintf("Gateway %s has no listener of the name and port that parentRefs asks for", p.gateway.name))
	found := false
	for _, l := range p.gateway.listeners {
		if section := value(p.ref.SectionName, l.spec.Name); section != l.spec.Name {
			continue
		}
		if port := value(p.ref.Port, l.spec.Port); port != l.spec.Port {
			continue
		}
		if why := c.allows(l, kind, namespace); why != "" {
			if !found {
				p.refused = finding{string(gatewayv1.RouteReasonNotAllowedByListeners), why}
			}
			found = true
			continue
		}
		p.candidates = append(p.candidates, l)
		l.nameless = l.nameless || nameless
		l.hostnames = l.hostnames || !nameless
	}
}

// attach attaches routes to those of their candidates that have names in common
// with them, whether or not these listeners are served, and reports that.
func (c *computation) attach() {
	counted := map[*listener]*attachable{}
	for _, a := range c.routes {
		var statuses []gatewayv1.RouteParentStatus
		for i := range a.parents {
			p := &a.parents[i]
			f := p.refused
			if len(p.candidates) > 0 {
				f = finding{string(gatewayv1.RouteReasonNoMatchingListenerHostname), "no hostname of the route is within one of the listener's"}
				if !a.unsupported.ok() {
					f = a.unsupported
				}
			}
			for _, l := range p.candidates {
				if !a.unsupported.ok() || !share(a.hostnames, l.names) {
					continue
				}
				f = finding{}
				p.attached = append(p.attached, l)
				if counted[l] != a { // by another parentRef
					counted[l] = a
					l.attached++
				}
			}
			generation := a.object.GetGeneration()
			statuses = append(statuses, gatewayv1.RouteParentStatus{
				ParentRef:      p.ref,
				ControllerName: gatewayv1.GatewayController(c.in.ControllerName),
				Conditions: []metav1.Condition{
					f.condition(string(gatewayv1.RouteConditionAccepted), generation, finding{string(gatewayv1.RouteReasonAccepted), "attached"}),
					a.refs.condition(string(gatewayv1.RouteConditionResolvedRefs), generation, finding{string(gatewayv1.RouteReasonResolvedRefs), "all backends are there"}),
				},
			})
		}
		status := gatewayv1.RouteStatus{Parents: statuses}
		if a.tls != nil {
			c.out.TLSRoutes[a.name] = gatewayv1.TLSRouteStatus{RouteStatus: status}
		} else {
			c.out.HTTPRoutes[a.name] = gatewayv1.HTTPRouteStatus{RouteStatus: status}
		}
	}
}

// share tells whether a name of a has something in common with one of b.
func share(a, b []string) bool {
	return slices.ContainsFunc(a, func(x string) bool {
		return slices.ContainsFunc(b, func(y string) bool { _, ok := intersect(x, y); return ok })
	})
}
