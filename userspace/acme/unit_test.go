// SPDX-License-Identifier: Apache-2.0

package acme

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/acme/autocert"

	"github.com/spliceway/spliceway/testenv"
)

// offline is a Manager that is never started.
func offline(t *testing.T, o Options) *Manager {
	t.Helper()
	return mustNew(t, &host{}, o)
}

func TestHTTPRedirectsToConfiguredNamesOnly(t *testing.T) {
	m := offline(t, Options{HTTP01: true})
	m.SetNames([]string{"shop.test"})
	m.lookup("shop.test").issuer.Store(m.newIssuer(m.lookup("shop.test"), newWatcher(m.lookup("shop.test"))))
	for _, tt := range []struct {
		request, host string
		status        int
		location      string
	}{
		{"GET /a%2Fb?c=d", "shop.test", 308, "https://shop.test/a%2Fb?c=d"},
		{"POST /pay", "SHOP.test:80", 308, "https://shop.test/pay"},
		{"GET /", "shop.test.", 308, "https://shop.test/"},
		{"GET //evil.test/x", "shop.test", 308, "https://shop.test//evil.test/x"},
		{"GET /", "evil.test", 404, ""},
		{"GET /", "shop.test.evil.test", 404, ""},
		{"GET /", "shop.test@evil.test", 400, ""},
		{"GET /", "", 404, ""},
		{"GET http:.evil.test", "shop.test", 308, "https://shop.test/"},
		{"GET http://evil.test/", "shop.test", 404, ""},
		{"GET /.well-known/acme-challenge/unknown", "shop.test", 404, ""},
		{"GET /.well-known/acme-challenge/unknown", "evil.test", 404, ""},
		{"GET /.well-known/acme-challenge/", "shop.test", 404, ""},
		{"GET /.well-known/acme-challenge/..%2Fshop.test", "shop.test", 404, ""},
		{"GET /.well-known/acme-challenge/" + strings.Repeat("a", 300), "shop.test", 404, ""},
	} {
		t.Run(tt.request+" of "+tt.host, func(t *testing.T) {
			server := httptest.NewServer(m.HTTPHandler())
			defer server.Close()
			res := raw(t, server, tt.request+" HTTP/1.1\r\nHost: "+tt.host+"\r\nConnection: close\r\n\r\n")
			body, _ := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if res.StatusCode != tt.status || res.Header.Get("Location") != tt.location {
				t.Errorf("%d to %q, want %d to %q", res.StatusCode, res.Header.Get("Location"), tt.status, tt.location)
			}
			if strings.Contains(string(body), m.options.Cache) {
				t.Errorf("it tells of files: %s", body)
			}
		})
	}
}

// raw sends a request as it stands.
func raw(t *testing.T, server *httptest.Server, request string) *http.Response {
	t.Helper()
	c, err := dialPlain(t, server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	res, err := readResponse(c)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func TestNewSaysWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := testenv.WriteFile(path, []byte(content)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	secret := "c2VjcmV0!!"
	bad, plain := file("bad", secret), file("plain", "x")
	account := filepath.Join(dir, "account")
	if err := os.Mkdir(account, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := testenv.WriteFile(filepath.Join(account, accountFile), []byte(secret)); err != nil {
		t.Fatal(err)
	}
	cache := filepath.Join(dir, "cache")
	for _, tt := range []struct {
		name string
		o    Options
		want string
	}{
		{"no cache", Options{}, "acme.cache"},
		{"a cache that is a file", Options{Cache: plain}, plain},
		{"an account's key that is none", Options{Cache: account}, filepath.Join(account, accountFile)},
		{"no CA file", Options{Cache: cache, CAFile: filepath.Join(dir, "absent")}, "absent"},
		{"a CA file without a CA", Options{Cache: cache, CAFile: plain}, plain},
		{"half a binding", Options{Cache: cache, KeyID: "k"}, "hmacKeyFile"},
		{"no key file", Options{Cache: cache, KeyID: "k", HMACKeyFile: filepath.Join(dir, "absent")}, "absent"},
		{"a key that is none", Options{Cache: cache, KeyID: "k", HMACKeyFile: bad}, bad},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := New(tt.o)
			if err == nil {
				m.Close()
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), secret) {
				t.Errorf("%v, want %q in it and no key", err, tt.want)
			}
		})
	}
}

