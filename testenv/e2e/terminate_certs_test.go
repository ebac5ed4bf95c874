// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spliceway/spliceway/testenv"
)

// shows waits until NAME.test shows the certificate.
func (r *run) shows(s *termSite, name string, c tls.Certificate) {
	r.t.Helper()
	want := c.Leaf.SerialNumber.Text(16)
	var got string
	if err := testenv.Poll(short(r.t), func() (_ bool, err error) {
		got, err = r.shown(s, name)
		return got == want, err
	}); err != nil {
		r.t.Errorf("%s shows %s, want %s: %v", name, got, want, err)
	}
}

// TestCertificatesOfADirectory are chosen by the name; they come, change and go while the
// agent runs.
func TestCertificatesOfADirectory(t *testing.T) {
	testenv.CheckLeaks(t)
	s := newTermSite(t, testenv.NetworkOptions{})
	dir := filepath.Join(s.dir, "wild.d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	put := func(file string, names ...string) tls.Certificate {
		t.Helper()
		c := s.issue(testenv.Leaf{Names: names})
		if _, _, err := testenv.WritePair(dir, file, c); err != nil {
			t.Fatal(err)
		}
		return c
	}
	wild, a := put("0", "*.wild.test"), put("1", "a.wild.test")
	if err := testenv.WriteFile(filepath.Join(dir, "README"), []byte("who to ask\n")); err != nil {
		t.Fatal(err)
	}
	r := start(t, s.Network, fmt.Sprintf("endpoints:\n- {name: wild, url: %q, tlsTermination: {certificates: [{directory: %q}]}, upstream: %s}\n", sni("*.wild.test"), dir, tcp(echoes(t, s.Backends[0]))))
	r.shows(s, "a.wild", a)
	r.shows(s, "b.wild", wild)

	b := put("2", "b.wild.test", "c.wild.test")
	r.shows(s, "b.wild", b)
	r.shows(s, "c.wild", b)
	b = put("2", "b.wild.test")
	r.shows(s, "b.wild", b)
	r.shows(s, "c.wild", wild)
	for _, ext := range []string{".crt", ".key"} {
		if err := os.Remove(filepath.Join(dir, "1"+ext)); err != nil {
			t.Fatal(err)
		}
	}
	r.shows(s, "a.wild", wild)

	// One that is broken leaves the others as they are.
	if err := testenv.WriteFile(filepath.Join(dir, "2.crt"), []byte("-----BEGIN CERTIFICATE-----\nMII")); err != nil {
		t.Fatal(err)
	}
	r.refused("wild", filepath.Join(dir, "2.crt"), "was it cut?")
	r.shows(s, "b.wild", b)
	r.shows(s, "d.wild", wild)
}

// TestATruncatedChainIsRefused, though its first certificate is whole: clients would not
// find the way to the root.
func TestATruncatedChainIsRefused(t *testing.T) {
	testenv.CheckLeaks(t)
	s := newTermSite(t, testenv.NetworkOptions{})
	endpoint := s.terminating("shop", tcp(echoes(t, s.Backends[0])))
	certFile, _, err := testenv.WritePair(s.dir, "shop", newIntermediate(t, s.ca).issue("shop.test"))
	if err != nil {
		t.Fatal(err)
	}
	chain, err := os.ReadFile(certFile)
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, s.Network, "endpoints:\n"+endpoint)
	if _, err := r.shown(s, "shop"); err != nil {
		t.Fatal(err)
	}
	s.file("shop.crt", chain[:len(chain)-100])
	r.refused("shop", certFile, "was it cut?")
	if _, err := r.shown(s, "shop"); err != nil { // with the old one
		t.Error(err)
	}
}

// TestAnAgentDoesNotStartWithBrokenFiles, and says where they are named, which, and why,
// but nothing that is in them.
func TestAnAgentDoesNotStartWithBrokenFiles(t *testing.T) {
	testenv.CheckLeaks(t)
	s := newTermSite(t, testenv.NetworkOptions{})
	endpoint := s.terminating("shop", "{url: \"tcp://192.0.2.1:1\"}")
	keyFile := filepath.Join(s.dir, "shop.key")
	key, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	secrets := keyMaterial(t, keyFile)
	_, _ = s.pair("else", testenv.Leaf{Names: []string{"else.test"}})
	other, err := os.ReadFile(filepath.Join(s.dir, "else.key"))
	if err != nil {
		t.Fatal(err)
	}
	secrets = append(secrets, keyMaterial(t, filepath.Join(s.dir, "else.key"))...)
	changed := slices.Clone(key)
	changed[len("-----BEGIN PRIVATE KEY-----\n")+70] ^= 1 // of the number itself, not of the public key behind it
	for name, data := range map[string][]byte{
		"of another certificate": other, "cut": key[:len(key)/2], "empty": nil, "changed": changed,
		"without its end": bytes.Replace(key, []byte("-----END"), []byte("-----DNE"), 1), "not PEM": []byte(strings.Split(string(key), "\n")[1]),
	} {
		t.Run(name, func(t *testing.T) {
			s.file("shop.key", data)
			r := launch(t, s.Network, "endpoints:\n"+endpoint+"log: {level: debug}\n")
			if err := r.Wait(short(t)); err == nil {
				t.Error("the agent ends well")
			}
			out := r.Log().String()
			if !strings.Contains(out, keyFile) || !strings.Contains(out, filepath.Base(r.file)+":") {
				t.Errorf("neither file is named in\n%s", out)
			}
			for _, secret := range secrets {
				if strings.Contains(out, secret) {
					t.Errorf("the key is in\n%s", out)
				}
			}
		})
	}
}

// TestLinesOfHandshakes have what operators look for.
func TestLinesOfHandshakes(t *testing.T) {
	testenv.CheckLeaks(t)
	s := newTermSite(t, testenv.NetworkOptions{})
	r := start(t, s.Network, "endpoints:\n"+s.terminating("shop", tcp(echoes(t, s.Backends[0])), "alpn: [h2, http/1.1]"))
	client := s.config("shop")
	client.NextProtos = []string{"http/1.1", "h2"}
	c := r.mustConnect(s, client)
	if err := r.echoed(c); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	line := r.expectLine(c.LocalAddr(), map[string]any{
		"engine": "relay", "endpoint": "shop", "outcome": "routed", "end": "eof", "tls_version": "1.3", "tls_cipher": "TLS_AES_128_GCM_SHA256",
		"tls_group": "X25519MLKEM768", "tls_alpn": "h2", "tls_resumed": nil, "handshake_failure": nil, "client_cert_verified": nil, "upstream_tls_version": nil,
	})
	if ms, ok := line["handshake_ms"].(float64); !ok || ms <= 0 || ms > line["total_ms"].(float64) {
		t.Errorf("handshake_ms is %v in %v", line["handshake_ms"], line)
	}
	for name, want := range map[string]float64{
		`tls_handshakes_total{endpoint="shop",result="ok",side="client"}`: 1, "tls_handshake_seconds_count": 1,
	} {
		if got := r.sum(name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

// sum is that of all series of a metric, or of the one.
func (r *run) sum(name string) (n float64) {
	r.t.Helper()
	_, body := r.get("/metrics")
	for l := range strings.Lines(body) {
		rest, ok := strings.CutPrefix(l, "spliceway_"+name)
		if !ok || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		var v float64
		if err := json.Unmarshal([]byte(rest[strings.LastIndexByte(rest, ' ')+1:]), &v); err != nil {
			r.t.Fatalf("%s: %v", l, err)
		}
		n += v
	}
	return n
}
