// SPDX-License-Identifier: Apache-2.0

package config

import (
	"math"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	minHelloBytes = 512
	maxHelloBytes = 64 << 10
	// minHelloMemory lets a few of the largest buffers be lent at once
	// (proxy.helloSizes): less would refuse hellos that nobody else is in the way of.
	minHelloMemory = 1 << 20
	// maxDuration keeps a deadline from running over the end of time.
	maxDuration = 365 * 24 * time.Hour
)

// check reports what is wrong with the values of a decoded file, and fills in
// what is made of them: the fields without a key.
func check(r *report, cfg *Config) {
	var root *path
	r.engine(root.key("engine"), cfg.Engine)
	r.oneOf(root.key("sockmap"), cfg.Sockmap, "auto", "on", "off")
	if cfg.Cgroup != "" {
		r.absolute(root.key("cgroup"), cfg.Cgroup)
	}
	r.absolute(root.key("bpffs"), cfg.BPFFS)
	r.sourcePorts(root.key("sourcePorts"), cfg)
	r.listen(root.key("listen"), cfg.Listen)
	r.manifests(root.key("manifests"), cfg.Manifests)
	r.kubernetes(root.key("kubernetes"), &cfg.Kubernetes)
	r.hosts(root.key("hosts"), cfg)
	names := r.endpoints(root.key("endpoints"), cfg)
	r.acme(root.key("acme"), cfg)
	r.sessionTickets(root.key("sessionTickets"), &cfg.SessionTickets)
	r.fallback(root.key("fallback"), &cfg.Fallback, names, cfg.Endpoints)
	r.refuse(root.key("refuse"), &cfg.Refuse)
	r.trusted(root.key("proxyProtocol").key("from"), cfg.ProxyProtocol.From)
	r.timeouts(root.key("timeouts"), &cfg.Timeouts)
	r.limits(root.key("limits"), &cfg.Limits)
	r.oneOf(root.key("log").key("format"), cfg.Log.Format, "json", "text")
	r.oneOf(root.key("log").key("level"), cfg.Log.Level, "debug", "info", "warn", "error")
	r.admin(root.key("admin").key("address"), &cfg.Admin)
}

// absolute reports a path that depends on where the agent runs, or is not written plainly.
func (r *report) absolute(p *path, value string) {
	if !filepath.IsAbs(value) || filepath.Clean(value) != value {
		r.wrong(p, "expected an absolute path without \"..\", found %s", quote(value))
	}
}

func (r *report) engine(p *path, engine string) {
	switch engine {
	case "sockmap":
		r.wrong(p, `"sockmap" comes on top of engine "auto": say engine: auto and sockmap: on`)
	case "copy":
		r.wrong(p, `engine %q is not in this version, use "auto", "packet" or "splice"`, engine)
	default:
		r.oneOf(p, engine, "auto", "packet", "splice")
	}
}

// minSourcePorts is what a few hundred flows to one upstream address need.
const minSourcePorts = 256

func (r *report) sourcePorts(p *path, cfg *Config) {
	first, last, ok := strings.Cut(cfg.SourcePorts, "-")
	from, err := parsePort(first)
	to, err2 := parsePort(last)
	switch {
	case !ok || err != nil || err2 != nil:
		r.wrong(p, `expected "FIRST-LAST", two ports, found %s`, quote(cfg.SourcePorts))
	case from < 1024:
		r.wrong(p, "ports below 1024 are for services")
	case int(to)-int(from)+1 < minSourcePorts:
		r.wrong(p, "%s is %d ports, at least %d are needed: each flow to the same upstream address takes one", quote(cfg.SourcePorts), max(int(to)-int(from)+1, 0), minSourcePorts)
	default:
		cfg.FirstPort, cfg.LastPort = from, to
	}
}

// listen reports addresses that more than one entry covers.
func (r *report) listen(p *path, entries []netip.Prefix) {
	type entry struct {
		netip.Prefix
		path *path
	}
	var sorted []entry
	for i, prefix := range entries {
		at := p.element(i)
		switch {
		case !prefix.IsValid(): // could not be decoded
		case prefix.Addr().IsMulticast():
			r.wrong(at, "%s is a multicast address, no connection comes to it", prefix.Addr())
		case prefix.IsSingleIP() && prefix.Addr().IsUnspecified():
			sorted = append(sorted, entry{netip.PrefixFrom(prefix.Addr(), 0), at})
		default:
			sorted = append(sorted, entry{prefix, at})
		}
	}
	// A prefix sorts right before what it covers.
	slices.SortStableFunc(sorted, func(a, b entry) int { return a.Compare(b.Prefix) })
	for i := 1; i < len(sorted); i++ {
		wide, narrow := sorted[i-1], sorted[i]
		if !wide.Overlaps(narrow.Prefix) {
			continue
		}
		first, second := wide.path, narrow.path
		if first.index > second.index {
			first, second = second, first
		}
		r.wrong(second, "%s overlaps %s (%s)", entries[second.index], entries[first.index], r.at(first))
		sorted[i] = wide
	}
}

