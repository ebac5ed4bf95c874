// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"cmp"
	"net/netip"
	"slices"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// winner is the route that has a name on a listener.
type winner struct {
	route    *attachable
	hostname string // of the route, before it was narrowed to the listener's
}

// way is a listener's way to treat a route's connections.
type way struct {
	gateway     *gateway // nil: the same for all
	termination *Termination
}

// served are a route's connections that are treated in one way.
type served struct {
	way     way
	matches []Match
}

// add adds a match to those of its way.
func (a *attachable) add(w way, m Match) {
	i := slices.IndexFunc(a.served, func(s served) bool { return s.way == w })
	if i < 0 {
		i = len(a.served)
		a.served = append(a.served, served{way: w})
	}
	a.served[i].matches = append(a.served[i].matches, m)
}

// serve flattens the choice of a listener, and then of one of its routes, into
// single names: each is that of the route which the listener that is the most
// specific for it chooses. A name that lies within a more specific listener on
// the same address and port is left to that one.
func (c *computation) serve() {
	owners := c.owners()
	winners := c.winners()
	for _, g := range c.gateways {
		for _, l := range g.listeners {
			if !l.claims() || l.spec.Protocol != gatewayv1.TLSProtocolType {
				continue
			}
			for _, n := range l.names {
				if _, ok := winners[l][n]; !ok {
					c.out.Refusals = append(c.out.Refusals, Match{slices.Clone(g.addresses), uint16(l.spec.Port), n, g.name, string(l.spec.Name)})
				}
			}
			w := way{}
			if l.mode == Terminate {
				w = way{g, l.termination}
			}
			for name, won := range winners[l] {
				m, owned := l.match(owners, name)
				if !owned {
					continue
				}
				won.route.add(w, m)
			}
		}
	}
	for _, a := range c.routes {
		for _, s := range a.served {
			w := s.way
			slices.SortFunc(s.matches, compareMatches)
			r := Route{Route: a.name, Matches: s.matches, Backends: a.backends}
			if w.gateway != nil {
				r.Mode, r.Termination, r.Backends = Terminate, w.termination, c.secure(a.services, a.backends, w.gateway)
			}
			c.out.Routes = append(c.out.Routes, r)
		}
	}
	c.serveHTTP(owners)
	slices.SortFunc(c.out.Routes, func(a, b Route) int {
		if c := compareNames(a.Route, b.Route); c != 0 {
			return c
		}
		return compareMatches(a.Matches[0], b.Matches[0])
	})
	slices.SortFunc(c.out.Refusals, compareMatches)
}

func compareMatches(a, b Match) int {
	return cmp.Or(compareNames(a.Gateway, b.Gateway), cmp.Compare(a.Listener, b.Listener), cmp.Compare(a.Port, b.Port),
		cmp.Compare(a.Name, b.Name), slices.CompareFunc(a.Addresses, b.Addresses, netip.Addr.Compare))
}

// owners has the listener of each name that one claims, by place.
type owners map[place]map[string]*listener

func (c *computation) owners() owners {
	o := owners{}
	for _, g := range c.gateways {
		for _, l := range g.listeners {
			if !l.claims() {
				continue
			}
			for _, p := range l.places() {
				if o[p] == nil {
					o[p] = map[string]*listener{}
				}
				for _, n := range l.names {
					o[p][n] = l
				}
			}
		}
	}
	return o
}

// of returns the most specific listener at p that takes name.
func (o owners) of(p place, name string) *listener {
	for outer := range func(yield func(string) bool) { parents(name, yield) } {
		if l := o[p][outer]; l != nil {
			return l
		}
	}
	return nil
}

// winners chooses among the routes of each listener: that with the most specific
// hostname has a name, then that which comes first.
func (c *computation) winners() map[*listener]map[string]winner {
	all := map[*listener]map[string]winner{}
	for _, a := range c.routes { // by precedence: a later one must be better to win
		if a.tls == nil {
			continue
		}
		for _, p := range a.parents {
			for _, l := range p.attached {
				if !l.serves() {
					continue
				}
				if all[l] == nil {
					all[l] = map[string]winner{}
				}
				for _, h := range a.hostnames {
					for _, n := range l.names {
						name, ok := intersect(h, n)
						if !ok {
							continue
						}
						if before, taken := all[l][name]; !taken || specificity(h) > specificity(before.hostname) {
							all[l][name] = winner{a, h}
						}
					}
				}
			}
		}
	}
	return all
}
