// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"time"

	"github.com/spliceway/spliceway/userspace/acme"
	"github.com/spliceway/spliceway/userspace/certificate"
	"github.com/spliceway/spliceway/userspace/config"
	"github.com/spliceway/spliceway/userspace/plan"
	"github.com/spliceway/spliceway/userspace/policy"
	"github.com/spliceway/spliceway/userspace/proxy"
	"github.com/spliceway/spliceway/userspace/terminate"
)

// termination is what one endpoint's TLS is made of, while it is served.
type termination struct {
	spec         config.Endpoint // as far as it is about TLS
	tickets      *terminate.Tickets
	certificates *certificate.Set    // nil: the authority's
	server       *terminate.Server   // nil: policies terminate it, and clients is all that is wanted
	clients      []*terminate.Client // by upstream.Target.Settings
}

// terminationSpec is the part of an endpoint that its termination depends on. Where it
// stands in the file is no part of it.
func terminationSpec(e *config.Endpoint) config.Endpoint {
	spec := config.Endpoint{Name: e.Name, ServerName: e.ServerName}
	if e.TLSTermination != nil {
		t := *e.TLSTermination
		t.Pos, t.Certificates = config.Position{}, slices.Clone(t.Certificates)
		for i := range t.Certificates {
			t.Certificates[i].Pos = config.Position{}
		}
		if m := t.MutualTLS; m != nil {
			own := *m
			own.Pos, t.MutualTLS = config.Position{}, &own
		}
		spec.TLSTermination = &t
	}
	for _, u := range upstreamSettings(e) {
		t := config.Target{TLS: true}
		if u != nil {
			own := *u
			own.Pos, t.UpstreamTLS = config.Position{}, &own
		}
		spec.Upstream.All = append(spec.Upstream.All, t)
	}
	return spec
}

// upstreamSettings are the distinct settings of TLS that an endpoint's targets want; nil
// stands for the defaults.
func upstreamSettings(e *config.Endpoint) (all []*config.UpstreamTLS) {
	for i := range e.Upstream.All {
		if t := &e.Upstream.All[i]; t.TLS && !slices.ContainsFunc(all, func(u *config.UpstreamTLS) bool { return sameSettings(u, settingsOf(e, t)) }) {
			all = append(all, settingsOf(e, t))
		}
	}
	return all
}

func settingsOf(e *config.Endpoint, t *config.Target) *config.UpstreamTLS {
	if t.UpstreamTLS != nil {
		return t.UpstreamTLS
	}
	return e.Upstream.TLS
}

func sameSettings(a, b *config.UpstreamTLS) bool { return a == b || reflect.DeepEqual(a, b) }

func wantsUpstreamTLS(e *config.Endpoint) bool {
	return slices.ContainsFunc(e.Upstream.All, func(t config.Target) bool { return t.TLS })
}

var clientAuth = map[string]terminate.ClientAuth{
	"request": terminate.Request, "require-any": terminate.RequireAny, "require-and-verify": terminate.RequireAndVerify,
}

// newTermination reads an endpoint's files. acmeManager is for an endpoint that wants
// one.
func newTermination(e *config.Endpoint, tickets *terminate.Tickets, acmeManager *acme.Manager, logger *slog.Logger) (*termination, error) {
	t := &termination{spec: terminationSpec(e), tickets: tickets}
	errs := []error{t.serve(e, tickets, acmeManager, logger)}
	for _, u := range upstreamSettings(e) {
		c, err := newUpstreamTLS(e, u)
		t.clients, errs = append(t.clients, c), append(errs, err)
	}
	return t, errors.Join(errs...)
}

