// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spliceway/spliceway/userspace/config"
	"github.com/spliceway/spliceway/userspace/plan"
	"github.com/spliceway/spliceway/userspace/policy"
	"github.com/spliceway/spliceway/userspace/proxy"
	"github.com/spliceway/spliceway/userspace/telemetry"
	"github.com/spliceway/spliceway/userspace/terminate"
	"github.com/spliceway/spliceway/userspace/upstream"
	"github.com/spliceway/spliceway/userspace/web"
)

// generation is what one configuration became. Pools whose description did not
// change, and the counts of open connections, are handed on to the next one.
type generation struct {
	snapshot *proxy.Snapshot
	web      *web.Table
	pools    map[string]*pool // by endpoint name
	// terminations are of the endpoints that terminate TLS, by name. They are handed
	// on as pools are.
	terminations map[string]*termination
	tickets      *terminate.Tickets
	ticketsOf    config.SessionTickets // what tickets was made from
	authority    *authority            // nil: no endpoint has wanted one yet
}

type pool struct {
	*upstream.Pool
	spec   upstream.Spec
	hosts  map[string][]netip.Addr // those of config.Config.Hosts that its targets name
	packet bool                    // it dials for engine packet
	tenant bool                    // it leads to nothing that only this host can reach
	active *atomic.Int64
}

// build makes a generation; it changes nothing that runs.
func (a *agent) build(p *plan.Plan) (_ *generation, err error) {
	cfg := p.Config
	tables, err := p.Tables()
	if err != nil {
		return nil, fmt.Errorf("build route table: %w", err)
	}
	gen := &generation{pools: make(map[string]*pool, len(cfg.Endpoints)), terminations: make(map[string]*termination)}
	s := &proxy.Snapshot{
		Table: tables.Outer, Internal: tables.Inner, Forwards: make(map[string]*proxy.Endpoint),
		Relay: a.engines.relay, HandshakeTimeout: cfg.Timeouts.Handshake,
		Endpoints:      make([]*proxy.Endpoint, len(cfg.Endpoints)),
		Refuse:         refusals(cfg.Refuse),
		TrustedProxies: cfg.ProxyProtocol.From,
		HelloTimeout:   cfg.Timeouts.Hello,
		MaxHello:       cfg.Limits.HelloBytes, MaxHelloMemory: int64(cfg.Limits.HelloMemory),
		MaxConnections: cfg.Limits.MaxConnections, MaxPerClient: cfg.Limits.MaxConnectionsPerClient,
		AcceptRate: cfg.Limits.AcceptRate, AcceptBurst: cfg.Limits.AcceptBurst,
	}
	gen.snapshot = s
	defer func() {
		if err != nil {
			gen.closeExcept(a.current)
		}
	}()
	if err := a.openTLS(cfg, gen); err != nil {
		return nil, err
	}
	if err := a.buildTerminations(p, gen); err != nil {
		return nil, err
	}
	if err := a.orderShortcut(p); err != nil {
		return nil, err
	}
	byName := make(map[string]*proxy.Endpoint, len(cfg.Endpoints))
	for i := range cfg.Endpoints {
		e := &cfg.Endpoints[i]
		s.Endpoints[i] = a.endpoint(p, i, gen)
		byName[e.Name] = s.Endpoints[i]
	}
	linkPolicies(p, s)
	s.Plain = plainPlaces(p, s.Endpoints)
	gen.web = buildWeb(p, tables, gen)
	s.Fallback.UnknownName = byName[cfg.Fallback.UnknownName]
	s.Fallback.NoSNI = byName[cfg.Fallback.NoSNI]
	s.Fallback.NotTLS = byName[cfg.Fallback.NotTLS]
	return gen, nil
}

