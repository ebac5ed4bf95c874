// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/spliceway/spliceway/userspace/route"
	"github.com/spliceway/spliceway/userspace/splice"
	"github.com/spliceway/spliceway/userspace/telemetry"
	"github.com/spliceway/spliceway/userspace/terminate"
	"github.com/spliceway/spliceway/userspace/upstream"
)

// Snapshot is all that decides about a connection. It is immutable: a reload
// makes another one, and a connection uses the one it began with.
type Snapshot struct {
	// Table's matches are indices into Endpoints.
	Table     *route.Table
	Endpoints []*Endpoint
	// Internal are the endpoints that connections are forwarded to by policies, by port
	// and name; nil: there are none. Its matches are indices into Endpoints, too.
	Internal *route.Table
	// Plain are the endpoints of HTTP without TLS, by the address and port that a connection
	// came to; without an address for all that have none of their own.
	Plain map[netip.AddrPort]*Endpoint
	// Forwards are those that policies name by a URL which is the same for every
	// connection; the others are looked for in Internal.
	Forwards map[string]*Endpoint
	// Relay is the engine of flows whose TLS ends here.
	Relay splice.Engine
	// HandshakeTimeout bounds a TLS handshake, with a client or with an upstream.
	HandshakeTimeout time.Duration
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
	Name string
	// Peers share the endpoint's connections, which is one of them; nil: it has them
	// alone.
	Peers []*Endpoint
	// Policy decides about each connection before anything else is done with it; nil:
	// there is nothing to decide.
	Policy *Policy
	// HTTP tells that its connections' requests are served one by one (Options.Web).
	HTTP bool
	// ClientAuth is web.Site's.
	ClientAuth string
	// Pool is where connections go; nil: nowhere but by Policy.
	Pool *upstream.Pool
	// Engine is for flows that pass through.
	Engine splice.Engine
	// Termination is nil where TLS passes through.
	Termination *Termination
	// Clients are for targets that want TLS, once it has ended here, by
	// upstream.Target.Settings.
	Clients []*terminate.Client
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
