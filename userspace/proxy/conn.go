// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/userspace/clienthello"
	"github.com/spliceway/spliceway/userspace/policy"
	"github.com/spliceway/spliceway/userspace/route"
	"github.com/spliceway/spliceway/userspace/sock"
	"github.com/spliceway/spliceway/userspace/splice"
	"github.com/spliceway/spliceway/userspace/telemetry"
	"github.com/spliceway/spliceway/userspace/terminate"
	"github.com/spliceway/spliceway/userspace/tlsconn"
	"github.com/spliceway/spliceway/userspace/upstream"
)

// conn is one client connection from accept to its log line.
type conn struct {
	snap     *Snapshot
	turn     *sock.Turn // left before anything that waits
	nth      int64      // of the connections that were open when it was accepted
	client   *sock.Conn
	upstream *sock.Conn
	rec      *telemetry.Record
	// from and to are the ends as the client sees them: the sockets', or the
	// PROXY header's.
	from, to netip.AddrPort

	// Where TLS is terminated: with the client, who that is, and with the upstream.
	tls, upstreamTLS *tlsconn.Conn
	identity         *terminate.Identity

	// target is whose upstream the connection goes to: the endpoint itself, or the one
	// that its policy forwards to.
	target *Endpoint
	place  netip.AddrPort    // by which its endpoint was found
	facts  policy.Connection // what policies see

	until time.Time // when the hello must be whole; zero before the first look
	held
}

// held is what a connection holds until its end, and all that is left of it in the
// agent's memory once an engine has it.
type held struct {
	s        *Server
	limited  netip.Addr // counted in s.perClient, if valid
	endpoint *Endpoint
	lease    *upstream.Lease
}

// Serve is the life of a connection, top to bottom: each step either goes on or
// names the outcome that ends it.
func (c *conn) Serve(turn *sock.Turn) {
	c.turn = turn
	outcome := c.admit()
	if outcome == telemetry.OutcomeRouted {
		outcome = c.readProxyHeader()
	}
	if outcome == telemetry.OutcomeRouted {
		outcome = c.admitClient()
	}
	var hello clienthello.Hello
	if outcome == telemetry.OutcomeRouted {
		outcome = c.readHello(&hello)
	}
	if outcome == telemetry.OutcomeRouted || outcome == telemetry.OutcomeNotTLS {
		outcome = c.route(&hello, outcome)
	}
	if outcome == telemetry.OutcomeRouted {
		outcome = c.follow(c.endpoint, 0)
	}
	switch {
	case outcome != telemetry.OutcomeRouted:
		c.refuse(outcome)
		c.end(c.rec, outcome)
	case c.endpoint.HTTP:
		c.requests()
	case c.tls != nil:
		c.relay()
	default:
		c.splice()
	}
}

// admit applies the limits that need no knowledge of the client.
func (c *conn) admit() telemetry.Outcome {
	if n := c.snap.MaxConnections; n > 0 && c.nth > int64(n) {
		return c.overLimit(telemetry.LimitMaxConnections)
	}
	if !c.s.rate.allow(c.snap.AcceptRate, c.snap.AcceptBurst) {
		return c.overLimit(telemetry.LimitAcceptRate)
	}
	return telemetry.OutcomeRouted
}

// admitClient applies the limit per client, whose address is known by now.
func (c *conn) admitClient() telemetry.Outcome {
	if c.snap.MaxPerClient == 0 {
		return telemetry.OutcomeRouted
	}
	c.limited = c.from.Addr()
	if c.s.perClient.add(c.from.Addr(), 1) > c.snap.MaxPerClient {
		return c.overLimit(telemetry.LimitPerClient)
	}
	return telemetry.OutcomeRouted
}

func (c *conn) overLimit(l telemetry.Limit) telemetry.Outcome {
	c.s.metrics.LimitRefused(l)
	c.rec.Reason = l.String()
	return telemetry.OutcomeOverLimit
}

