// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	k8s "k8s.io/apimachinery/pkg/util/validation"

	"github.com/spliceway/spliceway/userspace/config"
)

// Of the core objects it is checked what decides where connections go.

// port checks a port's number.
func (v *validation) port(n int32, path ...any) {
	if n < 1 || n > 65535 {
		v.wrong(v.at(path...), path, "a port from 1 to 65535 is needed")
	}
}

// protocol checks a protocol, which is TCP if it is not written.
func (v *validation) protocol(p corev1.Protocol, path ...any) {
	switch p {
	case "", corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP:
	default:
		v.wrong(v.at(path...), path, "expected one of TCP, UDP, SCTP, found %s", config.Quote(string(p)))
	}
}

func validateService(v *validation, o *corev1.Service) {
	names := map[string]bool{}
	for i, p := range o.Spec.Ports {
		at := []any{"spec", "ports", i}
		v.port(p.Port, with(at, "port")...)
		v.protocol(p.Protocol, with(at, "protocol")...)
		if p.Name == "" && len(o.Spec.Ports) > 1 {
			v.wrong(v.at(at...), with(at, "name"), "a name is needed where there are several ports")
		} else if names[p.Name] {
			v.wrong(v.at(with(at, "name")...), with(at, "name"), "another port has the name %s", config.Quote(p.Name))
		}
		names[p.Name] = true
		if target := p.TargetPort; target.StrVal != "" {
			if why := k8s.IsValidPortName(target.StrVal); len(why) > 0 {
				v.wrong(v.at(with(at, "targetPort")...), with(at, "targetPort"), "%s is no port: %s", config.Quote(target.StrVal), why[0])
			}
		} else if target.IntVal != 0 {
			v.port(target.IntVal, with(at, "targetPort")...)
		}
	}
	if ip := o.Spec.ClusterIP; ip != "" && ip != corev1.ClusterIPNone {
		if _, err := netip.ParseAddr(ip); err != nil {
			v.wrong(v.at("spec", "clusterIP"), []any{"spec", "clusterIP"}, "expected an IP address or None, found %s", config.Quote(ip))
		}
	}
}

func validateEndpointSlice(v *validation, o *discoveryv1.EndpointSlice) {
	switch o.AddressType {
	case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN:
	default:
		v.wrong(v.at("addressType"), []any{"addressType"}, "expected one of IPv4, IPv6, FQDN, found %s", config.Quote(string(o.AddressType)))
		return
	}
	for i, e := range o.Endpoints {
		v.count(len(e.Addresses), 1, 100, "endpoints", i, "addresses")
		for j, a := range e.Addresses {
			ip, err := netip.ParseAddr(a)
			is4 := err == nil && ip.Is4() && o.AddressType == discoveryv1.AddressTypeIPv4
			is6 := err == nil && ip.Is6() && ip.Zone() == "" && o.AddressType == discoveryv1.AddressTypeIPv6
			if path := []any{"endpoints", i, "addresses", j}; !is4 && !is6 && o.AddressType != discoveryv1.AddressTypeFQDN {
				v.wrong(v.at(path...), path, "expected an address of type %s, found %s", o.AddressType, config.Quote(a))
			}
		}
	}
	for i, p := range o.Ports {
		if p.Port != nil {
			v.port(*p.Port, "ports", i, "port")
		}
		if p.Protocol != nil {
			v.protocol(*p.Protocol, "ports", i, "protocol")
		}
	}
}
