// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

const (
	maxNameLength  = 253 // RFC 1035, section 3.1, without the dot at the end
	maxLabelLength = 63  // RFC 1035, section 2.3.4
)

// parseServerName returns what a ClientHello's server_name can be (RFC 6066,
// section 3), in lower case: a host name, or "*." and a suffix.
func parseServerName(s string) (string, error) {
	if s == "*" {
		return "", errors.New(`"*" alone is not served, use fallback.unknownName for names that nothing else takes`)
	}
	suffix, wildcard := strings.CutPrefix(s, "*.")
	if strings.Contains(suffix, "*") {
		return "", fmt.Errorf(`a "*" must be the whole first label, as in "*.example.com", found %s`, quote(s))
	}
	if strings.HasSuffix(s, ".") {
		return "", fmt.Errorf("expected a name without a dot at its end, found %s", quote(s))
	}
	if _, err := netip.ParseAddr(suffix); err == nil {
		return "", fmt.Errorf("expected a name, found the IP address %s: clients send no server name for an address", quote(s))
	}
	name, err := parseHostName(suffix)
	if err != nil {
		return "", err
	}
	if wildcard {
		name = "*." + name
	}
	if len(name) > maxNameLength {
		return "", fmt.Errorf("the name has %d bytes, at most %d are allowed", len(name), maxNameLength)
	}
	return name, nil
}

// parseHostName returns the name in lower case if its labels are made of
// letters, digits, '-' and '_' (RFC 1123, section 2.1; the underscore is in use
// although no host may have it).
func parseHostName(s string) (string, error) {
	if len(s) > maxNameLength {
		return "", fmt.Errorf("the name has %d bytes, at most %d are allowed", len(s), maxNameLength)
	}
	for label := range strings.SplitSeq(s, ".") {
		switch {
		case label == "":
			return "", fmt.Errorf("the name %s has an empty label", quote(s))
		case len(label) > maxLabelLength:
			return "", fmt.Errorf("the label %s has %d bytes, at most %d are allowed", quote(label), len(label), maxLabelLength)
		case label[0] == '-' || label[len(label)-1] == '-':
			return "", fmt.Errorf(`the label %s begins or ends with "-"`, quote(label))
		}
		for _, c := range label {
			switch {
			case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
			case c >= 0x80:
				return "", fmt.Errorf(`the name %s has the character %q, write it in its ASCII form ("xn--...")`, quote(s), c)
			default:
				return "", fmt.Errorf("the name %s has the character %q", quote(s), c)
			}
		}
	}
	return strings.ToLower(s), nil
}

// checkEndpointName checks Endpoint.Name (RFC 1123's form of a name, in lower
// case).
func checkEndpointName(s string) error {
	if s == "" || len(s) > maxNameLength {
		return fmt.Errorf("expected a name of 1 to %d bytes, found %d", maxNameLength, len(s))
	}
	for part := range strings.SplitSeq(s, ".") {
		if strings.Trim(part, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" ||
			part == "" || part[0] == '-' || part[len(part)-1] == '-' {
			return fmt.Errorf(`expected lower-case letters, digits, "-" and ".", with a letter or digit at both ends of each part, found %s`, quote(s))
		}
	}
	return nil
}

func isWildcard(name string) bool { return strings.HasPrefix(name, "*.") }
