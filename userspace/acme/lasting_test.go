// SPDX-License-Identifier: Apache-2.0

package acme

import (
	"crypto/tls"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spliceway/spliceway/testenv"
)

func TestRestartNeedsTheCacheAlone(t *testing.T) {
	h := newHost(t)
	p := testenv.MustPebble(t, testenv.PebbleOptions{TLSPort: port(h.tls)})
	log := &record{}
	o := Options{DirectoryURL: p.DirectoryURL, CAFile: p.CAFile, Cache: filepath.Join(t.TempDir(), "acme"), Logger: log.logger()}
	first := mustNew(t, h, o)
	first.SetNames([]string{"a.test"})
	first.Start(t.Context())
	serial := log.wait(t, "certificate obtained", 1)["serial"]
	// It is in use before it is in the cache.
	if err := testenv.Poll(short(t), func() (bool, error) {
		_, err := os.Stat(filepath.Join(o.Cache, "a.test"))
		return err == nil, nil
	}); err != nil {
		t.Fatal(err)
	}
	way := newTraffic(t, p)
	first.Close()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}

	o.HTTPClient = &http.Client{Transport: way}
	m := mustNew(t, h, o)
	m.SetNames([]string{"a.test"})
	c, err := m.Get(&tls.ClientHelloInfo{ServerName: "a.test"})
	if err != nil {
		t.Fatalf("right after SetNames: %v", err)
	}
	if got := describe(c.Leaf).Serial; got != serial {
		t.Errorf("serial %s, want %s", got, serial)
	}
	if problems, err := m.lookup("a.test").attempt(); err != nil { // what Start does
		t.Errorf("with the cache: %v, %v", err, problems)
	}
	if requests, _, _ := way.count(); requests != 0 {
		t.Errorf("%d requests", requests)
	}
}

func TestCertificateIsRenewed(t *testing.T) {
	h := newHost(t)
	// 4 to 4.8 s from now: autocert spreads renewals by a tenth. A quarter is 3 s.
	p := testenv.MustPebble(t, testenv.PebbleOptions{TLSPort: port(h.tls), Lifetime: 13 * time.Second})
	log := &record{}
	m := mustNew(t, h, Options{DirectoryURL: p.DirectoryURL, CAFile: p.CAFile, RenewBefore: 8 * time.Second, Logger: log.logger()})
	m.SetNames([]string{"a.test"})
	m.Start(t.Context())
	first := log.wait(t, "certificate obtained", 1)
	second := log.wait(t, "certificate renewed", 1)
	if first["serial"] == second["serial"] {
		t.Errorf("both are %v", first["serial"])
	}
	c, err := m.Get(&tls.ClientHelloInfo{ServerName: "a.test"})
	if err != nil {
		t.Fatal(err)
	}
	if got := describe(c.Leaf).Serial; got == first["serial"] {
		t.Error("Get has the old one")
	}
	if list := m.List(); len(list) != 1 || list[0].Serial == first["serial"] {
		t.Errorf("list %+v", list)
	}
}

func TestFailedRenewalIsTold(t *testing.T) {
	h := newHost(t)
	p := testenv.MustPebble(t, testenv.PebbleOptions{TLSPort: port(h.tls), Lifetime: 13 * time.Second})
	log := &record{}
	m := mustNew(t, h, Options{DirectoryURL: p.DirectoryURL, CAFile: p.CAFile, RenewBefore: 8 * time.Second, Logger: log.logger()})
	m.SetNames([]string{"a.test"})
	m.Start(t.Context())
	log.wait(t, "certificate obtained", 1)
	h.manager.Store(nil) // the cause
	line := log.wait(t, "certificate not renewed", 1)
	problems, _ := line["problems"].([]any)
	if len(problems) != 1 || !strings.Contains(problems[0].(string), "urn:ietf:params:acme:error:") || line["level"] != "WARN" || line["not_after"] == nil {
		t.Errorf("the log line %v", line)
	}
	if _, err := m.Get(&tls.ClientHelloInfo{ServerName: "a.test"}); err != nil {
		t.Errorf("the certificate that is there is not shown: %v", err)
	}
}

func TestRenewalsAreNotWithoutEnd(t *testing.T) {
	h := newHost(t)
	p := testenv.MustPebble(t, testenv.PebbleOptions{TLSPort: port(h.tls), Lifetime: time.Hour})
	way, log := newTraffic(t, p), &record{}
	m := mustNew(t, h, Options{DirectoryURL: p.DirectoryURL, RenewBefore: 24 * time.Hour, Logger: log.logger(), HTTPClient: &http.Client{Transport: way}})
	m.SetNames([]string{"a.test"})
	m.Start(t.Context())
	log.wait(t, "certificate obtained", 1)
	line := log.wait(t, "certificate not renewed", 1)
	if problems, _ := line["problems"].([]any); len(problems) != 1 || !strings.Contains(problems[0].(string), "acme.renewBefore (24h0m0s)") {
		t.Errorf("the log line %v", line)
	}
	if _, _, orders := way.count(); orders != "map[a.test:1]" {
		t.Errorf("orders %s", orders)
	}
}

func TestNameThatLeftIsAskedForNoMore(t *testing.T) {
	h := newHost(t)
	p := testenv.MustPebble(t, testenv.PebbleOptions{TLSPort: port(h.tls)})
	way, log := newTraffic(t, p), &record{}
	m := mustNew(t, h, Options{DirectoryURL: p.DirectoryURL, Logger: log.logger(), HTTPClient: &http.Client{Transport: way}})
	m.Start(t.Context())
	m.SetNames([]string{"a.test"})
	log.wait(t, "certificate obtained", 1)
	n := m.lookup("a.test")
	m.SetNames([]string{})
	before, _, _ := way.count()
	w := newWatcher(n) // as autocert's timer has it
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.DirectoryURL, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.RoundTrip(req); !errors.Is(err, errLeft) {
		t.Errorf("a request for a name that left: %v", err)
	}
	if after, _, _ := way.count(); after != before {
		t.Errorf("%d requests, %d before the name left", after, before)
	}
	if len(m.List()) != 0 {
		t.Errorf("list %v", m.List())
	}
	// It comes back from the cache.
	m.SetNames([]string{"a.test"})
	if _, err := m.Get(&tls.ClientHelloInfo{ServerName: "a.test"}); err != nil {
		t.Error(err)
	}
}

func TestExternalAccount(t *testing.T) {
	h := newHost(t)
	const key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W" // of Pebble's examples
	p := testenv.MustPebble(t, testenv.PebbleOptions{TLSPort: port(h.tls), Accounts: map[string]string{"kid-1": key}})
	file := filepath.Join(t.TempDir(), "hmac")
	if err := testenv.WriteFile(file, []byte(key+"\n")); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, id, file, line string }{
		{"none", "", "", "certificate not obtained"},
		{"of another", "kid-2", file, "certificate not obtained"},
		{"its own", "kid-1", file, "certificate obtained"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			log := &record{}
			m := mustNew(t, h, Options{DirectoryURL: p.DirectoryURL, CAFile: p.CAFile, KeyID: tt.id, HMACKeyFile: tt.file, Logger: log.logger()})
			m.SetNames([]string{"a.test"})
			m.Start(t.Context())
			line := log.wait(t, tt.line, 1)
			if tt.id == "" && !strings.Contains(line["problems"].([]any)[0].(string), "externalAccountRequired") {
				t.Errorf("the log line %v", line)
			}
		})
	}
}