// route finds the endpoint. read is how reading the hello ended: Routed or NotTLS.
func (c *conn) route(h *clienthello.Hello, read telemetry.Outcome) telemetry.Outcome {
	outcome, fallback := read, c.snap.Fallback.NotTLS
	switch {
	case read != telemetry.OutcomeRouted:
		c.routePlain()
	case h.HasSNI:
		outcome, fallback = telemetry.OutcomeUnknownName, c.snap.Fallback.UnknownName
	default:
		outcome, fallback = telemetry.OutcomeNoSNI, c.snap.Fallback.NoSNI
	}
	if read == telemetry.OutcomeRouted {
		c.rec.SNI, c.rec.ALPN, c.rec.JA4, c.rec.ECH = h.ServerName, h.ALPN, h.JA4, h.ECH
		if refused := c.routeTLS(h); refused {
			return outcome
		}
	}
	if c.endpoint == nil {
		if fallback == nil {
			return outcome
		}
		c.endpoint, c.rec.Match = fallback, "fallback:"+outcome.String()
	}
	if peers := c.endpoint.Peers; peers != nil {
		c.endpoint = peers[rand.IntN(len(peers))]
	}
	e := c.endpoint
	c.rec.Endpoint = e.Name
	e.Metrics.Opened()
	if n := e.Active.Add(1); e.MaxConnections > 0 && n > int64(e.MaxConnections) {
		return c.overLimit(telemetry.LimitEndpoint)
	}
	return telemetry.OutcomeRouted
}

// places are where the connection came to, in the order of looking for an endpoint: a PROXY
// header's address and port are what the client dialled; those here are what the
// configuration names.
func (c *conn) places(owned func(netip.Addr, uint16) bool) (all [2]netip.AddrPort, n int) {
	at := c.to.Addr()
	if !owned(at, c.to.Port()) {
		at = c.rec.Listener.Addr()
	}
	all, n = [2]netip.AddrPort{netip.AddrPortFrom(at, c.to.Port()), c.rec.Listener}, 2
	if c.to.Port() == c.rec.Listener.Port() {
		n = 1
	}
	return all, n
}

// routeTLS finds the endpoint of a hello, if there is one. true: its name is to be refused.
func (c *conn) routeTLS(h *clienthello.Hello) (refused bool) {
	places, n := c.places(c.snap.Table.Owns)
	for _, at := range places[:n] {
		var m route.Match
		var ok bool
		if h.HasSNI {
			m, ok = c.snap.Table.Lookup(at.Addr(), at.Port(), h.ServerName, h.ALPN)
		} else if m, ok = c.snap.Table.LookupAny(at.Addr(), at.Port()); ok && (m.Endpoint == route.Refuse || !c.snap.Endpoints[m.Endpoint].HTTP) {
			return false // whoever asks for nobody is nobody's, but HTTP has names of its own
		}
		if !ok {
			continue
		}
		c.rec.Match = strings.Clone(m.Pattern) // a part of the table's names
		if m.Endpoint == route.Refuse {
			return true
		}
		c.endpoint, c.place = c.snap.Endpoints[m.Endpoint], at
		return false
	}
	return false
}

// routePlain finds the endpoint of a connection that does not begin with TLS, if there is one.
func (c *conn) routePlain() {
	owned := func(a netip.Addr, port uint16) bool { return c.snap.Plain[netip.AddrPortFrom(a, port)] != nil }
	places, n := c.places(owned)
	for _, at := range places[:n] {
		for _, a := range []netip.Addr{at.Addr(), {}} {
			if e := c.snap.Plain[netip.AddrPortFrom(a, at.Port())]; e != nil {
				c.endpoint, c.place, c.rec.Match = e, at, "*"
				return
			}
		}
	}
}

// deliver goes to e's upstream, by TLS if it says so and nothing has done it before.
func (c *conn) deliver(e *Endpoint) telemetry.Outcome {
	c.target = e
	if e.Termination != nil && c.tls == nil {
		if outcome := c.handshake(e.Termination); outcome != telemetry.OutcomeRouted {
			return outcome
		}
	}
	if e.HTTP {
		return telemetry.OutcomeRouted
	}
	return c.dial()
}

