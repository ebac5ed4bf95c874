// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

const maxWeight = 1_000_000 // of the API's schema

// resolveAll returns the backends with a weight, and notes in a what is wrong with any.
func (c *computation) resolveAll(a *attachable, refs []gatewayv1.BackendRef) []Backend {
	var list []Backend
	for _, ref := range refs {
		a.services = append(a.services, serviceOf(a, ref.BackendObjectReference))
		b, f := c.resolve(a, ref.BackendObjectReference)
		if !f.ok() {
			a.refs.set(f.reason, "backendRefs: "+f.message)
			b.Invalid = f.message
		}
		b.Weight = 1
		if ref.Weight != nil {
			b.Weight = *ref.Weight
		}
		if b.Weight < 0 || b.Weight > maxWeight {
			b.Invalid = fmt.Sprintf("weight %d: 0 to %d expected", b.Weight, maxWeight)
			c.warn(a.kind, a.object, "backendRefs: "+b.Invalid+"; taken as 1, and refused")
			b.Weight = 1
		}
		if b.Weight > 0 {
			list = append(list, b)
		}
	}
	return list
}

// resolve returns where a backendRef leads. A backend without endpoints is
// Invalid, but nothing is wrong with the reference.
func (c *computation) resolve(a *attachable, ref gatewayv1.BackendObjectReference) (Backend, finding) {
	name := serviceOf(a, ref)
	b := Backend{Service: name}
	if kind := value(ref.Kind, "Service"); kind != "Service" || value(ref.Group, "") != "" {
		return b, finding{string(gatewayv1.RouteReasonInvalidKind), fmt.Sprintf("%s %s: a Service is expected", kind, name)}
	}
	if !c.objects.permitted(reference{a.kind, a.name.Namespace, "Service", name}) {
		return b, finding{string(gatewayv1.RouteReasonRefNotPermitted), fmt.Sprintf("Service %s: no ReferenceGrant in its namespace lets %ss of namespace %s refer to it", name, a.kind, a.name.Namespace)}
	}
	port := value(ref.Port, 0)
	if port < 1 || port > 65535 {
		return b, finding{string(gatewayv1.RouteReasonBackendNotFound), fmt.Sprintf("Service %s: a port of 1 to 65535 is expected", name)}
	}
	service := c.objects.services[name]
	slices := c.objects.slices[name]
	switch {
	case service == nil && c.in.ServicesUnknown:
		b.Host, b.Port = name.Name+"."+name.Namespace, uint16(port)
		return b, finding{}
	case service == nil:
		return b, finding{string(gatewayv1.RouteReasonBackendNotFound), fmt.Sprintf("Service %s is not there", name)}
	case service.Spec.Type == corev1.ServiceTypeExternalName:
		return b, finding{string(gatewayv1.RouteReasonInvalidKind), fmt.Sprintf("Service %s: type ExternalName is not supported", name)}
	}
	sp, f := servicePort(service, port)
	if !f.ok() {
		return b, f
	}
	b.portName = sp.Name
	if len(slices) == 0 && c.in.ServicesUnknown {
		b.Host, b.Port = name.Name+"."+name.Namespace, uint16(port)
		return b, finding{}
	}
	if b.Addresses = Endpoints(slices, sp); len(b.Addresses) == 0 {
		b.Invalid, b.Unready = fmt.Sprintf("Service %s has no endpoint that is ready for port %d", name, port), true
	}
	return b, finding{}
}

func serviceOf(a *attachable, ref gatewayv1.BackendObjectReference) types.NamespacedName {
	return types.NamespacedName{Namespace: string(value(ref.Namespace, gatewayv1.Namespace(a.name.Namespace))), Name: string(ref.Name)}
}

// servicePort finds the TCP port of a Service.
func servicePort(s *corev1.Service, port gatewayv1.PortNumber) (corev1.ServicePort, finding) {
	other := false
	for _, p := range s.Spec.Ports {
		if p.Port != int32(port) {
			continue
		}
		if p.Protocol == "" || p.Protocol == corev1.ProtocolTCP {
			return p, finding{}
		}
		other = true
	}
	if other {
		return corev1.ServicePort{}, finding{string(gatewayv1.RouteReasonUnsupportedProtocol), fmt.Sprintf("Service %s: port %d is not TCP", key(s), port)}
	}
	return corev1.ServicePort{}, finding{string(gatewayv1.RouteReasonBackendNotFound), fmt.Sprintf("Service %s has no port %d", key(s), port)}
}

// Endpoints returns those of a Service's TCP port that take connections, in order and each
// once. Slices name ports as the Service does.
func Endpoints(list []*discoveryv1.EndpointSlice, port corev1.ServicePort) []netip.AddrPort {
	var all []netip.AddrPort
	for _, s := range list {
		i := slices.IndexFunc(s.Ports, func(p discoveryv1.EndpointPort) bool {
			return value(p.Name, "") == port.Name && value(p.Protocol, corev1.ProtocolTCP) == corev1.ProtocolTCP && p.Port != nil && *p.Port >= 1 && *p.Port <= 65535
		})
		if i < 0 || s.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		for _, e := range s.Endpoints {
			if !Takes(e.Conditions) {
				continue
			}
			for _, text := range e.Addresses {
				if ip, err := netip.ParseAddr(text); err == nil {
					all = append(all, netip.AddrPortFrom(ip.Unmap(), uint16(*s.Ports[i].Port)))
				}
			}
		}
	}
	slices.SortFunc(all, netip.AddrPort.Compare)
	return slices.Compact(all)
}

// Takes tells whether an endpoint takes connections; what is not said is well.
func Takes(c discoveryv1.EndpointConditions) bool {
	return (c.Ready == nil || *c.Ready) && (c.Serving == nil || *c.Serving) && (c.Terminating == nil || !*c.Terminating)
}
