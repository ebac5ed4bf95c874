// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"math"
	"net/netip"
	"path"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8s "k8s.io/apimachinery/pkg/util/validation"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/spliceway/spliceway/userspace/config"
)

// The rules of the Gateway API that are no part of the schemas: resource definitions have
// them in CEL (x-kubernetes-validations).

// count checks the length of a list.
func (v *validation) count(n, low, high int, path ...any) {
	switch {
	case n >= low && n <= high:
	case high == math.MaxInt:
		v.wrong(v.at(path...), path, "expected at least %d entries, found %d", low, n)
	case low == high:
		v.wrong(v.at(path...), path, "expected %d entries, found %d", low, n)
	default:
		v.wrong(v.at(path...), path, "expected %d to %d entries, found %d", low, high, n)
	}
}

// hostname is the Gateway API's: a DNS name, or one behind "*.".
func (v *validation) hostname(h gatewayv1.Hostname, path ...any) {
	why := k8s.IsDNS1123Subdomain(string(h))
	if strings.HasPrefix(string(h), "*.") {
		why = k8s.IsWildcardDNS1123Subdomain(string(h))
	}
	switch _, err := netip.ParseAddr(string(h)); {
	case err == nil:
		v.wrong(v.at(path...), path, "expected a DNS name, found the IP address %s", config.Quote(string(h)))
	case len(why) > 0:
		v.wrong(v.at(path...), path, "%s is no hostname: %s", config.Quote(string(h)), why[0])
	}
}

func validateGateway(v *validation, o *gatewayv1.Gateway) {
	v.addresses(o.Spec.Addresses)
	names := map[gatewayv1.SectionName]bool{}
	type identity struct {
		port     gatewayv1.PortNumber
		protocol gatewayv1.ProtocolType
		hostname gatewayv1.Hostname
	}
	same := map[identity]gatewayv1.SectionName{}
	for i := range o.Spec.Listeners {
		l := &o.Spec.Listeners[i]
		at := func(path ...any) []any { return append([]any{"spec", "listeners", i}, path...) }
		if names[l.Name] {
			v.wrong(v.at(at("name")...), at("name"), "another listener has the name %q", string(l.Name))
		}
		names[l.Name] = true
		id := identity{l.Port, l.Protocol, ""}
		if l.Hostname != nil {
			id.hostname = *l.Hostname
			v.hostname(*l.Hostname, at("hostname")...)
			if l.Protocol == gatewayv1.TCPProtocolType || l.Protocol == gatewayv1.UDPProtocolType {
				v.wrong(v.at(at("hostname")...), at("hostname"), "a listener of protocol %s has no hostname", l.Protocol)
			}
		}
		if first, ok := same[id]; ok {
			v.wrong(v.at(at()...), at(), "port, protocol and hostname are those of listener %q", string(first))
		} else {
			same[id] = l.Name
		}
		v.listenerTLS(l, at("tls"))
		if l.AllowedRoutes != nil && l.AllowedRoutes.Namespaces != nil {
			v.selector(l.AllowedRoutes.Namespaces, at("allowedRoutes", "namespaces"))
		}
	}
	if o.Spec.TLS == nil || o.Spec.TLS.Frontend == nil {
		return
	}
	ports := map[gatewayv1.PortNumber]bool{}
	for i, p := range o.Spec.TLS.Frontend.PerPort {
		at := []any{"spec", "tls", "frontend", "perPort", i}
		if ports[p.Port] {
			v.wrong(v.at(at...), with(at, "port"), "another entry is for port %d", p.Port)
		}
		ports[p.Port] = true
	}
}

func (v *validation) addresses(all []gatewayv1.GatewaySpecAddress) {
	type address struct{ of, value string }
	seen := map[address]bool{}
	for i, a := range all {
		at := []any{"spec", "addresses", i, "value"}
		of := string(gatewayv1.IPAddressType)
		if a.Type != nil {
			of = string(*a.Type)
		}
		if a.Value == "" {
			continue // one is to be assigned
		}
		switch ip, err := netip.ParseAddr(a.Value); {
		case of == string(gatewayv1.IPAddressType) && (err != nil || ip.Zone() != ""):
			v.wrong(v.at(at...), at, "expected an IP address, found %s", config.Quote(a.Value))
		case of == string(gatewayv1.HostnameAddressType):
			v.hostname(gatewayv1.Hostname(a.Value), at...)
		}
		if seen[address{of, a.Value}] {
			v.wrong(v.at(at...), at, "%s %s is there twice", of, config.Quote(a.Value))
		}
		seen[address{of, a.Value}] = true
	}
}

