// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/spliceway/spliceway/userspace/acme"
	"github.com/spliceway/spliceway/userspace/certificate"
	"github.com/spliceway/spliceway/userspace/config"
	"github.com/spliceway/spliceway/userspace/telemetry"
	"github.com/spliceway/spliceway/userspace/terminate"
)

// tlsState is what endpoints that terminate TLS share, from one configuration to the
// next.
type tlsState struct {
	watch  *filesWatch            // nil: there is nothing to watch
	warned map[expiring]int       // the lowest threshold, in days, that was told
	odd    map[refresher][]string // the warnings that were told
	// ballast is never touched, and so takes no memory; to the garbage collector it is
	// a part of the heap, which may grow by as much again before it is looked at. Without
	// it a burst of handshakes, each of which leaves some tens of kilobytes, has an agent
	// with few connections collect all the time: a tenth of the handshake's cost.
	ballast []byte
}

// ballastSize is in bytes.
const ballastSize = 32 << 20

// expiring is a certificate of an endpoint.
type expiring struct{ endpoint, origin, serial string }

// expiryLook is how often ends of certificates are looked at.
const expiryLook = time.Hour

// expiryDays are the days before its end at which a certificate is warned of.
var expiryDays = []int{30, 7, 1, 0}

// openTLS makes what cfg's endpoints share, before they are built.
func (a *agent) openTLS(cfg *config.Config, gen *generation) (err error) {
	if a.current != nil && a.current.ticketsOf == cfg.SessionTickets {
		gen.tickets = a.current.tickets
	} else if gen.tickets, err = terminate.NewTickets(ticketOptions(cfg)); err != nil {
		return err
	}
	gen.ticketsOf = cfg.SessionTickets
	if a.tls.ballast == nil && slices.ContainsFunc(cfg.Endpoints, func(e config.Endpoint) bool { return e.TLSTermination != nil }) {
		a.tls.ballast = make([]byte, ballastSize)
	}
	if a.current != nil {
		gen.authority = a.current.authority
	}
	if gen.authority == nil && len(acmeNames(cfg)) > 0 {
		gen.authority, err = a.openACME(cfg.ACME)
	}
	return err
}

// authority is where certificates come from by themselves. It is made when an endpoint
// first wants it, and then handed from generation to generation.
type authority struct {
	*acme.Manager
	options config.ACME // what it was made from
	stop    func()
}

func (a *agent) openACME(c config.ACME) (*authority, error) {
	m, err := acme.New(acme.Options{
		DirectoryURL: c.DirectoryURL, Email: c.Email, Cache: c.Cache, CAFile: c.CAFile, RenewBefore: c.RenewBefore,
		KeyID: c.ExternalAccount.KeyID, HMACKeyFile: c.ExternalAccount.HMACKeyFile,
		HTTP01: c.HTTPAddress != "", Logger: a.logger,
	})
	if err != nil {
		return nil, err
	}
	stopHTTP := func() {}
	if c.HTTPAddress != "" {
		if stopHTTP, err = a.serveChallenges(c.HTTPAddress, m.HTTPHandler()); err != nil {
			return nil, err
		}
	}
	m.Start(context.Background())
	return &authority{m, c, func() { stopHTTP(); m.Close() }}, nil
}

// serveChallenges answers HTTP-01 challenges.
func (a *agent) serveChallenges(address string, h http.Handler) (stop func(), err error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		if at, bad := netip.ParseAddrPort(address); bad == nil {
			err = explainListen(err, at)
		}
		return nil, fmt.Errorf("listen for acme.httpAddress: %w", err)
	}
	s := &http.Server{Handler: h, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(a.logger.Handler(), slog.LevelDebug)}
	go func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			a.logger.Error("answering HTTP-01 challenges ended", "address", address, "error", err.Error())
		}
	}()
	return func() { _ = s.Close() }, nil
}

func acmeNames(cfg *config.Config) []string {
	var names []string
	for i := range cfg.Endpoints {
		if e := &cfg.Endpoints[i]; e.TLSTermination != nil && e.TLSTermination.ACME && !slices.Contains(names, e.ServerName) {
			names = append(names, e.ServerName)
		}
	}
	return names
}

// certificatesApplied is called when gen is what is served, whose files were read after
// since. old was, before it; nil: nothing.
func (a *agent) certificatesApplied(cfg *config.Config, gen, old *generation, since time.Time) {
	gen.startTermination(old)
	if gen.authority != nil {
		gen.authority.SetNames(acmeNames(cfg))
	}
	for name, t := range gen.terminations {
		if old == nil || old.terminations[name] != t {
			a.warnOfFiles(name, t.refreshers())
		}
	}
	for r := range a.tls.odd {
		if !gen.has(r) {
			delete(a.tls.odd, r)
		}
	}
	a.watchFiles(gen, since)
	a.lookAtExpiry()
}

// has tells whether r is of the generation.
func (g *generation) has(r refresher) bool {
	if r == refresher(g.tickets) {
		return true
	}
	for _, t := range g.terminations {
		if slices.Contains(t.refreshers(), r) {
			return true
		}
	}
	return false
}

