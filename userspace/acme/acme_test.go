// SPDX-License-Identifier: Apache-2.0

package acme

import (
	"crypto/tls"
	"errors"
	"io/fs"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spliceway/spliceway/testenv"
)

func TestCertificatesByTLSALPN01(t *testing.T) {
	h := newHost(t)
	p := testenv.MustPebble(t, testenv.PebbleOptions{TLSPort: port(h.tls)})
	way, log := newTraffic(t, p), &record{}
	m := mustNew(t, h, Options{DirectoryURL: p.DirectoryURL, Email: "ops@a.test", Logger: log.logger(), HTTPClient: &http.Client{Transport: way}})
	m.SetNames([]string{"www.a.test", "B.test"})
	if _, err := m.Get(&tls.ClientHelloInfo{ServerName: "www.a.test"}); !errors.Is(err, ErrNotYet) {
		t.Errorf("before the certificate is there: %v", err)
	}
	if requests, _, _ := way.count(); requests != 0 {
		t.Errorf("%d requests before Start", requests)
	}
	m.Start(t.Context())
	log.wait(t, "certificate obtained", 2)

	roots, err := p.Roots(short(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"www.a.test", "b.test", "B.TEST"} {
		if _, err := h.dial(t, &tls.Config{ServerName: name, RootCAs: roots}); err != nil {
			t.Errorf("a client of %s: %v", name, err)
		}
	}
	for _, name := range []string{"evil.test", "x.www.a.test", "a.test", ""} {
		for _, protocols := range [][]string{nil, {ChallengeProtocol}} {
			if _, err := m.Get(&tls.ClientHelloInfo{ServerName: name, SupportedProtos: protocols}); !errors.Is(err, ErrNotAsked) {
				t.Errorf("name %q, protocols %v: %v", name, protocols, err)
			}
		}
	}
	if c, err := m.Get(&tls.ClientHelloInfo{ServerName: "www.a.test", SupportedProtos: []string{ChallengeProtocol}}); err == nil {
		t.Errorf("a challenge that nobody has opened gets %v", c.Leaf.Subject)
	}
	// A client of RSA alone must not have a second certificate ordered.
	if _, err := h.dial(t, &tls.Config{ServerName: "www.a.test", RootCAs: roots, MaxVersion: tls.VersionTLS12,
		CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}}); err == nil {
		t.Error("a client that can do RSA only got a certificate")
	}
	if _, accounts, orders := way.count(); accounts != 1 || orders != "map[b.test:1 www.a.test:1]" {
		t.Errorf("%d accounts, orders %s", accounts, orders)
	}

	list := m.List()
	if len(list) != 2 || list[0].Names[0] != "b.test" || list[1].Names[0] != "www.a.test" || list[0].Origin != "acme" ||
		list[0].KeyType != "ECDSA P-256" || list[0].Serial == "" || time.Until(list[0].NotAfter) < 24*time.Hour {
		t.Errorf("list: %+v", list)
	}
	line := log.all("certificate obtained")[0]
	if names, ok := line["names"].([]any); !ok || len(names) != 1 || line["not_after"] == nil {
		t.Errorf("log line %v", line)
	}
	expectModes(t, m.options.Cache)

	m.SetNames([]string{"b.test"})
	if _, err := m.Get(&tls.ClientHelloInfo{ServerName: "www.a.test"}); !errors.Is(err, ErrNotAsked) {
		t.Errorf("a name that left: %v", err)
	}
	if c, err := m.Get(&tls.ClientHelloInfo{ServerName: "b.test"}); err != nil || c == nil {
		t.Errorf("a name that stayed: %v", err)
	}
}

// expectModes checks that the cache is its owner's alone, and has three keys at least.
func expectModes(t *testing.T, dir string) {
	t.Helper()
	files := 0
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a challenge that is tidied up
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		} else {
			files++
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %04o, want %04o", path, info.Mode().Perm(), want)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if files < 3 {
		t.Errorf("%d files in the cache", files)
	}
}

func TestCertificateByHTTP01(t *testing.T) {
	h := newHost(t)
	p := testenv.MustPebble(t, testenv.PebbleOptions{HTTPPort: port(h.http)}) // nobody answers TLS-ALPN-01
	log := &record{}
	m := mustNew(t, h, Options{DirectoryURL: p.DirectoryURL, CAFile: p.CAFile, HTTP01: true, Logger: log.logger()})
	m.SetNames([]string{"a.test"})
	m.Start(t.Context())
	log.wait(t, "certificate obtained", 1)
	roots, err := p.Roots(short(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.dial(t, &tls.Config{ServerName: "a.test", RootCAs: roots}); err != nil {
		t.Error(err)
	}
}

func TestFailuresAreToldAndRetried(t *testing.T) {
	h := newHost(t)
	p := testenv.MustPebble(t, testenv.PebbleOptions{TLSPort: port(h.tls)})
	way, log := newTraffic(t, p), &record{}
	m := mustNew(t, h, Options{DirectoryURL: p.DirectoryURL, Logger: log.logger(), HTTPClient: &http.Client{Transport: way}})
	waits, over := make(chan time.Duration), make(chan time.Time)
	m.after = func(d time.Duration) <-chan time.Time { waits <- d; return over }
	h.manager.Store(nil) // the cause
	m.SetNames([]string{"a.test"})
	m.Start(t.Context())
	for i, least := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute} {
		if got := <-waits; got < least || got > least+least/10 {
			t.Errorf("wait %d is %s, want about %s", i, got, least)
		}
		line := log.wait(t, "certificate not obtained", i+1)
		problems, _ := line["problems"].([]any)
		if len(problems) != 1 || !strings.HasPrefix(problems[0].(string), "tls-alpn-01: urn:ietf:params:acme:error:") || line["name"] != "a.test" || line["level"] != "ERROR" {
			t.Errorf("the log line %v", line)
		}
		if i == 2 {
			h.manager.Store(m)
		}
		over <- time.Time{}
	}
	log.wait(t, "certificate obtained", 1)
	if _, _, orders := way.count(); !strings.HasPrefix(orders, "map[a.test:") {
		t.Errorf("orders %s", orders)
	}
}

func TestLongestWait(t *testing.T) {
	h := newHost(t)
	l := listen(t) // nobody's: every request fails at once
	_ = l.Close()
	log := &record{}
	m := mustNew(t, h, Options{DirectoryURL: "https://" + l.Addr().String() + "/dir", Logger: log.logger()})
	waits, over := make(chan time.Duration), make(chan time.Time)
	m.after = func(d time.Duration) <-chan time.Time {
		select {
		case waits <- d:
		case <-m.ctx.Done():
		}
		return over
	}
	m.SetNames([]string{"a.test"})
	m.Start(t.Context())
	last := <-waits
	for range 9 {
		over <- time.Time{}
		last = <-waits
	}
	if last < time.Hour || last > time.Hour+6*time.Minute {
		t.Errorf("the tenth wait is %s", last)
	}
	line := log.wait(t, "certificate not obtained", 10)
	if problems, _ := line["problems"].([]any); len(problems) != 1 || !strings.Contains(problems[0].(string), "connection refused") {
		t.Errorf("the log line %v", line)
	}
}