// serve makes what the clients see.
func (t *termination) serve(e *config.Endpoint, tickets *terminate.Tickets, acmeManager *acme.Manager, logger *slog.Logger) (err error) {
	c := e.TLSTermination
	if c == nil {
		return nil
	}
	o := terminate.ServerOptions{
		Endpoint: e.Name, Where: c.Pos.String(),
		MinVersion: c.MinTLS, MaxVersion: c.MaxTLS, CipherSuites: c.Suites, Curves: c.Groups, ALPN: c.ALPN,
	}
	if c.SessionTickets {
		o.Tickets = tickets
	}
	if m := c.MutualTLS; m != nil {
		o.ClientAuth, o.CAFiles, o.CRLFiles, o.CAPEM, o.Where = clientAuth[m.Mode], m.CAFiles, m.CRLFiles, m.CAPEM, m.Pos.String()
	}
	if c.ACME {
		o.Certificates = acmeManager
	} else if t.certificates, err = certificate.NewSet(sources(c), certificate.Options{Logger: logger.With("endpoint", e.Name)}); err == nil {
		o.Certificates = t.certificates
	}
	if err == nil {
		t.server, err = terminate.NewServer(o)
	}
	return err
}

func sources(c *config.Termination) []certificate.Source {
	var list []certificate.Source
	for _, s := range c.Certificates {
		where := s.Pos.String()
		if s.From != "" {
			where = s.From
		}
		list = append(list, certificate.Source{
			CertFile: s.CertFile, KeyFile: s.KeyFile, Directory: s.Directory, CertPEM: s.CertPEM, KeyPEM: s.KeyPEM,
			OCSPFile: s.OCSPFile, FetchOCSP: s.OCSP == "fetch", Where: where,
		})
	}
	return list
}

func newUpstreamTLS(e *config.Endpoint, u *config.UpstreamTLS) (*terminate.Client, error) {
	if u == nil {
		return terminate.NewClient(terminate.ClientOptions{Where: e.Pos.String()})
	}
	return terminate.NewClient(terminate.ClientOptions{
		CAFile: u.CAFile, ServerName: u.ServerName, CertFile: u.CertFile, KeyFile: u.KeyFile,
		MinVersion: u.MinTLS, InsecureSkipVerify: u.InsecureSkipVerify, Where: u.Pos.String(),
		CAPEM: u.CAPEM, CertPEM: u.CertPEM, KeyPEM: u.KeyPEM, SANs: u.SANs,
	})
}

// refresher is what reads files that change.
type refresher interface {
	Files() []string
	Reload() error
	Warnings() []string
}

func (t *termination) refreshers() []refresher {
	var list []refresher
	if t.server != nil {
		list = append(list, t.server)
	}
	if t.certificates != nil {
		list = append(list, t.certificates)
	}
	for _, c := range t.clients {
		list = append(list, c)
	}
	return list
}

// list is of the certificates from files.
func (t *termination) list() []certificate.Info {
	if t.certificates == nil {
		return nil
	}
	return t.certificates.List()
}

func (t *termination) close() {
	if t.certificates != nil {
		t.certificates.Close()
	}
}

// termination is the running generation's if it is the same, else a new one, which is
// not started.
func (a *agent) termination(e *config.Endpoint, gen *generation) (*termination, error) {
	if a.current != nil {
		if old := a.current.terminations[e.Name]; old != nil && old.tickets == gen.tickets && reflect.DeepEqual(old.spec, terminationSpec(e)) {
			return old, nil
		}
	}
	var m *acme.Manager
	if gen.authority != nil {
		m = gen.authority.Manager
	}
	return newTermination(e, gen.tickets, m, a.logger)
}

// buildTerminations makes gen's, or tells all that is wrong with them.
func (a *agent) buildTerminations(p *plan.Plan, gen *generation) error {
	var errs []error
	for _, e := range terminating(p) {
		t, err := a.termination(e, gen)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		gen.terminations[e.Name] = t
	}
	return errors.Join(errs...)
}