// selector checks which namespaces' routes are allowed.
func (v *validation) selector(n *gatewayv1.RouteNamespaces, at []any) {
	if n.Selector == nil {
		if n.From != nil && *n.From == gatewayv1.NamespacesFromSelector {
			v.wrong(v.at(at...), with(at, "selector"), "a value is needed where from is Selector")
		}
		return
	}
	if _, err := metav1.LabelSelectorAsSelector(n.Selector); err != nil {
		v.wrong(v.at(with(at, "selector")...), with(at, "selector"), "is no label selector: %s", clean(err.Error()))
	}
}

func (v *validation) listenerTLS(l *gatewayv1.Listener, at []any) {
	if l.TLS == nil {
		return // protocol TLS: package gateway warns
	}
	if l.Protocol == gatewayv1.HTTPProtocolType || l.Protocol == gatewayv1.TCPProtocolType || l.Protocol == gatewayv1.UDPProtocolType {
		v.wrong(v.at(at...), at, "a listener of protocol %s has no tls", l.Protocol)
	}
	mode := gatewayv1.TLSModeTerminate
	if l.TLS.Mode != nil {
		mode = *l.TLS.Mode
	}
	if mode == gatewayv1.TLSModePassthrough && l.Protocol == gatewayv1.HTTPSProtocolType {
		v.wrong(v.at(at...), at, "a listener of protocol HTTPS terminates TLS")
	}
	if mode == gatewayv1.TLSModeTerminate && len(l.TLS.CertificateRefs) == 0 && len(l.TLS.Options) == 0 {
		v.wrong(v.at(at...), at, "certificateRefs is needed where mode is Terminate, which it is unless it is written")
	}
}

func validateTLSRoute(v *validation, o *gatewayv1.TLSRoute) {
	v.attachment(o.Spec.ParentRefs, o.Spec.Hostnames)
	names := map[gatewayv1.SectionName]bool{}
	for i, r := range o.Spec.Rules {
		v.ruleName(names, r.Name, i)
		for j, b := range r.BackendRefs {
			v.servicePort(b.BackendObjectReference, "spec", "rules", i, "backendRefs", j)
		}
	}
}

func validateHTTPRoute(v *validation, o *gatewayv1.HTTPRoute) {
	v.attachment(o.Spec.ParentRefs, o.Spec.Hostnames)
	names := map[gatewayv1.SectionName]bool{}
	for i, r := range o.Spec.Rules {
		v.ruleName(names, r.Name, i)
		for j, m := range r.Matches {
			if m.Path == nil || m.Path.Value == nil || value(m.Path.Type, "PathPrefix") == "RegularExpression" {
				continue
			}
			at := []any{"spec", "rules", i, "matches", j, "path", "value"}
			if p := *m.Path.Value; !strings.HasPrefix(p, "/") || path.Clean(p) != strings.TrimSuffix(p, "/") && p != "/" {
				v.wrong(v.at(at...), at, "expected a path that begins with / and has no //, /./ or /../, found %s", config.Quote(p))
			}
		}
		for j, b := range r.BackendRefs {
			v.servicePort(b.BackendObjectReference, "spec", "rules", i, "backendRefs", j)
		}
	}
}

// attachment checks where a route of any kind wants to attach, and for which names.
func (v *validation) attachment(parents []gatewayv1.ParentReference, hostnames []gatewayv1.Hostname) {
	v.parents(parents)
	for i, h := range hostnames {
		v.hostname(h, "spec", "hostnames", i)
	}
}

