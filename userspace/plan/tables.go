// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"net/netip"

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
	if p.innerErr != nil {
		return Tables{}, p.innerErr
	}
	t.Inner = p.inner
	places := p.ofFirsts(func(x *Endpoint) []route.Entry { return x.Places })
	if t.Outer, err = route.Build(append(places, p.refused(places)...)); err != nil {
		return Tables{}, err
	}
	t.Plain, err = route.Build(p.ofFirsts(func(x *Endpoint) []route.Entry {
		if x.HTTP == nil {
			return nil
		}
		return x.HTTP.Plain
	}))
	return t, err
}

// ofFirsts are the entries of all endpoints but of those that others stand for.
func (p *Plan) ofFirsts(entries func(*Endpoint) []route.Entry) (all []route.Entry) {
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
		for _, e := range entries(&p.Endpoints[i]) {
			e.Endpoint = i
			all = append(all, e)
		}
	}
	return all
}

// buildInner makes the table of policies' forwards, once all endpoints are there.
func (p *Plan) buildInner() {
	p.inner, p.innerErr = route.Build(p.ofFirsts(func(x *Endpoint) []route.Entry { return x.Internal }))
	if p.innerErr != nil {
		p.inner = new(route.Table)
	}
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
	m, ok := p.inner.Lookup(netip.Addr{}, port, name, nil)
	if !ok {
		return -1, nil
	}
	return m.Endpoint, nil
}
