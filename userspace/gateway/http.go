// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// HTTPListener is what becomes of requests that come to a listener for HTTP or HTTPS.
type HTTPListener struct {
	Gateway types.NamespacedName
	Name    string
	// Matches are the names that are its own: of hosts, and for HTTPS of the TLS before them.
	Matches     []Match
	Termination *Termination // nil: plain HTTP
	// Rules are in the order of precedence. There may be none.
	Rules []HTTPRule
}

// HTTPRule takes the requests for a host and a path. Of those of a listener that take a
// request the first does.
type HTTPRule struct {
	Route    types.NamespacedName
	Rule     int    // index in the HTTPRoute's rules
	Hostname string // "a.b", "*.b", or "*" for any host, or none
	// Path is the request's path, if Exact, or one or more of its leading elements. It has
	// no slash at its end then, and is empty for every path.
	Path  string
	Exact bool
	// Backends have weights above 0. None: requests are answered with an error.
	Backends []Backend
}

// httpRule is one of an HTTPRoute's.
type httpRule struct {
	paths    []httpPath
	backends []Backend // without TLS
}

type httpPath struct {
	path  string
	exact bool
}

// readHTTPRoute reads what a route asks for. What is not supported is refused, and the whole
// route with it: without a condition its rules would take requests that they are not for.
func (c *computation) readHTTPRoute(a *attachable, r *gatewayv1.HTTPRoute) {
	a.http = r
	refuse := func(format string, args ...any) {
		a.unsupported.set(string(gatewayv1.RouteReasonUnsupportedValue), fmt.Sprintf(format, args...))
	}
	for i := range r.Spec.Rules {
		rule := &r.Spec.Rules[i]
		at := fmt.Sprintf("rules[%d].", i)
		for _, f := range rule.Filters {
			refuse("%sfilters: %s is not supported", at, f.Type)
		}
		for _, field := range []struct {
			name string
			set  bool
		}{{"timeouts", rule.Timeouts != nil}, {"retry", rule.Retry != nil}, {"sessionPersistence", rule.SessionPersistence != nil}} {
			if field.set {
				refuse("%s%s is not supported", at, field.name)
			}
		}
		own := httpRule{}
		for j := range rule.Matches {
			m := &rule.Matches[j]
			at := fmt.Sprintf("%smatches[%d].", at, j)
			switch {
			case len(m.Headers) > 0:
				refuse("%sheaders is not supported: path is", at)
			case len(m.QueryParams) > 0:
				refuse("%squeryParams is not supported: path is", at)
			case m.Method != nil:
				refuse("%smethod is not supported: path is", at)
			}
			p, why := pathOf(m.Path)
			if why != "" {
				refuse("%spath: %s", at, why)
			}
			own.paths = append(own.paths, p)
		}
		if len(rule.Matches) == 0 {
			own.paths = []httpPath{{}}
		}
		var refs []gatewayv1.BackendRef
		for j, ref := range rule.BackendRefs {
			for _, f := range ref.Filters {
				refuse("%sbackendRefs[%d].filters: %s is not supported", at, j, f.Type)
			}
			refs = append(refs, ref.BackendRef)
		}
		own.backends = c.resolveAll(a, refs)
		a.rules = append(a.rules, own)
	}
}

// pathOf is what a match says of the path, or why that cannot be.
func pathOf(m *gatewayv1.HTTPPathMatch) (p httpPath, why string) {
	if m == nil {
		return httpPath{}, ""
	}
	path := value(m.Value, "/")
	if !strings.HasPrefix(path, "/") {
		return httpPath{}, fmt.Sprintf("%q: a path that begins with / is expected", path)
	}
	switch of := value(m.Type, gatewayv1.PathMatchPathPrefix); of {
	case gatewayv1.PathMatchExact:
		return httpPath{path, true}, ""
	case gatewayv1.PathMatchPathPrefix:
		return httpPath{strings.TrimRight(path, "/"), false}, ""
	default:
		return httpPath{}, fmt.Sprintf("type %s is not supported: Exact and PathPrefix are", of)
	}
}

// serveHTTP gives each listener for HTTP its rules. An HTTPS listener that cannot be served
// keeps its names from others.
func (c *computation) serveHTTP(owners owners) {
	attached := map[*listener][]*attachable{}
	for _, a := range c.routes {
		if a.http == nil {
			continue
		}
		for i := range a.parents {
			for _, l := range a.parents[i].attached {
				if list := attached[l]; len(list) == 0 || list[len(list)-1] != a { // by another parentRef
					attached[l] = append(list, a)
				}
			}
		}
	}
	secured := map[securedKey][]Backend{}
	for _, g := range c.gateways {
		for _, l := range g.listeners {
			if l.kind != kindHTTPRoute || !l.claims() {
				continue
			}
			matches := l.matches(owners)
			if !l.serves() || len(l.kinds) == 0 {
				if l.spec.Protocol == gatewayv1.HTTPSProtocolType {
					c.out.Refusals = append(c.out.Refusals, matches...)
				}
				continue
			}
			if len(matches) == 0 {
				continue
			}
			h := HTTPListener{Gateway: g.name, Name: string(l.spec.Name), Matches: matches, Termination: l.termination}
			for _, a := range attached[l] {
				h.Rules = append(h.Rules, c.rulesOf(a, l, secured)...)
			}
			slices.SortStableFunc(h.Rules, compareRules)
			h.Rules = slices.CompactFunc(h.Rules, func(a, b HTTPRule) bool { return compareRules(a, b) == 0 })
			c.out.HTTP = append(c.out.HTTP, h)
		}
	}
}

// securedKey is a rule as one Gateway's connections reach its backends.
type securedKey struct {
	route   *attachable
	rule    int
	gateway *gateway
}

func (c *computation) rulesOf(a *attachable, l *listener, secured map[securedKey][]Backend) (all []HTTPRule) {
	for i, rule := range a.rules {
		key := securedKey{a, i, l.gateway}
		backends, done := secured[key]
		if !done {
			backends = c.secure(a.services, rule.backends, l.gateway)
			secured[key] = backends
		}
		for _, h := range a.hostnames {
			if !share([]string{h}, l.names) {
				continue
			}
			for _, p := range rule.paths {
				all = append(all, HTTPRule{Route: a.name, Rule: i, Hostname: h, Path: p.path, Exact: p.exact, Backends: backends})
			}
		}
	}
	return all
}

// compareRules is the order of precedence of HTTPRoute's spec; 0: both are for the same.
func compareRules(a, b HTTPRule) int {
	exact := func(r HTTPRule) int {
		if r.Exact {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(specificity(b.Hostname), specificity(a.Hostname)), cmp.Compare(a.Hostname, b.Hostname),
		cmp.Compare(exact(b), exact(a)), cmp.Compare(len(b.Path), len(a.Path)), cmp.Compare(a.Path, b.Path))
}
