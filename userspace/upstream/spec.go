// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"reflect"
	"time"
)

// Spec describes a pool. It is a value: New copies what it needs.
type Spec struct {
	// Targets share the connections by their weights. None: every Connect
	// fails with NoTarget.
	Targets []Target
	Policy  Policy
	// Family narrows what host names resolve to. Targets that are IP addresses
	// do not care.
	Family Family
	// Retries is how many further targets a Connect tries when one fails.
	Retries int
	// ConnectTimeout bounds each connect to one address, and each lookup of a
	// host name. 0: no bound but the caller's context and the system's own.
	ConnectTimeout time.Duration
	Check          CheckSpec
	// EjectAfter is how many failed connects in a row take an address out, for
	// EjectFor. 0: never.
	EjectAfter int
	EjectFor   time.Duration
	// Refresh is the time between two lookups of a host name, give or take a
	// tenth. 0: 30 s.
	Refresh time.Duration
}

// Target is one server of a pool: a host name, which may have many addresses, or
// an IP address without brackets.
type Target struct {
	Host string
	Port uint16
	// Weight is the target's share. 0: no new connections.
	Weight int
	// TLS is for Secure: that the target wants it, and by which of Secure's settings.
	TLS      bool
	Settings int
	// Refuse, if not empty, says why there is no such server: the target's share
	// of the connections fails at once, without retries, and Host and Port are
	// names only. Connects that have failed elsewhere do not come here.
	Refuse string
}

// CheckSpec describes the active check of every address. The zero value is none.
type CheckSpec struct {
	Type CheckType
	// Interval is the time between two checks of an address, give or take a
	// tenth. 0: 5 s.
	Interval time.Duration
	// Timeout bounds one check. 0: 2 s.
	Timeout time.Duration
	// Healthy and Unhealthy are how many equal results in a row change the
	// verdict. 0: 2 and 3.
	Healthy, Unhealthy int
	// ServerName is the SNI of a TLS check. Empty: none is sent.
	ServerName string
}

// Equal tells whether a pool made from s can go on serving as one made from o.
// The order of targets counts.
func (s Spec) Equal(o Spec) bool { return reflect.DeepEqual(s, o) }

// Policy picks one of several targets. Each of them honours the weights.
type Policy uint8

const (
	// RoundRobin is smooth weighted round robin: over any stretch of
	// connections as even as the weights allow, without bursts.
	RoundRobin Policy = iota
	// LeastConnections takes the target with the fewest connections per
	// weight; equal ones take turns, as under RoundRobin.
	LeastConnections
	// RandomTwoChoices draws two targets at random, by weight, and takes the
	// one with fewer connections per weight.
	RandomTwoChoices
	// SourceHash is weighted rendezvous hashing on the client's address: a
	// client keeps its target, and its address of that target, for as long as
	// they are there, and when a target goes only its clients move. The choice
	// is the same in every process and on every host.
	SourceHash
)

// Family is the address family that host names are resolved to.
type Family uint8

const (
	// AnyFamily is both: where a name has both, they are raced (RFC 8305).
	AnyFamily Family = iota
	// IPv4 is A records alone.
	IPv4
	// IPv6 is AAAA records alone.
	IPv6
)

// network is Family in the words of Resolver.
func (f Family) network() string {
	switch f {
	case IPv4:
		return "ip4"
	case IPv6:
		return "ip6"
	}
	return "ip"
}

// CheckType says what an active check does.
type CheckType string

const (
	// NoCheck leaves health to the outcome of connects.
	NoCheck CheckType = ""
	// CheckTCP connects and closes.
	CheckTCP CheckType = "tcp"
	// CheckTLS does a whole TLS handshake and verifies no certificate. A
	// server that insists on a client's certificate may fail it.
	CheckTLS CheckType = "tls"
)
