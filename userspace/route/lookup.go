// SPDX-License-Identifier: Apache-2.0

package route

import (
	"net/netip"
	"strings"
)

// Lookup finds the entry for a connection to an address and port whose ClientHello has
// the given server name, in lower case, and the given protocols, in the client's
// order (RFC 7301, section 3.1). It allocates nothing.
//
// An address that has entries of its own on the port has no others there.
// The exact name comes before every wildcard, a longer wildcard before a shorter one,
// and "*" last; "*.x" covers one or more labels in front of x, and not x itself.
// Among the entries of one name, the client's first protocol that one of them
// lists decides; else the entry without a list takes the connection. A name all
// of whose entries list protocols, none of them the client's, is passed over,
// and the next shorter wildcard is tried.
func (t *Table) Lookup(address netip.Addr, port uint16, name string, alpn []string) (Match, bool) {
	n := t.at(address, port)
	if n == nil || name == "" || len(name) > maxName {
		return Match{}, false
	}
	if c, pattern, ok := n.exact.find(name); ok {
		if endpoint, protocol, ok := t.pick(c, alpn); ok {
			return Match{Endpoint: endpoint, Pattern: pattern, Kind: Exact, ALPN: protocol}, true
		}
	}
	suffix, depth := name, 0
	if !n.depths.empty() {
		depth = labels(name) - 1
	}
	for ; depth > 0; depth-- {
		suffix = suffix[strings.IndexByte(suffix, '.')+1:]
		if !n.depths.has(depth) {
			continue
		}
		if c, pattern, ok := n.wildcard.find(suffix); ok {
			if endpoint, protocol, ok := t.pick(c, alpn); ok {
				return Match{Endpoint: endpoint, Pattern: pattern, Kind: Wildcard, ALPN: protocol}, true
			}
		}
	}
	if endpoint, protocol, ok := t.pick(n.any, alpn); ok {
		return Match{Endpoint: endpoint, Pattern: anyName, Kind: Any, ALPN: protocol}, true
	}
	return Match{}, false
}

// LookupAny finds the entry for a connection whose client names no server: that with the
// name "*" and no protocols.
func (t *Table) LookupAny(address netip.Addr, port uint16) (Match, bool) {
	if n := t.at(address, port); n != nil {
		if endpoint, protocol, ok := t.pick(n.any, nil); ok {
			return Match{Endpoint: endpoint, Pattern: anyName, Kind: Any, ALPN: protocol}, true
		}
	}
	return Match{}, false
}

func (t *Table) at(address netip.Addr, port uint16) *names {
	if t.owners {
		if n := t.places[place{address.Unmap(), port}]; n != nil {
			return n
		}
	}
	return t.places[place{port: port}]
}

// pick returns the endpoint among c's entries and the protocol that decided.
func (t *Table) pick(c choice, alpn []string) (int, string, bool) {
	if c.list != none {
		for _, offered := range alpn {
			for _, p := range t.lists[c.list] {
				if p.name == offered {
					return max(int(p.endpoint), Refuse), p.name, true
				}
			}
		}
	}
	if c.open == refused {
		return Refuse, "", true
	}
	return int(c.open), "", c.open != none
}

// anyName is the Name of entries that take every name.
const anyName = "*"

// maxName is the length of the longest name in DNS's text form, without the
// dot at its end (RFC 1035, section 3.1).
const maxName = 253

func labels(name string) int { return strings.Count(name, ".") + 1 }

// depths is a set of numbers of labels. It has room for names made of nothing
// but dots, so that no name that may be asked for is out of range.
type depths [(maxName + 1 + 63) / 64]uint64

func (d *depths) add(n int)      { d[n/64] |= 1 << (n % 64) }
func (d *depths) has(n int) bool { return d[n/64]&(1<<(n%64)) != 0 }
func (d *depths) empty() bool    { return *d == depths{} }
