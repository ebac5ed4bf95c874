// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv"
)

// resumes has a client connect and tells whether it resumed a session.
func (r *run) resumes(s *termSite, client *tls.Config) (resumed bool) {
	r.t.Helper()
	c := r.mustConnect(s, client)
	if err := r.echoed(c); err != nil {
		r.t.Fatal(err)
	}
	_ = c.Close()
	line := r.lineOf(c.LocalAddr())
	if resumed = c.ConnectionState().DidResume; resumed != (line["tls_resumed"] == true) {
		r.t.Errorf("the client says resumed %t, the line %v", resumed, line)
	}
	return resumed
}

// holder is a client's session, the first that it got: the same one is offered always.
type holder struct {
	mu      sync.Mutex
	session *tls.ClientSessionState
}

func (h *holder) Get(string) (*tls.ClientSessionState, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.session, h.session != nil
}

func (h *holder) Put(_ string, s *tls.ClientSessionState) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.session == nil {
		h.session = s
	}
}

// holds is a client of NAME.test with a holder.
func (s *termSite) holds(name string, version uint16, own ...tls.Certificate) *tls.Config {
	c := s.config(name, own...)
	c.MaxVersion, c.ClientSessionCache = version, &holder{}
	return c
}

// TestSessionsAcrossAgents that have the same keys: a session begun with one is resumed
// with the other, for as long as the key that sealed it is in the file.
func TestSessionsAcrossAgents(t *testing.T) {
	testenv.CheckLeaks(t)
	s := newTermSite(t, testenv.NetworkOptions{})
	s2 := &termSite{Network: testenv.MustNetwork(t, testenv.NetworkOptions{}), t: t, ca: s.ca, dir: t.TempDir(), caFile: s.caFile}
	raw := [][]byte{bytes.Repeat([]byte("first key "), 4), bytes.Repeat([]byte("second key"), 4)}
	key := []string{base64.StdEncoding.EncodeToString(raw[0]) + "\n", base64.StdEncoding.EncodeToString(raw[1]) + "\n"}
	begin := func(s *termSite) *run {
		to := tcp(echoes(t, s.Backends[0]))
		// One certificate for both: a client offers no session where it does not fit.
		entry, _ := s.pair("both", testenv.Leaf{Names: []string{"shop.test", "bank.test"}})
		endpoint := func(name string) string {
			return fmt.Sprintf("- {name: %s, url: %q, tlsTermination: {certificates: [%s]}, upstream: %s}\n", name, sni(name+".test"), entry, to)
		}
		return start(t, s.Network, "endpoints:\n"+endpoint("shop")+endpoint("bank")+
			fmt.Sprintf("sessionTickets: {keyFile: %q}\nlog: {level: debug}\n", s.file("tickets", []byte("# shared\n"+key[0]))))
	}
	one, two := begin(s), begin(s2)
	var old, fresh *tls.Config
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		old = s.holds("shop", version)
		if one.resumes(s, old) || !two.resumes(s2, old) {
			t.Errorf("%s: the other agent does not resume", tls.VersionName(version))
		}
		bank := s.config("bank")
		bank.MaxVersion, bank.ClientSessionCache = version, old.ClientSessionCache
		if two.resumes(s2, bank) {
			t.Errorf("%s: a session is resumed at another endpoint", tls.VersionName(version))
		}
	}
	eventually := func(what string, is func() bool) {
		t.Helper()
		if err := testenv.Poll(short(t), func() (bool, error) { return is(), nil }); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	s2.file("tickets", []byte(key[1]))
	eventually("a key that is no longer in the file opens sessions", func() bool { return !two.resumes(s2, old) })
	s.file("tickets", []byte(key[1]+key[0]))
	eventually("a new key seals no sessions", func() bool {
		fresh = s.holds("shop", tls.VersionTLS13)
		return !one.resumes(s, fresh) && two.resumes(s2, fresh)
	})
	if !one.resumes(s, old) {
		t.Error("the second key opens no sessions")
	}
	s.file("tickets", []byte(key[1]))
	eventually("a key that is no longer in the file opens sessions", func() bool { return !one.resumes(s, old) })

	broken := s.file("tickets", []byte(key[0][:30]+"\n"))
	if err := one.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if _, err := one.WaitLine(short(t), func(l string) bool {
		return strings.Contains(l, `"level":"ERROR"`) && strings.Contains(l, broken) && strings.Contains(l, "line 1")
	}); err != nil {
		t.Errorf("no line about a broken key file: %v", err)
	}
	if !one.resumes(s, fresh) {
		t.Error("a broken key file takes the keys away")
	}
	for _, l := range append(one.Log().Lines(), two.Log().Lines()...) {
		for i := range raw {
			if strings.Contains(l, key[i][:12]) || strings.Contains(l, hex.EncodeToString(raw[i][:12])) || strings.Contains(l, string(raw[i][:12])) {
				t.Fatalf("a key is in the log: %s", l)
			}
		}
	}
}

// TestSessionsOverAReload of the configuration, and of the certificate.
func TestSessionsOverAReload(t *testing.T) {
	testenv.CheckLeaks(t)
	s := newTermSite(t, testenv.NetworkOptions{})
	config := "endpoints:\n" + s.terminating("shop", tcp(echoes(t, s.Backends[0])))
	r := start(t, s.Network, config)
	clients := []*tls.Config{s.holds("shop", tls.VersionTLS12), s.holds("shop", tls.VersionTLS13)}
	resumed := func(want bool, when string) {
		t.Helper()
		for _, c := range clients {
			if r.resumes(s, c) != want {
				t.Errorf("%s: %s: resumed %t", when, tls.VersionName(c.MaxVersion), !want)
			}
		}
	}
	resumed(false, "at first")
	resumed(true, "after it")
	for i := range 3 {
		reloads := strings.Count(r.Log().String(), `"msg":"configuration loaded"`)
		r.write(config + fmt.Sprintf("limits: {maxConnections: %d}\n", 100+i))
		if err := testenv.Poll(short(t), func() (bool, error) {
			return strings.Count(r.Log().String(), `"msg":"configuration loaded"`) > reloads, nil
		}); err != nil {
			t.Fatal(err)
		}
		resumed(true, "over a reload")
	}
	_, c := s.pair("shop", testenv.Leaf{Names: []string{"shop.test"}})
	if err := testenv.Poll(short(t), func() (bool, error) {
		got, err := r.shown(s, "shop")
		return got == c.Leaf.SerialNumber.Text(16), err
	}); err != nil {
		t.Fatal(err)
	}
	resumed(true, "over a new certificate")
	if got := r.metric(`tls_resumed_total{endpoint="shop"}`); got != 10 {
		t.Errorf("the metric says %v sessions were resumed, want 10", got)
	}
}
