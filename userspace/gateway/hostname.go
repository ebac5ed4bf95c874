// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"fmt"
	"net/netip"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// Names here are exact ("a.b"), wildcards ("*.b": one label or more in front of
// b) or anyName. All are in lower case.
const anyName = "*"

// checkHostname returns why s cannot be the hostname of a listener or route, as
// the API's own schema has it, or nil.
func checkHostname(s string) error {
	bare := strings.TrimPrefix(s, "*.")
	if _, err := netip.ParseAddr(bare); err == nil {
		return fmt.Errorf("hostname %q: an IP address; a DNS name is expected", s)
	}
	if problems := validation.IsDNS1123Subdomain(bare); len(problems) > 0 {
		return fmt.Errorf(`hostname %q: a DNS name in lower case is expected, or "*." and one`, s)
	}
	return nil
}

func isWildcard(name string) bool { return strings.HasPrefix(name, "*.") }

// contains tells whether every name that inner takes is one that outer takes.
func contains(outer, inner string) bool {
	if outer == anyName || outer == inner {
		return true
	}
	return isWildcard(outer) && inner != anyName && len(inner) >= len(outer) && strings.HasSuffix(inner, outer[1:])
}

// intersect returns the names that both take: one of the two, since of two names
// one contains the other, or they have nothing in common.
func intersect(a, b string) (string, bool) {
	switch {
	case contains(a, b):
		return b, true
	case contains(b, a):
		return a, true
	}
	return "", false
}

// specificity is greater for a name that comes before another one.
func specificity(name string) int {
	switch {
	case name == anyName:
		return 0
	case isWildcard(name):
		return strings.Count(name, ".")
	}
	return 1 << 16 // more than labels in any name
}

// parents calls yield with name, then with each wildcard that contains it, the
// longest first, then with anyName, until yield returns false.
func parents(name string, yield func(string) bool) {
	if name == anyName {
		yield(name)
		return
	}
	if !yield(name) {
		return
	}
	rest := strings.TrimPrefix(name, "*.")
	for {
		_, after, found := strings.Cut(rest, ".")
		if !found {
			break
		}
		if !yield("*." + after) {
			return
		}
		rest = after
	}
	yield(anyName)
}
