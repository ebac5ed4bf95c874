// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// patient answers the checks of a pool in a bubble.
type patient struct {
	mu   sync.Mutex
	sick map[string]bool
	seen map[string]int
}

func (s *patient) set(addr string, sick bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sick[addr] = sick
}

func (s *patient) count(addr string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[addr]
}

func (s *patient) probe(_ context.Context, addr netip.AddrPort) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[addr.String()]++
	if s.sick[addr.String()] {
		return errors.New("not well")
	}
	return nil
}

// checkedBed checks every 10 s, the first time after 5 s.
func checkedBed(t *testing.T, targets ...string) (*bed, *patient) {
	t.Helper()
	bed := newBed(t, Spec{
		Refresh: time.Minute,
		Check:   CheckSpec{Type: CheckTCP, Interval: 10 * time.Second, Healthy: 2, Unhealthy: 3},
	}, targets...)
	s := &patient{sick: map[string]bool{}, seen: map[string]int{}}
	bed.bg.probe = s.probe
	return bed, s
}

func TestChecksChangeTheVerdictAtTheThresholds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bed, patient := checkedBed(t, a, b)
		bed.start(t)
		const interval = 10 * time.Second
		step := func(sick bool, wantHealthy bool) {
			t.Helper()
			patient.set(a, sick)
			time.Sleep(interval)
			if got := bed.status(t, a).Healthy; got != wantHealthy {
				t.Errorf("after check %d: healthy %t, want %t", patient.count(a), got, wantHealthy)
			}
		}
		step(false, true)
		step(true, true)
		step(true, true)
		step(false, true) // not in a row
		step(true, true)
		step(true, true)
		step(true, false)
		if diff := cmp.Diff([]string{b, b, b}, bed.goes(t, 3)); diff != "" {
			t.Errorf("while a is down: %s", diff)
		}
		step(true, false)
		step(false, false)
		step(true, false) // not in a row
		step(false, false)
		step(false, true)
		if diff := cmp.Diff([]string{a, b}, bed.goes(t, 2)); diff != "" {
			t.Error(diff)
		}

		var changes []string
		checks := 0
		for _, e := range bed.events.took() {
			if strings.HasPrefix(e, "changed") {
				changes = append(changes, e)
			} else if strings.HasPrefix(e, "checked "+a) {
				checks++
			}
		}
		want := []string{"changed " + a + " false: health check: not well", "changed " + a + " true: health check passed"}
		if diff := cmp.Diff(want, changes); diff != "" {
			t.Error(diff)
		}
		if checks != patient.count(a) {
			t.Errorf("observed %d checks of %d", checks, patient.count(a))
		}
		bed.log.want(t, 2) // one for each change
	})
}

func TestChecksFailOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bed, patient := checkedBed(t, a, b)
		patient.set(a, true)
		patient.set(b, true)
		bed.start(t)
		time.Sleep(time.Minute)
		if diff := cmp.Diff([]string{a, b}, bed.goes(t, 2)); diff != "" {
			t.Error(diff)
		}
		if bed.status(t, a).Up() {
			t.Error("a connect has overruled the checks")
		}
	})
}

func TestChecksFollowTheName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bed, patient := checkedBed(t, "many.test:1")
		bed.names.set("many.test", "192.0.2.1", "192.0.2.2")
		bed.start(t) // looks up at once: there is somebody to check
		time.Sleep(30 * time.Second)
		if x, y := patient.count("192.0.2.1:1"), patient.count("192.0.2.2:1"); x != 3 || y != 3 {
			t.Errorf("%d and %d checks in 30 s, want 3", x, y)
		}
		bed.names.set("many.test", "192.0.2.2", "192.0.2.3")
		time.Sleep(31 * time.Second)
		gone := patient.count("192.0.2.1:1")
		time.Sleep(time.Minute)
		if now := patient.count("192.0.2.1:1"); now != gone {
			t.Errorf("%d checks of an address that is gone", now-gone)
		}
		if x, y := patient.count("192.0.2.2:1"), patient.count("192.0.2.3:1"); x != 12 || y != 6 {
			t.Errorf("%d and %d checks, want 12 of the one that stayed and 6 of the new one", x, y)
		}
	})
}

func TestCloseEndsAChecksWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bed, _ := checkedBed(t, a)
		bed.bg.probe = func(ctx context.Context, _ netip.AddrPort) error {
			<-ctx.Done()
			return ctx.Err()
		}
		bed.Start(t.Context())
		time.Sleep(5*time.Second + 1)
		start := time.Now()
		bed.Close()
		if took := time.Since(start); took != 0 {
			t.Errorf("took %s", took)
		}
		if got := bed.events.took(); len(got) != 0 {
			t.Errorf("a check that was broken off counts: %q", got)
		}
	})
}

// server accepts until the end of the test and hands each connection to serve.
func server(t *testing.T, serve func(net.Conn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = conn.Close() }()
				serve(conn)
			})
		}
	})
	return netip.MustParseAddrPort(l.Addr().String())
}

func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(-time.Hour)} // expired: nobody asks
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestProbes(t *testing.T) {
	ends := make(chan error, 1) // how the server sees the check end
	names := make(chan string, 1)
	readOn := func(conn net.Conn) {
		_, err := conn.Read(make([]byte, 1))
		ends <- err
	}
	config := &tls.Config{Certificates: []tls.Certificate{certificate(t)}}
	config.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		names <- h.ServerName
		return nil, nil
	}
	plain := server(t, readOn)
	speaksTLS := server(t, func(conn net.Conn) {
		secure := tls.Server(conn, config)
		_, err := secure.Read(make([]byte, 1))
		// A check that has closed for good answers with a reset.
		for range 10 {
			if _, err := secure.Write([]byte{0}); err != nil {
				ends <- err
				return
			}
		}
		ends <- err
	})
	mute := server(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	hangsUp := server(t, func(net.Conn) {})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := netip.MustParseAddrPort(l.Addr().String())
	_ = l.Close()

	const patience = 10 * time.Second
	for name, tt := range map[string]struct {
		check   CheckSpec
		addr    netip.AddrPort
		timeout time.Duration
		ok      bool
		watch   bool   // the server sees an orderly end
		sni     string // the server sees this name
	}{
		"tcp to a server":              {CheckSpec{Type: CheckTCP}, plain, patience, true, true, ""},
		"tcp to nobody":                {CheckSpec{Type: CheckTCP}, nobody, patience, false, false, ""},
		"tls to a server":              {CheckSpec{Type: CheckTLS, ServerName: "a.test"}, speaksTLS, patience, true, true, "a.test"},
		"tls without a name":           {CheckSpec{Type: CheckTLS}, speaksTLS, patience, true, true, ""},
		"tls to nobody":                {CheckSpec{Type: CheckTLS}, nobody, patience, false, false, ""},
		"tls to one that hangs up":     {CheckSpec{Type: CheckTLS}, hangsUp, patience, false, false, ""},
		"tls to one that never speaks": {CheckSpec{Type: CheckTLS}, mute, 50 * time.Millisecond, false, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), tt.timeout)
			defer cancel()
			if err := probeFor(tt.check)(ctx, tt.addr); (err == nil) != tt.ok {
				t.Errorf("got %v, want success: %t", err, tt.ok)
			}
			if tt.watch {
				if err := <-ends; err != io.EOF {
					t.Errorf("the server sees %v, want EOF", err)
				}
			}
			if tt.check.Type == CheckTLS && tt.ok {
				if got := <-names; got != tt.sni {
					t.Errorf("the server sees name %q, want %q", got, tt.sni)
				}
			}
		})
	}
	if probeFor(CheckSpec{}) != nil {
		t.Error("the zero CheckSpec checks")
	}
}
