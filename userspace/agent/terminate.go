// SPDX-License-Identifier: Apache-2.0

package agent

import (
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
	"github.com/spliceway/spliceway/userspace/proxy"
	"github.com/spliceway/spliceway/userspace/terminate"
)

// termination is what one endpoint's TLS is made of, while it is served.
type termination struct {
	spec         config.Endpoint // as far as it is about TLS
	tickets      *terminate.Tickets
	certificates *certificate.Set // nil: the authority's
	server       *terminate.Server
	client       *terminate.Client // nil: no upstream wants TLS
}

// terminationSpec is the part of an endpoint that its termination depends on. Where it
// stands in the file is no part of it.
func terminationSpec(e *config.Endpoint) config.Endpoint {
	t := *e.TLSTermination
	t.Pos, t.Certificates = config.Position{}, slices.Clone(t.Certificates)
	for i := range t.Certificates {
		t.Certificates[i].Pos = config.Position{}
	}
	if m := t.MutualTLS; m != nil {
		own := *m
		own.Pos, t.MutualTLS = config.Position{}, &own
	}
	spec := config.Endpoint{Name: e.Name, ServerName: e.ServerName, TLSTermination: &t}
	if u := e.Upstream.TLS; u != nil {
		own := *u
		own.Pos, spec.Upstream.TLS = config.Position{}, &own
	}
	if wantsUpstreamTLS(e) {
		spec.Upstream.All = []config.Target{{TLS: true}}
	}
	return spec
}

func wantsUpstreamTLS(e *config.Endpoint) bool {
	return slices.ContainsFunc(e.Upstream.All, func(t config.Target) bool { return t.TLS })
}

var clientAuth = map[string]terminate.ClientAuth{
	"request": terminate.Request, "require-any": terminate.RequireAny, "require-and-verify": terminate.RequireAndVerify,
}

// newTermination reads an endpoint's files. acmeManager is for an endpoint that wants
// one.
func newTermination(e *config.Endpoint, tickets *terminate.Tickets, acmeManager *acme.Manager, logger *slog.Logger) (*termination, error) {
	c := e.TLSTermination
	t := &termination{spec: terminationSpec(e), tickets: tickets}
	o := terminate.ServerOptions{
		Endpoint: e.Name, Where: c.Pos.String(),
		MinVersion: c.MinTLS, MaxVersion: c.MaxTLS, CipherSuites: c.Suites, Curves: c.Groups, ALPN: c.ALPN,
	}
	if c.SessionTickets {
		o.Tickets = tickets
	}
	if m := c.MutualTLS; m != nil {
		o.ClientAuth, o.CAFiles, o.CRLFiles, o.Where = clientAuth[m.Mode], m.CAFiles, m.CRLFiles, m.Pos.String()
	}
	var err error
	if c.ACME {
		o.Certificates = acmeManager
	} else if t.certificates, err = certificate.NewSet(sources(c), certificate.Options{Logger: logger.With("endpoint", e.Name)}); err == nil {
		o.Certificates = t.certificates
	}
	errs := []error{err}
	if err == nil {
		t.server, err = terminate.NewServer(o)
		errs = append(errs, err)
	}
	if wantsUpstreamTLS(e) {
		t.client, err = newUpstreamTLS(e)
		errs = append(errs, err)
	}
	return t, errors.Join(errs...)
}

func sources(c *config.Termination) []certificate.Source {
	var list []certificate.Source
	for _, s := range c.Certificates {
		list = append(list, certificate.Source{
			CertFile: s.CertFile, KeyFile: s.KeyFile, Directory: s.Directory,
			OCSPFile: s.OCSPFile, FetchOCSP: s.OCSP == "fetch", Where: s.Pos.String(),
		})
	}
	return list
}

func newUpstreamTLS(e *config.Endpoint) (*terminate.Client, error) {
	u := e.Upstream.TLS
	if u == nil {
		return terminate.NewClient(terminate.ClientOptions{Where: e.Pos.String()})
	}
	return terminate.NewClient(terminate.ClientOptions{
		CAFile: u.CAFile, ServerName: u.ServerName, CertFile: u.CertFile, KeyFile: u.KeyFile,
		MinVersion: u.MinTLS, InsecureSkipVerify: u.InsecureSkipVerify, Where: u.Pos.String(),
	})
}

// refresher is what reads files that change.
type refresher interface {
	Files() []string
	Reload() error
	Warnings() []string
}

func (t *termination) refreshers() []refresher {
	list := []refresher{t.server}
	if t.certificates != nil {
		list = append(list, t.certificates)
	}
	if t.client != nil {
		list = append(list, t.client)
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
func (a *agent) buildTerminations(cfg *config.Config, gen *generation) error {
	var errs []error
	for i := range cfg.Endpoints {
		e := &cfg.Endpoints[i]
		if e.TLSTermination == nil {
			continue
		}
		t, err := a.termination(e, gen)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		gen.terminations[e.Name] = t
	}
	return errors.Join(errs...)
}

// proxyTermination is what package proxy is told of it.
func proxyTermination(cfg *config.Config, e *config.Endpoint, t *termination, from *authority) *proxy.Termination {
	p := &proxy.Termination{Server: t.server, Client: t.client, Timeout: cfg.Timeouts.Handshake}
	if e.TLSTermination.ACME {
		p.Challenge = &tls.Config{
			MinVersion: tls.VersionTLS12, NextProtos: []string{acme.ChallengeProtocol}, GetCertificate: from.Get, SessionTicketsDisabled: true,
		}
	}
	return p
}

// CheckFiles reads what a configuration has of certificates, CAs and keys, as Run would,
// and tells what is wrong, and what is odd.
func CheckFiles(cfg *config.Config) (warnings []string, err error) {
	logger := slog.New(slog.DiscardHandler)
	tickets, err := terminate.NewTickets(ticketOptions(cfg))
	errs := []error{err}
	for i := range cfg.Endpoints {
		e := &cfg.Endpoints[i]
		if e.TLSTermination == nil {
			continue
		}
		t, err := newTermination(e, tickets, new(acme.Manager), logger)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, r := range t.refreshers() {
			for _, w := range r.Warnings() {
				warnings = append(warnings, fmt.Sprintf("%s: endpoint %s: %s", e.TLSTermination.Pos, e.Name, w))
			}
		}
		for _, i := range t.list() {
			if time.Now().After(i.NotAfter) {
				warnings = append(warnings, fmt.Sprintf("%s: endpoint %s: %s: the certificate has expired at %s: clients will refuse it",
					e.TLSTermination.Pos, e.Name, i.Origin, i.NotAfter.UTC().Format(time.RFC3339)))
			}
		}
		t.close()
	}
	return warnings, errors.Join(errs...)
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
