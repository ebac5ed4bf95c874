// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spliceway/spliceway/testenv"
)

const (
	bytesUp   = 4 << 20
	bytesDown = 8 << 20

	// connections are opened one after the other, through the agent and direct
	// in turn, for the times; one more of each goes first and is not counted.
	connections = 12
)

// The ways to a backend.
const (
	exact    = "exact"
	wildcard = "wildcard"
	fallback = "fallback"
)

// routedCase is a client that has to arrive.
type routedCase struct {
	sni, client    string
	backend, route string
	ipv6, split    bool
	maxVersion     uint16
}

var routedCases = []routedCase{
	{sni: "shop.test", client: "IPv4 TLS 1.3", backend: "shop", route: exact},
	{sni: "db.eu.app.test", client: "IPv4 TLS 1.3", backend: "apps", route: wildcard},
	{sni: "old.example", client: "IPv4 TLS 1.3", backend: "www", route: fallback},
	{sni: "shop.test", client: "IPv6 TLS 1.3", backend: "shop", route: exact, ipv6: true},
	{sni: "shop.test", client: "IPv4 TLS 1.2", backend: "shop", route: exact, maxVersion: tls.VersionTLS12},
	{sni: "www.test", client: "split hello", backend: "www", route: exact, split: true},
}

// visit is what the client of a case saw.
type visit struct {
	err       error    // where it ended early
	addresses []string // of the client, on each connection through the agent

	transfer string // the one of them that moved the bytes
	in, out  int64  // its TCP payload: from the client, and to it

	backend     string
	certificate Certificate
	state       tls.ConnectionState

	handshake, roundTrip Timing
}

// visit goes to a backend through the agent, checks what it meets there and
// compares the times with the direct way.
func (s *site) visit(ctx context.Context, c routedCase, seed uint64) visit {
	var v visit
	service := s.service(c.backend)
	cl := client{host: s.network.Clients[0], ca: s.ca, sni: c.sni, maxVersion: c.maxVersion, split: c.split}
	gateway, direct := netip.AddrPortFrom(s.network.IPv4, port), netip.AddrPortFrom(service.host.IPv4(), port)
	if c.ipv6 {
		gateway, direct = netip.AddrPortFrom(s.network.IPv6, port), netip.AddrPortFrom(service.host.IPv6(), port)
	}
	if v.err = v.move(ctx, cl, gateway, service, seed); v.err == nil {
		v.err = v.compare(ctx, cl, gateway, direct, service.Name)
	}
	return v
}

// move transfers random bytes both ways, each end checking all that it gets.
func (v *visit) move(ctx context.Context, cl client, gateway netip.AddrPort, service *service, seed uint64) error {
	conn, err := cl.open(ctx, gateway)
	if err != nil {
		return err
	}
	defer conn.Close()
	v.transfer = conn.LocalAddr().String()
	v.addresses = append(v.addresses, v.transfer)
	v.state = conn.ConnectionState()
	leaf := v.state.PeerCertificates[0]
	sum := sha256.Sum256(leaf.Raw)
	v.certificate = Certificate{
		Subject: leaf.Subject.CommonName, SHA256: hex.EncodeToString(sum[:]),
		EndToEnd: bytes.Equal(leaf.Raw, service.certificate),
	}
	reply, err := testenv.TransferBoth(ctx, conn.Conn, service.backend, seed, bytesUp, bytesDown)
	v.backend = reply.Backend
	if err != nil {
		return err
	}
	v.in, v.out = conn.wire.out, conn.wire.in
	return nil
}

// compare takes times, in turn with and without the agent, so that whatever
// else the machine does falls on both.
func (v *visit) compare(ctx context.Context, cl client, gateway, direct netip.AddrPort, backend string) error {
	var handshakes, trips [2][]time.Duration
	for i := range connections + 1 {
		for way, to := range []netip.AddrPort{gateway, direct} {
			p, err := cl.probe(ctx, to, backend)
			if way == 0 && p.address != "" {
				v.addresses = append(v.addresses, p.address)
			}
			if err != nil {
				return fmt.Errorf("by way of %s: %w", to, err)
			}
			if i > 0 {
				handshakes[way] = append(handshakes[way], p.handshake)
				trips[way] = append(trips[way], p.trips...)
			}
		}
	}
	v.handshake = Timing{Gateway: median(handshakes[0]), Direct: median(handshakes[1])}
	v.roundTrip = Timing{Gateway: median(trips[0]), Direct: median(trips[1])}
	return nil
}

func median(d []time.Duration) float64 {
	slices.Sort(d)
	return milliseconds(d[len(d)/2])
}

// judgeVisit compares what the client saw with what it should have seen, and
// both with what the agent says.
func judgeVisit(report *Report, c routedCase, v visit, log accessLog) Routed {
	problem := func(format string, args ...any) {
		report.problem("%s (%s): %s", c.sni, c.client, fmt.Sprintf(format, args...))
	}
	r := Routed{
		SNI: c.sni, Client: c.client, Backend: v.backend, Certificate: v.certificate,
		Handshake: v.handshake, RoundTrip: v.roundTrip,
	}
	if v.err != nil {
		problem("%v", v.err)
	}
	if v.transfer == "" {
		return r // it met nothing to compare
	}
	r.TLSVersion = tls.VersionName(v.state.Version)
	if v.state.CurveID != 0 {
		r.KeyExchange = v.state.CurveID.String()
	}
	if v.backend != c.backend {
		problem("backend %q answered, want %q", v.backend, c.backend)
	}
	if !v.certificate.EndToEnd {
		problem("the certificate is not that of backend %s, but one for %s", c.backend, v.certificate.Subject)
	}
	if want := cmp.Or(c.maxVersion, tls.VersionTLS13); v.state.Version != want {
		problem("%s was spoken, want %s", r.TLSVersion, tls.VersionName(want))
	}
	for _, address := range v.addresses {
		line, ok := log[address]
		switch {
		case !ok:
			problem("the access log has no line of the connection from %s", address)
		case line.Outcome != "routed" || line.End != "eof":
			problem("the access log says outcome %q, end %q, want routed and eof", line.Outcome, line.End)
		case line.SNI != c.sni || line.Endpoint != c.backend || routeOf(line) != c.route:
			problem("the access log says sni %q, endpoint %q, match %q", line.SNI, line.Endpoint, line.Match)
		case line.Engine == "":
			problem("the access log names no engine")
		}
	}
	line := log[v.transfer]
	r.Route, r.Engine, r.BytesIn, r.BytesOut = routeOf(line), line.Engine, line.BytesIn, line.BytesOut
	if v.err == nil && (line.BytesIn != v.in || line.BytesOut != v.out) {
		problem("the access log says %d bytes in and %d out, the client counted %d and %d", line.BytesIn, line.BytesOut, v.in, v.out)
	}
	return r
}

// routeOf tells how the agent found the endpoint, from what it says matched.
func routeOf(line accessLine) string {
	switch {
	case line.Match == "":
		return ""
	case strings.HasPrefix(line.Match, "fallback:"):
		return fallback
	case strings.HasPrefix(line.Match, "*."):
		return wildcard
	}
	return exact
}
