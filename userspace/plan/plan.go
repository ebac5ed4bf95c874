// SPDX-License-Identifier: Apache-2.0

// Package plan says what an agent is to serve: the endpoints of its file, and what the
// manifests that the file names come to. It is where endpoint objects get their meaning,
// and where all objects are told what became of them. It looks at nothing but what it is
// given.
package plan

import (
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/crypto/acme"
	"k8s.io/apimachinery/pkg/types"

	"github.com/spliceway/spliceway/userspace/api/v1alpha1"
	"github.com/spliceway/spliceway/userspace/config"
	"github.com/spliceway/spliceway/userspace/gateway"
	"github.com/spliceway/spliceway/userspace/manifest"
	"github.com/spliceway/spliceway/userspace/policy"
	"github.com/spliceway/spliceway/userspace/route"
)

// Plan is what is to be served.
type Plan struct {
	// Config is the agent's file, with the endpoints of the manifests behind its own.
	Config *config.Config
	// Endpoints say more of each of Config.Endpoints, by the same index.
	Endpoints []Endpoint
	// Problems are objects that are not served, and why; Warnings are about what is.
	// Neither is about the agent's file.
	Problems config.Errors
	Warnings []manifest.Warning
	// Files are all files and directories of manifests, for a watcher.
	Files []string
	// Objects is what became of each object that has a status, in the order of kinds
	// and names.
	Objects []ObjectStatus
	// Listeners are where Gateways' listeners that are served have to be listened for, each
	// place of each once. Without an address it is each of the agent's.
	Listeners []Listener

	refusals []gateway.Match
	set      *manifest.Set
	good     map[manifest.Key]*manifest.Object // those that are served
	inner    *route.Table                      // of Internal; it has nothing with innerErr
	innerErr error
}

// HTTP is what becomes of requests. The endpoint's upstream has all targets of all rules.
type HTTP struct {
	// Plain are the hosts, where HTTP is without TLS. The endpoint's Places are then empty.
	// The entries' Endpoint is not set.
	Plain []route.Entry
	// Rules are in the order of precedence.
	Rules []HTTPRule
}

// HTTPRule takes requests as gateway.HTTPRule says.
type HTTPRule struct {
	From           string // the object that it is of
	Hostname, Path string
	Exact          bool
	Targets        []config.Target
}

// Listener is a place that a Gateway has.
type Listener struct {
	Gateway manifest.Key
	Place   netip.AddrPort
}

// Endpoint is what the agent's file cannot say of one.
type Endpoint struct {
	// From is the object that it is of; empty: the agent's file.
	From string
	URL  string
	// Places are where it is reached from outside, Internal where policies reach it.
	// The entries' Endpoint is not set.
	Places, Internal []route.Entry
	Policy           *policy.Policy
	// HTTP is what requests come to on its connections; nil: they are no business of ours.
	HTTP *HTTP
	// Peers are the indices of all endpoints that share its places; nil: it has them
	// alone. The first of them stands for all.
	Peers []int
	// Tenant tells that whoever wrote it may not have what only this host can reach.
	Tenant  bool
	pooling bool
}

// planner makes a Plan.
type planner struct {
	*Plan
	cfg      *config.Config
	old      *Plan // nil: there is none
	options  Options
	objects  []*manifest.Object
	byKey    map[manifest.Key]*manifest.Object
	policies map[manifest.Key]*manifest.Object
	services *services
	secrets  map[manifest.Key]*manifest.Object
	claims   map[claim]int // the endpoint that has a place
	internal map[claim]int // the endpoint that has an internal place
	statuses map[manifest.Key]*outcome
	names    map[string]bool
	told     map[config.Error]bool // problems, each once
	compiled map[compiledKey]*compiled
	// replaced are the objects in whose place what was there before is served, and why.
	replaced map[manifest.Key]*config.Error
}

// claim is a place of the route table.
type claim struct {
	address  string
	port     uint16
	name     string
	protocol string
}

// Options of Make.
type Options struct {
	// Old is what has been served until now; nil: nothing. An object that was right
	// there and is wrong now goes on as it was.
	Old *Plan
	// Usable tells, with an error, of an address in a Gateway's spec that cannot be
	// listened on. nil: all can.
	Usable func(gateway types.NamespacedName, at netip.Addr) error
	// Cluster tells that the set has all there is in a cluster: what is not there does not
	// exist.
	Cluster bool
	// Own are the objects that are not the cluster's but of the host's own files.
	Own map[manifest.Key]bool
	// Addresses are of Gateways that ask for none; nil: they share all of the agent's.
	Addresses map[types.NamespacedName][]netip.Addr
	// Unwatched tells, with an error, of a Secret or ConfigMap that is not in the set and of
	// which nothing is known; nil: what is not in the set does not exist.
	Unwatched func(kind string, name types.NamespacedName) error
	// Node is that whose endpoints are preferred, where a Service has some that are ready;
	// empty: none is.
	Node string
}