func (r *report) fallback(p *path, f *Fallback, names map[string]int, endpoints []Endpoint) {
	for _, one := range []struct{ key, name string }{
		{"unknownName", f.UnknownName},
		{"noSNI", f.NoSNI},
		{"notTLS", f.NotTLS},
	} {
		i, ok := names[one.name]
		if ok && one.key == "notTLS" && endpoints[i].TLSTermination != nil {
			r.wrong(p.key(one.key), "%s terminates TLS, and what comes here is none", quote(one.name))
		}
		if ok || one.name == "" {
			continue
		}
		meant := didYouMean(one.name, func(yield func(string) bool) {
			for i := range endpoints {
				if !yield(endpoints[i].Name) {
					return
				}
			}
		})
		r.wrong(p.key(one.key), "no endpoint has the name %s%s", quote(one.name), meant)
	}
}

func (r *report) refuse(p *path, f *Refuse) {
	for _, one := range []struct{ key, how string }{
		{"unknownName", f.UnknownName},
		{"noSNI", f.NoSNI},
		{"malformed", f.Malformed},
		{"tooLarge", f.TooLarge},
		{"overLimit", f.OverLimit},
		{"dialFailed", f.DialFailed},
		{"denied", f.Denied},
		{"policyFailed", f.PolicyFailed},
	} {
		r.oneOf(p.key(one.key), one.how, "close", "reset", "alert")
	}
	for _, one := range []struct{ key, how, why string }{
		{"notTLS", f.NotTLS, "a client that does not speak TLS cannot read an alert"},
		{"helloTimeout", f.HelloTimeout, "TLS has no alert for a client that says nothing"},
	} {
		if one.how == "alert" {
			r.wrong(p.key(one.key), `expected "close" or "reset": %s`, one.why)
		} else {
			r.oneOf(p.key(one.key), one.how, "close", "reset")
		}
	}
}

func (r *report) trusted(p *path, networks []netip.Prefix) {
	for i, prefix := range networks {
		if prefix.IsValid() && prefix.IsSingleIP() && prefix.Addr().IsUnspecified() {
			r.wrong(p.element(i), "no connection comes from %s, use %s/0 for every address", prefix.Addr(), prefix.Addr())
		}
	}
}

func (r *report) timeouts(p *path, t *Timeouts) {
	r.duration(p.key("hello"), t.Hello, time.Millisecond)
	r.duration(p.key("handshake"), t.Handshake, time.Millisecond)
	r.duration(p.key("connect"), t.Connect, time.Millisecond)
	r.duration(p.key("idle"), t.Idle, 0)
	r.duration(p.key("halfClose"), t.HalfClose, 0)
	r.duration(p.key("drain"), t.Drain, 0)
}

// duration reports a duration that is shorter than low, or too long.
func (r *report) duration(p *path, d, low time.Duration) {
	if d < low {
		r.wrong(p, "expected %s or more, found %s", low, d)
	}
	if d > maxDuration {
		r.wrong(p, "expected %s (a year) or less, found %s", maxDuration, d)
	}
}

func (r *report) limits(p *path, l *Limits) {
	r.within(p.key("maxConnections"), l.MaxConnections, 0, math.MaxInt32)
	r.within(p.key("maxConnectionsPerClient"), l.MaxConnectionsPerClient, 0, math.MaxInt32)
	r.within(p.key("acceptRate"), l.AcceptRate, 0, math.MaxInt32)
	r.within(p.key("acceptBurst"), l.AcceptBurst, 0, math.MaxInt32)
	if l.AcceptBurst > 0 && l.AcceptRate == 0 {
		r.wrong(p.key("acceptBurst"), "without acceptRate there is nothing to go over")
	}
	r.within(p.key("helloBytes"), l.HelloBytes, minHelloBytes, maxHelloBytes)
	r.within(p.key("helloMemory"), l.HelloMemory, minHelloMemory, 1<<40)
	r.within(p.key("sockmapQueue"), l.SockmapQueue, 64<<10, 64<<20)
	r.within(p.key("openFiles"), l.OpenFiles, 1024, 1<<30)
}

func (r *report) admin(p *path, a *Admin) {
	_, a.AddressSet = p.find(r.root)
	if a.Address == "off" {
		return
	}
	r.hostPort(p, a.Address, `HOST:PORT or "off"`)
}

// hostPort reports an address to listen on that is not one; without a host it is all.
func (r *report) hostPort(p *path, address, want string) {
	host, port, err := net.SplitHostPort(address)
	if err == nil && host != "" {
		if _, notIP := netip.ParseAddr(host); notIP != nil {
			_, err = parseHostName(host)
		}
	}
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16) // 0: any free port
	}
	if err != nil {
		r.wrong(p, "expected %s, found %s", want, quote(address))
	}
}
