// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/spliceway/spliceway/userspace/config"
	"github.com/spliceway/spliceway/userspace/gateway"
	"github.com/spliceway/spliceway/userspace/manifest"
	"github.com/spliceway/spliceway/userspace/policy"
	"github.com/spliceway/spliceway/userspace/route"
)

// ControllerName is what a GatewayClass of this agent's has as its controller.
const ControllerName = "spliceway.dev/gateway-controller"

// gateways adds what the Gateway API's objects come to.
func (p *planner) gateways() {
	files := !p.options.Cluster
	in := gateway.Input{ControllerName: ControllerName, AnyClass: files, NoNamespaces: files, ServicesUnknown: files,
		AddressUsable: p.options.Usable, Addresses: p.options.Addresses, Unwatched: p.options.Unwatched}
	found := false
	for _, o := range p.objects {
		switch v := o.Value.(type) {
		case *gatewayv1.GatewayClass:
			in.Classes = append(in.Classes, v)
		case *gatewayv1.Gateway:
			in.Gateways = append(in.Gateways, v)
		case *gatewayv1.TLSRoute:
			in.TLSRoutes = append(in.TLSRoutes, v)
		case *gatewayv1.HTTPRoute:
			in.HTTPRoutes = append(in.HTTPRoutes, v)
		case *gatewayv1.ReferenceGrant:
			in.ReferenceGrants = append(in.ReferenceGrants, v)
			continue
		case *gatewayv1.BackendTLSPolicy:
			in.BackendTLSPolicies = append(in.BackendTLSPolicies, v)
		case *corev1.Service:
			in.Services = append(in.Services, v)
			continue
		case *discoveryv1.EndpointSlice:
			// What the agent's file says of a Service goes before what objects do.
			if _, said := p.cfg.Hosts[v.Labels[discoveryv1.LabelServiceName]+"."+v.Namespace]; !said {
				in.EndpointSlices = append(in.EndpointSlices, v)
			}
			continue
		case *corev1.Secret:
			in.Secrets = append(in.Secrets, applied(v))
			continue
		case *corev1.ConfigMap:
			in.ConfigMaps = append(in.ConfigMaps, v)
			continue
		case *corev1.Namespace:
			in.Namespaces = append(in.Namespaces, v)
			continue
		default:
			continue
		}
		found = true
	}
	if !found {
		return
	}
	result := gateway.Compute(in)
	for _, w := range result.Warnings {
		key := manifest.Key{Group: manifest.GroupGateway, Kind: w.Kind, Namespace: w.Namespace, Name: w.Name}
		at := config.Position{}
		if o := p.byKey[key]; o != nil {
			at = o.Pos
		}
		p.warn(at, "%s: %s", key, w.Text)
	}
	names := make(map[string]int)
	for i := range result.Routes {
		p.route(&result.Routes[i], names)
	}
	for i := range result.HTTP {
		p.http(&result.HTTP[i])
	}
	p.refusals = result.Refusals
	p.listeners(result)
	p.gatewayStatuses(result)
}

// listeners finds where the Gateways' are.
func (p *planner) listeners(r *gateway.Result) {
	seen := make(map[Listener]bool)
	add := func(all []gateway.Match) {
		for _, m := range all {
			l := Listener{Gateway: manifest.Key{Group: manifest.GroupGateway, Kind: "Gateway", Namespace: m.Gateway.Namespace, Name: m.Gateway.Name}}
			addresses := m.Addresses
			if len(addresses) == 0 {
				addresses = []netip.Addr{{}}
			}
			for _, a := range addresses {
				if l.Place = netip.AddrPortFrom(a, m.Port); !seen[l] {
					seen[l] = true
					p.Listeners = append(p.Listeners, l)
				}
			}
		}
	}
	for i := range r.Routes {
		add(r.Routes[i].Matches)
	}
	for i := range r.HTTP {
		add(r.HTTP[i].Matches)
	}
	add(r.Refusals)
}

