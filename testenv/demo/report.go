// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"fmt"
	"time"
)

// Report is what a demo saw.
type Report struct {
	Gateway  []string  `json:"gateway"` // the addresses that the agent listens on
	Services []Service `json:"services"`
	Routed   []Routed  `json:"routed"`
	Refused  []Refused `json:"refused"`
	// Problems are sentences about what was not as it should be. None: all of
	// it was right.
	Problems []string `json:"problems"`
	// AgentLog is the agent's own log, without the lines of connections.
	AgentLog []string `json:"agentLog"`
	Took     float64  `json:"tookMs"`
}

func (r *Report) problem(format string, args ...any) {
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

// Service is one endpoint of the agent with the backend behind it.
type Service struct {
	Name    string `json:"name"`
	URL     string `json:"url"`
	Address string `json:"address"` // the backend's
	// Fallback: it also takes the names that no endpoint has.
	Fallback bool `json:"fallback,omitempty"`
}

// Routed is a client that the agent brought to a backend. Fields are empty
// where the client did not get so far.
type Routed struct {
	SNI     string `json:"sni"`
	Client  string `json:"client"`  // its address family and what it speaks
	Backend string `json:"backend"` // who answered, by its own word
	Route   string `json:"route"`   // how the agent found it: exact, wildcard or fallback

	Certificate Certificate `json:"certificate"`
	TLSVersion  string      `json:"tlsVersion"`
	KeyExchange string      `json:"keyExchange"`

	// From the access log, of a transfer whose content was checked at both
	// ends: bytes of TCP payload from the client, and to it.
	Engine   string `json:"engine"`
	BytesIn  int64  `json:"bytesIn"`
	BytesOut int64  `json:"bytesOut"`

	Handshake Timing `json:"handshake"` // TCP connect and the whole TLS handshake
	RoundTrip Timing `json:"roundTrip"` // 64 bytes there and back on an open connection
}

// Certificate is what the client was shown and has verified.
type Certificate struct {
	Subject string `json:"subject"`
	SHA256  string `json:"sha256"` // of the certificate, in hexadecimal
	// EndToEnd: it is, byte for byte, the one that the backend has the key of.
	EndToEnd bool `json:"endToEnd"`
}

// Timing compares medians in milliseconds: through the agent, and without it,
// routed to the same backend by the kernel over the same links.
type Timing struct {
	Gateway float64 `json:"gatewayMs"`
	Direct  float64 `json:"directMs"`
}

// milliseconds keeps three decimals.
func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// Refused is a client that the agent sent away.
type Refused struct {
	Sends   string `json:"sends"`
	Outcome string `json:"outcome"` // as in the access log
	Reason  string `json:"reason"`  // as well
	Sees    string `json:"sees"`    // what the client met
	// After is from the client's last byte to the end of its connection, in
	// milliseconds.
	After   float64 `json:"afterMs"`
	Reached int     `json:"reached"` // connections that a backend saw meanwhile
}
