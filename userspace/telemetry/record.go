// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"context"
	"log/slog"
	"net/netip"
	"strconv"
	"time"
)

// Record is one connection, for its line in the access log. Whoever serves the
// connection owns it and fills it as it goes; zero values are left out.
type Record struct {
	ID               string
	Start            time.Time
	Client, Listener netip.AddrPort // Client is the PROXY header's, if one came
	Via              netip.AddrPort // who sent the PROXY header
	SNI              string
	ALPN             []string // as offered; a line shows the first 16
	JA4              string
	ECH              bool
	Endpoint         string
	Match            string   // the name that matched, or "fallback:" and the outcome it takes
	ForwardedTo      []string // the endpoints that policies forwarded it to, in order
	PolicyLog        []any    // what policies logged
	Upstream         netip.AddrPort
	UpstreamHost     string // host:port as configured
	Attempts         int    // connects and look-ups that it took
	Engine           string
	EngineReason     string // why it is not a faster one
	TLS              *TLS   // nil: it passed through

	BytesIn, BytesOut int64 // client to upstream, upstream to client
	// Of these bytes, what went from socket to socket, and how often that began or ended.
	SockmapIn, SockmapOut int64
	SockmapSwitches       int
	Hello, Dial, Total    time.Duration // from accept to the whole hello; of dialling; of the connection

	Outcome  Outcome
	Reason   string // details: what was malformed, which limit, what the dial met
	End      End
	ClosedBy Side
}

// Keys of the access line.
const (
	KeyID           = "id"
	KeyClient       = "client"
	KeyVia          = "via"
	KeyListener     = "listener"
	KeySNI          = "sni"
	KeyALPN         = "alpn"
	KeyJA4          = "ja4"
	KeyECH          = "ech"
	KeyEndpoint     = "endpoint"
	KeyMatch        = "match"
	KeyForwardedTo  = "forwarded_to"
	KeyPolicyLog    = "policy_log"
	KeyUpstream     = "upstream"
	KeyUpstreamHost = "upstream_host"
	KeyAttempts     = "attempts"
	KeyEngine       = "engine"
	KeyEngineReason = "engine_reason"
	KeyBytesIn      = "bytes_in"
	KeyBytesOut     = "bytes_out"
	KeySockmapIn    = "sockmap_bytes_in"
	KeySockmapOut   = "sockmap_bytes_out"
	KeySwitches     = "sockmap_switches"
	KeyHello        = "hello_ms"
	KeyDial         = "dial_ms"
	KeyTotal        = "total_ms"
	KeyOutcome      = "outcome"
	KeyReason       = "reason"
	KeyEnd          = "end"
	KeyClosedBy     = "closed_by"
)

// AccessLog writes one line per connection. The line's time is that of its end.
type AccessLog struct{ logger *slog.Logger }

// maxLoggedALPN is how many protocols a line shows. Clients offer a handful; a
// hostile hello has room for so many that lines, not connections, fill the disk.
const maxLoggedALPN = 16

// NewAccessLog returns a log that writes to l. What hostile clients put into names
// and protocols is printable ASCII in the line, whatever l's handler is.
func NewAccessLog(l *slog.Logger) *AccessLog { return &AccessLog{l} }

// Write writes r's line. It keeps no reference to r.
func (a *AccessLog) Write(r *Record) {
	level := r.Outcome.Level()
	ctx := context.Background()
	if !a.logger.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 29)
	text := func(key, v string) {
		if v != "" {
			attrs = append(attrs, slog.String(key, printable(v)))
		}
	}
	address := func(key string, v netip.AddrPort) {
		if v.IsValid() {
			attrs = append(attrs, slog.String(key, v.String()))
		}
	}
	text(KeyID, r.ID)
	address(KeyClient, r.Client)
	address(KeyVia, r.Via)
	address(KeyListener, r.Listener)
	text(KeySNI, r.SNI)
	if len(r.ALPN) > 0 {
		attrs = append(attrs, slog.Any(KeyALPN, shown(r.ALPN, maxLoggedALPN)))
	}
	text(KeyJA4, r.JA4)
	if r.ECH {
		attrs = append(attrs, slog.Bool(KeyECH, true))
	}
	text(KeyEndpoint, r.Endpoint)
	text(KeyMatch, r.Match)
	if len(r.ForwardedTo) > 0 {
		attrs = append(attrs, slog.Any(KeyForwardedTo, r.ForwardedTo))
	}
	if len(r.PolicyLog) > 0 {
		attrs = append(attrs, slog.Any(KeyPolicyLog, printableTree(r.PolicyLog)))
	}
	address(KeyUpstream, r.Upstream)
	text(KeyUpstreamHost, r.UpstreamHost)
	if r.Attempts > 1 {
		attrs = append(attrs, slog.Int(KeyAttempts, r.Attempts))
	}
	text(KeyEngine, r.Engine)
	text(KeyEngineReason, r.EngineReason)
	if r.Engine != "" {
		attrs = append(attrs, slog.Int64(KeyBytesIn, r.BytesIn), slog.Int64(KeyBytesOut, r.BytesOut))
	}
	if r.SockmapSwitches > 0 || r.SockmapIn+r.SockmapOut > 0 {
		attrs = append(attrs, slog.Int64(KeySockmapIn, r.SockmapIn), slog.Int64(KeySockmapOut, r.SockmapOut), slog.Int(KeySwitches, r.SockmapSwitches))
	}
	duration := func(key string, v time.Duration) {
		if v > 0 {
			// Three decimals: microseconds.
			attrs = append(attrs, slog.Float64(key, float64(v.Microseconds())/1000))
		}
	}
	if r.TLS != nil {
		attrs = r.TLS.attrs(attrs)
	}
	duration(KeyHello, r.Hello)
	if r.TLS != nil {
		duration(KeyHandshake, r.TLS.Handshake)
	}
	duration(KeyDial, r.Dial)
	duration(KeyTotal, r.Total)
	text(KeyOutcome, r.Outcome.String())
	text(KeyReason, r.Reason)
	text(KeyEnd, r.End.String())
	text(KeyClosedBy, r.ClosedBy.String())
	a.logger.LogAttrs(ctx, level, "connection", attrs...)
}

// shown is what a line shows of a list that a client sent; "..." stands for the rest.
func shown(list []string, limit int) []string {
	out := make([]string, 0, min(len(list), limit+1))
	for i, p := range list {
		if i == limit {
			return append(out, "...")
		}
		out = append(out, printable(p))
	}
	return out
}

// printable returns s with all but printable ASCII in Go's escapes: JSON lets DEL
// and the C1 controls through, which a terminal may obey.
func printable(s string) string {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			q := strconv.QuoteToASCII(s)
			return q[1 : len(q)-1]
		}
	}
	return s
}

// printableTree is v, made of maps, lists and values, with all its strings printable.
func printableTree(v any) any {
	switch v := v.(type) {
	case string:
		return printable(v)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = printableTree(v[i])
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[printable(k)] = printableTree(e)
		}
		return out
	}
	return v
}