// Make works out what is to be served.
func Make(cfg *config.Config, set *manifest.Set, o Options) *Plan {
	own := *cfg
	own.Endpoints = slices.Clone(cfg.Endpoints)
	p := &planner{
		Plan: &Plan{Config: &own, set: set, good: make(map[manifest.Key]*manifest.Object),
			Problems: slices.Clone(set.Problems), Warnings: slices.Clone(set.Warnings), Files: set.Files},
		cfg: cfg, old: o.Old, options: o,
		policies: make(map[manifest.Key]*manifest.Object), secrets: make(map[manifest.Key]*manifest.Object),
		claims: make(map[claim]int, len(set.Objects)), internal: make(map[claim]int), statuses: make(map[manifest.Key]*outcome),
	}
	p.names, p.told = make(map[string]bool, len(set.Objects)), make(map[config.Error]bool)
	p.compiled, p.replaced = make(map[compiledKey]*compiled), make(map[manifest.Key]*config.Error)
	p.objects = onNode(p.keep(), o.Node)
	p.replace()
	p.fromFile()
	p.index()
	for _, o := range p.objects {
		switch o.Value.(type) {
		case *v1alpha1.AgentEndpoint, *v1alpha1.CloudEndpoint:
			p.translate(o)
		}
	}
	p.gateways()
	p.buildInner()
	p.checkForwards()
	p.conditions()
	p.Problems.Sort()
	return p.Plan
}

func (p *planner) warn(at config.Position, format string, args ...any) {
	p.Warnings = append(p.Warnings, manifest.Warning{Pos: at, Text: fmt.Sprintf(format, args...)})
}

// problem is something that is wrong with an object.
func (p *planner) problem(o *manifest.Object, path []any, format string, args ...any) *config.Error {
	return &config.Error{Pos: o.At(path...), Path: manifest.PathText(path), Msg: o.Key.String() + ": " + fmt.Sprintf(format, args...)}
}

// fromFile adds the file's endpoints.
func (p *planner) fromFile() {
	for i := range p.Config.Endpoints {
		e := &p.Config.Endpoints[i]
		alpn := e.ALPN
		if t := e.TLSTermination; t != nil && t.ACME && len(alpn) > 0 {
			alpn = append(slices.Clone(alpn), acme.ALPNProto)
		}
		x := Endpoint{URL: e.URL, Places: []route.Entry{{Port: e.Port, Name: e.ServerName, ALPN: alpn}}}
		p.Endpoints = append(p.Endpoints, x)
		for _, c := range claimsOf(&x.Places[0]) {
			p.claims[c] = i
		}
	}
}

func claimsOf(e *route.Entry) []claim {
	address := ""
	if e.Address.IsValid() {
		address = e.Address.String()
	}
	if len(e.ALPN) == 0 {
		return []claim{{address, e.Port, e.Name, ""}}
	}
	var all []claim
	for _, protocol := range e.ALPN {
		all = append(all, claim{address, e.Port, e.Name, protocol})
	}
	return all
}

// index finds what objects refer to.
func (p *planner) index() {
	p.byKey = make(map[manifest.Key]*manifest.Object, len(p.objects))
	for _, o := range p.objects {
		p.byKey[o.Key] = o
		switch o.Value.(type) {
		case *v1alpha1.NgrokTrafficPolicy:
			p.policies[o.Key] = o
		}
		if o.Kind == "Secret" {
			p.secrets[o.Key] = o
		}
	}
	p.services = newServices(p.objects)
}

// add adds an endpoint, unless its places are others'.
func (p *planner) add(o *manifest.Object, e config.Endpoint, x Endpoint) *config.Error {
	i := len(p.Endpoints)
	if p.names[e.Name] {
		return p.problem(o, []any{"metadata", "name"}, "there is another %s of this name, of another API group", o.Kind)
	}
	for _, table := range []struct {
		entries []route.Entry
		claims  map[claim]int
	}{{x.Places, p.claims}, {x.Internal, p.internal}} {
		for j := range table.entries {
			for _, c := range claimsOf(&table.entries[j]) {
				first, taken := table.claims[c]
				if !taken {
					table.claims[c] = i
					continue
				}
				other := &p.Endpoints[first]
				if !x.pooling || !other.pooling {
					at := p.Config.Endpoints[first].Pos.String()
					return p.problem(o, []any{"spec", "url"}, "%s is the URL of endpoint %s at %s; %s", x.URL, p.Config.Endpoints[first].Name, at, poolingText(x.pooling, other))
				}
				if other.Peers == nil {
					other.Peers = []int{first}
				}
				other.Peers = append(other.Peers, i)
			}
		}
	}
	p.names[e.Name] = true
	p.Config.Endpoints = append(p.Config.Endpoints, e)
	p.Endpoints = append(p.Endpoints, x)
	return nil
}

func poolingText(mine bool, other *Endpoint) string {
	switch {
	case other.From == "":
		return "an endpoint of the agent's file shares its URL with none"
	case !mine:
		return "poolingEnabled: true would have them share it"
	}
	return "poolingEnabled: true there would have them share it"
}

// checkForwards warns of forwards that lead nowhere.
func (p *planner) checkForwards() {
	for i := range p.Endpoints {
		x := &p.Endpoints[i]
		if x.Policy == nil {
			continue
		}
		urls, _ := x.Policy.Forwards()
		for _, url := range urls {
			to, err := p.forwardTo(url)
			switch {
			case err != nil:
				p.warn(p.Config.Endpoints[i].Pos, "%s: forward-internal to %q: %v", x.From, url, err)
			case to < 0:
				p.warn(p.Config.Endpoints[i].Pos, "%s: forward-internal to %q: no internal endpoint has this URL", x.From, url)
			case to == i:
				p.warn(p.Config.Endpoints[i].Pos, "%s: forward-internal to %q: that is this endpoint itself", x.From, url)
			}
		}
	}
}
