// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/spliceway/spliceway/userspace/manifest"
)

// Addresses are of Gateways.
type Addresses map[types.NamespacedName][]netip.Addr

// Owners are Gateways that have an address of the pool, be it given or asked for.
type Owners map[netip.Addr]types.NamespacedName

// assign gives each Gateway of ours that asks for no address one out of the pool: that
// which its status has, if no Gateway before it has that. What a status has is its Gateway's
// before anybody may ask for it: else whoever may write a Gateway could have the clients of
// another. Only who leads gives new ones, so that all agents come to the same. objects are
// ordered by age.
func (c *Cluster) assign(objects []*manifest.Object, leading bool) (Addresses, Owners) {
	if len(c.opts.Pool) == 0 {
		return nil, nil
	}
	ours := gatewaysOf(objects, c.opts.Controller)
	all, owners := make(Addresses), make(Owners)
	free := func(at netip.Addr) bool { _, taken := owners[at]; return !taken && c.pooled(at) }
	for _, g := range ours {
		asks, name := asked(g), nameOf(g)
		for _, a := range g.Status.Addresses {
			at, err := netip.ParseAddr(a.Value)
			switch {
			case err != nil || !free(at):
			case len(asks) > 0 && slices.Contains(asks, at):
				owners[at] = name
			case len(asks) == 0 && all[name] == nil:
				owners[at], all[name] = name, []netip.Addr{at}
			}
		}
	}
	for _, g := range ours {
		for _, at := range asked(g) {
			if free(at) {
				owners[at] = nameOf(g)
			}
		}
	}
	if !leading {
		return all, owners
	}
	next := c.free(owners)
	for _, g := range ours {
		if name := nameOf(g); len(asked(g)) == 0 && all[name] == nil {
			if at := next(); at.IsValid() {
				owners[at], all[name] = name, []netip.Addr{at}
			}
		}
	}
	return all, owners
}

// gatewaysOf are the Gateways whose class is the controller's, in the order of objects.
func gatewaysOf(objects []*manifest.Object, controller string) (all []*gatewayv1.Gateway) {
	classes := make(map[gatewayv1.ObjectName]bool)
	for _, o := range objects {
		if class, ok := o.Value.(*gatewayv1.GatewayClass); ok && string(class.Spec.ControllerName) == controller {
			classes[gatewayv1.ObjectName(class.Name)] = true
		}
	}
	for _, o := range objects {
		if g, ok := o.Value.(*gatewayv1.Gateway); ok && classes[g.Spec.GatewayClassName] {
			all = append(all, g)
		}
	}
	return all
}

func nameOf(g *gatewayv1.Gateway) types.NamespacedName {
	return types.NamespacedName{Namespace: g.Namespace, Name: g.Name}
}

// asked are the addresses that a Gateway asks for. An entry without a value asks for any.
func asked(g *gatewayv1.Gateway) (all []netip.Addr) {
	for _, a := range g.Spec.Addresses {
		if at, err := netip.ParseAddr(a.Value); err == nil {
			all = append(all, at.Unmap())
		}
	}
	return all
}

func (c *Cluster) pooled(at netip.Addr) bool {
	return slices.ContainsFunc(c.opts.Pool, func(p netip.Prefix) bool { return p.Contains(at) && usual(p, at) })
}

// usual tells whether an address of a prefix is one that is given to hosts: not the
// network's own, and not its broadcast address.
func usual(p netip.Prefix, at netip.Addr) bool {
	if !at.Is4() || p.Bits() >= 31 {
		return true
	}
	return at != p.Masked().Addr() && p.Contains(at.Next())
}

// free gives one address after the other that nobody has, and an invalid one at the end.
func (c *Cluster) free(owners Owners) func() netip.Addr {
	i, at := 0, netip.Addr{}
	return func() netip.Addr {
		for ; i < len(c.opts.Pool); i, at = i+1, (netip.Addr{}) {
			p := c.opts.Pool[i]
			if at.IsValid() {
				at = at.Next()
			} else {
				at = p.Masked().Addr()
			}
			for ; p.Contains(at); at = at.Next() {
				if _, taken := owners[at]; !taken && usual(p, at) {
					return at
				}
			}
		}
		return netip.Addr{}
	}
}
