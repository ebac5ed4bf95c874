// SPDX-License-Identifier: Apache-2.0

// Package route decides which endpoint takes a connection, from the port that
// it came to, the name that it asked for and the protocols that it offered.
//
// It knows nothing of sockets, of configuration files or of what is done with
// connections that match nothing.
package route

import (
	"fmt"
	"slices"
)

// Kind is how a name matched.
type Kind uint8

// The zero Kind is no match.
const (
	Exact    Kind = iota + 1 // the name itself
	Wildcard                 // "*." and a suffix of the name
)

// String returns "exact", "wildcard" or "none".
func (k Kind) String() string {
	switch k {
	case Exact:
		return "exact"
	case Wildcard:
		return "wildcard"
	}
	return "none"
}

// Entry maps one name on one port to an endpoint.
type Entry struct {
	Port uint16
	// Name is in lower case: an exact name, or "*." and a suffix. It has at
	// most 253 bytes (RFC 1035, section 3.1, without the dot at the end).
	Name string
	// ALPN narrows the entry to clients that offer one of these protocols.
	// Empty: every client that no other entry of the same name takes.
	ALPN []string
	// Endpoint is the caller's number for the endpoint, 0 to math.MaxInt32.
	Endpoint int
}

// String returns NAME:PORT and the protocols, if any.
func (e Entry) String() string {
	s := fmt.Sprintf("%s:%d", e.Name, e.Port)
	if len(e.ALPN) > 0 {
		s += fmt.Sprintf(" with ALPN %q", e.ALPN)
	}
	return s
}

// Match is the result of a lookup.
type Match struct {
	Endpoint int
	// Pattern is the Name of the entry that matched.
	Pattern string
	Kind    Kind
	// ALPN is the client's protocol that decided; empty if none had to.
	ALPN string
}

// Table is an immutable set of entries, safe for concurrent use. The zero
// Table matches nothing.
type Table struct {
	ports map[uint16]*names
	// lists holds what choice.list refers to.
	lists [][]protocol
}

// names holds the entries of one port.
type names struct {
	exact, wildcard index
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
	ports := make([]uint16, 0, len(t.ports))
	for port := range t.ports {
		ports = append(ports, port)
	}
	slices.Sort(ports)
	return ports
}