func TestOpenModesAreWarnedOf(t *testing.T) {
	dir, key := t.TempDir(), filepath.Join(t.TempDir(), "hmac")
	if err := os.WriteFile(key, []byte("c2VjcmV0"), 0o600); err != nil {
		t.Fatal(err)
	}
	cached := filepath.Join(dir, "a.test")
	if err := os.WriteFile(cached, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{dir: 0o750, key: 0o604, cached: 0o640} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	log := &record{}
	m := offline(t, Options{Cache: dir, KeyID: "k", HMACKeyFile: key, Logger: log.logger()})
	var files []string
	for _, l := range log.all("") {
		files = append(files, fmt.Sprint(l["level"], " ", l["file"], " ", l["mode"]))
	}
	slices.Sort(files)
	want := []string{"WARN " + dir + " 0750", "WARN " + cached + " 0640", "WARN " + key + " 0604"}
	slices.Sort(want)
	if !slices.Equal(files, want) {
		t.Errorf("warned of %v, want %v", files, want)
	}
	// What is in the cache and is no certificate is one that is not there.
	m.SetNames([]string{"a.test"})
	if _, err := m.Get(&tls.ClientHelloInfo{ServerName: "a.test"}); err == nil {
		t.Error("no error")
	}
	log.wait(t, "cached certificate is of no use: another one is obtained", 1)
}

func TestNewerCertificateOfASharedCacheIsTaken(t *testing.T) {
	ca := testenv.MustCA(t)
	m := offline(t, Options{})
	issue := func(age time.Duration) (serial string) {
		c, err := ca.Issue(testenv.Leaf{Names: []string{"a.test"}, NotBefore: time.Now().Add(-age)})
		if err != nil {
			t.Fatal(err)
		}
		certFile, keyFile, err := testenv.WritePair(t.TempDir(), "a", c)
		if err != nil {
			t.Fatal(err)
		}
		key, err := os.ReadFile(keyFile)
		if err != nil {
			t.Fatal(err)
		}
		chain, err := os.ReadFile(certFile)
		if err != nil {
			t.Fatal(err)
		}
		// As another agent writes it.
		if err := testenv.WriteFile(filepath.Join(m.options.Cache, "a.test"), slices.Concat(key, chain)); err != nil {
			t.Fatal(err)
		}
		return describe(c.Leaf).Serial
	}
	middle := issue(2 * time.Hour)
	m.SetNames([]string{"a.test"})
	n := m.lookup("a.test")
	c := &cache{autocert.DirCache(m.options.Cache), n, newWatcher(n)}
	expect := func(about, want string) {
		t.Helper()
		if _, err := c.Get(t.Context(), "a.test"); err != nil {
			t.Fatal(err)
		}
		if got := describe(n.current.Load().Leaf).Serial; got != want {
			t.Errorf("%s: %s, want %s", about, got, want)
		}
	}
	expect("at first", middle)
	issue(3 * time.Hour)
	expect("an older one", middle)
	expect("a newer one", issue(time.Hour))
}

func TestRenewalsWaitForAQuarterOfTheLife(t *testing.T) {
	ca := testenv.MustCA(t)
	start := time.Now().Truncate(time.Second)
	c, err := ca.Issue(testenv.Leaf{Names: []string{"a.test"}, NotBefore: start, NotAfter: start.Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	m := offline(t, Options{})
	now := start
	m.now = func() time.Time { return now }
	m.SetNames([]string{"a.test"})
	w := newWatcher(m.lookup("a.test"))
	expect := func(about string, want error) {
		t.Helper()
		w.look()
		if err := w.barred(); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", about, err, want)
		}
	}
	expect("the attempt", nil)
	expect("before the certificate is there", errEarly)
	w.name.current.Store(&c)
	now = start.Add(14 * time.Minute)
	expect("after 14 minutes", errEarly)
	now = start.Add(15 * time.Minute)
	expect("after 15 minutes", nil)
	m.SetNames(nil)
	expect("when the name left", errLeft)
}

func TestProblemsAreToldOnce(t *testing.T) {
	ca := testenv.MustCA(t)
	c, err := ca.Certificate("a.test")
	if err != nil {
		t.Fatal(err)
	}
	log := &record{}
	m := offline(t, Options{Logger: log.logger()})
	now := time.Now()
	m.now = func() time.Time { return now }
	m.SetNames([]string{"a.test"})
	n := m.lookup("a.test")
	w := newWatcher(n)
	w.report("of the attempt")
	w.report("of the attempt")
	n.current.Store(&c)
	if got := w.obtained(nil); !slices.Equal(got, []string{"of the attempt"}) {
		t.Errorf("the attempt's are %q", got)
	}
	expect := func(problem string, want int) {
		t.Helper()
		w.report(problem)
		if got := len(log.all("certificate not renewed")); got != want {
			t.Errorf("%d lines after %q, want %d", got, problem, want)
		}
	}
	expect("of the attempt", 0) // its challenges are tidied up
	expect("of a renewal", 1)
	expect("of a renewal", 1)
	expect("another", 2)
	now = now.Add(repeatAfter)
	expect("of a renewal", 3)
	m.Close()
	expect("of an agent that stops", 3)
}

func TestProblemsOfAnswers(t *testing.T) {
	const prefix = "urn:ietf:params:acme:error:"
	for _, tt := range []struct {
		name, kind, body string
		status           int
		want             []string
	}{
		{"a problem", "application/problem+json", `{"type":"` + prefix + `rateLimited","detail":"too many"}`, 429, []string{prefix + "rateLimited: too many"}},
		{"a problem of two", "application/problem+json", `{"type":"` + prefix + `compound","detail":"see","subproblems":[{"type":"x","detail":"y"}]}`, 400, []string{prefix + "compound: see; x: y"}},
		{"badNonce", "application/problem+json", `{"type":"` + prefix + `badNonce","detail":"again"}`, 400, nil},
		{"a page", "text/html", `<h1>no</h1>`, 502, []string{"HTTP status 502 Bad Gateway"}},
		{"an authorization that failed", "application/json; charset=utf-8", `{"status":"invalid","challenges":[{"type":"http-01","error":{"type":"x","detail":"y"}},{"type":"dns-01"}]}`, 200, []string{"http-01: x: y"}},
		{"an order that failed", "application/json", `{"status":"invalid","error":{"type":"x","detail":"y"}}`, 200, []string{"x: y"}},
		{"an order on its way", "application/json", `{"status":"pending","error":{"type":"x","detail":"y"}}`, 200, nil},
		{"a certificate", "application/pem-certificate-chain", "-----BEGIN", 200, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			res := &http.Response{StatusCode: tt.status, Status: fmt.Sprint(tt.status, " ", http.StatusText(tt.status)), Header: http.Header{"Content-Type": {tt.kind}}}
			if got := problemsIn(res, []byte(tt.body)); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
