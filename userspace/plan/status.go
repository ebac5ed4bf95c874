// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/spliceway/spliceway/userspace/api/v1alpha1"
	"github.com/spliceway/spliceway/userspace/config"
	"github.com/spliceway/spliceway/userspace/gateway"
	"github.com/spliceway/spliceway/userspace/manifest"
)

// ObjectStatus is what became of an object, as a controller would write it. Conditions
// have no LastTransitionTime: whoever writes them merges them with those that are there.
type ObjectStatus struct {
	manifest.Key
	Pos config.Position
	// Status is a pointer to the object's status type.
	Status any
}

// Conditions are those of the status, each with what it is about: of a Gateway also its
// listeners', of a route those of each parent.
func (s *ObjectStatus) Conditions() []Condition {
	of := func(about string, list []metav1.Condition) (all []Condition) {
		for _, c := range list {
			all = append(all, Condition{about, c})
		}
		return all
	}
	switch v := s.Status.(type) {
	case *v1alpha1.AgentEndpointStatus:
		return of("", v.Conditions)
	case *v1alpha1.CloudEndpointStatus:
		return of("", v.Conditions)
	case *v1alpha1.NgrokTrafficPolicyStatus:
		return of("", v.Conditions)
	case *gatewayv1.GatewayClassStatus:
		return of("", v.Conditions)
	case *gatewayv1.GatewayStatus:
		all := of("", v.Conditions)
		for _, l := range v.Listeners {
			all = append(all, of("listener "+string(l.Name), l.Conditions)...)
		}
		return all
	case *gatewayv1.TLSRouteStatus:
		return ofParents(v.Parents)
	case *gatewayv1.HTTPRouteStatus:
		return ofParents(v.Parents)
	case *gatewayv1.PolicyStatus:
		var all []Condition
		for _, a := range v.Ancestors {
			all = append(all, of("ancestor "+parentName(a.AncestorRef), a.Conditions)...)
		}
		return all
	}
	return nil
}

func ofParents(parents []gatewayv1.RouteParentStatus) (all []Condition) {
	for _, p := range parents {
		for _, c := range p.Conditions {
			all = append(all, Condition{"parent " + parentName(p.ParentRef), c})
		}
	}
	return all
}

// Condition is a condition, and what part of the object it is about; empty: all of it.
type Condition struct {
	About string
	metav1.Condition
}

func parentName(r gatewayv1.ParentReference) string {
	s := string(r.Name)
	if r.Namespace != nil {
		s = string(*r.Namespace) + "/" + s
	}
	if r.SectionName != nil {
		s += "/" + string(*r.SectionName)
	}
	return s
}

func condition(kind string, is bool, reason, message string, generation int64) metav1.Condition {
	c := metav1.Condition{Type: kind, Status: metav1.ConditionFalse, Reason: reason, Message: message, ObservedGeneration: generation}
	if is {
		c.Status = metav1.ConditionTrue
	}
	return c
}

