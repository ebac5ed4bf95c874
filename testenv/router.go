// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"errors"
	"net/netip"
)

// Router forwards between a host and the gateway. What its far link does not
// take it answers with ICMP: Far.SetMTU makes a path whose MTU is smaller than
// both ends can see.
type Router struct {
	*Namespace
	Near *Device // its end towards the gateway
	Far  *Device // its end towards the host
}

// addRouted links a host by way of a router.
func (n *Network) addRouted(host *Host, name string, side, number int, options LinkOptions, congestion string) error {
	ns, err := newRouterNode("router of "+name, congestion)
	if err != nil {
		return err
	}
	transit := side + 2
	host.Uplink = newDevice(n.Gateway, name, transit, number, 1)
	host.Router = &Router{
		Namespace: ns,
		Near:      newDevice(ns, "near", transit, number, 2),
		Far:       newDevice(ns, "far", side, number, 1),
	}
	host.Device = newDevice(host.Namespace, "eth0", side, number, 2)
	if host.Wire, err = join(host.Router.Near, host.Uplink, LinkOptions{Kind: options.Kind}); err != nil {
		return err
	}
	if _, err := join(host.Device, host.Router.Far, LinkOptions{MTU: options.MTU}); err != nil {
		return err
	}
	var back []netip.Prefix
	for _, address := range []netip.Addr{host.Device.IPv4, host.Device.IPv6} {
		back = append(back, host.Device.prefix(address).Masked())
	}
	return errors.Join(ns.addRoutes(defaultRoutes, host.Uplink), n.Gateway.addRoutes(back, host.Router.Near))
}

func (r *Router) close() error {
	return errors.Join(r.Near.clearLoss(), r.Far.clearLoss(), r.Namespace.Close())
}
