// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// endpoints reports what is wrong with each endpoint and between them, and
// returns their indices by name.
func (r *report) endpoints(p *path, cfg *Config) map[string]int {
	endpoints := cfg.Endpoints
	names := make(map[string]int, len(endpoints))
	places := make(map[place]int, len(endpoints))
	if len(endpoints) == 0 && len(cfg.Manifests) == 0 && !r.broken["manifests"] && !cfg.Kubernetes.Set {
		r.wrong(p, "at least one endpoint is needed, with a name, a url and an upstream")
	}
	for i := range endpoints {
		ep, at := &endpoints[i], p.element(i)
		ep.Pos = r.at(at)
		r.endpoint(at, ep)
		if first, ok := names[ep.Name]; ok {
			r.wrong(at.key("name"), "%s is the name of another endpoint, at %s", quote(ep.Name), endpoints[first].Pos)
		} else if ep.Name != "" {
			names[ep.Name] = i
		}
		if ep.ServerName == "" {
			continue
		}
		if len(ep.ALPN) == 0 {
			r.claim(at.key("url"), places, place{ep.Port, ep.ServerName, ""}, endpoints, i)
		}
		for j, protocol := range ep.ALPN {
			if protocol != "" {
				r.claim(at.key("alpn").element(j), places, place{ep.Port, ep.ServerName, protocol}, endpoints, i)
			}
		}
	}
	return names
}

// place is what only one endpoint can have. Without a protocol it is that of
// the endpoint which takes whatever protocol no other one lists.
type place struct {
	port     uint16
	name     string
	protocol string
}

// claim gives a place to endpoint i, or reports the one that has it.
func (r *report) claim(p *path, places map[place]int, want place, endpoints []Endpoint, i int) {
	first, taken := places[want]
	if !taken {
		places[want] = i
		return
	}
	switch {
	case first == i:
		r.wrong(p, "%s is listed twice", quote(want.protocol))
	case want.protocol != "":
		r.wrong(p, "%s of tls://%s:%d is taken by endpoint %q at %s",
			quote(want.protocol), want.name, want.port, endpoints[first].Name, endpoints[first].Pos)
	default:
		r.wrong(p, "tls://%s:%d is taken by endpoint %q at %s: give each its own URL, or lists of alpn that do not overlap",
			want.name, want.port, endpoints[first].Name, endpoints[first].Pos)
	}
}

func (r *report) endpoint(p *path, ep *Endpoint) {
	if ep.Name == "" {
		r.missing(p, "name", "a name for logs, metrics and fallbacks")
	} else if err := checkEndpointName(ep.Name); err != nil {
		r.wrong(p.key("name"), "%v", err)
	}
	if ep.URL == "" {
		r.missing(p, "url", "the public name, as tls://NAME[:PORT]")
	} else if name, port, err := parsePublicURL(ep.URL); err != nil {
		r.wrong(p.key("url"), "%v", err)
	} else if strings.HasSuffix("."+name, ".internal") {
		r.wrong(p.key("url"), "names below .internal are reached by traffic policies only: write an AgentEndpoint for it (manifests)")
	} else {
		ep.ServerName, ep.Port = name, port
	}
	for i, protocol := range ep.ALPN {
		// RFC 7301, section 3.1.
		if len(protocol) == 0 || len(protocol) > math.MaxUint8 {
			r.wrong(p.key("alpn").element(i), "expected a protocol of 1 to 255 bytes, found %d", len(protocol))
		}
	}
	if ep.Engine != "" {
		r.engine(p.key("engine"), ep.Engine)
	}
	if ep.Sockmap != "" {
		r.oneOf(p.key("sockmap"), ep.Sockmap, "auto", "on", "off")
	}
	r.upstream(p.key("upstream"), &ep.Upstream)
	if ep.TLSTermination != nil {
		r.termination(p.key("tlsTermination"), ep)
	}
	r.upstreamTLS(p.key("upstream").key("tls"), ep)

	timeouts := p.key("timeouts")
	r.override(timeouts.key("connect"), ep.Timeouts.Connect, time.Millisecond)
	r.override(timeouts.key("idle"), ep.Timeouts.Idle, 0)
	r.override(timeouts.key("halfClose"), ep.Timeouts.HalfClose, 0)
	r.within(p.key("limits").key("maxConnections"), ep.Limits.MaxConnections, 0, math.MaxInt32)
}

