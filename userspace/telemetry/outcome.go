// SPDX-License-Identifier: Apache-2.0

package telemetry

import "log/slog"

// Outcome is what became of a connection: exactly one for each.
type Outcome uint8

// The outcomes. Routed is the only one after which bytes moved.
const (
	OutcomeRouted          Outcome = iota
	OutcomeUnknownName             // no endpoint has the name
	OutcomeNoSNI                   // a ClientHello without server_name
	OutcomeMalformed               // a ClientHello that cannot be trusted to mean one thing
	OutcomeNotTLS                  // the first bytes are no TLS handshake
	OutcomeHelloTimeout            // the hello was not whole in time
	OutcomeTooLarge                // the hello is over the limit
	OutcomeHandshakeFailed         // TLS could not be agreed on with the client
	OutcomeChallenge               // a certificate authority has seen that the name is served here
	OutcomeDenied                  // a traffic policy closed it
	OutcomePolicyFailed            // a traffic policy could not decide, or led nowhere
	OutcomeOverLimit               // a limit on connections, rate or memory
	OutcomeDialFailed              // no target could be connected to
	OutcomeClientGone              // the client ended before its hello was whole
	OutcomeBadProxyHeader          // a trusted network sent no PROXY header, or a broken one
	OutcomeShutdown                // the agent stopped before the connection was routed
	OutcomeInternal                // the machine failed, not the client
	outcomes
)

// Alerts of RFC 8446, section 6.2, that a refusal may send.
const (
	alertAccessDenied     = 49
	alertDecodeError      = 50
	alertInternalError    = 80
	alertMissingExtension = 109
	alertUnrecognizedName = 112
)

// outcomeTable is all that differs from one outcome to the next.
var outcomeTable = [outcomes]struct {
	label string
	level slog.Level
	alert byte // 0: there is none that fits, or nobody to read it
}{
	OutcomeRouted:          {"routed", slog.LevelInfo, 0},
	OutcomeUnknownName:     {"unknown_name", slog.LevelInfo, alertUnrecognizedName},
	OutcomeNoSNI:           {"no_sni", slog.LevelInfo, alertMissingExtension},
	OutcomeMalformed:       {"malformed", slog.LevelInfo, alertDecodeError},
	OutcomeNotTLS:          {"not_tls", slog.LevelInfo, 0},
	OutcomeHelloTimeout:    {"hello_timeout", slog.LevelInfo, 0},
	OutcomeTooLarge:        {"too_large", slog.LevelInfo, alertDecodeError},
	OutcomeHandshakeFailed: {"handshake_failed", slog.LevelInfo, 0}, // TLS has said it
	OutcomeChallenge:       {"acme_challenge", slog.LevelInfo, 0},
	OutcomeDenied:          {"denied", slog.LevelInfo, alertAccessDenied},
	OutcomePolicyFailed:    {"policy_failed", slog.LevelWarn, alertInternalError},
	OutcomeOverLimit:       {"over_limit", slog.LevelWarn, alertInternalError},
	OutcomeDialFailed:      {"dial_failed", slog.LevelWarn, alertInternalError},
	OutcomeClientGone:      {"client_gone", slog.LevelInfo, 0},
	OutcomeBadProxyHeader:  {"bad_proxy_header", slog.LevelWarn, 0},
	OutcomeShutdown:        {"shutdown", slog.LevelInfo, 0},
	OutcomeInternal:        {"internal", slog.LevelError, alertInternalError},
}

// String is the outcome's label in logs and metrics.
func (o Outcome) String() string { return outcomeTable[o].label }

// Level is the level of the outcome's access line.
func (o Outcome) Level() slog.Level { return outcomeTable[o].level }

// Alert is the description of the TLS alert that fits; false: none does.
func (o Outcome) Alert() (description byte, ok bool) {
	a := outcomeTable[o].alert
	return a, a != 0
}

// End is how a routed flow ended.
type End uint8

// The ends. The zero value is that of a connection which was not routed.
const (
	EndNone             End = iota
	EndEOF                  // both sides closed, in order
	EndReset                // one side reset, or its connection broke
	EndIdleTimeout          // no byte moved for timeouts.idle
	EndHalfCloseTimeout     // the same for timeouts.halfClose, after one side had closed
	EndDrain                // the agent stopped before the flow did
	EndError                // the agent could not carry on
	EndKilled               // by spliceway flows kill
	EndTruncated            // one side's TLS ended without close_notify
	EndTLSError             // one side broke the protocol, or said that the agent did
	ends
)

// String is the end's label in logs and metrics.
func (e End) String() string {
	return [ends]string{"", "eof", "reset", "idle_timeout", "half_close_timeout", "drain", "error", "killed", "truncated", "tls_error"}[e]
}

// Side is who ended a routed flow: who closed first, or broke it.
type Side uint8

// The sides. The zero value is nobody.
const (
	SideNone Side = iota
	SideClient
	SideUpstream
	SideAgent
	sides
)

// String is the side's label in logs and metrics.
func (s Side) String() string {
	return [sides]string{"", "client", "upstream", "agent"}[s]
}

// Limit is which limit refused a connection.
type Limit uint8

// The limits.
const (
	LimitMaxConnections Limit = iota
	LimitPerClient
	LimitAcceptRate
	LimitEndpoint
	LimitHelloMemory
	limits
)

// String is the limit's label in logs and metrics.
func (l Limit) String() string {
	return [limits]string{"max_connections", "per_client", "accept_rate", "endpoint", "hello_memory"}[l]
}

// Fallback is why a flow has the engine splice and not packet.
type Fallback uint8

// The reasons. The zero value is none.
const (
	FallbackNone         Fallback = iota
	FallbackConfigured            // the configuration says so
	FallbackUnavailable           // this host cannot; why is in the agent's log and in spliceway probe
	FallbackFamilies              // IPv4 on one leg, IPv6 on the other
	FallbackSourcePort            // no source port of the agent's range was free
	FallbackNoRoute               // no device was found for one of the legs
	FallbackDevice                // packets take a device that has no programs (yet)
	FallbackFull                  // there are as many flows as there can be
	FallbackTupleInUse            // another flow has the same addresses and ports
	FallbackNames                 // the names are too long to be remembered in the kernel
	FallbackHelloSize             // more came at once than is forwarded before the flip
	FallbackBackpressure          // the backend did not take the whole hello at once
	FallbackClientSpoke           // the client did not wait for the server's answer
	FallbackBackendSpoke          // the backend sent before it had the whole hello
	FallbackClosing               // one side closed first
	FallbackInFlight              // something was on its way when nothing may be
	FallbackTimestamps            // TCP timestamps on one leg only
	FallbackSACK                  // selective acknowledgements on one leg only
	FallbackAccECN                // accurate ECN
	FallbackMSS                   // segments of one leg do not fit the other
	FallbackWindow                // windows of one leg are too small for the other's scale
	FallbackUrgent                // urgent data
	FallbackTimeout               // no packet of the backend's came by in time
	FallbackInternal              // the kernel refused something; the agent's log says what
	fallbacks
)

// String is the fallback's label in logs and metrics.
func (f Fallback) String() string {
	return [fallbacks]string{
		"", "configured", "unavailable", "families", "source_port", "no_route", "device", "full", "tuple_in_use", "names",
		"hello_size", "backpressure", "client_spoke", "backend_spoke", "closing", "in_flight", "timestamps", "sack", "accecn",
		"mss", "window", "urgent", "timeout", "internal",
	}[f]
}
