// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/spliceway/spliceway/userspace/api/v1alpha1"
)

// How many a policy's and a route's status may have.
const (
	maxAncestors = 16
	maxParents   = 32
)

func bound[T any](list []T, limit int) []T { return list[:min(len(list), limit)] }

// merged is an object's status with what is wanted of it in it: what other controllers
// wrote stays, and a condition that says what it said before keeps its time. wanted is a
// pointer to the status type of object; nil: nothing of ours belongs there any more. The
// result is nil if the object's status is this already.
func merged(object any, wanted any, controller string, now metav1.Time) any {
	switch v := object.(type) {
	case *gatewayv1.GatewayClass:
		if w, ok := wanted.(*gatewayv1.GatewayClassStatus); ok {
			next := *w
			next.Conditions = withForeign(v.Status.Conditions, w.Conditions, now)
			return unlessSame(&v.Status, &next)
		}
	case *gatewayv1.Gateway:
		if w, ok := wanted.(*gatewayv1.GatewayStatus); ok {
			next := *w
			next.AttachedListenerSets = v.Status.AttachedListenerSets
			next.Conditions = withForeign(v.Status.Conditions, w.Conditions, now)
			next.Listeners = slices.Clone(w.Listeners)
			for i := range next.Listeners {
				l := &next.Listeners[i]
				var before []metav1.Condition
				for _, o := range v.Status.Listeners {
					if o.Name == l.Name {
						before = o.Conditions
					}
				}
				l.Conditions = timed(before, l.Conditions, now)
			}
			return unlessSame(&v.Status, &next)
		}
	case *gatewayv1.TLSRoute:
		next, w := v.Status, gatewayv1.TLSRouteStatus{}
		if status, ok := wanted.(*gatewayv1.TLSRouteStatus); ok {
			w = *status
		}
		next.Parents = mergedParents(v.Status.Parents, w.Parents, controller, now)
		return unlessSame(&v.Status, &next)
	case *gatewayv1.HTTPRoute:
		next, w := v.Status, gatewayv1.HTTPRouteStatus{}
		if status, ok := wanted.(*gatewayv1.HTTPRouteStatus); ok {
			w = *status
		}
		next.Parents = mergedParents(v.Status.Parents, w.Parents, controller, now)
		return unlessSame(&v.Status, &next)
	case *gatewayv1.BackendTLSPolicy:
		next, w := v.Status, gatewayv1.PolicyStatus{}
		if status, ok := wanted.(*gatewayv1.PolicyStatus); ok {
			w = *status
		}
		next.Ancestors = bound(ofAll(v.Status.Ancestors, w.Ancestors, controller, ancestorOf, now), maxAncestors)
		return unlessSame(&v.Status, &next)
	case *v1alpha1.AgentEndpoint:
		if w, ok := wanted.(*v1alpha1.AgentEndpointStatus); ok {
			next := *w
			next.Conditions = withForeign(v.Status.Conditions, w.Conditions, now)
			return unlessSame(&v.Status, &next)
		}
	case *v1alpha1.CloudEndpoint:
		if w, ok := wanted.(*v1alpha1.CloudEndpointStatus); ok {
			next := *w
			next.Conditions = withForeign(v.Status.Conditions, w.Conditions, now)
			return unlessSame(&v.Status, &next)
		}
	case *v1alpha1.NgrokTrafficPolicy:
		if w, ok := wanted.(*v1alpha1.NgrokTrafficPolicyStatus); ok {
			next := *w
			next.Conditions = withForeign(v.Status.Conditions, w.Conditions, now)
			return unlessSame(&v.Status, &next)
		}
	}
	return nil
}

// mergedParents are the parents of a route of any kind: those it has, if nothing changes.
func mergedParents(has, wanted []gatewayv1.RouteParentStatus, controller string, now metav1.Time) []gatewayv1.RouteParentStatus {
	if sameParents(has, wanted, controller) {
		return has
	}
	return bound(ofAll(has, wanted, controller, parentOf, now), maxParents)
}

// sameParents tells whether a route's status has just what is wanted, and nobody else's: what
// is so of nearly all routes each time, at a fiftieth of what merging them takes.
func sameParents(has, wanted []gatewayv1.RouteParentStatus, controller string) bool {
	if len(has) != len(wanted) || has == nil {
		return false
	}
	for i := range has {
		h, w := &has[i], &wanted[i]
		if string(h.ControllerName) != controller || !sameReference(&h.ParentRef, &w.ParentRef) || !slices.EqualFunc(h.Conditions, w.Conditions, sameCondition) {
			return false
		}
	}
	return true
}

