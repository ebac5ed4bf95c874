// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// OptionMinVersion is the key of a listener's tls.options for the oldest version
// of TLS that it takes: "1.2" or "1.3". Other keys of its domain are refused.
const OptionMinVersion = optionDomain + "min-version"

const optionDomain = "spliceway.dev/"

const (
	kindTLSRoute  = "TLSRoute"
	kindHTTPRoute = "HTTPRoute"
)

// listener is one of a Gateway's.
type listener struct {
	gateway  *gateway
	spec     *gatewayv1.Listener
	kind     string   // of the routes that it can have; empty: none
	kinds    []string // of those, the ones that it allows
	selector labels.Selector
	// names are what it takes: its hostname, or anyName.
	names []string
	mode  Mode
	// basic is what is wrong with the listener alone; accepted and refs with what
	// it refers to; conflict with others.
	basic, accepted, refs, conflict finding
	overlaps                        []string
	termination                     *Termination
	attached                        int32
	hostnames, nameless             bool // routes of both sorts want to attach
}

func (l *listener) terminates() bool {
	return l.spec.Protocol == gatewayv1.HTTPSProtocolType || l.spec.Protocol == gatewayv1.TLSProtocolType && l.mode == Terminate
}

// claims tells whether the names of l are its own, be they served or not.
func (l *listener) claims() bool {
	return l.gateway.servable() && l.basic.ok() && l.conflict.ok()
}

// serves tells whether connections for l's names can be taken.
func (l *listener) serves() bool {
	return l.claims() && l.accepted.ok() && (!l.terminates() || l.termination != nil)
}

func (c *computation) readListener(g *gateway, spec *gatewayv1.Listener) *listener {
	l := &listener{gateway: g, spec: spec, names: []string{anyName}, selector: labels.Nothing()}
	bad := func(format string, args ...any) {
		l.basic.set(string(gatewayv1.ListenerReasonUnsupportedValue), fmt.Sprintf(format, args...))
	}
	switch spec.Protocol {
	case gatewayv1.TLSProtocolType:
		l.kind = kindTLSRoute
	case gatewayv1.HTTPProtocolType, gatewayv1.HTTPSProtocolType:
		l.kind = kindHTTPRoute
	default:
		l.basic.set(string(gatewayv1.ListenerReasonUnsupportedProtocol), fmt.Sprintf("protocol %s is not supported: TLS, HTTPS and HTTP are", spec.Protocol))
	}
	if spec.Port < 1 || spec.Port > 65535 {
		bad("port %d: 1 to 65535 expected", spec.Port)
	}
	if h := value(spec.Hostname, ""); h != "" {
		l.names = []string{string(h)}
		if err := checkHostname(string(h)); err != nil {
			bad("%v", err)
		}
	}
	c.readTLS(l, bad)
	c.readAllowed(l, bad)
	return l
}

func (c *computation) readTLS(l *listener, bad func(string, ...any)) {
	t := l.spec.TLS
	switch {
	case l.kind == "":
		return
	case l.spec.Protocol == gatewayv1.HTTPProtocolType:
		if t != nil {
			bad("tls is not for protocol HTTP")
		}
		return
	case t == nil && l.spec.Protocol == gatewayv1.TLSProtocolType:
		c.warn("Gateway", l.gateway.object, fmt.Sprintf("listener %s: no tls.mode: taken as Passthrough", l.spec.Name))
		return
	case t == nil:
		t = &gatewayv1.ListenerTLSConfig{}
	}
	switch mode := value(t.Mode, gatewayv1.TLSModeTerminate); {
	case mode == gatewayv1.TLSModePassthrough && l.spec.Protocol == gatewayv1.TLSProtocolType:
		return
	case mode == gatewayv1.TLSModeTerminate:
		l.mode = Terminate
	default:
		bad("tls.mode %s is not supported for protocol %s", mode, l.spec.Protocol)
		return
	}
	term := &Termination{}
	for _, k := range slices.Sorted(maps.Keys(t.Options)) {
		v := string(t.Options[k])
		switch {
		case k == OptionMinVersion && (v == "1.2" || v == "1.3"):
			term.MinVersion = v
		case k == OptionMinVersion:
			bad(`tls.options: %s: %q: "1.2" or "1.3" expected`, k, v)
		case strings.HasPrefix(string(k), optionDomain):
			bad("tls.options: %s is not known: %s is", k, OptionMinVersion)
		default:
			c.warn("Gateway", l.gateway.object, fmt.Sprintf("listener %s: tls.options: %s is not known here and does nothing", l.spec.Name, k))
		}
	}
	c.readCertificates(l, t, term)
	c.readValidation(l, term)
	if len(term.Certificates) > 0 {
		l.termination = l.gateway.share(term)
	}
}