// warnOfFiles tells what is odd, once for as long as it lasts.
func (a *agent) warnOfFiles(endpoint string, of []refresher) {
	if a.tls.odd == nil {
		a.tls.odd = make(map[refresher][]string)
	}
	for _, r := range of {
		now := r.Warnings()
		for _, w := range now {
			if !slices.Contains(a.tls.odd[r], w) {
				a.logger.Warn(w, "endpoint", endpoint)
			}
		}
		a.tls.odd[r] = now
	}
}

// watchFiles has the running generation's files watched, and no others. Those that are
// new were read after since.
func (a *agent) watchFiles(gen *generation, since time.Time) {
	files := slices.Clone(gen.tickets.Files())
	for _, t := range gen.terminations {
		for _, r := range t.refreshers() {
			files = append(files, r.Files()...)
		}
	}
	if len(files) == 0 && a.tls.watch == nil {
		return
	}
	if a.tls.watch == nil {
		w, err := newFilesWatch()
		if err != nil {
			a.logger.Warn("certificates are not watched: SIGHUP has them read again", "error", err.Error())
			return
		}
		a.tls.watch = w
	}
	if err := a.tls.watch.set(files, since); err != nil {
		a.logger.Warn("some certificates are not watched: SIGHUP has them read again", "error", err.Error())
	}
}

// filesChanged is signalled when files of certificates may have changed.
func (a *agent) filesChanged() <-chan struct{} {
	if a.tls.watch == nil {
		return nil
	}
	return a.tls.watch.changed
}

// reloadCertificates reads again what has changed. What is broken stays as it was.
func (a *agent) reloadCertificates(why string) {
	start := time.Now()
	a.refresh("", why, a.current.tickets)
	for name, t := range a.current.terminations {
		before := t.list()
		for _, r := range t.refreshers() {
			a.refresh(name, why, r)
		}
		for _, c := range t.list() {
			if !slices.ContainsFunc(before, func(b certificate.Info) bool { return b.Serial == c.Serial && b.Origin == c.Origin }) {
				a.metrics.CertificatesLoaded(true)
				a.logger.Info("certificate loaded", append([]any{"endpoint", name, "reason", why}, about(&c)...)...)
			}
		}
	}
	a.watchFiles(a.current, start)
	a.lookAtExpiry()
}

func (a *agent) refresh(endpoint, why string, r refresher) {
	if err := r.Reload(); err != nil {
		for _, e := range separate(err) {
			a.metrics.CertificatesLoaded(false)
			a.logger.Error("certificate refused: what was there before goes on", "endpoint", endpoint, "reason", why, "error", e.Error())
		}
	}
	a.warnOfFiles(endpoint, []refresher{r})
}

// about is what the log says of a certificate.
func about(i *certificate.Info) []any {
	return []any{"certificate", i.Origin, "names", i.Names, "serial", i.Serial, "not_after", i.NotAfter.UTC().Format(time.RFC3339)}
}

// separate takes joined errors apart.
func separate(err error) []error {
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		var all []error
		for _, e := range j.Unwrap() {
			all = append(all, separate(e)...)
		}
		return all
	}
	return []error{err}
}

// lookAtExpiry tells, once for each, of certificates that end soon.
func (a *agent) lookAtExpiry() {
	var series []telemetry.CertificateExpiry
	for name, t := range a.current.terminations {
		list := t.list()
		if t.certificates == nil && t.server != nil {
			for _, i := range a.current.authority.List() {
				if slices.Contains(i.Names, t.spec.ServerName) {
					list = append(list, i)
				}
			}
		}
		for _, c := range t.clients {
			if end, file, ok := c.Expiry(); ok {
				list = append(list, certificate.Info{Origin: file, NotAfter: end})
			}
		}
		for _, i := range list {
			series = append(series, telemetry.CertificateExpiry{Endpoint: name, Certificate: i.Origin, Serial: i.Serial, NotAfter: i.NotAfter})
			a.warnOfExpiry(name, &i)
		}
	}
	a.metrics.CertificatesExpire(series)
}

func (a *agent) warnOfExpiry(endpoint string, i *certificate.Info) {
	left := time.Until(i.NotAfter)
	due := -1
	for _, days := range expiryDays {
		// The authority's are renewed when a third of their life is left.
		if at := time.Duration(days) * 24 * time.Hour; left <= at && (i.Origin != "acme" || at < i.NotAfter.Sub(i.NotBefore)/4) {
			due = days
		}
	}
	key := expiring{endpoint, i.Origin, i.Serial}
	if told, ok := a.tls.warned[key]; due < 0 || ok && told <= due {
		return
	}
	if a.tls.warned == nil {
		a.tls.warned = make(map[expiring]int)
	}
	a.tls.warned[key] = due
	attrs := append([]any{"endpoint", endpoint}, about(i)...)
	if left <= 0 {
		a.logger.Error("certificate has expired: clients will refuse it; replace the file", attrs...)
		return
	}
	a.logger.Warn("certificate expires soon", append(attrs, "days", int(left.Hours()/24))...)
}

func (a *agent) closeTLS() {
	if a.tls.watch != nil {
		a.tls.watch.close()
	}
}
