// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"embed"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"text/template"

	"github.com/spliceway/spliceway/testenv"
)

// configs are the subjects' configurations, templates over [settings].
//
//go:embed configs
var configs embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{"name": backendName}).ParseFS(configs, "configs/*"))

// settings are what every subject is told, in its own words.
type settings struct {
	Listen netip.AddrPort
	Admin  netip.AddrPort // inside the gateway's namespace
	Dir    string         // the subject's own, for files beside its configuration
	Routes []routing
	Flows  int // at once

	Splice  bool     // HAProxy: ask for splice(2)
	Modules []string // nginx: to load

	// The agent.
	Engine    string
	Sockmap   bool
	AccessLog bool
	BPFFS     string // empty: its default

	// Termination.
	CertFile, KeyFile string
	PEMFile           string // both in one
	Resume            bool   // sessions are offered
}

// routing is one name and where it leads.
type routing struct {
	Name, SNI string
	Upstream  netip.AddrPort
}

// Upstreams are the routes' targets, each once, in order.
func (s settings) Upstreams() []netip.AddrPort {
	all := make(map[netip.AddrPort]bool)
	for _, r := range s.Routes {
		all[r.Upstream] = true
	}
	return slices.SortedFunc(maps.Keys(all), netip.AddrPort.Compare)
}

// Names are those that lead to an upstream.
func (s settings) Names(upstream netip.AddrPort) (names []string) {
	for _, r := range s.Routes {
		if r.Upstream == upstream {
			names = append(names, r.SNI)
		}
	}
	return names
}

// Descriptors is what one process needs for all flows, two each.
func (s settings) Descriptors() int { return 2*s.Flows + 100 }

// backendName is an upstream's where a subject wants names.
func backendName(upstream netip.AddrPort) string { return fmt.Sprintf("port%d", upstream.Port()) }

// write renders a template into the subject's directory, under its own name.
func (s settings) write(name string) (file string, err error) {
	var text bytes.Buffer
	if err := templates.ExecuteTemplate(&text, name, s); err != nil {
		return "", fmt.Errorf("write %s: %w", name, err)
	}
	file = filepath.Join(s.Dir, name)
	return file, os.WriteFile(file, text.Bytes(), 0o600)
}

// allRoutes is how many a subject has that routes. Those that no work asks for lead
// where the work's first service is.
const allRoutes = 1000

// settings are those of any subject in this bed.
func (b *bed) settings() (settings, error) {
	s := settings{
		Listen: netip.AddrPortFrom(b.gatewayIP, gatewayPort), Admin: adminAddress,
		Dir: b.dir, Flows: b.flows, AccessLog: b.layout.sameHost(), Resume: b.layout == resuming,
	}
	add := func(name string, port uint16) {
		s.Routes = append(s.Routes, routing{Name: name, SNI: sni(name), Upstream: netip.AddrPortFrom(b.backendIP, port)})
	}
	for _, name := range slices.Sorted(maps.Keys(b.services)) {
		add(name, b.services[name])
	}
	if b.layout.terminates() {
		return s, s.writeCertificate(b)
	}
	for i := len(s.Routes); i < allRoutes; i++ {
		add(fmt.Sprintf("unused%d", i), b.services[b.first])
	}
	for i := range b.added {
		add(addedService(i), b.services[b.first])
	}
	return s, nil
}

// writeCertificate is for subjects that end the clients' TLS.
func (s *settings) writeCertificate(b *bed) (err error) {
	if s.CertFile, s.KeyFile, err = testenv.WritePair(b.dir, "server", b.certificate); err != nil {
		return err
	}
	var both []byte
	for _, file := range []string{s.CertFile, s.KeyFile} {
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		both = append(both, content...)
	}
	s.PEMFile = filepath.Join(b.dir, "server.pem")
	return os.WriteFile(s.PEMFile, both, 0o600)
}

// addedService is the nth that a reload brings.
func addedService(n int) string { return fmt.Sprintf("added%d", n) }
