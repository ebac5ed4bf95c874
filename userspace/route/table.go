// SPDX-License-Identifier: Apache-2.0

// Package route decides which endpoint takes a connection, from the address and port
// that it came to, the name that it asked for and the protocols that it offered.
//
// It knows nothing of sockets, of configuration files or of what is done with
// connections that match nothing.
package route

import (
	"fmt"
	"net/netip"
	"slices"
)

// Kind is how a name matched.
type Kind uint8

// The zero Kind is no match.
const (
	Exact    Kind = iota + 1 // the name itself
	Wildcard                 // "*." and a suffix of the name
	Any                      // "*"
)

// Refuse is the Endpoint of entries whose connections are refused: without them a less
// specific entry would take these.
const Refuse = -1

// String returns "exact", "wildcard", "any" or "none".
func (k Kind) String() string {
	switch k {
	case Exact:
		return "exact"
	case Wildcard:
		return "wildcard"
	case Any:
		return "any"
	}
	return "none"
}

// Entry maps one name on one port to an endpoint.
type Entry struct {
	// Address is the local address that the entry is for; the zero Addr: all that have
	// no entry of their own on this port.
	Address netip.Addr
	Port    uint16
	// Name is in lower case: an exact name, "*." and a suffix, or "*" for any name. It
	// has at most 253 bytes (RFC 1035, section 3.1, without the dot at the end).
	Name string
	// ALPN narrows the entry to clients that offer one of these protocols.
	// Empty: every client that no other entry of the same name takes.
	ALPN []string
	// Endpoint is the caller's number for the endpoint, 0 to math.MaxInt32, or Refuse.
	Endpoint int
}

// String returns NAME:PORT, the address and the protocols, if any.
func (e Entry) String() string {
	s := fmt.Sprintf("%s:%d", e.Name, e.Port)
	if e.Address.IsValid() {
		s += " at " + e.Address.String()
	}
	if len(e.ALPN) > 0 {
		s += fmt.Sprintf(" with ALPN %q", e.ALPN)
	}
	return s
}

// Match is the result of a lookup.
type Match struct {
	Endpoint int // or Refuse
	// Pattern is the Name of the entry that matched.
	Pattern string
	Kind    Kind
	// ALPN is the client's protocol that decided; empty if none had to.
	ALPN string
}

// Table is an immutable set of entries, safe for concurrent use. The zero
// Table matches nothing.
type Table struct {
	places map[place]*names
	// owners tells that some address has entries of its own.
	owners bool
	// lists holds what choice.list refers to.
	lists [][]protocol
}

// place is a port of an address, or of every other one.
type place struct {
	address netip.Addr
	port    uint16
}

// names holds the entries of one place.
type names struct {
	exact, wildcard index
	any             choice
	// depths has the numbers of labels behind the "*." of the wildcards, so
	// that a lookup probes only where there may be something to find.
	depths depths
}

type protocol struct {
	name     string
	endpoint int32
}

// Ports returns the ports of all entries, in ascending order.
func (t *Table) Ports() []uint16 {
	ports := make([]uint16, 0, len(t.places))
	for p := range t.places {
		ports = append(ports, p.port)
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// Owns tells whether an address has entries of its own on a port.
func (t *Table) Owns(address netip.Addr, port uint16) bool {
	return t.owners && t.places[place{address.Unmap(), port}] != nil
}

// Places returns the addresses and ports of all entries, in order; without an address
// those that are for every address.
func (t *Table) Places() []netip.AddrPort {
	places := make([]netip.AddrPort, 0, len(t.places))
	for p := range t.places {
		places = append(places, netip.AddrPortFrom(p.address, p.port))
	}
	slices.SortFunc(places, netip.AddrPort.Compare)
	return places
}
