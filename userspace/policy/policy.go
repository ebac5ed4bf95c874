// SPDX-License-Identifier: Apache-2.0

// Package policy is the traffic policy language: what an endpoint's owner has decided
// about each connection before it goes anywhere. It reads and compiles policies, and runs
// them; what an action has done to the connection is its caller's to do.
//
// The language is ngrok's (rules of CEL expressions and actions), as far as it is about
// connections: docs/traffic-policy.md.
package policy

import (
	"crypto/x509"
	"net/netip"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/spliceway/spliceway/userspace/config"
)

// Policy is a compiled policy; immutable, safe for concurrent use.
type Policy struct {
	rules []rule
}

// rule is one rule: its actions are done in order if all of its expressions are true.
type rule struct {
	name        string // as written, or its index
	expressions []expression
	actions     []action
}

// Warning is about something that is accepted though it is odd.
type Warning struct {
	Pos  config.Position
	Text string
}

// Options of Parse.
type Options struct {
	// Terminates tells that the endpoint terminates TLS by itself: the policy must not.
	Terminates bool
}

// Limits of a policy: more is a mistake, or hostile.
const (
	maxRules      = 1000 // of a phase
	maxActions    = 100  // of a rule, and as many expressions
	maxExpression = 4096 // bytes
	maxMistakes   = 100  // that are told of
)

// Parse reads and compiles a policy: a mapping with on_tcp_connect. file is the node's, in
// positions. The error, if any, is config.Errors with all that is wrong.
func Parse(file string, node *yaml.Node, o Options) (*Policy, []Warning, error) {
	r := &reader{file: file, options: o}
	p := r.policy(node)
	if len(r.errs) > 0 {
		return nil, r.warnings, r.errs
	}
	return p, r.warnings, nil
}

// Connection is what a policy sees. The caller owns it, and fills in more of it as that
// becomes known.
type Connection struct {
	// Client and Server are the connection's ends as the client sees them.
	Client, Server netip.AddrPort
	Start          time.Time
	SNI, JA4       string
	OfferedALPN    []string // in the client's order
	// TLS is what was negotiated, once the agent has terminated it; nil before.
	TLS      *TLS
	Endpoint Endpoint
}

// TLS is a handshake that is over.
type TLS struct {
	Version, CipherSuite, ALPN string // "1.3", an IANA name, "" for none
	// ClientCertificate is what the client showed, ServerCertificate what it was shown;
	// nil: nothing.
	ClientCertificate, ServerCertificate *x509.Certificate
}

// Endpoint is whose policy it is.
type Endpoint struct {
	ID, URL, Protocol, Host string
	Port                    int
}

// Forwards are the URLs of forward-internal actions that are the same for every
// connection. dynamic tells that there are others.
func (p *Policy) Forwards() (urls []string, dynamic bool) {
	for _, r := range p.rules {
		for _, a := range r.actions {
			if f, ok := a.(*forwardInternal); ok {
				if text, ok := f.url.literal(); ok {
					urls = append(urls, text)
				} else {
					dynamic = true
				}
			}
		}
	}
	return urls, dynamic
}

// Terminations are what the terminate-tls actions ask for.
func (p *Policy) Terminations() []*Termination {
	var all []*Termination
	for _, r := range p.rules {
		for _, a := range r.actions {
			if t, ok := a.(*terminateTLS); ok {
				all = append(all, &t.Termination)
			}
		}
	}
	return all
}

// Terminating tells that no connection gets past the policy: there is a rule without
// expressions whose last action ends it or hands it on.
func (p *Policy) Terminating() bool {
	for _, r := range p.rules {
		if len(r.expressions) > 0 {
			continue
		}
		for _, a := range r.actions {
			if a.terminating() {
				return true
			}
		}
	}
	return false
}

// ClientAuth is how terminate-tls asks for a client's certificate.
type ClientAuth uint8

// The strategies of mutual_tls_verification_strategy.
const (
	NoClientAuth     ClientAuth = iota
	RequireAndVerify            // require-and-verify
	RequireAny                  // require-any
	Request                     // request
)

// Termination is what a terminate-tls action asks for. PEM is not looked into here.
type Termination struct {
	MinVersion, MaxVersion uint16 // as in crypto/tls
	Certificate, Key       []byte // PEM; nil: the endpoint's own
	CAs                    [][]byte
	ClientAuth             ClientAuth
	Pos                    config.Position
}
