// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"strings"

	"github.com/spliceway/spliceway/userspace/config"
	"github.com/spliceway/spliceway/userspace/route"
)

// Tables are what decides where connections and requests go. Their matches are indices into
// Endpoints, of pooled ones the first.
type Tables struct {
	Outer *route.Table // of connections
	Inner *route.Table // of policies' forwards
	Plain *route.Table // of requests of HTTP without TLS, by host
}

// Tables builds them.
func (p *Plan) Tables() (t Tables, err error) {
	var places, internal, plain []route.Entry
	hidden := make(map[int]bool)
	for i := range p.Endpoints {
		for _, peer := range p.Endpoints[i].Peers {
			hidden[peer] = hidden[peer] || peer != i
		}
	}
	for i := range p.Endpoints {
		if hidden[i] {
			continue
		}
		for _, e := range p.Endpoints[i].Places {
			e.Endpoint = i
			places = append(places, e)
		}
		for _, e := range p.Endpoints[i].Internal {
			e.Endpoint = i
			internal = append(internal, e)
		}
		if h := p.Endpoints[i].HTTP; h != nil {
			for _, e := range h.Plain {
				e.Endpoint = i
				plain = append(plain, e)
			}
		}
	}
	places = append(places, p.refused(places)...)
	for _, table := range []struct {
		to      **route.Table
		entries []route.Entry
	}{{&t.Outer, places}, {&t.Inner, internal}, {&t.Plain, plain}} {
		if *table.to, err = route.Build(table.entries); err != nil {
			return Tables{}, err
		}
	}
	return t, nil
}

// ForwardTo is the index of the endpoint that a forward-internal's URL stands for, the first
// of its peers; -1: there is none.
func (p *Plan) ForwardTo(url string) int {
	i, _ := p.forwardTo(url)
	return i
}

func (p *Plan) forwardTo(url string) (int, error) {
	name, port, err := config.ParsePublicURL(url)
	if err != nil {
		return -1, err
	}
	if i, ok := p.inner[claim{"", port, name, ""}]; ok {
		return i, nil
	}
	for suffix := name; ; {
		_, rest, ok := strings.Cut(suffix, ".")
		if !ok {
			return -1, nil
		}
		if i, ok := p.inner[claim{"", port, "*." + rest, ""}]; ok {
			return i, nil
		}
		suffix = rest
	}
}
