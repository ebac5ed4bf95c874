// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

func (c *computation) reportGateways() {
	for _, g := range c.gateways {
		status := gatewayv1.GatewayStatus{Addresses: g.statusAddresses()}
		for _, l := range g.listeners {
			status.Listeners = append(status.Listeners, gatewayv1.ListenerStatus{
				Name: l.spec.Name, SupportedKinds: l.supported(), AttachedRoutes: l.attached, Conditions: l.conditions(),
			})
		}
		status.Conditions = g.conditions(status.Listeners)
		c.out.Gateways[g.name] = status
	}
}

func (g *gateway) statusAddresses() []gatewayv1.GatewayStatusAddress {
	var list []gatewayv1.GatewayStatusAddress
	if !g.servable() {
		return nil
	}
	ip, hostname := gatewayv1.IPAddressType, gatewayv1.HostnameAddressType
	for _, a := range g.addresses {
		list = append(list, gatewayv1.GatewayStatusAddress{Type: &ip, Value: a.String()})
	}
	for _, h := range g.hostnames {
		list = append(list, gatewayv1.GatewayStatusAddress{Type: &hostname, Value: h})
	}
	return list
}

func (g *gateway) conditions(listeners []gatewayv1.ListenerStatus) []metav1.Condition {
	var invalid, idle, unresolved []string
	for _, l := range listeners {
		if !holds(l.Conditions, string(gatewayv1.ListenerConditionAccepted)) {
			invalid = append(invalid, string(l.Name))
		}
		if !holds(l.Conditions, string(gatewayv1.ListenerConditionProgrammed)) {
			idle = append(idle, string(l.Name))
		}
		if !holds(l.Conditions, string(gatewayv1.ListenerConditionResolvedRefs)) {
			unresolved = append(unresolved, string(l.Name))
		}
	}
	generation := g.object.Generation
	accepted, good := g.accepted, finding{string(gatewayv1.GatewayReasonAccepted), "this agent serves the Gateway"}
	if len(invalid) > 0 {
		good = finding{string(gatewayv1.GatewayReasonListenersNotValid), "listeners that are not accepted: " + strings.Join(invalid, ", ")}
	}
	if len(invalid) == len(listeners) {
		accepted.set(string(gatewayv1.GatewayReasonListenersNotValid), "no listener is accepted")
	}
	programmed := finding{}
	if !accepted.ok() {
		programmed.set(string(gatewayv1.GatewayReasonInvalid), accepted.message)
	}
	programmed.set(g.address.reason, g.address.message)
	if len(idle) == len(listeners) {
		programmed.set(string(gatewayv1.GatewayReasonInvalid), "no listener can be served")
	}
	refs := g.refs
	if len(unresolved) > 0 {
		refs.set(string(gatewayv1.GatewayReasonListenersNotResolved), "listeners with references that do not resolve: "+strings.Join(unresolved, ", "))
	}
	list := []metav1.Condition{
		accepted.condition(string(gatewayv1.GatewayConditionAccepted), generation, good),
		programmed.condition(string(gatewayv1.GatewayConditionProgrammed), generation, finding{string(gatewayv1.GatewayReasonProgrammed), "the agent is told what to serve"}),
		refs.condition(string(gatewayv1.GatewayConditionResolvedRefs), generation, finding{string(gatewayv1.GatewayReasonResolvedRefs), "all references are valid"}),
	}
	if g.insecure {
		list = append(list, metav1.Condition{
			Type: string(gatewayv1.GatewayConditionInsecureFrontendValidationMode), Status: metav1.ConditionTrue, ObservedGeneration: generation,
			Reason: string(gatewayv1.GatewayReasonConfigurationChanged), Message: "tls.frontend has mode AllowInsecureFallback: clients without a valid certificate are let in",
		})
	}
	return list
}

func (l *listener) conditions() []metav1.Condition {
	generation := l.gateway.object.Generation
	accepted := l.basic
	accepted.set(l.conflict.reason, l.conflict.message)
	accepted.set(l.accepted.reason, l.accepted.message)
	programmed := finding{}
	if !accepted.ok() {
		programmed.set(string(gatewayv1.ListenerReasonInvalid), accepted.message)
	}
	if l.terminates() && l.termination == nil {
		programmed.set(string(gatewayv1.ListenerReasonInvalid), "no certificate: "+l.refs.message)
	}
	if len(l.kinds) == 0 {
		programmed.set(string(gatewayv1.ListenerReasonInvalid), "no kind of route that it allows is supported")
	}
	if !l.gateway.servable() {
		programmed.set(string(gatewayv1.ListenerReasonPending), "the Gateway itself is not served")
	}
	list := []metav1.Condition{
		accepted.condition(string(gatewayv1.ListenerConditionAccepted), generation, finding{string(gatewayv1.ListenerReasonAccepted), "valid"}),
		programmed.condition(string(gatewayv1.ListenerConditionProgrammed), generation, finding{string(gatewayv1.ListenerReasonProgrammed), "the agent is told what to serve"}),
		l.refs.condition(string(gatewayv1.ListenerConditionResolvedRefs), generation, finding{string(gatewayv1.ListenerReasonResolvedRefs), "all references are valid"}),
	}
	// Of negative polarity: True is what is wrong.
	conflicted := metav1.Condition{Type: string(gatewayv1.ListenerConditionConflicted), Status: metav1.ConditionFalse, ObservedGeneration: generation,
		Reason: string(gatewayv1.ListenerReasonNoConflicts), Message: "no other listener takes the same"}
	if !l.conflict.ok() {
		conflicted.Status, conflicted.Reason, conflicted.Message = metav1.ConditionTrue, l.conflict.reason, l.conflict.message
	}
	list = append(list, conflicted)
	if len(l.overlaps) > 0 {
		list = append(list, metav1.Condition{
			Type: string(gatewayv1.ListenerConditionOverlappingTLSConfig), Status: metav1.ConditionTrue, ObservedGeneration: generation,
			Reason: string(gatewayv1.ListenerReasonOverlappingHostnames), Message: fmt.Sprintf("hostnames of %s on the same port overlap with this listener's", strings.Join(l.overlaps, ", ")),
		})
	}
	return list
}
