// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net/netip"
	"strings"
)

// What is for those who make endpoints from elsewhere than the agent's file.

// NewEndpoint is an endpoint with the defaults of the file.
func NewEndpoint() Endpoint { return defaults().endpoint }

// NewTermination is a tlsTermination with the defaults of the file.
func NewTermination() *Termination {
	t := defaults().termination
	t.MinTLS, t.MaxTLS = versions[t.MinVersion], versions[t.MaxVersion]
	return &t
}

// NewUpstreamTLS is an upstream's tls with the defaults of the file.
func NewUpstreamTLS() *UpstreamTLS {
	u := defaults().upstreamTLS
	u.MinTLS = versions[u.MinVersion]
	return &u
}

// ParsePublicURL takes tls://NAME[:PORT] apart and returns the name in lower case, with its
// "*." if it is a wildcard.
func ParsePublicURL(raw string) (name string, port uint16, err error) { return parsePublicURL(raw) }

// ParseTargetURL takes tcp://HOST:PORT or tls://HOST:PORT apart. The host comes back in
// lower case, an IPv6 address without its brackets.
func ParseTargetURL(raw string) (scheme, host string, port uint16, err error) {
	return parseTargetURL(raw)
}

// Quote is strconv.Quote for a value that may be of any length: it shows the beginning.
func Quote(s string) string { return quote(s) }

// OnlyHere tells whether a host is one that each machine has for itself: the loopback and
// link-local addresses, the unspecified one, and localhost (RFC 6761, section 6.3).
func OnlyHere(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		a = a.Unmap()
		return a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsUnspecified() || a.IsMulticast()
	}
	host = "." + strings.ToLower(strings.TrimSuffix(host, "."))
	return strings.HasSuffix(host, ".localhost")
}

// Finish fills in the defaults that depend on an endpoint's other fields.
func (e *Endpoint) Finish() {
	if hc := &e.Upstream.HealthCheck; hc.ServerName == "" && !isWildcard(e.ServerName) {
		hc.ServerName = e.ServerName
	}
}

// Sort puts errors into the order of their files.
func (e Errors) Sort() { e.sort() }
