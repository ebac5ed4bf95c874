// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"crypto/tls"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/acme"

	"github.com/spliceway/spliceway/userspace/sock"
	"github.com/spliceway/spliceway/userspace/splice"
	"github.com/spliceway/spliceway/userspace/telemetry"
	"github.com/spliceway/spliceway/userspace/terminate"
	"github.com/spliceway/spliceway/userspace/tlsconn"
	"github.com/spliceway/spliceway/userspace/upstream"
)

// Termination is how TLS ends at an endpoint.
type Termination struct {
	Server *terminate.Server
	// Challenge answers a certificate authority that asks whether the name is served
	// here (RFC 8737); nil: none does.
	Challenge *tls.Config
}

// handshake does TLS with the client, whose hello is still in the socket.
func (c *conn) handshake(t *Termination) telemetry.Outcome {
	c.turn.Leave()
	// RFC 8737: it is alone in its hello.
	challenge := t.Challenge != nil && slices.Equal(c.rec.ALPN, []string{acme.ALPNProto})
	config := t.Challenge
	if !challenge {
		config = t.Server.Config()
	}
	c.tls = tlsconn.Server(c.client, config)
	c.rec.TLS = new(telemetry.TLS)
	start := time.Now()
	ctx, cancel := context.WithTimeout(c.s.ctx, c.snap.HandshakeTimeout)
	defer cancel()
	err := c.tls.Handshake(ctx)
	c.rec.TLS.Handshake = time.Since(start)
	if err != nil {
		if c.s.ctx.Err() != nil {
			return telemetry.OutcomeShutdown
		}
		c.rec.TLS.Failure, c.rec.Reason = terminate.Failure(err)
		c.endpoint.Metrics.Handshake(telemetry.SideClient, c.rec.TLS.Failure, false, c.rec.TLS.Handshake)
		return telemetry.OutcomeHandshakeFailed
	}
	if challenge {
		_ = c.tls.CloseWrite()
		return telemetry.OutcomeChallenge
	}
	state := c.tls.State()
	describe(c.rec.TLS, state)
	c.identity = t.Server.Identity(state)
	if id := c.identity; id != nil {
		c.rec.TLS.Client = &telemetry.ClientCertificate{Subject: id.Subject, SANs: id.SANs, Fingerprint: id.Fingerprint, Verified: id.Verified}
	}
	c.endpoint.Metrics.Handshake(telemetry.SideClient, telemetry.HandshakeNone, state.DidResume, c.rec.TLS.Handshake)
	return telemetry.OutcomeRouted
}

func describe(t *telemetry.TLS, state tls.ConnectionState) {
	t.Version, t.Cipher = versionName(state.Version), tls.CipherSuiteName(state.CipherSuite)
	if state.CurveID != 0 {
		t.Group = state.CurveID.String()
	}
	t.ALPN, t.Resumed = state.NegotiatedProtocol, state.DidResume
}

// versionName is a version of TLS as in "1.3".
func versionName(v uint16) string { return strings.TrimPrefix(tls.VersionName(v), "TLS ") }

// secure is upstream.Secure: TLS with a target that wants it, after the PROXY header,
// which goes before it.
func (c *conn) secure(ctx context.Context, target upstream.Target, s *sock.Conn) (*tlsconn.Conn, error) {
	if !target.TLS {
		return nil, nil
	}
	if target.Settings >= len(c.target.Clients) {
		// Never in the clear what is to be TLS.
		return nil, &upstream.HandshakeError{Reason: telemetry.HandshakeInternal.String(), Text: "there are no settings for TLS with this upstream"}
	}
	ctx, cancel := context.WithTimeout(ctx, c.snap.HandshakeTimeout)
	defer cancel()
	if err := s.Write(ctx, c.proxyHeader()); err != nil {
		return nil, err
	}
	conn := tlsconn.Client(s, c.target.Clients[target.Settings].Config(target.Host, c.rec.TLS.ALPN))
	start := time.Now()
	err := conn.Handshake(ctx)
	took := time.Since(start)
	if err != nil {
		why, text := terminate.Failure(err)
		if c.s.ctx.Err() == nil {
			c.endpoint.Metrics.Handshake(telemetry.SideUpstream, why, false, took)
		}
		return nil, &upstream.HandshakeError{Reason: why.String(), Text: text, Err: err}
	}
	c.endpoint.Metrics.Handshake(telemetry.SideUpstream, telemetry.HandshakeNone, conn.State().DidResume, took)
	return conn, nil
}

// relay is splice for a connection whose TLS ends here.
func (c *conn) relay() {
	e := c.target
	f := splice.Flow{
		Client: c.client, Upstream: c.upstream,
		Idle: e.Idle, HalfClose: e.HalfClose,
		Moved:  c.endpoint.Metrics.Moved(),
		Record: c.rec,
	}
	f.TLS[splice.In] = c.tls
	if c.upstreamTLS != nil {
		f.TLS[splice.Out] = c.upstreamTLS
		var up telemetry.TLS
		describe(&up, c.upstreamTLS.State())
		c.rec.TLS.UpstreamVersion, c.rec.TLS.UpstreamCipher = up.Version, up.Cipher
	} else {
		f.Preface = c.proxyHeader()
	}
	rest := c.held
	f.Done = rest.ended
	engine := c.snap.Relay
	c.snap = nil // as in splice
	engine.Start(f)
}
