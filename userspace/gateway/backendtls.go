// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// target is a Service, and one of its ports by name or, with none, all others.
type target struct {
	service types.NamespacedName
	port    string
}

// policy is a BackendTLSPolicy.
type policy struct {
	object         *gatewayv1.BackendTLSPolicy
	name           types.NamespacedName
	tls            BackendTLS
	accepted, refs finding
	conflict       finding
	ancestors      map[types.NamespacedName]bool // Gateways whose connections it governs
}

// readPolicies reads what they say and which target each governs: of two for the
// same target the one that comes first does.
func (c *computation) readPolicies() {
	c.policies, c.targeting = map[target]*policy{}, map[types.NamespacedName][]*policy{}
	for _, o := range sorted(c.in.BackendTLSPolicies) {
		p := &policy{object: o, name: key(o), ancestors: map[types.NamespacedName]bool{}}
		c.readPolicy(p)
		c.ordered = append(c.ordered, p)
		for _, ref := range o.Spec.TargetRefs {
			if ref.Kind != "Service" || ref.Group != "" {
				c.warn("BackendTLSPolicy", o, fmt.Sprintf("targetRefs: %s %s: not supported; a Service is", ref.Kind, ref.Name))
				continue
			}
			t := target{types.NamespacedName{Namespace: o.Namespace, Name: string(ref.Name)}, string(value(ref.SectionName, ""))}
			if !slices.Contains(c.targeting[t.service], p) {
				c.targeting[t.service] = append(c.targeting[t.service], p)
			}
			if first := c.policies[t]; first != nil && first != p {
				p.conflict.set(string(gatewayv1.PolicyReasonConflicted), fmt.Sprintf("BackendTLSPolicy %s has the same target, Service %s, and comes first", first.name, t.service))
				continue
			}
			c.policies[t] = p
		}
	}
}

func (c *computation) readPolicy(p *policy) {
	v := p.object.Spec.Validation
	invalid := func(format string, args ...any) {
		p.accepted.set(string(gatewayv1.PolicyReasonInvalid), "validation: "+fmt.Sprintf(format, args...))
	}
	p.tls = BackendTLS{ServerName: string(v.Hostname), Policy: p.name}
	if err := checkHostname(string(v.Hostname)); err != nil || isWildcard(string(v.Hostname)) {
		invalid("hostname %q: a DNS name in lower case is expected", v.Hostname)
	}
	for _, s := range v.SubjectAltNames {
		switch {
		case s.Type == gatewayv1.HostnameSubjectAltNameType && s.Hostname != "":
			p.tls.SANs = append(p.tls.SANs, SAN{DNS: string(s.Hostname)})
		case s.Type == gatewayv1.URISubjectAltNameType && s.URI != "":
			p.tls.SANs = append(p.tls.SANs, SAN{URI: string(s.URI)})
		default:
			invalid("subjectAltNames: type Hostname with hostname, or URI with uri, is expected")
		}
	}
	system := value(v.WellKnownCACertificates, "")
	switch {
	case (system != "") == (len(v.CACertificateRefs) > 0):
		invalid("one of caCertificateRefs and wellKnownCACertificates is expected")
	case system != "" && system != gatewayv1.WellKnownCACertificatesSystem:
		invalid("wellKnownCACertificates %s is not known: System is", system)
	}
	p.tls.System = system == gatewayv1.WellKnownCACertificatesSystem
	for _, ref := range v.CACertificateRefs {
		if ref.Kind != "ConfigMap" || ref.Group != "" {
			p.refs.set(string(gatewayv1.BackendTLSPolicyReasonInvalidKind), fmt.Sprintf("caCertificateRefs: %s %s: a ConfigMap is expected", ref.Kind, ref.Name))
			continue
		}
		pem, err := c.objects.ca(types.NamespacedName{Namespace: p.object.Namespace, Name: string(ref.Name)})
		if err != nil {
			p.refs.set(string(gatewayv1.BackendTLSPolicyReasonInvalidCACertificateRef), "caCertificateRefs: "+err.Error())
			continue
		}
		p.tls.CAPEM = joinPEM(p.tls.CAPEM, pem)
	}
	if len(v.CACertificateRefs) > 0 && len(p.tls.CAPEM) == 0 {
		p.accepted.set(string(gatewayv1.BackendTLSPolicyReasonNoValidCACertificate), "none of caCertificateRefs is valid: "+p.refs.message)
	}
	if len(p.object.Spec.Options) > 0 {
		c.warn("BackendTLSPolicy", p.object, "options: none is known here; they do nothing")
	}
}

