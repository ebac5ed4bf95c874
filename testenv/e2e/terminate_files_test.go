// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"
	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv"
)

// shown is the certificate that NAME.test shows now.
func (r *run) shown(s *termSite, name string) (serial string, err error) {
	c, err := r.connect(s, s.config(name))
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	if err := r.echoed(c); err != nil {
		return "", err
	}
	return c.ConnectionState().PeerCertificates[0].SerialNumber.Text(16), nil
}

// TestCertificatesAreExchangedUnderLoad a hundred times, by the watch and by SIGHUP: no
// handshake fails, and the new certificate is what is shown.
func TestCertificatesAreExchangedUnderLoad(t *testing.T) {
	ofSplice(t, "terminated flows have the engine relay")
	testenv.CheckLeaks(t)
	s := newTermSite(t, testenv.NetworkOptions{})
	r := start(t, s.Network, "endpoints:\n"+s.terminating("shop", tcp(echoes(t, s.Backends[0]))))
	var stop atomic.Bool
	var shaken, failed atomic.Int64
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for !stop.Load() {
				raw, err := s.Clients[0].Dial(t.Context(), r.gateway())
				if err == nil {
					_ = raw.SetDeadline(time.Now().Add(patience))
					c := tls.Client(raw, s.config("shop"))
					err = r.echoed(c)
					_ = c.Close()
				}
				if shaken.Add(1); err != nil && failed.Add(1) < 5 {
					t.Errorf("handshake %d: %v", shaken.Load(), err)
				}
			}
		})
	}
	for i := range 100 {
		// Key and certificate come one after the other, as from most tools.
		_, c := s.pair("shop", testenv.Leaf{Names: []string{"shop.test"}, RSA: i%10 == 9})
		if i%2 == 1 {
			if err := r.Signal(unix.SIGHUP); err != nil {
				t.Fatal(err)
			}
		}
		want := c.Leaf.SerialNumber.Text(16)
		if err := testenv.Poll(short(t), func() (bool, error) {
			got, err := r.shown(s, "shop")
			return got == want, err
		}); err != nil {
			t.Fatalf("certificate %d is not shown: %v", i, err)
		}
	}
	stop.Store(true)
	wg.Wait()
	if shaken.Load() < 100 || failed.Load() > 0 {
		t.Errorf("%d of %d handshakes failed", failed.Load(), shaken.Load())
	}
	if got := r.metric(`certificate_loads_total{result="loaded"}`); got < 50 {
		t.Errorf("the metric says %v loads", got)
	}
}

// keyMaterial is a private key as it may be written.
func keyMaterial(t *testing.T, keyFile string) []string {
	t.Helper()
	data, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	middle := block.Bytes[len(block.Bytes)/3 : len(block.Bytes)/3+24]
	lines := strings.Split(string(data), "\n")
	return []string{lines[1][:40], hex.EncodeToString(middle), base64.StdEncoding.EncodeToString(middle)[:30], fmt.Sprint(middle)[1:60]}
}