// endpoint makes one of gen's.
func (a *agent) endpoint(p *plan.Plan, i int, gen *generation) *proxy.Endpoint {
	cfg, e, x := p.Config, &p.Config.Endpoints[i], &p.Endpoints[i]
	engine, why := a.engine(cfg, e)
	connects := e
	if x.HTTP != nil { // its requests do, one by one
		own := *e
		own.Upstream.All = nil
		connects = &own
	}
	pool := a.pool(cfg, connects, x.Tenant)
	gen.pools[e.Name] = pool
	out := &proxy.Endpoint{
		Name: e.Name, Pool: pool.Pool, Engine: engine, EngineReason: why, MatchSegments: a.dialsForPacket(cfg, e), Active: pool.active,
		Shortcut:    wantsShortcut(cfg, e),
		ProxyHeader: proxyVersions[e.Upstream.ProxyProtocol],
		Idle:        either(e.Timeouts.Idle, cfg.Timeouts.Idle), HalfClose: either(e.Timeouts.HalfClose, cfg.Timeouts.HalfClose),
		MaxConnections: e.Limits.MaxConnections,
		Metrics:        a.metrics.Endpoint(e.Name),
	}
	if out.HTTP = x.HTTP != nil; out.HTTP {
		out.ClientAuth = clientAuthOf(e)
	}
	if len(connects.Upstream.All) == 0 {
		out.Pool = nil // its policy says where connections go
	}
	if t := gen.terminations[e.Name]; t != nil {
		out.Clients = t.clients
		if t.server != nil {
			out.Termination = proxyTermination(e, t, gen.authority)
		}
	}
	if x.Policy != nil {
		out.Policy = &proxy.Policy{Policy: x.Policy, Self: p.SelfOf(i), Terminations: make(map[*policy.Termination]*proxy.Termination)}
		for n, t := range x.Policy.Terminations() {
			out.Policy.Terminations[t] = &proxy.Termination{Server: gen.terminations[actionName(e, n)].server}
		}
	}
	return out
}

// linkPolicies has endpoints know their peers, and the snapshot where policies forward to.
func linkPolicies(p *plan.Plan, s *proxy.Snapshot) {
	for i := range p.Endpoints {
		for _, peer := range p.Endpoints[i].Peers {
			s.Endpoints[i].Peers = append(s.Endpoints[i].Peers, s.Endpoints[peer])
		}
	}
	for i := range p.Endpoints {
		if p.Endpoints[i].Policy == nil {
			continue
		}
		urls, _ := p.Endpoints[i].Policy.Forwards()
		for _, url := range urls {
			if to := p.ForwardTo(url); to >= 0 {
				s.Forwards[url] = s.Endpoints[to]
			}
		}
	}
}

var proxyVersions = map[string]proxy.ProxyVersion{"v1": 1, "v2": 2}

func either(own *time.Duration, general time.Duration) time.Duration {
	if own != nil {
		return *own
	}
	return general
}

// pool is the running generation's pool if it is the same, else a new one.
func (a *agent) pool(cfg *config.Config, e *config.Endpoint, tenant bool) *pool {
	spec := poolSpec(cfg, e)
	hosts := hostsOf(cfg, spec)
	packet := a.dialsForPacket(cfg, e)
	active := new(atomic.Int64)
	if a.current != nil {
		if old := a.current.pools[e.Name]; old != nil {
			if old.spec.Equal(spec) && old.packet == packet && old.tenant == tenant && maps.EqualFunc(old.hosts, hosts, slices.Equal) {
				return old
			}
			active = old.active
		}
	}
	p := &pool{spec: spec, hosts: hosts, packet: packet, tenant: tenant, active: active}
	resolver := upstream.Hosts{Table: hosts}
	if tenant {
		resolver.Next = elsewhere{}
	}
	p.Pool = upstream.New(spec, upstream.Options{
		Endpoint: e.Name, Dialer: a.dialer(cfg, e), Resolver: resolver,
		Logger: a.logger, Observer: a.metrics.Endpoint(e.Name),
	})
	p.Start(context.Background())
	return p
}

// elsewhere is DNS without the addresses that each machine has for itself: whoever may write an
// object, and a name's records, is not to reach this host's own services by it.
type elsewhere struct{}

// LookupNetIP is upstream.Resolver's.
func (elsewhere) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	all, err := net.DefaultResolver.LookupNetIP(ctx, network, host)
	if err != nil {
		return nil, err
	}
	return notOnlyHere(all, host)
}