// applied is a Secret as an API server would have it.
func applied(s *corev1.Secret) *corev1.Secret {
	if len(s.StringData) == 0 {
		return s
	}
	own := *s
	own.Data = maps.Clone(s.Data)
	if own.Data == nil {
		own.Data = make(map[string][]byte)
	}
	for k, v := range s.StringData {
		own.Data[k] = []byte(v)
	}
	return &own
}

// route adds what one Route comes to.
func (p *planner) route(r *gateway.Route, names map[string]int) {
	key := manifest.Key{Group: manifest.GroupGateway, Kind: "TLSRoute", Namespace: r.Route.Namespace, Name: r.Route.Name}
	o := p.byKey[key]
	e := config.NewEndpoint()
	e.Name = nameOf(key)
	if n := names[e.Name]; n > 0 { // on listeners that treat TLS differently
		e.Name += "/" + strconv.Itoa(n)
	}
	names[nameOf(key)]++
	e.Pos = o.Pos
	x := Endpoint{From: key.String(), Places: p.free(o, "route", r.Matches)}
	if len(x.Places) == 0 {
		return
	}
	first := x.Places[0]
	e.ServerName, e.Port = first.Name, first.Port
	x.URL = "tls://" + net.JoinHostPort(first.Name, strconv.Itoa(int(first.Port)))
	e.URL = x.URL
	if r.Mode == gateway.Terminate {
		e.TLSTermination = terminationOf(r.Termination, o.Pos)
	}
	for _, b := range r.Backends {
		e.Upstream.All = append(e.Upstream.All, p.backend(&b, r.Mode == gateway.Terminate, o.Pos)...)
	}
	if len(e.Upstream.All) == 0 {
		e.Upstream.All = []config.Target{{Host: "none", Port: 1, Weight: 1, URL: "none", Refuse: "the route has no backend"}}
	}
	e.Finish()
	if err := p.add(o, e, x); err != nil {
		p.Problems = append(p.Problems, err)
	}
}

// free are the places of matches that no endpoint of the agent's file has.
func (p *planner) free(o *manifest.Object, what string, matches []gateway.Match) (all []route.Entry) {
	for _, m := range matches {
		for _, place := range entries(m) {
			if first, taken := p.claims[claimsOf(&place)[0]]; taken {
				p.Problems = append(p.Problems, p.problem(o, nil, "%s is served by endpoint %s at %s, not by this %s", place, p.Config.Endpoints[first].Name, p.Config.Endpoints[first].Pos, what))
				continue
			}
			all = append(all, place)
		}
	}
	return all
}

// http adds what a listener for HTTP comes to.
func (p *planner) http(l *gateway.HTTPListener) {
	key := manifest.Key{Group: manifest.GroupGateway, Kind: "Gateway", Namespace: l.Gateway.Namespace, Name: l.Gateway.Name}
	o := p.byKey[key]
	e := config.NewEndpoint()
	e.Name = nameOf(key) + "/" + l.Name
	e.Pos = o.Pos
	x := Endpoint{From: key.String(), HTTP: &HTTP{}}
	scheme := "http"
	if l.Termination == nil {
		for _, m := range l.Matches {
			x.HTTP.Plain = append(x.HTTP.Plain, entries(m)...)
		}
	} else {
		scheme = "https"
		if x.Places = p.free(o, "listener", l.Matches); len(x.Places) == 0 {
			return
		}
		e.TLSTermination = terminationOf(l.Termination, o.Pos)
		e.TLSTermination.ALPN = []string{"h2", "http/1.1"}
	}
	e.ServerName, e.Port = l.Matches[0].Name, l.Matches[0].Port
	x.URL = scheme + "://" + net.JoinHostPort(e.ServerName, strconv.Itoa(int(e.Port)))
	e.URL = x.URL
	for i := range l.Rules {
		r := &l.Rules[i]
		rule := HTTPRule{
			From:     manifest.Key{Group: manifest.GroupGateway, Kind: "HTTPRoute", Namespace: r.Route.Namespace, Name: r.Route.Name}.String(),
			Hostname: r.Hostname, Path: r.Path, Exact: r.Exact,
		}
		for _, b := range r.Backends {
			rule.Targets = append(rule.Targets, p.backend(&b, true, o.Pos)...)
		}
		x.HTTP.Rules = append(x.HTTP.Rules, rule)
		e.Upstream.All = append(e.Upstream.All, rule.Targets...)
	}
	e.Finish()
	if err := p.add(o, e, x); err != nil {
		p.Problems = append(p.Problems, err)
	}
}

