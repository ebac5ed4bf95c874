// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// gateway is a Gateway of ours.
type gateway struct {
	object    *gatewayv1.Gateway
	name      types.NamespacedName
	listeners []*listener
	addresses []netip.Addr // sorted; none: all
	hostnames []string     // spec.addresses of type Hostname
	// accepted and address are what is wrong with its parameters and addresses,
	// refs with what tls.backend refers to.
	accepted, address, refs finding
	insecure                bool
	clientCert              *Certificate
	terminations            []*Termination
}

func (g *gateway) servable() bool {
	return g.accepted.ok() && (g.address.ok() || len(g.addresses) > 0)
}

func (c *computation) readClasses() {
	for _, class := range sorted(c.in.Classes) {
		if string(class.Spec.ControllerName) != c.in.ControllerName {
			continue
		}
		c.out.Classes[types.NamespacedName{Name: class.Name}] = gatewayv1.GatewayClassStatus{
			Conditions:        classConditions(class),
			SupportedFeatures: supportedFeatures(),
		}
	}
}

// ours tells whether g is, warning of one whose class is not there.
func (c *computation) ours(g *gatewayv1.Gateway) bool {
	if class, ok := c.objects.classes[string(g.Spec.GatewayClassName)]; ok {
		return string(class.Spec.ControllerName) == c.in.ControllerName
	}
	if c.in.AnyClass {
		c.warn("Gateway", g, fmt.Sprintf("GatewayClass %s is not there: taken as this agent's", g.Spec.GatewayClassName))
	}
	return c.in.AnyClass
}

func (c *computation) readGateways() {
	c.byName = map[types.NamespacedName]*gateway{}
	for _, object := range sorted(c.in.Gateways) {
		if !c.ours(object) {
			continue
		}
		g := &gateway{object: object, name: key(object)}
		if class := c.objects.classes[string(object.Spec.GatewayClassName)]; class != nil && class.Spec.ParametersRef != nil {
			g.accepted.set(string(gatewayv1.GatewayReasonInvalidParameters), fmt.Sprintf("GatewayClass %s is not accepted: it has parametersRef", class.Name))
		}
		if i := object.Spec.Infrastructure; i != nil && i.ParametersRef != nil {
			g.accepted.set(string(gatewayv1.GatewayReasonInvalidParameters), fmt.Sprintf("infrastructure.parametersRef: %s %s: no kind is supported", i.ParametersRef.Kind, i.ParametersRef.Name))
		}
		c.readAddresses(g)
		c.readClientCertificate(g)
		seen := map[gatewayv1.SectionName]*listener{}
		for i := range object.Spec.Listeners {
			l := c.readListener(g, &object.Spec.Listeners[i])
			if first := seen[l.spec.Name]; first != nil {
				for _, twin := range []*listener{first, l} {
					twin.basic.set(string(gatewayv1.ListenerReasonUnsupportedValue), "more than one listener has this name")
				}
			}
			seen[l.spec.Name] = l
			g.listeners = append(g.listeners, l)
		}
		c.gateways = append(c.gateways, g)
		c.byName[g.name] = g
	}
}

func (c *computation) readAddresses(g *gateway) {
	asked := false
	for _, a := range g.object.Spec.Addresses {
		switch t := value(a.Type, gatewayv1.IPAddressType); {
		case t == gatewayv1.HostnameAddressType:
			name := strings.ToLower(a.Value)
			if name == "" {
				continue
			}
			if err := checkHostname(name); err != nil {
				g.address.set(string(gatewayv1.GatewayReasonAddressNotUsable), fmt.Sprintf("spec.addresses: %v", err))
				continue
			}
			g.hostnames = append(g.hostnames, name)
		case t != gatewayv1.IPAddressType:
			g.accepted.set(string(gatewayv1.GatewayReasonUnsupportedAddress), fmt.Sprintf("spec.addresses: type %s of %q is not supported: IPAddress and Hostname are", t, a.Value))
		case a.Value != "":
			asked = true
			if ip, err := c.usable(g.name, a.Value); err != nil {
				g.address.set(string(gatewayv1.GatewayReasonAddressNotUsable), fmt.Sprintf("spec.addresses: %q: %v", a.Value, err))
			} else {
				g.addresses = append(g.addresses, ip)
			}
		}
	}
	if !asked && c.in.Addresses != nil {
		own, known := c.in.Addresses[g.name]
		if g.addresses = slices.Clone(own); !known {
			g.address.set(string(gatewayv1.GatewayReasonAddressNotAssigned), "no address is left for this Gateway; give it one in spec.addresses or give the agent more")
		}
	}
	slices.SortFunc(g.addresses, netip.Addr.Compare)
	g.addresses = slices.Compact(g.addresses)
	slices.Sort(g.hostnames)
	g.hostnames = slices.Compact(g.hostnames)
}

func (c *computation) usable(gateway types.NamespacedName, s string) (netip.Addr, error) {
	ip, err := netip.ParseAddr(s)
	if err != nil {
		return ip, fmt.Errorf("an IP address is expected: %w", err)
	}
	ip = ip.Unmap()
	if c.in.AddressUsable != nil {
		if err := c.in.AddressUsable(gateway, ip); err != nil {
			return ip, err
		}
	}
	return ip, nil
}

// nameByAddresses gives listeners without a hostname the names in spec.addresses,
// if there are some and no route has names either.
func (c *computation) nameByAddresses() {
	for _, g := range c.gateways {
		for _, l := range g.listeners {
			if l.kind != kindTLSRoute || l.names[0] != anyName || len(g.hostnames) == 0 || !l.nameless || l.hostnames {
				continue
			}
			l.names = g.hostnames
			c.warn("Gateway", g.object, fmt.Sprintf("listener %s and its routes have no hostnames: %s of spec.addresses served; better set hostname and hostnames", l.spec.Name, strings.Join(g.hostnames, ", ")))
		}
	}
}

// share returns one Termination for all that are equal.
func (g *gateway) share(t *Termination) *Termination {
	for _, o := range g.terminations {
		if equalTermination(o, t) {
			return o
		}
	}
	g.terminations = append(g.terminations, t)
	return t
}
