// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/spliceway/spliceway/userspace/route"
	"github.com/spliceway/spliceway/userspace/splice"
	"github.com/spliceway/spliceway/userspace/telemetry"
	"github.com/spliceway/spliceway/userspace/upstream"
)

// Snapshot is all that decides about a connection. It is immutable: a reload
// makes another one, and a connection uses the one it began with.
type Snapshot struct {
	// Table's matches are indices into Endpoints.
	Table     *route.Table
	Endpoints []*Endpoint
	// Fallback takes what the table does not match; nil: refused.
	Fallback struct{ UnknownName, NoSNI, NotTLS *Endpoint }
	// Refuse says how a connection with a given outcome is ended; an outcome
	// that is not in it is closed.
	Refuse map[telemetry.Outcome]Refusal
	// TrustedProxies must start with a PROXY header; sorted or not.
	TrustedProxies []netip.Prefix
	HelloTimeout   time.Duration
	// MaxHello is the largest ClientHello in bytes.
	MaxHello int
	// MaxHelloMemory bounds the bytes that all hellos take while being read.
	MaxHelloMemory int64
	// MaxConnections and MaxPerClient bound what is open at once; 0: no bound.
	MaxConnections, MaxPerClient int
	// AcceptRate is new connections per second, with AcceptBurst on top;
	// 0: no bound.
	AcceptRate, AcceptBurst int
}

// Endpoint is one route's end: where its connections go, and how.
type Endpoint struct {
	Name   string
	Pool   *upstream.Pool
	Engine splice.Engine
	// Termination is nil where TLS passes through.
	Termination *Termination
	// EngineReason says why Engine is not a faster one.
	EngineReason telemetry.Fallback
	// Shortcut is splice.Flow's.
	Shortcut bool
	// MatchSegments has the upstream send segments that the client takes: Engine
	// passes them on whole.
	MatchSegments   bool
	ProxyHeader     ProxyVersion
	Idle, HalfClose time.Duration
	// MaxConnections bounds Active; 0: no bound.
	MaxConnections int
	// Active is how many connections the endpoint has. It belongs to the
	// endpoint's name, and is handed from snapshot to snapshot.
	Active  *atomic.Int64
	Metrics *telemetry.EndpointMetrics
}

// Refusal is how a connection that is not routed is ended.
type Refusal uint8

// The ways to refuse. An outcome for which TLS has no alert is closed instead.
const (
	Close Refusal = iota // FIN
	Reset                // RST
	Alert                // the TLS alert that fits, then FIN
)

// ProxyVersion is the version of a PROXY header, 0 for none.
type ProxyVersion uint8
