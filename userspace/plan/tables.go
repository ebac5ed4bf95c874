// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"github.com/spliceway/spliceway/userspace/config"
	"github.com/spliceway/spliceway/userspace/route"
)

// Tables are the route table of connections, and that of policies' forwards; their matches
// are indices into Endpoints. Of pooled endpoints it is the first.
func (p *Plan) Tables() (outer, inner *route.Table, err error) {
	var places, internal []route.Entry
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
	}
	places = append(places, p.refused(places)...)
	if outer, err = route.Build(places); err != nil {
		return nil, nil, err
	}
	inner, err = route.Build(internal)
	return outer, inner, err
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
		_, rest, ok := cutLabel(suffix)
		if !ok {
			return -1, nil
		}
		if i, ok := p.inner[claim{"", port, "*." + rest, ""}]; ok {
			return i, nil
		}
		suffix = rest
	}
}
