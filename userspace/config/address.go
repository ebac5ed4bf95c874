// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// defaultPort is that of a public URL without one.
const defaultPort = 443

// parsePublicURL takes tls://NAME[:PORT] apart and returns the name in lower
// case, with its "*." if it is a wildcard.
func parsePublicURL(raw string) (name string, port uint16, err error) {
	const want = "tls://NAME or tls://NAME:PORT"
	u, err := splitURL(raw, want)
	if err != nil {
		return "", 0, err
	}
	if u.scheme != "tls" {
		return "", 0, fmt.Errorf("%s:// is not served, use tls://", u.scheme)
	}
	if name, err = parseServerName(u.host); err != nil {
		return "", 0, err
	}
	if u.port == "" {
		return name, defaultPort, nil
	}
	port, err = parsePort(u.port)
	return name, port, err
}

// parseTargetURL takes tcp://HOST:PORT or tls://HOST:PORT apart. The host comes
// back in lower case, an IPv6 address without its brackets.
func parseTargetURL(raw string) (scheme, host string, port uint16, err error) {
	const want = "tcp://HOST:PORT or tls://HOST:PORT"
	u, err := splitURL(raw, want)
	if err != nil {
		return "", "", 0, err
	}
	if u.scheme != "tcp" && u.scheme != "tls" {
		return "", "", 0, fmt.Errorf("%s:// is not spoken to upstreams, use tls:// or tcp://", u.scheme)
	}
	if u.port == "" {
		return "", "", 0, fmt.Errorf("the port is missing, expected %s", want)
	}
	if port, err = parsePort(u.port); err != nil {
		return "", "", 0, err
	}
	addr, err := netip.ParseAddr(u.host)
	switch {
	case err == nil && (addr.IsUnspecified() || addr.IsMulticast()):
		return "", "", 0, fmt.Errorf("%s is no address to connect to", addr)
	case err == nil:
		return u.scheme, addr.Unmap().String(), port, nil
	case u.bracketed:
		return "", "", 0, fmt.Errorf("expected an IPv6 address in brackets, found %s", quote(u.host))
	}
	host, err = parseHostName(strings.TrimSuffix(u.host, "."))
	switch {
	case err != nil:
		return "", "", 0, err
	case endsInNumber(host):
		return "", "", 0, fmt.Errorf("%s is neither an IP address nor a host name, whose last label cannot be a number", quote(u.host))
	}
	if strings.HasSuffix(u.host, ".") { // tells the resolver not to search
		host += "."
	}
	return u.scheme, host, port, nil
}

// endsInNumber tells names that are meant to be IPv4 addresses, which some resolvers
// take for one and others ask about: "999.1.1.1", "127.1", "0x7f000001" (the URL
// standard's "ends in a number checker"; there is no such top-level domain). host is
// in lower case.
func endsInNumber(host string) bool {
	last := host[strings.LastIndexByte(host, '.')+1:]
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(last, "0123456789") == ""
}

// authority is a URL that has nothing behind the port, taken apart.
type authority struct {
	scheme, host, port string
	bracketed          bool
}

func splitURL(raw, want string) (authority, error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok || scheme == "" || strings.Trim(scheme, schemeChars) != "" {
		return authority{}, fmt.Errorf("expected %s, found %s", want, quote(raw))
	}
	u := authority{scheme: strings.ToLower(scheme)}
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		return authority{}, fmt.Errorf("expected %s, found %s behind it", want, quote(rest[i:]))
	}
	if strings.Contains(rest, "@") {
		return authority{}, fmt.Errorf("expected %s, without a user", want)
	}
	colon := false
	if inside, ok := strings.CutPrefix(rest, "["); ok {
		u.bracketed = true
		if u.host, rest, ok = strings.Cut(inside, "]"); !ok {
			return authority{}, errors.New(`"]" is missing behind the address`)
		}
		if u.port, colon = strings.CutPrefix(rest, ":"); !colon && rest != "" {
			return authority{}, fmt.Errorf("expected %s, found %s behind the address", want, quote(rest))
		}
	} else {
		u.host, u.port, colon = strings.Cut(rest, ":")
		if strings.Contains(u.port, ":") {
			return authority{}, fmt.Errorf("an IPv6 address must be in brackets: %s://[ADDRESS]:PORT", u.scheme)
		}
	}
	switch {
	case u.host == "":
		return authority{}, fmt.Errorf("the host is missing, expected %s", want)
	case colon && u.port == "":
		return authority{}, errors.New(`the port is missing behind ":"`)
	case !colon:
		u.port = ""
	}
	return u, nil
}

// schemeChars are RFC 3986, section 3.1.
const schemeChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-."

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("expected a port from 1 to 65535, found %s", quote(s))
	}
	return uint16(n), nil
}

// parsePrefix reads an address, as the prefix of its full length, or a prefix.
func parsePrefix(s string) (netip.Prefix, error) {
	var prefix netip.Prefix
	var err error
	if strings.Contains(s, "/") {
		prefix, err = netip.ParsePrefix(s)
	} else {
		var addr netip.Addr
		addr, err = netip.ParseAddr(s)
		prefix = netip.PrefixFrom(addr.WithZone(""), addr.BitLen())
		if addr.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("expected an address without a zone, found %s", quote(s))
		}
	}
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("expected an IP address or a prefix, found %s", quote(s))
	case prefix.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("expected an IPv4 address as such, found it inside IPv6: write %s", prefix.Addr().Unmap())
	case prefix != prefix.Masked():
		return netip.Prefix{}, fmt.Errorf("%s has bits set behind the prefix, did you mean %s or %s?", prefix, prefix.Masked(), prefix.Addr())
	}
	return prefix, nil
}

// parseAddress reads the address of a server.
func parseAddress(s string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return netip.Addr{}, fmt.Errorf("expected an IP address, found %s", quote(s))
	case addr.Zone() != "":
		return netip.Addr{}, fmt.Errorf("expected an address without a zone, found %s", quote(s))
	case addr.Is4In6():
		return netip.Addr{}, fmt.Errorf("expected an IPv4 address as such, found it inside IPv6: write %s", addr.Unmap())
	case addr.IsUnspecified() || addr.IsMulticast():
		return netip.Addr{}, fmt.Errorf("%s is no address to connect to", addr)
	}
	return addr, nil
}
