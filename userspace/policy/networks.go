// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// networks is a set of networks: those known at load, by length and address, and
// templates.
type networks struct {
	given     bool
	literal   map[netip.Prefix]struct{}
	lengths   [2][]int // of IPv4 and of IPv6 prefixes, longest first
	templates []*template
}

// address is a without what says nothing of where it is: IPv4 in IPv6 is IPv4, and the
// zone of an address is not part of any network.
func address(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// errHalfMapped is about ::ffff:10.0.0.0/8, which is no network of IPv4 but ::/8.
var errHalfMapped = errors.New("IPv4 within IPv6 takes a length from /96 to /128")

// halfMapped is that, for the end of a message.
func halfMapped(err error) string {
	if errors.Is(err, errHalfMapped) {
		return ": " + err.Error()
	}
	return ""
}

// parseNetwork reads a network or an address. What is IPv4 in IPv6 is IPv4.
func parseNetwork(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return netip.Prefix{}, err
		}
		a = address(a)
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err == nil && p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return netip.Prefix{}, errHalfMapped
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), err
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

func (n *networks) add(p netip.Prefix) {
	if n.literal == nil {
		n.literal = make(map[netip.Prefix]struct{})
	}
	n.literal[p] = struct{}{}
	lengths := &n.lengths[family(p.Addr())]
	for i, bits := range *lengths {
		if bits == p.Bits() {
			return
		}
		if bits < p.Bits() {
			*lengths = append((*lengths)[:i], append([]int{p.Bits()}, (*lengths)[i:]...)...)
			return
		}
	}
	*lengths = append(*lengths, p.Bits())
}

// contains tells whether a, which is an address, is in one of them, and in which.
func (n *networks) contains(r *Run, a netip.Addr) (bool, netip.Prefix, error) {
	for _, bits := range n.lengths[family(a)] {
		p, err := a.Prefix(bits)
		if err != nil {
			continue
		}
		if _, ok := n.literal[p]; ok {
			return true, p, nil
		}
	}
	for _, t := range n.templates {
		s, err := t.text(r)
		if err != nil {
			return false, netip.Prefix{}, err
		}
		p, err := parseNetwork(s)
		if err != nil {
			return false, netip.Prefix{}, fmt.Errorf("%q is no IP address and no network%s", s, halfMapped(err))
		}
		if p.Contains(a) {
			return true, p, nil
		}
	}
	return false, netip.Prefix{}, nil
}
