// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/netip"
	"slices"

	"github.com/spliceway/spliceway/userspace/config"
	"github.com/spliceway/spliceway/userspace/plan"
	"github.com/spliceway/spliceway/userspace/proxy"
	"github.com/spliceway/spliceway/userspace/telemetry"
	"github.com/spliceway/spliceway/userspace/web"
)

// openWeb starts what serves HTTP. stop cuts what is left.
func (a *agent) openWeb() (stop func()) {
	a.web = web.New(web.Options{Logger: a.logger, Done: a.requestDone})
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := a.web.Run(); err != nil {
			a.logger.Error("HTTP is not served any more", "error", err.Error())
		}
	}()
	return func() {
		a.web.Close()
		<-done
	}
}

// requestDone counts a request, and writes its line.
func (a *agent) requestDone(r *web.Request) {
	if r.Site != "" {
		a.metrics.Endpoint(r.Site).Request(r.Status)
	}
	if a.access != nil {
		a.access.WriteRequest(requestRecord(r))
	}
}

// buildWeb makes what decides about requests.
func buildWeb(p *plan.Plan, t plan.Tables, gen *generation) *web.Table {
	table := &web.Table{
		Secure: t.Outer, Plain: t.Plain, Sites: make([]*web.Site, len(p.Endpoints)),
		Idle: p.Config.Timeouts.Idle, ConnectTimeout: p.Config.Timeouts.Connect, Hosts: p.Config.Hosts,
	}
	for i := range p.Endpoints {
		h := p.Endpoints[i].HTTP
		if h == nil {
			continue
		}
		e := &p.Config.Endpoints[i]
		settings := upstreamSettings(e)
		var rules []web.Rule
		for _, r := range h.Rules {
			rule := web.Rule{From: r.From, Hostname: r.Hostname, Path: r.Path, Exact: r.Exact}
			for j := range r.Targets {
				rule.Targets = append(rule.Targets, webTarget(e, &r.Targets[j], settings, gen))
			}
			rules = append(rules, rule)
		}
		table.Sites[i] = web.NewSite(e.Name, rules)
		table.Sites[i].ClientAuth = clientAuthOf(e)
	}
	return table
}

// clientAuthOf tells how an endpoint asks its clients for certificates.
func clientAuthOf(e *config.Endpoint) string {
	if e.TLSTermination == nil || e.TLSTermination.MutualTLS == nil {
		return ""
	}
	m := e.TLSTermination.MutualTLS
	return m.Mode + "\n" + string(m.CAPEM)
}

func webTarget(e *config.Endpoint, t *config.Target, settings []*config.UpstreamTLS, gen *generation) web.Target {
	out := web.Target{Host: t.Host, Port: t.Port, Weight: t.Weight, Refuse: t.Refuse, Unready: t.Unready}
	if t.TLS && t.Refuse == "" {
		n := slices.IndexFunc(settings, func(s *config.UpstreamTLS) bool { return sameSettings(s, settingsOf(e, t)) })
		out.TLS = gen.terminations[e.Name].clients[n]
	}
	return out
}

// plainPlaces are where HTTP comes without TLS; the first endpoint at a place counts the
// connections there.
func plainPlaces(p *plan.Plan, endpoints []*proxy.Endpoint) map[netip.AddrPort]*proxy.Endpoint {
	places := make(map[netip.AddrPort]*proxy.Endpoint)
	for i := range p.Endpoints {
		if h := p.Endpoints[i].HTTP; h != nil {
			for _, e := range h.Plain {
				if at := netip.AddrPortFrom(e.Address, e.Port); places[at] == nil {
					places[at] = endpoints[i]
				}
			}
		}
	}
	return places
}

// places are where a generation is reached.
func (g *generation) places() []netip.AddrPort {
	all := slices.Concat(g.snapshot.Table.Places(), g.web.Plain.Places())
	slices.SortFunc(all, netip.AddrPort.Compare)
	return slices.Compact(all)
}

func requestRecord(r *web.Request) *telemetry.RequestRecord {
	return &telemetry.RequestRecord{
		ID: r.Conn.ID, Client: r.Conn.Client.String(), Endpoint: r.Site, Route: r.Rule, Method: r.Method, Host: r.Host, Path: r.Path,
		Protocol: r.Protocol, Status: r.Status, Upstream: r.Upstream, Reason: r.Reason, Total: r.Took,
	}
}