// terminating are the endpoints that do TLS, and one for each action terminate-tls. If
// there is such an action, any endpoint with targets of TLS may have to speak it.
func terminating(p *plan.Plan) (all []*config.Endpoint) {
	byPolicy := false
	for i := range p.Endpoints {
		byPolicy = byPolicy || p.Endpoints[i].Policy != nil && len(p.Endpoints[i].Policy.Terminations()) > 0
	}
	for i := range p.Config.Endpoints {
		e := &p.Config.Endpoints[i]
		if e.TLSTermination != nil || (byPolicy || p.Endpoints[i].HTTP != nil) && wantsUpstreamTLS(e) {
			all = append(all, e)
		}
		if p.Endpoints[i].Policy == nil {
			continue
		}
		for n, t := range p.Endpoints[i].Policy.Terminations() {
			all = append(all, actionEndpoint(e, n, t))
		}
	}
	return all
}

// actionName is the name of what an action terminate-tls of an endpoint's policy does.
func actionName(e *config.Endpoint, n int) string {
	return fmt.Sprintf("%s/terminate-tls/%d", e.Name, n)
}

// actionEndpoint is such an action as an endpoint.
func actionEndpoint(e *config.Endpoint, n int, t *policy.Termination) *config.Endpoint {
	c := config.NewTermination()
	c.MinTLS, c.MaxTLS, c.Pos = t.MinVersion, t.MaxVersion, t.Pos
	c.Certificates = []config.Certificate{{CertPEM: t.Certificate, KeyPEM: t.Key, From: "terminate-tls at " + t.Pos.String(), Pos: t.Pos}}
	modes := map[policy.ClientAuth]string{policy.RequireAndVerify: "require-and-verify", policy.RequireAny: "require-any", policy.Request: "request"}
	if mode := modes[t.ClientAuth]; mode != "" {
		c.MutualTLS = &config.MutualTLS{Mode: mode, Pos: t.Pos}
		if t.ClientAuth == policy.RequireAndVerify {
			c.MutualTLS.CAPEM = bytes.Join(t.CAs, []byte("\n"))
		}
	}
	return &config.Endpoint{Name: actionName(e, n), ServerName: e.ServerName, TLSTermination: c, Pos: t.Pos}
}

// proxyTermination is what package proxy is told of it.
func proxyTermination(e *config.Endpoint, t *termination, from *authority) *proxy.Termination {
	p := &proxy.Termination{Server: t.server}
	if e.TLSTermination.ACME {
		p.Challenge = &tls.Config{
			MinVersion: tls.VersionTLS12, NextProtos: []string{acme.ChallengeProtocol}, GetCertificate: from.Get, SessionTicketsDisabled: true,
		}
	}
	return p
}

// CheckFiles reads what a configuration has of certificates, CAs and keys, as Run would,
// and tells what is wrong, and what is odd.
func CheckFiles(p *plan.Plan) (warnings []string, err error) {
	cfg := p.Config
	logger := slog.New(slog.DiscardHandler)
	tickets, err := terminate.NewTickets(ticketOptions(cfg))
	errs := []error{err}
	for _, e := range terminating(p) {
		t, err := newTermination(e, tickets, new(acme.Manager), logger)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, r := range t.refreshers() {
			for _, w := range r.Warnings() {
				warnings = append(warnings, fmt.Sprintf("%s: endpoint %s: %s", where(e), e.Name, w))
			}
		}
		for _, i := range t.list() {
			if time.Now().After(i.NotAfter) {
				warnings = append(warnings, fmt.Sprintf("%s: endpoint %s: %s: the certificate has expired at %s: clients will refuse it",
					where(e), e.Name, i.Origin, i.NotAfter.UTC().Format(time.RFC3339)))
			}
		}
		t.close()
	}
	return warnings, errors.Join(errs...)
}

func where(e *config.Endpoint) config.Position {
	if e.TLSTermination != nil {
		return e.TLSTermination.Pos
	}
	return e.Pos
}

func ticketOptions(cfg *config.Config) terminate.TicketOptions {
	return terminate.TicketOptions{KeyFile: cfg.SessionTickets.KeyFile, Rotation: cfg.SessionTickets.Rotation}
}

// startTermination starts what is new in next.
func (g *generation) startTermination(old *generation) {
	for name, t := range g.terminations {
		if t.certificates != nil && (old == nil || old.terminations[name] != t) {
			t.certificates.Start(context.Background())
		}
	}
}
