// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"net"
	"net/netip"
	"strings"
)

// Hosts is a Resolver that answers from a table, and has another one asked for the
// names that the table does not have.
type Hosts struct {
	// Table has the addresses by name: in lower case, with or without the dot at
	// the end. It must not change.
	Table map[string][]netip.Addr
	// Next is for all other names. nil: net.DefaultResolver.
	Next Resolver
}

// LookupNetIP is Resolver's. A name that the table has without an address of the
// family is not found: Next is not asked for the rest of it.
func (h Hosts) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	all, ok := h.Table[name]
	if !ok {
		all, ok = h.Table[name+"."]
	}
	if !ok {
		if h.Next == nil {
			return net.DefaultResolver.LookupNetIP(ctx, network, host)
		}
		return h.Next.LookupNetIP(ctx, network, host)
	}
	var found []netip.Addr
	for _, a := range all {
		if a = a.Unmap(); network == "ip" || (network == "ip4") == a.Is4() {
			found = append(found, a)
		}
	}
	if len(found) == 0 {
		return nil, &net.DNSError{Err: "the table of hosts has no address of the family", Name: host, IsNotFound: true}
	}
	return found, nil
}