func TestABrokenPairIsRefusedAndTheOldOneStays(t *testing.T) {
	testenv.CheckLeaks(t)
	s := newTermSite(t, testenv.NetworkOptions{})
	config := "endpoints:\n" + s.terminating("shop", tcp(echoes(t, s.Backends[0]))) + "log: {level: debug}\n"
	r := start(t, s.Network, config)
	keyFile := filepath.Join(s.dir, "shop.key")
	goodKey, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	secrets := keyMaterial(t, keyFile)
	before, err := r.shown(s, "shop")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = s.pair("else", testenv.Leaf{Names: []string{"else.test"}})
	otherKey, err := os.ReadFile(filepath.Join(s.dir, "else.key"))
	if err != nil {
		t.Fatal(err)
	}
	for i, broken := range []struct {
		data []byte
		says string
	}{
		{otherKey, "that of another certificate"}, {goodKey[:len(goodKey)/2], "does not end"}, {nil, "empty"},
		{[]byte(strings.Replace(string(goodKey), "PRIVATE KEY", "ENCRYPTED PRIVATE KEY", 2)), "encrypted"},
	} {
		s.file("shop.key", broken.data)
		line, err := r.WaitLine(short(t), func(l string) bool {
			return strings.Contains(l, "certificate refused") && strings.Contains(l, keyFile) && strings.Contains(l, broken.says)
		})
		if err != nil {
			t.Fatalf("key %d: no such line: %v", i, err)
		}
		if !strings.Contains(line, `"endpoint":"shop"`) || !strings.Contains(line, filepath.Base(r.file)+":") {
			t.Errorf("the line does not say where: %s", line)
		}
		if got, err := r.shown(s, "shop"); err != nil || got != before {
			t.Errorf("key %d: shown is %s, %v, want the old one, %s", i, got, err, before)
		}
	}
	// As it was, readable by all: a warning; and a new certificate is taken.
	s.file("shop.key", goodKey)
	if err := os.Chmod(keyFile, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := r.WaitLine(short(t), func(l string) bool {
		return strings.Contains(l, "may be read by every user") && strings.Contains(l, keyFile)
	}); err != nil {
		t.Errorf("no warning of a key that others may read: %v", err)
	}
	if _, err := r.shown(s, "shop"); err != nil {
		t.Error(err)
	}
	for _, l := range r.Log().Lines() {
		for _, secret := range secrets {
			if strings.Contains(l, secret) {
				t.Fatalf("the key is in the log: %s", l)
			}
		}
	}
	_, metrics := r.get("/metrics")
	for _, secret := range secrets {
		if strings.Contains(metrics, secret) {
			t.Error("the key is in the metrics")
		}
	}
}

func TestCertificatesThatEndSoon(t *testing.T) {
	testenv.CheckLeaks(t)
	s := newTermSite(t, testenv.NetworkOptions{})
	at := echoes(t, s.Backends[0])
	config := "endpoints:\n"
	ends := map[string]time.Duration{"later": 40 * 24 * time.Hour, "month": 20 * 24 * time.Hour, "week": 5 * 24 * time.Hour, "day": 12 * time.Hour, "over": -time.Hour}
	for name, left := range ends {
		entry, _ := s.pair(name, testenv.Leaf{Names: []string{name + ".test"}, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(left)})
		config += fmt.Sprintf("- {name: %s, url: %q, tlsTermination: {certificates: [%s]}, upstream: %s}\n", name, sni(name+".test"), entry, tcp(at))
	}
	r := start(t, s.Network, config)
	for name, left := range ends {
		var days float64 = -1
		var level string
		for _, l := range r.Log().Lines() {
			var m map[string]any
			if json.Unmarshal([]byte(l), &m) == nil && m["endpoint"] == name && strings.HasPrefix(fmt.Sprint(m["msg"]), "certificate ") {
				level = fmt.Sprint(m["level"])
				if d, ok := m["days"].(float64); ok {
					days = d
				}
			}
		}
		switch want := float64(int(left.Hours() / 24)); {
		case name == "later" && level != "":
			t.Errorf("%s is warned of", name)
		case name == "over" && level != "ERROR":
			t.Errorf("%s: level %q, want an error", name, level)
		case name != "later" && name != "over" && (level != "WARN" || days != want && days != want-1):
			t.Errorf("%s: level %q, %v days, want a warning of %v", name, level, days, want)
		}
	}
	_, metrics := r.get("/metrics")
	if n := strings.Count(metrics, "spliceway_certificate_expiry_timestamp_seconds{"); n != len(ends) {
		t.Errorf("%d certificates in the metric, want %d", n, len(ends))
	}
}

// scanned are testssl.sh's findings, of its flat JSON.
type scanned struct{ ID, Severity, Finding string }

// TestScan has testssl.sh look at the default settings.
func TestScan(t *testing.T) {
	ofSplice(t, "terminated flows have the engine relay")
	testenv.CheckLeaks(t)
	s := newTermSite(t, testenv.NetworkOptions{})
	long := testenv.Leaf{Names: []string{"shop.test"}, NotAfter: time.Now().Add(90 * 24 * time.Hour), OCSPServer: "http://ocsp.test/"}
	ec, _ := s.pair("ec", long)
	long.RSA = true
	rsa, _ := s.pair("rsa", long)
	r := start(t, s.Network, fmt.Sprintf("endpoints:\n- {name: shop, url: %q, tlsTermination: {certificates: [%s, %s]}, upstream: %s}\n", sni("shop.test"), ec, rsa, tcp(welcomes(t, s.Backends[0]))))
	if _, err := exec.LookPath("testssl"); err != nil {
		t.Fatal("testssl is not here: install the packages of .ci/run")
	}
	gw := r.gateway()
	file := filepath.Join(s.dir, "scan.json")
	// The scanner asks for names on its way, and there is nobody to answer: without a
	// server to ask it does not wait.
	out := s.tool(t, "", "unshare", "--mount", "sh", "-c", `mount --bind /dev/null /etc/resolv.conf && exec testssl "$@"`, "testssl", "--quiet", "--color", "0", "--warnings", "off", "--nodns", "none", "--ip", gw.Addr().String(), "--add-ca", s.caFile,
		"-p", "-s", "-f", "-S", "-U", "--jsonfile", file, fmt.Sprintf("shop.test:%d", gw.Port()))
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("testssl wrote nothing: %v\n%s", err, out)
	}
	var findings []scanned
	if err := json.Unmarshal(data, &findings); err != nil {
		t.Fatalf("%v in\n%s", err, data)
	}
	seen := make(map[string]bool)
	for _, f := range findings {
		seen[f.ID] = true
		switch f.Severity {
		case "HIGH", "CRITICAL", "FATAL":
			t.Errorf("%s: %s: %s", f.Severity, f.ID, f.Finding)
		}
	}
	for _, id := range []string{"TLS1_3", "PFS", "heartbleed", "ROBOT", "LUCKY13", "secure_client_renego"} {
		if !seen[id] {
			t.Errorf("the scan did not get to %s", id)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
}

// TestAStapleFromAFileIsShown to a client that asks for it.
func TestAStapleFromAFileIsShown(t *testing.T) {
	testenv.CheckLeaks(t)
	s := newTermSite(t, testenv.NetworkOptions{})
	c := s.issue(testenv.Leaf{Names: []string{"shop.test"}})
	ca, key := s.ca.Signer()
	c.Certificate = append(c.Certificate, ca.Raw)
	certFile, keyFile, err := testenv.WritePair(s.dir, "shop", c)
	if err != nil {
		t.Fatal(err)
	}
	der, err := ocsp.CreateResponse(ca, ca, ocsp.Response{Status: ocsp.Good, SerialNumber: c.Leaf.SerialNumber, ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}, key)
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, s.Network, fmt.Sprintf("endpoints:\n- {name: shop, url: %q, tlsTermination: {certificates: [{certFile: %q, keyFile: %q, ocspFile: %q}]}, upstream: %s}\n",
		sni("shop.test"), certFile, keyFile, s.file("shop.ocsp", der), tcp(welcomes(t, s.Backends[0]))))
	out := s.tool(t, "GET / HTTP/1.0\r\n\r\n", "openssl", "s_client", "-connect", r.gateway().String(), "-servername", "shop.test", "-CAfile", s.caFile, "-status", "-ign_eof")
	for _, want := range []string{"OCSP Response Status: successful", "Cert Status: good", "welcome"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
}
