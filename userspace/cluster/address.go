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

// assign gives each Gateway of ours that asks for no address one out of the pool: that
// which its status has, if no Gateway before it has that. Only who leads gives new ones,
// so that all agents come to the same. objects are ordered by age.
func (c *Cluster) assign(objects []*manifest.Object, leading bool) Addresses {
	if len(c.opts.Pool) == 0 {
		return nil
	}
	ours := make(map[string]bool)
	for _, o := range objects {
		if class, ok := o.Value.(*gatewayv1.GatewayClass); ok && string(class.Spec.ControllerName) == c.opts.Controller {
			ours[class.Name] = true
		}
	}
	all, taken := make(Addresses), make(map[netip.Addr]bool)
	var without []types.NamespacedName
	for _, o := range objects {
		if g, ok := o.Value.(*gatewayv1.Gateway); ok && ours[string(g.Spec.GatewayClassName)] {
			for _, a := range asked(g) {
				taken[a] = true
			}
		}
	}
	for _, o := range objects {
		g, ok := o.Value.(*gatewayv1.Gateway)
		if !ok || !ours[string(g.Spec.GatewayClassName)] || len(asked(g)) > 0 {
			continue
		}
		name := types.NamespacedName{Namespace: g.Namespace, Name: g.Name}
		i := slices.IndexFunc(g.Status.Addresses, func(a gatewayv1.GatewayStatusAddress) bool {
			at, err := netip.ParseAddr(a.Value)
			return err == nil && !taken[at] && c.pooled(at)
		})
		if i < 0 {
			without = append(without, name)
			continue
		}
		at := netip.MustParseAddr(g.Status.Addresses[i].Value)
		all[name], taken[at] = []netip.Addr{at}, true
	}
	if !leading {
		return all
	}
	next := c.free(taken)
	for _, name := range without {
		if at := next(); at.IsValid() {
			all[name] = []netip.Addr{at}
		}
	}
	return all
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

// free gives one address after the other that is not taken, and an invalid one at the end.
func (c *Cluster) free(taken map[netip.Addr]bool) func() netip.Addr {
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
				if usual(p, at) && !taken[at] {
					return at
				}
			}
		}
		return netip.Addr{}
	}
}
