// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

var (
	patterns  = []string{"", "*.com", "*.example.com", "*.a.example.com", "a.example.com", "b.a.example.com", "x.com", "*.org"}
	snis      = []string{"", "x.com", "y.com", "example.com", "a.example.com", "b.example.com", "b.a.example.com", "c.b.a.example.com", "d.a.example.com", "q.org"}
	addresses = []string{"10.0.0.1", "10.0.0.2"}
)

func pick(r *rand.Rand, list []string) string { return list[r.IntN(len(list))] }

// random returns Gateways with listeners on one port, and routes to them.
func random(r *rand.Rand) Input {
	in := Input{ControllerName: controller, AnyClass: true, ServicesUnknown: true}
	mode := gatewayv1.TLSModePassthrough
	for i := range 1 + r.IntN(3) {
		g := &gatewayv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("g%d", i)}}
		if r.IntN(2) == 0 {
			g.Spec.Addresses = []gatewayv1.GatewaySpecAddress{{Value: pick(r, addresses)}}
		}
		for j := range 1 + r.IntN(4) {
			h := gatewayv1.Hostname(pick(r, patterns))
			g.Spec.Listeners = append(g.Spec.Listeners, gatewayv1.Listener{Name: gatewayv1.SectionName(fmt.Sprintf("l%d", j)), Hostname: &h, Port: 443, Protocol: "TLS", TLS: &gatewayv1.ListenerTLSConfig{Mode: &mode}})
		}
		in.Gateways = append(in.Gateways, g)
	}
	for i := range r.IntN(6) {
		route := &gatewayv1.TLSRoute{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("r%d", i), CreationTimestamp: metav1.NewTime(time.Unix(int64(r.IntN(3)), 0))}}
		for j := range in.Gateways {
			if r.IntN(2) == 0 {
				route.Spec.ParentRefs = append(route.Spec.ParentRefs, gatewayv1.ParentReference{Name: gatewayv1.ObjectName(fmt.Sprintf("g%d", j))})
			}
		}
		for range r.IntN(3) {
			if h := pick(r, patterns); h != "" {
				route.Spec.Hostnames = append(route.Spec.Hostnames, gatewayv1.Hostname(h))
			}
		}
		in.TLSRoutes = append(in.TLSRoutes, route)
	}
	return in
}

// takes tells whether pattern takes sni, label by label.
func patternTakes(pattern, sni string) bool {
	if pattern == "" || pattern == "*" {
		return true
	}
	p, s := strings.Split(pattern, "."), strings.Split(sni, ".")
	if p[0] != "*" {
		return slices.Equal(p, s)
	}
	return len(s) >= len(p) && slices.Equal(p[1:], s[len(s)-len(p)+1:])
}

// rank is greater for the more specific of two patterns that take one name.
func rank(pattern string) int {
	switch {
	case pattern == "" || pattern == "*":
		return 0
	case pattern[0] != '*':
		return 1000
	}
	return len(strings.Split(pattern, "."))
}

// lookup asks the flattened table as the comment of Match has it.
func lookup(r *Result, addr netip.Addr, sni string) string {
	type entry struct {
		Match
		answer string
	}
	var own, open []entry
	add := func(m Match, answer string) {
		if slices.Contains(m.Addresses, addr) {
			own = append(own, entry{m, answer})
		} else if len(m.Addresses) == 0 {
			open = append(open, entry{m, answer})
		}
	}
	for _, o := range r.Routes {
		for _, m := range o.Matches {
			add(m, o.Route.Name)
		}
	}
	for _, m := range r.Refusals {
		add(m, "")
	}
	if len(own) == 0 {
		own = open
	}
	best, answer := -1, ""
	for _, e := range own {
		if patternTakes(e.Name, sni) && rank(e.Name) >= best {
			if rank(e.Name) == best {
				return "two entries for " + e.Name
			}
			best, answer = rank(e.Name), e.answer
		}
	}
	return answer
}

// choose does what the specification says, in two steps, for one connection.
func choose(in Input, r *Result, addr netip.Addr, sni string) string {
	type candidate struct {
		gateway  *gatewayv1.Gateway
		listener *gatewayv1.Listener
	}
	var own, open []candidate
	for _, g := range in.Gateways {
		status := r.Gateways[types.NamespacedName{Namespace: g.Namespace, Name: g.Name}]
		for i := range g.Spec.Listeners {
			if !holds(status.Listeners[i].Conditions, "Accepted") {
				continue
			}
			if len(g.Spec.Addresses) == 0 {
				open = append(open, candidate{g, &g.Spec.Listeners[i]})
			} else if g.Spec.Addresses[0].Value == addr.String() {
				own = append(own, candidate{g, &g.Spec.Listeners[i]})
			}
		}
	}
	if len(own) == 0 {
		own = open
	}
	var l candidate
	for _, c := range own {
		if h := string(*c.listener.Hostname); patternTakes(h, sni) && (l.listener == nil || rank(h) > rank(string(*l.listener.Hostname))) {
			l = c
		}
	}
	if l.listener == nil {
		return ""
	}
	var best *gatewayv1.TLSRoute
	bestRank := -1
	for _, o := range in.TLSRoutes {
		if !slices.ContainsFunc(o.Spec.ParentRefs, func(p gatewayv1.ParentReference) bool { return string(p.Name) == l.gateway.Name }) {
			continue
		}
		hostnames := o.Spec.Hostnames
		if len(hostnames) == 0 {
			hostnames = []gatewayv1.Hostname{""}
		}
		for _, h := range hostnames {
			if !patternTakes(string(h), sni) {
				continue
			}
			n := rank(string(h))
			older := best != nil && (o.CreationTimestamp.Time.Before(best.CreationTimestamp.Time) || o.CreationTimestamp.Equal(&best.CreationTimestamp) && o.Name < best.Name)
			if n > bestRank || n == bestRank && older {
				best, bestRank = o, n
			}
		}
	}
	if best == nil {
		return ""
	}
	return best.Name
}

func TestFlattenedTableChoosesAsTheSpecification(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	served := 0
	for i := range 3000 {
		in := random(r)
		result := Compute(in)
		for _, a := range append(addresses, "10.0.0.3") {
			for _, sni := range snis {
				addr := netip.MustParseAddr(a)
				want, got := choose(in, result, addr, sni), lookup(result, addr, sni)
				if want != got {
					t.Fatalf("case %d, %q at %s: got %q, want %q\n%s", i, sni, addr, got, want, strings.Join(lines(result), "\n"))
				}
				if want != "" {
					served++
				}
			}
		}
	}
	if served < 1000 {
		t.Errorf("only %d connections were served", served)
	}
}