// entries are a match's.
func entries(m gateway.Match) []route.Entry {
	if len(m.Addresses) == 0 {
		return []route.Entry{{Port: m.Port, Name: m.Name}}
	}
	var all []route.Entry
	for _, a := range m.Addresses {
		all = append(all, route.Entry{Address: a, Port: m.Port, Name: m.Name})
	}
	return all
}

// refused are the entries of names that are to be refused and that nobody else has.
func (p *Plan) refused(places []route.Entry) []route.Entry {
	taken := make(map[claim]bool)
	for i := range places {
		e := &places[i]
		key := *e
		key.ALPN = nil
		taken[claimsOf(&key)[0]] = true
	}
	var all []route.Entry
	for _, m := range p.refusals {
		for _, e := range entries(m) {
			if c := claimsOf(&e)[0]; !taken[c] {
				taken[c] = true
				e.Endpoint = route.Refuse
				all = append(all, e)
			}
		}
	}
	return all
}

func terminationOf(t *gateway.Termination, at config.Position) *config.Termination {
	c := config.NewTermination()
	c.Pos = at
	for _, cert := range t.Certificates {
		c.Certificates = append(c.Certificates, config.Certificate{CertPEM: cert.CertPEM, KeyPEM: cert.KeyPEM, From: cert.From, Pos: at})
	}
	if t.MinVersion != "" {
		c.MinVersion = t.MinVersion
		c.MinTLS = map[string]uint16{"1.2": 0x303, "1.3": 0x304}[t.MinVersion]
	}
	if v := t.ClientValidation; v != nil {
		c.MutualTLS = mutualTLS(v.CAPEM, v.Insecure, at)
	}
	return c
}

// addressShare is what a backend's weight is taken times, to be shared by its addresses.
const addressShare = 1000

// backend is what a backendRef comes to.
func (p *planner) backend(b *gateway.Backend, terminated bool, at config.Position) []config.Target {
	t := config.Target{Host: b.Host, Port: b.Port, Weight: int(b.Weight) * addressShare, Refuse: b.Invalid, Unready: b.Unready}
	if t.Host == "" {
		t.Host = b.Service.Name + "." + b.Service.Namespace
	}
	scheme := "tcp"
	if b.TLS != nil && terminated {
		scheme, t.TLS = "tls", true
		u := config.NewUpstreamTLS()
		u.ServerName, u.CAPEM, u.Pos = b.TLS.ServerName, b.TLS.CAPEM, at
		for _, san := range b.TLS.SANs {
			if san.DNS != "" {
				u.SANs = append(u.SANs, "DNS:"+san.DNS)
			} else {
				u.SANs = append(u.SANs, "URI:"+san.URI)
			}
		}
		if c := b.TLS.ClientCert; c != nil {
			u.CertPEM, u.KeyPEM = c.CertPEM, c.KeyPEM
		}
		t.UpstreamTLS = u
	}
	url := func(host string, port uint16) string {
		return fmt.Sprintf("%s://%s", scheme, net.JoinHostPort(host, strconv.Itoa(int(port))))
	}
	t.URL = url(t.Host, t.Port)
	if t.Refuse != "" || len(b.Addresses) == 0 {
		return []config.Target{t}
	}
	var all []config.Target
	for _, a := range b.Addresses {
		one := t
		one.Host, one.Port = a.Addr().String(), a.Port()
		one.URL = url(one.Host, one.Port)
		one.Weight = max(t.Weight/len(b.Addresses), 1)
		all = append(all, one)
	}
	return all
}

// SelfOf is what policies see of an endpoint.
func (p *Plan) SelfOf(i int) policy.Endpoint {
	e := &p.Config.Endpoints[i]
	return policy.Endpoint{ID: e.Name, URL: p.Endpoints[i].URL, Protocol: "tls", Host: e.ServerName, Port: int(e.Port)}
}