func (c *computation) readAllowed(l *listener, bad func(string, ...any)) {
	if l.kind != "" {
		l.kinds = []string{l.kind}
	}
	allowed := l.spec.AllowedRoutes
	if allowed == nil {
		return
	}
	if len(allowed.Kinds) > 0 {
		l.kinds = nil
		for _, k := range allowed.Kinds {
			switch {
			case value(k.Group, gatewayv1.GroupName) != gatewayv1.GroupName || string(k.Kind) != l.kind:
				l.refs.set(string(gatewayv1.ListenerReasonInvalidRouteKinds), fmt.Sprintf("allowedRoutes.kinds: %s is not supported for protocol %s", k.Kind, l.spec.Protocol))
			case len(l.kinds) == 0:
				l.kinds = []string{l.kind}
			}
		}
	}
	if ns := allowed.Namespaces; ns != nil && ns.Selector != nil {
		s, err := metav1.LabelSelectorAsSelector(ns.Selector)
		if err != nil {
			bad("allowedRoutes.namespaces.selector: %v", err)
			return
		}
		l.selector = s
	}
}

// allows returns why l takes no routes of this kind and namespace, or "".
func (c *computation) allows(l *listener, kind, namespace string) string {
	if !slices.Contains(l.kinds, kind) {
		return fmt.Sprintf("listener %s takes no %s", l.spec.Name, kind)
	}
	from := gatewayv1.NamespacesFromSame
	if a := l.spec.AllowedRoutes; a != nil && a.Namespaces != nil {
		from = value(a.Namespaces.From, from)
	}
	switch from {
	case gatewayv1.NamespacesFromAll:
		return ""
	case gatewayv1.NamespacesFromSame:
		if namespace == l.gateway.object.Namespace {
			return ""
		}
	case gatewayv1.NamespacesFromSelector:
		set, known := c.objects.namespaces[namespace]
		if known && l.selector.Matches(set) {
			return ""
		}
		if !known && c.in.NoNamespaces {
			return fmt.Sprintf("listener %s selects namespaces by label, and there is no Namespace object %s", l.spec.Name, namespace)
		}
	}
	return fmt.Sprintf("listener %s takes no routes of namespace %s (allowedRoutes.namespaces.from: %s)", l.spec.Name, namespace, from)
}

// supported is for the status. It is never nil, so that it is written even if empty.
func (l *listener) supported() []gatewayv1.RouteGroupKind {
	group := gatewayv1.Group(gatewayv1.GroupName)
	list := []gatewayv1.RouteGroupKind{}
	for _, k := range l.kinds {
		list = append(list, gatewayv1.RouteGroupKind{Group: &group, Kind: gatewayv1.Kind(k)})
	}
	return list
}

// places are the addresses on which l is, each with its port.
func (l *listener) places() []place {
	plain := l.spec.Protocol == gatewayv1.HTTPProtocolType
	if len(l.gateway.addresses) == 0 {
		return []place{{netip.Addr{}, uint16(l.spec.Port), plain}}
	}
	var list []place
	for _, a := range l.gateway.addresses {
		list = append(list, place{a, uint16(l.spec.Port), plain})
	}
	return list
}

// place is an address and port; an invalid address stands for those that no
// Gateway names for the port. The first byte tells TLS from plain HTTP.
type place struct {
	addr  netip.Addr
	port  uint16
	plain bool
}

// matches are l's names where they are its own.
func (l *listener) matches(o owners) (all []Match) {
	for _, n := range l.names {
		if m, owned := l.match(o, n); owned {
			all = append(all, m)
		}
	}
	return all
}

// match is a name of l's, or within one, at the places where l has it.
func (l *listener) match(o owners, name string) (m Match, owned bool) {
	m = Match{Port: uint16(l.spec.Port), Name: name, Gateway: l.gateway.name, Listener: string(l.spec.Name)}
	for _, p := range l.places() {
		if o.of(p, name) == l {
			owned = true
			if p.addr.IsValid() {
				m.Addresses = append(m.Addresses, p.addr)
			}
		}
	}
	return m, owned
}