func notOnlyHere(all []netip.Addr, host string) ([]netip.Addr, error) {
	all = slices.DeleteFunc(all, func(a netip.Addr) bool { return config.OnlyHere(a.String()) })
	if len(all) == 0 {
		return nil, &net.DNSError{Err: "all of its addresses are the node's own", Name: host, IsNotFound: true}
	}
	return all, nil
}

// hostsOf are the hosts of the configuration that a pool's targets name.
func hostsOf(cfg *config.Config, spec upstream.Spec) map[string][]netip.Addr {
	hosts := make(map[string][]netip.Addr)
	for _, t := range spec.Targets {
		name := strings.TrimSuffix(t.Host, ".")
		if addrs, ok := cfg.Hosts[name]; ok {
			hosts[name] = addrs
		}
	}
	return hosts
}

func poolSpec(cfg *config.Config, e *config.Endpoint) upstream.Spec {
	u := &e.Upstream
	spec := upstream.Spec{
		Policy: policies[u.LoadBalancing], Retries: u.Retries,
		ConnectTimeout: either(e.Timeouts.Connect, cfg.Timeouts.Connect),
		Check: upstream.CheckSpec{
			Type: upstream.CheckType(u.HealthCheck.Type), Interval: u.HealthCheck.Interval, Timeout: u.HealthCheck.Timeout,
			Healthy: u.HealthCheck.HealthyThreshold, Unhealthy: u.HealthCheck.UnhealthyThreshold,
			ServerName: u.HealthCheck.ServerName,
		},
		EjectAfter: u.Ejection.Failures, EjectFor: u.Ejection.Duration,
		Refresh: u.DNS.Refresh, Family: families[u.DNS.Family],
	}
	settings := upstreamSettings(e)
	for i := range u.All {
		t := &u.All[i]
		spec.Targets = append(spec.Targets, upstream.Target{Host: t.Host, Port: t.Port, Weight: t.Weight, TLS: t.TLS, Refuse: t.Refuse,
			Settings: max(0, slices.IndexFunc(settings, func(s *config.UpstreamTLS) bool { return sameSettings(s, settingsOf(e, t)) }))})
	}
	return spec
}

var (
	policies = map[string]upstream.Policy{
		"roundRobin":       upstream.RoundRobin,
		"leastConnections": upstream.LeastConnections,
		"randomTwoChoices": upstream.RandomTwoChoices,
		"sourceHash":       upstream.SourceHash,
	}
	families = map[string]upstream.Family{"any": upstream.AnyFamily, "ipv4": upstream.IPv4, "ipv6": upstream.IPv6}
)

func refusals(r config.Refuse) map[telemetry.Outcome]proxy.Refusal {
	by := map[string]proxy.Refusal{"close": proxy.Close, "reset": proxy.Reset, "alert": proxy.Alert}
	return map[telemetry.Outcome]proxy.Refusal{
		telemetry.OutcomeUnknownName:  by[r.UnknownName],
		telemetry.OutcomeNoSNI:        by[r.NoSNI],
		telemetry.OutcomeMalformed:    by[r.Malformed],
		telemetry.OutcomeNotTLS:       by[r.NotTLS],
		telemetry.OutcomeHelloTimeout: by[r.HelloTimeout],
		telemetry.OutcomeTooLarge:     by[r.TooLarge],
		telemetry.OutcomeOverLimit:    by[r.OverLimit],
		telemetry.OutcomeDialFailed:   by[r.DialFailed],
		telemetry.OutcomeDenied:       by[r.Denied],
		telemetry.OutcomePolicyFailed: by[r.PolicyFailed],
	}
}

// closeExcept closes what other does not have.
func (g *generation) closeExcept(other *generation) {
	for name, p := range g.pools {
		if other == nil || other.pools[name] != p {
			p.Close()
		}
	}
	for name, t := range g.terminations {
		if other == nil || other.terminations[name] != t {
			t.close()
		}
	}
	if g.authority != nil && (other == nil || other.authority != g.authority) {
		g.authority.stop()
	}
}

func (g *generation) close() { g.closeExcept(nil) }

func (g *generation) names() map[string]bool {
	names := make(map[string]bool, len(g.pools))
	for name := range g.pools {
		names[name] = true
	}
	return names
}