func sameReference(a, b *gatewayv1.ParentReference) bool {
	return a.Name == b.Name && same(a.Group, b.Group) && same(a.Kind, b.Kind) && same(a.Namespace, b.Namespace) && same(a.SectionName, b.SectionName) && same(a.Port, b.Port)
}

func same[T comparable](a, b *T) bool { return a == b || a != nil && b != nil && *a == *b }

// sameCondition leaves out when it became so.
func sameCondition(a, b metav1.Condition) bool {
	return a.Type == b.Type && a.Status == b.Status && a.Reason == b.Reason && a.ObservedGeneration == b.ObservedGeneration && a.Message == b.Message
}

// refusal is the status of an object that cannot be read.
type refusal struct {
	ObservedGeneration int64              `json:"observedGeneration,omitempty"`
	Conditions         []metav1.Condition `json:"conditions"`
}

// refused is the status of an object of ours that is wrong by itself; nil: that is its status
// already.
func refused(it *item, now metav1.Time) any {
	why := "it cannot be read"
	if len(it.problems) > 0 {
		why = it.problems[0].Text()
	}
	next := withForeign(it.before, []metav1.Condition{{Type: "Ready", Status: metav1.ConditionFalse, Reason: "InvalidObject", Message: why, ObservedGeneration: it.GetGeneration()}}, now)
	if slices.EqualFunc(it.before, next, sameCondition) {
		return nil
	}
	return refusal{it.GetGeneration(), next}
}

func unlessSame[T any](before, next *T) any {
	if equality.Semantic.DeepEqual(before, next) {
		return nil
	}
	return next
}

// timed are the wanted conditions, with the time of those before that say the same.
func timed(before, wanted []metav1.Condition, now metav1.Time) []metav1.Condition {
	list := slices.Clone(wanted)
	for i := range list {
		c := &list[i]
		c.LastTransitionTime = now
		c.Message = shortened(c.Message)
		for _, o := range before {
			if o.Type == c.Type && o.Status == c.Status {
				c.LastTransitionTime = o.LastTransitionTime
			}
		}
	}
	return list
}

// shortened is a message that an API server takes.
func shortened(s string) string {
	const limit = 32768
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit-3], "") + "..."
}

// ownConditions are the types of condition on Gateways, classes and endpoint objects that are
// ours to take away.
var ownConditions = []string{
	string(gatewayv1.GatewayConditionAccepted), string(gatewayv1.GatewayConditionProgrammed), string(gatewayv1.GatewayConditionResolvedRefs),
	string(gatewayv1.GatewayConditionInsecureFrontendValidationMode), string(gatewayv1.GatewayClassConditionStatusSupportedVersion),
	"Ready", "Valid", "EndpointCreated", "CloudEndpointCreated", "TrafficPolicyApplied",
}

// withForeign is timed, followed by the conditions of types that are not ours.
func withForeign(before, wanted []metav1.Condition, now metav1.Time) []metav1.Condition {
	list := timed(before, wanted, now)
	for _, o := range before {
		if !slices.Contains(ownConditions, o.Type) && !slices.ContainsFunc(wanted, func(c metav1.Condition) bool { return c.Type == o.Type }) {
			list = append(list, o)
		}
	}
	return list
}

// part is what controllers write to a status that they share, each its own: about a parent
// of a route, or an ancestor of a policy.
type part struct {
	controller gatewayv1.GatewayController
	about      gatewayv1.ParentReference
	conditions *[]metav1.Condition
}

func parentOf(p *gatewayv1.RouteParentStatus) part {
	return part{p.ControllerName, p.ParentRef, &p.Conditions}
}

func ancestorOf(a *gatewayv1.PolicyAncestorStatus) part {
	return part{a.ControllerName, a.AncestorRef, &a.Conditions}
}

// ofAll has the parts of other controllers first, as they are, then those that are wanted.
func ofAll[T any](before, wanted []T, controller string, of func(*T) part, now metav1.Time) []T {
	next := []T{} // never nil: the API wants a list
	for i := range before {
		if string(of(&before[i]).controller) != controller {
			next = append(next, before[i])
		}
	}
	for _, w := range wanted {
		mine := of(&w)
		var old []metav1.Condition
		for i := range before {
			if o := of(&before[i]); string(o.controller) == controller && equality.Semantic.DeepEqual(o.about, mine.about) {
				old = *o.conditions
			}
		}
		*mine.conditions = timed(old, *mine.conditions, now)
		next = append(next, w)
	}
	return next
}
