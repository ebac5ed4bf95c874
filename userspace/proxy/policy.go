// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"strconv"

	"github.com/spliceway/spliceway/userspace/clienthello"
	"github.com/spliceway/spliceway/userspace/policy"
	"github.com/spliceway/spliceway/userspace/telemetry"
)

// Policy is an endpoint's traffic policy.
type Policy struct {
	*policy.Policy
	// Self is what the policy sees of its endpoint.
	Self policy.Endpoint
	// Terminations are how its actions terminate TLS, all of them.
	Terminations map[*policy.Termination]*Termination
}

const (
	// maxForwards is how many endpoints in a row may forward a connection: a chain of
	// more is a loop, or as good as one.
	maxForwards = 8
	// maxPolicyLogs is how often policies may log about one connection.
	maxPolicyLogs = 16
)

// errNoInternal means that a policy forwards to a name that no internal endpoint has.
var errNoInternal = errors.New("no internal endpoint has this URL")

// follow does what e's policy says, and then goes to e's upstream, or to the one that it
// is forwarded to.
func (c *conn) follow(e *Endpoint, hops int) telemetry.Outcome {
	if e.Policy == nil {
		return c.deliver(e)
	}
	c.facts.Client, c.facts.Server, c.facts.Start = c.from, c.to, c.rec.Start
	c.facts.SNI, c.facts.JA4, c.facts.OfferedALPN = c.rec.SNI, c.rec.JA4, c.rec.ALPN
	outer := c.facts.Endpoint
	c.facts.Endpoint = e.Policy.Self
	defer func() { c.facts.Endpoint = outer }()
	run := e.Policy.Start(&c.facts)
	defer run.Release()
	for {
		step := run.Next()
		switch step.Kind {
		case policy.End:
			if e.Pool == nil {
				return c.policyFailed(e, errors.New("its policy ends without forwarding the connection, and it has no upstream"))
			}
			return c.deliver(e)
		case policy.Close:
			c.rec.Reason = fmt.Sprintf("%s: rule %s: %s", e.Name, step.Rule, step.Action)
			return telemetry.OutcomeDenied
		case policy.Failed:
			return c.policyFailed(e, fmt.Errorf("rule %s: %s: %w", step.Rule, step.Action, step.Err))
		case policy.Log:
			if len(c.rec.PolicyLog) < maxPolicyLogs {
				c.rec.PolicyLog = append(c.rec.PolicyLog, step.Metadata)
			}
		case policy.Terminate:
			if outcome := c.terminate(e, step); outcome != telemetry.OutcomeRouted {
				return outcome
			}
		case policy.Forward:
			forwarded, terminated := len(c.rec.ForwardedTo), c.tls
			outcome := c.forward(e, step.URL, hops)
			if outcome == telemetry.OutcomeRouted || !step.OnErrorContinue || !mayContinue(outcome) {
				return outcome
			}
			if c.tls != terminated {
				// Whoever is next may have meant to pass the client's TLS on,
				// and would be sent what was inside.
				return outcome
			}
			run.Forwarded(errors.New(c.rec.Reason))
			c.rec.Reason, c.rec.ForwardedTo = "", c.rec.ForwardedTo[:forwarded]
		}
	}
}

// mayContinue tells whether a connection that was forwarded in vain is still as it was.
func mayContinue(o telemetry.Outcome) bool {
	return o == telemetry.OutcomeDialFailed || o == telemetry.OutcomePolicyFailed
}

func (c *conn) policyFailed(e *Endpoint, err error) telemetry.Outcome {
	c.rec.Reason = e.Name + ": " + err.Error()
	return telemetry.OutcomePolicyFailed
}

// terminate is the action terminate-tls.
func (c *conn) terminate(e *Endpoint, step policy.Step) telemetry.Outcome {
	if c.tls != nil {
		return c.policyFailed(e, fmt.Errorf("rule %s: %s: TLS has been terminated already", step.Rule, step.Action))
	}
	if outcome := c.handshake(e.Policy.Terminations[step.Termination]); outcome != telemetry.OutcomeRouted {
		return outcome
	}
	state, t := c.tls.State(), c.rec.TLS
	c.facts.TLS = &policy.TLS{Version: t.Version, CipherSuite: t.Cipher, ALPN: t.ALPN}
	if len(state.PeerCertificates) > 0 {
		c.facts.TLS.ClientCertificate = state.PeerCertificates[0]
	}
	return telemetry.OutcomeRouted
}

// forward goes on as the internal endpoint at url has it.
func (c *conn) forward(e *Endpoint, url string, hops int) telemetry.Outcome {
	next, err := c.snap.internal(url)
	if err == nil && hops+1 > maxForwards {
		err = fmt.Errorf("more than %d endpoints forward in a row", maxForwards)
	}
	if err != nil {
		return c.policyFailed(e, fmt.Errorf("forward-internal to %q: %w", url, err))
	}
	c.rec.ForwardedTo = append(c.rec.ForwardedTo, next.Name)
	return c.follow(next, hops+1)
}

// internal finds the endpoint that tls://NAME[:PORT] stands for.
func (s *Snapshot) internal(target string) (*Endpoint, error) {
	e := s.Forwards[target]
	if e == nil {
		port, name, err := parseInternalURL(target)
		if err != nil {
			return nil, err
		}
		if s.Internal == nil {
			return nil, errNoInternal
		}
		m, ok := s.Internal.Lookup(netip.Addr{}, port, name, nil)
		if !ok {
			return nil, errNoInternal
		}
		e = s.Endpoints[m.Endpoint]
	}
	if e.Peers != nil {
		e = e.Peers[rand.IntN(len(e.Peers))]
	}
	return e, nil
}

// parseInternalURL takes tls://NAME[:PORT] apart, as forward-internal has it.
func parseInternalURL(target string) (port uint16, name string, err error) {
	u, err := url.Parse(target)
	if err != nil || u.Scheme != "tls" || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return 0, "", errors.New("expected tls://NAME.internal[:PORT]")
	}
	host, digits := u.Host, "443"
	if h, p, err := net.SplitHostPort(u.Host); err == nil {
		host, digits = h, p
	}
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || n == 0 {
		return 0, "", fmt.Errorf("port %q is none", digits)
	}
	name, err = clienthello.CanonicalName(host)
	return uint16(n), name, err
}