// ruleName checks that a rule's name is its own.
func (v *validation) ruleName(names map[gatewayv1.SectionName]bool, name *gatewayv1.SectionName, i int) {
	if name == nil {
		return
	}
	if at := []any{"spec", "rules", i, "name"}; names[*name] {
		v.wrong(v.at(at...), at, "another rule has the name %q", string(*name))
	}
	names[*name] = true
}

// servicePort checks that a reference to a Service has a port.
func (v *validation) servicePort(b gatewayv1.BackendObjectReference, at ...any) {
	if value(b.Kind, "Service") == "Service" && value(b.Group, "") == "" && b.Port == nil {
		v.wrong(v.at(at...), with(at, "port"), "a port is needed for a Service")
	}
}

// parents checks that references to one parent are to different parts of it.
func (v *validation) parents(refs []gatewayv1.ParentReference) {
	type parent struct{ group, kind, namespace, name string }
	type part struct {
		parent
		section string
		port    gatewayv1.PortNumber
	}
	first, parts := map[parent]part{}, map[part]bool{}
	for i, r := range refs {
		p := part{parent: parent{value(r.Group, GroupGateway), value(r.Kind, "Gateway"), value(r.Namespace, ""), string(r.Name)}, section: value(r.SectionName, "")}
		if r.Port != nil {
			p.port = *r.Port
		}
		at := []any{"spec", "parentRefs", i}
		if f, ok := first[p.parent]; !ok {
			first[p.parent] = p
		} else if (f.section == "") != (p.section == "") || (f.port == 0) != (p.port == 0) {
			v.wrong(v.at(at...), at, "of several references to one parent, all have sectionName or none, and all have port or none")
		}
		if parts[p] {
			v.wrong(v.at(at...), at, "another reference is the same: tell them apart by sectionName or port")
		}
		parts[p] = true
	}
}

// value is what a pointer points to, or a default.
func value[T ~string](p *T, otherwise string) string {
	if p == nil {
		return otherwise
	}
	return string(*p)
}

func validateBackendTLSPolicy(v *validation, o *gatewayv1.BackendTLSPolicy) {
	type target struct{ group, kind, name string }
	first, seen := map[target]bool{}, map[string]bool{}
	for i, t := range o.Spec.TargetRefs {
		at := []any{"spec", "targetRefs", i}
		id, section := target{string(t.Group), string(t.Kind), string(t.Name)}, value(t.SectionName, "")
		if whole, ok := first[id]; ok && whole != (section == "") {
			v.wrong(v.at(at...), at, "of several references to one target, all have sectionName or none")
		} else {
			first[id] = section == ""
		}
		if key := fmt.Sprint(id, section); seen[key] {
			v.wrong(v.at(at...), at, "another reference is the same: tell them apart by sectionName")
		} else {
			seen[key] = true
		}
	}
	v.hostname(gatewayv1.Hostname(o.Spec.Validation.Hostname), "spec", "validation", "hostname")
	wellKnown := o.Spec.Validation.WellKnownCACertificates
	if (wellKnown != nil) == (len(o.Spec.Validation.CACertificateRefs) > 0) {
		v.wrong(v.at("spec", "validation"), []any{"spec", "validation"}, "exactly one of caCertificateRefs and wellKnownCACertificates must be set")
	}
	if wellKnown != nil && *wellKnown != gatewayv1.WellKnownCACertificatesSystem {
		v.wrong(v.at("spec", "validation", "wellKnownCACertificates"), []any{"spec", "validation", "wellKnownCACertificates"}, "expected System, found %s", config.Quote(string(*wellKnown)))
	}
	for i, n := range o.Spec.Validation.SubjectAltNames {
		at := []any{"spec", "validation", "subjectAltNames", i}
		if is := n.Type == gatewayv1.HostnameSubjectAltNameType; is != (n.Hostname != "") {
			v.wrong(v.at(at...), with(at, "hostname"), "expected a hostname if type is Hostname, and none otherwise")
		}
		if is := n.Type == gatewayv1.URISubjectAltNameType; is != (n.URI != "") {
			v.wrong(v.at(at...), with(at, "uri"), "expected a uri if type is URI, and none otherwise")
		}
	}
}
