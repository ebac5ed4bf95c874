// SPDX-License-Identifier: Apache-2.0

package route

import "strings"

// Lookup finds the entry for a connection to port whose ClientHello has the
// given server name, in lower case, and the given protocols, in the client's
// order (RFC 7301, section 3.1). It allocates nothing.
//
// The exact name comes before every wildcard, and a longer wildcard before a
// shorter one; "*.x" covers one or more labels in front of x, and not x itself.
// Among the entries of one name, the client's first protocol that one of them
// lists decides; else the entry without a list takes the connection. A name all
// of whose entries list protocols, none of them the client's, is passed over,
// and the next shorter wildcard is tried.
func (t *Table) Lookup(port uint16, name string, alpn []string) (Match, bool) {
	n := t.ports[port]
	if n == nil || name == "" || len(name) > maxName {
		return Match{}, false
	}
	if c, pattern, ok := n.exact.find(name); ok {
		if endpoint, protocol, ok := t.pick(c, alpn); ok {
			return Match{Endpoint: endpoint, Pattern: pattern, Kind: Exact, ALPN: protocol}, true
		}
	}
	if n.depths.empty() {
		return Match{}, false
	}
	suffix := name
	for depth := labels(name) - 1; depth > 0; depth-- {
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
	return Match{}, false
}

// pick returns the endpoint among c's entries and the protocol that decided.
func (t *Table) pick(c choice, alpn []string) (int, string, bool) {
	if c.list != none {
		for _, offered := range alpn {
			for _, p := range t.lists[c.list] {
				if p.name == offered {
					return int(p.endpoint), p.name, true
				}
			}
		}
	}
	return int(c.open), "", c.open != none
}

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