// dial connects to one of the target's servers.
func (c *conn) dial() telemetry.Outcome {
	start := time.Now()
	ctx := sock.WithTurn(c.s.ctx, c.turn)
	if c.target.MatchSegments && c.tls == nil {
		if n := c.client.MaxSegment(); n > 0 {
			ctx = sock.WithMaxSegment(ctx, n)
		}
	}
	var secure upstream.Secure
	if c.tls != nil {
		secure = c.secure
	}
	d, err := c.target.Pool.ConnectSecurely(ctx, c.from.Addr(), secure)
	c.rec.Dial = time.Since(start)
	if err != nil {
		c.rec.Reason = err.Error()
		if de := (*upstream.DialError)(nil); errors.As(err, &de) {
			c.rec.Attempts = len(de.Attempts)
		}
		if c.s.ctx.Err() != nil {
			return telemetry.OutcomeShutdown
		}
		return telemetry.OutcomeDialFailed
	}
	c.lease, c.upstream, c.upstreamTLS = d.Lease, d.Conn, d.TLS
	c.rec.Upstream, c.rec.UpstreamHost, c.rec.Attempts = d.Addr, d.Target, d.Attempts
	c.s.metrics.ObserveDial(c.rec.Dial)
	return telemetry.OutcomeRouted
}

// splice gives both connections to the engine, which calls back at the end.
func (c *conn) splice() {
	e := c.target
	c.rec.EngineReason = e.EngineReason.String()
	c.s.metrics.FellBack(e.EngineReason)
	rest := c.held
	f := splice.Flow{
		Shortcut: e.Shortcut,
		Client:   c.client, Upstream: c.upstream,
		Preface: c.proxyHeader(),
		Idle:    e.Idle, HalfClose: e.HalfClose,
		Moved:  c.endpoint.Metrics.Moved(),
		Record: c.rec,
		Done:   rest.ended,
	}
	// A flow outlives reloads: it must not keep the route table of its time.
	c.snap = nil
	e.Engine.Start(f)
}

// refuse ends the client's connection as the configuration wants it.
func (c *conn) refuse(outcome telemetry.Outcome) {
	switch c.snap.Refuse[outcome] {
	case Reset:
		c.client.Reset()
		return
	case Alert:
		// crypto/tls has alerts of its own, and none for us to send.
		if description, ok := outcome.Alert(); ok && c.tls == nil {
			// RFC 8446, section 5.1 and 6: a record of type alert (21),
			// legacy version 3.3, 2 bytes: fatal, description. The send
			// buffer of a new connection is empty; if not, so be it.
			_ = c.client.Write(sock.WithTurn(c.s.ctx, c.turn), []byte{21, 3, 3, 0, 2, 2, description})
		}
	}
	_ = c.client.CloseGracefully()
}

// ended is splice.Flow's Done.
func (h *held) ended(rec *telemetry.Record, r splice.Result) {
	rec.BytesIn, rec.BytesOut = r.Bytes[splice.In], r.Bytes[splice.Out]
	rec.End, rec.ClosedBy = r.End, r.ClosedBy
	if r.Err != nil {
		rec.Reason = r.Err.Error()
	}
	h.end(rec, telemetry.OutcomeRouted)
}

// end gives back all that the connection holds, counts it and writes its line.
func (h *held) end(rec *telemetry.Record, outcome telemetry.Outcome) {
	rec.Outcome = outcome
	rec.Total = time.Since(rec.Start)
	h.release()
	if h.endpoint != nil {
		h.endpoint.Metrics.Ended(rec)
	} else {
		h.s.metrics.Refused(outcome)
	}
	if h.s.access != nil {
		h.s.access.Write(rec)
	}
	h.s.leave()
}

// release gives back what is counted.
func (h *held) release() {
	if h.lease != nil {
		h.lease.Release()
	}
	if h.endpoint != nil {
		h.endpoint.Active.Add(-1)
	}
	if h.limited.IsValid() {
		h.s.perClient.add(h.limited, -1)
	}
}

// waitOutcome tells why waiting for the client's bytes ended.
func (c *conn) waitOutcome(ctx context.Context, err error) telemetry.Outcome {
	switch {
	case c.s.ctx.Err() != nil || errors.Is(err, sock.ErrClosed):
		return telemetry.OutcomeShutdown
	case ctx.Err() != nil:
		return telemetry.OutcomeHelloTimeout
	}
	c.rec.Reason = err.Error()
	return telemetry.OutcomeInternal
}

// gone is the outcome of a client that ended before its hello was whole.
func (c *conn) gone(err error) telemetry.Outcome {
	c.rec.Reason = "closed before the hello was whole"
	if err != nil {
		c.rec.Reason = "before the hello was whole: " + err.Error()
		if errors.Is(err, unix.ECONNRESET) {
			c.rec.Reason = "reset before the hello was whole"
		}
	}
	return telemetry.OutcomeClientGone
}
