// SPDX-License-Identifier: Apache-2.0

package web

import (
	"crypto/tls"
	"math/rand/v2"
	"net"
	"path"
	"strconv"
	"strings"
)

// Rule takes requests for a host and a path.
type Rule struct {
	// From names the object that it is of, for logs.
	From string
	// Hostname is an exact name, "*." and a suffix, or "*" for any host, or none.
	Hostname string
	// Path is the request's path, if Exact, or some of its leading elements, without a slash
	// at the end; empty: every path.
	Path  string
	Exact bool
	// Targets share the requests by weight. None: they are answered with 500.
	Targets []Target
}

// Target is where requests go.
type Target struct {
	Host   string // a name or an IP address
	Port   uint16
	Weight int // 0: none but when others cannot be connected to
	// Refuse says why this target's share of the requests is answered with an error;
	// empty: it is not.
	Refuse string
	// Unready tells that Refuse is nothing permanent: 503, not 500.
	Unready bool
	TLS     TLS // nil: plain HTTP
}

// TLS has the settings of connections to a target. Two targets with the same one share
// connections, and it is compared with ==.
type TLS interface {
	Config(host, alpn string) *tls.Config
}

func (t *Target) address() string { return net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port))) }

// Site is the rules of a listener. It is immutable.
type Site struct {
	// Name is the listener's, in logs and metrics.
	Name string
	// ClientAuth is how its TLS asks clients for certificates: the same text for the same.
	ClientAuth string
	hosts      map[string]*paths // by Rule.Hostname
	// tls are the settings of targets, so that what nobody uses any more can be let go.
	tls []TLS
}

// paths are the rules for a hostname.
type paths struct {
	exact, prefix map[string]*Rule
	deepest       int // elements of the longest prefix
}

// NewSite makes one. Of rules for the same the first counts.
func NewSite(name string, rules []Rule) *Site {
	s := &Site{Name: name, hosts: make(map[string]*paths)}
	for i := range rules {
		r := &rules[i]
		p := s.hosts[r.Hostname]
		if p == nil {
			p = &paths{exact: make(map[string]*Rule), prefix: make(map[string]*Rule)}
			s.hosts[r.Hostname] = p
		}
		into := p.prefix
		if r.Exact {
			into = p.exact
		} else {
			p.deepest = max(p.deepest, strings.Count(r.Path, "/"))
		}
		if into[r.Path] == nil {
			into[r.Path] = r
		}
		for j := range r.Targets {
			if t := r.Targets[j].TLS; t != nil {
				s.tls = append(s.tls, t)
			}
		}
	}
	return s
}

// rule finds who takes a request: the most specific hostname that has a rule for the path,
// and of its rules an exact one, else the longest.
func (s *Site) rule(host, path string) *Rule {
	if p := s.hosts[host]; p != nil {
		if r := p.rule(path); r != nil {
			return r
		}
	}
	for rest := host; ; {
		_, after, ok := strings.Cut(rest, ".")
		if !ok {
			break
		}
		if p := s.hosts["*."+after]; p != nil {
			if r := p.rule(path); r != nil {
				return r
			}
		}
		rest = after
	}
	if p := s.hosts["*"]; p != nil {
		return p.rule(path)
	}
	return nil
}

func (p *paths) rule(path string) *Rule {
	if r := p.exact[path]; r != nil {
		return r
	}
	// From the longest prefix that there may be: a path is as long as its sender likes.
	end, elements := 0, 0
	for end < len(path) && elements < p.deepest {
		next := strings.IndexByte(path[end+1:], '/')
		if elements++; next < 0 {
			end = len(path)
			break
		}
		end += 1 + next
	}
	for {
		if r := p.prefix[path[:end]]; r != nil {
			return r
		}
		if end = strings.LastIndexByte(path[:end], '/'); end < 0 {
			return nil
		}
	}
}

// cleanPath is a path as a backend understands it: "." and ".." are gone, so that a rule
// cannot be had by a path that means another one (RFC 3986, section 5.2.4). Slashes at the
// end stay.
func cleanPath(p string) string {
	if !strings.Contains(p, "/.") && !strings.Contains(p, "//") {
		return p
	}
	clean := path.Clean(p)
	if clean != "/" && (strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") || strings.HasSuffix(p, "/..")) {
		clean += "/"
	}
	return clean
}

// pick chooses a target by weight; nil: there is none with a weight.
func (r *Rule) pick() *Target {
	total := 0
	for i := range r.Targets {
		total += r.Targets[i].Weight
	}
	if total == 0 {
		return nil
	}
	n := rand.IntN(total)
	for i := range r.Targets {
		if n -= r.Targets[i].Weight; n < 0 {
			return &r.Targets[i]
		}
	}
	return nil
}
