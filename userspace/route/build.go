// SPDX-License-Identifier: Apache-2.0

package route

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Build makes a table of entries, in time linear in their number. It fails on
// the first entry that no name can match, that has an endpoint out of range, or
// that would take connections which an earlier one takes.
func Build(entries []Entry) (*Table, error) {
	t := &Table{places: map[place]*names{}}
	builders := newBuilders(entries)
	for i, e := range entries {
		if e.Endpoint < Refuse || e.Endpoint > math.MaxInt32 {
			return nil, fmt.Errorf("build route table: entry %d (%s): endpoint %d out of range", i, e, e.Endpoint)
		}
		if e.Name == "" || e.Name == "*." || len(e.Name) > maxName {
			return nil, fmt.Errorf("build route table: entry %d (%s): name of 1 to %d bytes needed", i, e, maxName)
		}
		c, err := builders[e.place()].choice(e.Name)
		if err != nil {
			return nil, fmt.Errorf("build route table: entry %d (%s): %w", i, e, err)
		}
		if !t.add(c, e) {
			return nil, fmt.Errorf("build route table: entries %d and %d both take %s", clash(entries, i), i, e)
		}
	}
	for p, b := range builders {
		t.places[p] = &names{exact: b.exact.finish(), wildcard: b.wildcard.finish(), any: b.any, depths: b.depths}
		t.owners = t.owners || p.address.IsValid()
	}
	return t, nil
}

func (e *Entry) place() place { return place{e.Address.Unmap(), e.Port} }

// add adds e to the entries of its name, or returns false if another entry has
// e's place.
func (t *Table) add(c *choice, e Entry) bool {
	endpoint := int32(e.Endpoint)
	if e.Endpoint == Refuse {
		endpoint = refused
	}
	if len(e.ALPN) == 0 {
		if c.open != none {
			return false
		}
		c.open = endpoint
		return true
	}
	if c.list == none {
		c.list = int32(len(t.lists))
		t.lists = append(t.lists, make([]protocol, 0, len(e.ALPN)))
	}
	list := &t.lists[c.list]
	for _, name := range e.ALPN {
		if slices.ContainsFunc(*list, func(p protocol) bool { return p.name == name }) {
			return false
		}
		*list = append(*list, protocol{name, endpoint})
	}
	return true
}

// clash returns the entry that already has a place which entry i asks for: i
// itself if it lists a protocol twice.
func clash(entries []Entry, i int) int {
	e := entries[i]
	return slices.IndexFunc(entries[:i+1], func(o Entry) bool {
		if o.place() != e.place() || o.Name != e.Name {
			return false
		}
		if len(o.ALPN) == 0 || len(e.ALPN) == 0 {
			return len(o.ALPN) == len(e.ALPN)
		}
		return slices.ContainsFunc(o.ALPN, func(p string) bool { return slices.Contains(e.ALPN, p) })
	})
}

// namesBuilder fills the names of one place.
type namesBuilder struct {
	exact, wildcard *indexBuilder
	any             choice
	depths          depths
}

// newBuilders makes a builder for each place, at the size that its entries need.
func newBuilders(entries []Entry) map[place]*namesBuilder {
	type size struct{ names, bytes int }
	type sizes struct{ exact, wildcard size }
	places := map[place]*sizes{}
	for i := range entries {
		e := &entries[i]
		s := places[e.place()]
		if s == nil {
			s = &sizes{}
			places[e.place()] = s
		}
		kind := &s.exact
		if isWildcard(e.Name) {
			kind = &s.wildcard
		}
		kind.names++
		kind.bytes += len(e.Name)
	}
	builders := make(map[place]*namesBuilder, len(places))
	for p, s := range places {
		builders[p] = &namesBuilder{
			any:      choice{open: none, list: none},
			exact:    newIndexBuilder(s.exact.names, s.exact.bytes, 0),
			wildcard: newIndexBuilder(s.wildcard.names, s.wildcard.bytes, len("*.")),
		}
	}
	return builders
}

func (b *namesBuilder) choice(name string) (*choice, error) {
	if name == anyName {
		return &b.any, nil
	}
	if !isWildcard(name) {
		c, _, err := b.exact.choice(name)
		return c, err
	}
	c, added, err := b.wildcard.choice(name)
	if added {
		b.depths.add(labels(name) - 1)
	}
	return c, err
}

func isWildcard(name string) bool { return strings.HasPrefix(name, "*.") }