// conditions says what became of the endpoint objects, in the words of ngrok's operator.
func (p *planner) conditions() {
	for _, o := range p.objects {
		switch v := o.Value.(type) {
		case *v1alpha1.AgentEndpoint:
			out := p.statuses[o.Key]
			p.Objects = append(p.Objects, ObjectStatus{o.Key, o.Pos, &v1alpha1.AgentEndpointStatus{
				AssignedURL: out.url, TrafficPolicy: out.policy, ObservedGeneration: v.Generation,
				Conditions: out.conditions("EndpointCreated", "EndpointCreated", "EndpointActive", v.Generation),
			}})
		case *v1alpha1.CloudEndpoint:
			out := p.statuses[o.Key]
			p.Objects = append(p.Objects, ObjectStatus{o.Key, o.Pos, &v1alpha1.CloudEndpointStatus{
				AssignedURL: out.url, ObservedGeneration: v.Generation,
				Conditions: out.conditions("CloudEndpointCreated", "CloudEndpointCreated", "CloudEndpointActive", v.Generation),
			}})
		case *v1alpha1.NgrokTrafficPolicy:
			p.Objects = append(p.Objects, ObjectStatus{o.Key, o.Pos, p.policyStatus(o, v)})
		}
	}
	slices.SortStableFunc(p.Objects, func(a, b ObjectStatus) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
}

func (o *outcome) conditions(created, createdReason, active string, generation int64) []metav1.Condition {
	createdCondition := condition(created, true, createdReason, "it is served", generation)
	switch {
	case o.wrong != nil:
		createdCondition = condition(created, false, "ConfigurationError", o.wrong.Text(), generation)
	case o.wrongUpstream != nil:
		createdCondition = condition(created, false, "UpstreamError", o.wrongUpstream.Text(), generation)
	case o.wrongPolicy != nil:
		createdCondition = condition(created, false, "TrafficPolicyError", "not without its traffic policy", generation)
	}
	all := []metav1.Condition{createdCondition}
	applied := condition("TrafficPolicyApplied", true, "TrafficPolicyApplied", "", generation)
	if o.wrongPolicy != nil {
		applied = condition("TrafficPolicyApplied", false, "TrafficPolicyError", o.wrongPolicy.Text(), generation)
	}
	if o.policy != "none" || o.wrongPolicy != nil {
		all = append(all, applied)
	}
	ready := condition("Ready", true, active, "connections to "+o.url+" are taken", generation)
	for _, c := range []metav1.Condition{applied, createdCondition} {
		if c.Status != metav1.ConditionTrue {
			ready = condition("Ready", false, c.Reason, c.Message, generation)
			break
		}
	}
	if o.kept {
		ready.Message += "; what was there before goes on"
	}
	return append(all, ready)
}

// policyStatus is of a policy by itself: endpoints that name it may be there or not.
func (p *planner) policyStatus(o *manifest.Object, v *v1alpha1.NgrokTrafficPolicy) *v1alpha1.NgrokTrafficPolicyStatus {
	wrong, after := p.replaced[o.Key], "; what was there before goes on"
	if wrong == nil {
		after = ""
		if errs := p.compile(o, []any{"spec", "policy"}, false).errs; len(errs) > 0 {
			wrong = errs[0]
			for _, w := range errs {
				p.addProblem(w)
			}
		}
	}
	of := func(kind string) metav1.Condition {
		if wrong != nil {
			return condition(kind, false, "TrafficPolicyError", wrong.Text()+after, v.Generation)
		}
		return condition(kind, true, kind, "", v.Generation)
	}
	return &v1alpha1.NgrokTrafficPolicyStatus{ObservedGeneration: v.Generation, Conditions: []metav1.Condition{of("Valid"), of("Ready")}}
}

// gatewayStatuses adds those of the Gateway API's objects, and what is wrong with them to
// the problems.
func (p *planner) gatewayStatuses(r *gateway.Result) {
	add := func(kind string, name types.NamespacedName, status any) {
		key := manifest.Key{Group: manifest.GroupGateway, Kind: kind, Namespace: name.Namespace, Name: name.Name}
		o := p.byKey[key]
		if o == nil {
			return
		}
		s := ObjectStatus{key, o.Pos, status}
		p.Objects = append(p.Objects, s)
		for _, c := range s.Conditions() {
			if Bad(c.Condition) {
				about := ""
				if c.About != "" {
					about = c.About + ": "
				}
				p.Problems = append(p.Problems, &config.Error{Pos: o.Pos, Msg: key.String() + ": " + about + c.Type + " is " + string(c.Status) + " (" + c.Reason + "): " + c.Message})
			}
		}
	}
	for _, name := range sorted(r.Classes) {
		s := r.Classes[name]
		add("GatewayClass", name, &s)
	}
	for _, name := range sorted(r.Gateways) {
		s := r.Gateways[name]
		add("Gateway", name, &s)
	}
	for _, name := range sorted(r.TLSRoutes) {
		s := r.TLSRoutes[name]
		add("TLSRoute", name, &s)
	}
	for _, name := range sorted(r.HTTPRoutes) {
		s := r.HTTPRoutes[name]
		add("HTTPRoute", name, &s)
	}
	for _, name := range sorted(r.BackendTLSPolicies) {
		s := r.BackendTLSPolicies[name]
		add("BackendTLSPolicy", name, &s)
	}
}

func sorted[T any](m map[types.NamespacedName]T) []types.NamespacedName {
	return slices.SortedFunc(maps.Keys(m), func(a, b types.NamespacedName) int { return cmp.Compare(a.String(), b.String()) })
}

// Bad tells whether a condition says that something is wrong. Of some types it is true
// that is bad.
func Bad(c metav1.Condition) bool {
	switch c.Type {
	case "Conflicted":
		return c.Status == metav1.ConditionTrue
	case "OverlappingTLSConfig", "InsecureFrontendValidationMode":
		return false
	}
	return c.Status == metav1.ConditionFalse
}