// secure returns backends as connections from g, which are the agent's own, are to reach
// them. services are those that the route names.
func (c *computation) secure(services []types.NamespacedName, backends []Backend, g *gateway) []Backend {
	if len(c.policies) == 0 || len(backends) == 0 {
		return backends
	}
	for _, s := range services {
		// All that concern the Service get their status, those without a part in it, too.
		c.addAncestor(s, g)
	}
	list := slices.Clone(backends)
	for i := range list {
		b := &list[i]
		p := c.policies[target{b.Service, b.portName}]
		if p == nil {
			p = c.policies[target{b.Service, ""}]
		}
		switch {
		case b.Invalid != "":
		case p == nil && b.Host != "" && b.portName == "" && len(c.targeting[b.Service]) > 0:
			// Plain bytes may be just what a policy forbids.
			b.Host, b.Port = "", 0
			b.Invalid = fmt.Sprintf("a BackendTLSPolicy has a port of Service %s as its target, by a name that only the Service tells, and it is not there", b.Service)
		case p == nil:
		case !p.accepted.ok():
			*b = Backend{Weight: b.Weight, Service: b.Service, Invalid: fmt.Sprintf("BackendTLSPolicy %s: %s", p.name, p.accepted.message)}
		default:
			t := p.tls
			t.ClientCert = g.clientCert
			b.TLS = &t
		}
	}
	return list
}

func (c *computation) addAncestor(service types.NamespacedName, g *gateway) {
	for _, p := range c.targeting[service] {
		p.ancestors[g.name] = true
	}
}

func (c *computation) reportPolicies() {
	group, kind := gatewayv1.Group(gatewayv1.GroupName), gatewayv1.Kind("Gateway")
	for _, p := range c.ordered {
		if len(p.ancestors) == 0 {
			c.warn("BackendTLSPolicy", p.object, "no route that terminates TLS, or of HTTP, leads to its target; it does nothing")
			continue
		}
		accepted := p.accepted
		accepted.set(p.conflict.reason, p.conflict.message)
		var status gatewayv1.PolicyStatus
		for _, g := range c.gateways {
			if !p.ancestors[g.name] || len(status.Ancestors) == maxAncestors {
				continue
			}
			namespace := gatewayv1.Namespace(g.name.Namespace)
			status.Ancestors = append(status.Ancestors, gatewayv1.PolicyAncestorStatus{
				AncestorRef:    gatewayv1.ParentReference{Group: &group, Kind: &kind, Namespace: &namespace, Name: gatewayv1.ObjectName(g.name.Name)},
				ControllerName: gatewayv1.GatewayController(c.in.ControllerName),
				Conditions: []metav1.Condition{
					accepted.condition(string(gatewayv1.PolicyConditionAccepted), p.object.Generation, finding{string(gatewayv1.PolicyReasonAccepted), "connections to the target are secured"}),
					p.refs.condition(string(gatewayv1.BackendTLSPolicyConditionResolvedRefs), p.object.Generation, finding{string(gatewayv1.BackendTLSPolicyReasonResolvedRefs), "all references are valid"}),
				},
			})
		}
		c.out.BackendTLSPolicies[p.name] = status
	}
}

const maxAncestors = 16 // of the API's schema