func (r *report) override(p *path, d *time.Duration, low time.Duration) {
	if d != nil {
		r.duration(p, *d, low)
	}
}

// missing reports a key of p that must be there and not be empty.
func (r *report) missing(p *path, key, what string) {
	r.wrong(p.key(key), "%s is needed", what)
}

func (r *report) upstream(p *path, u *Upstream) {
	switch {
	case u.URL != "" && len(u.Targets) > 0:
		r.wrong(p, "url and targets are both there, expected one of them")
	case u.URL != "":
		target := Target{URL: u.URL, Weight: 1}
		r.targetURL(p.key("url"), &target)
		u.All = []Target{target}
	case len(u.Targets) > 0:
		r.targets(p.key("targets"), u.Targets)
		u.All = u.Targets
	default:
		r.neither(p)
	}
	r.oneOf(p.key("loadBalancing"), u.LoadBalancing, "roundRobin", "leastConnections", "randomTwoChoices", "sourceHash")
	r.within(p.key("retries"), u.Retries, 0, 100)
	r.healthCheck(p.key("healthCheck"), &u.HealthCheck)
	r.within(p.key("ejection").key("failures"), u.Ejection.Failures, 0, 1000)
	r.duration(p.key("ejection").key("duration"), u.Ejection.Duration, time.Millisecond)
	r.duration(p.key("dns").key("refresh"), u.DNS.Refresh, time.Second)
	r.oneOf(p.key("dns").key("family"), u.DNS.Family, "any", "ipv4", "ipv6")
	r.oneOf(p.key("proxyProtocol"), u.ProxyProtocol, "", "v1", "v2")
}

// neither reports an upstream without url and targets, unless one of them is
// there and could not be decoded.
func (r *report) neither(p *path) {
	if r.broken[p.key("url").String()] || r.broken[p.key("targets").String()] {
		return
	}
	r.wrong(p, "url or targets is needed: where the connections go, as tls://HOST:PORT or tcp://HOST:PORT")
}

func (r *report) targets(p *path, targets []Target) {
	type server struct {
		host string
		port uint16
	}
	seen := map[server]int{}
	total := 0
	for i := range targets {
		t, at := &targets[i], p.element(i)
		r.within(at.key("weight"), t.Weight, 0, 1000)
		total += max(t.Weight, 0)
		if t.URL == "" {
			r.missing(at, "url", "the server, as tls://HOST:PORT or tcp://HOST:PORT,")
			continue
		}
		r.targetURL(at.key("url"), t)
		s := server{t.Host, t.Port}
		if first, ok := seen[s]; ok {
			r.wrong(at.key("url"), "the same server as %s", p.element(first))
		} else if t.Host != "" {
			seen[s] = i
		}
	}
	if total == 0 {
		r.wrong(p, "at least one target needs a weight above 0")
	}
}

func (r *report) targetURL(p *path, t *Target) {
	scheme, host, port, err := parseTargetURL(t.URL)
	if err != nil {
		r.wrong(p, "%v", err)
		return
	}
	t.Host, t.Port, t.TLS = host, port, scheme == "tls"
}

func (r *report) healthCheck(p *path, hc *HealthCheck) {
	r.oneOf(p.key("type"), hc.Type, "", "tcp", "tls")
	if hc.Type == "" && *hc != defaults().endpoint.Upstream.HealthCheck {
		r.wrong(p.key("type"), "type is needed, tcp or tls: without it nothing is checked")
	}
	r.duration(p.key("interval"), hc.Interval, 100*time.Millisecond)
	r.duration(p.key("timeout"), hc.Timeout, time.Millisecond)
	r.within(p.key("healthyThreshold"), hc.HealthyThreshold, 1, 100)
	r.within(p.key("unhealthyThreshold"), hc.UnhealthyThreshold, 1, 100)
	if hc.ServerName == "" {
		return
	}
	name, err := parseServerName(hc.ServerName)
	if err == nil && isWildcard(name) {
		err = fmt.Errorf("expected one name, found the wildcard %s", quote(name))
	}
	if err != nil {
		r.wrong(p.key("serverName"), "%v", err)
		return
	}
	hc.ServerName = name
}
