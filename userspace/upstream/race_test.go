// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/spliceway/spliceway/userspace/sock"
)

const v4, v6 = "192.0.2.1:1", "[2001:db8::1]:1"

// dual is a bed with one name of both families.
func dual(t *testing.T, spec Spec) *bed {
	t.Helper()
	bed := newBed(t, spec, "dual.test:1")
	bed.names.set("dual.test", "192.0.2.1", "2001:db8::1")
	return bed
}

func TestHappyEyeballs(t *testing.T) {
	const ms = time.Millisecond
	for name, tt := range map[string]struct {
		v4, v6 behaviour
		dials  []string
		to     string // empty: fails
		took   time.Duration
	}{
		"IPv6 goes first":                        {accepts, accepts, []string{v6}, v6, 0},
		"IPv6 wins within its head start":        {accepts, after(249*ms, accepts), []string{v6}, v6, 249 * ms},
		"IPv4 starts after 250 ms and wins":      {after(10*ms, accepts), silent, []string{v6, v4}, v4, 260 * ms},
		"IPv4 starts at once when IPv6 fails":    {after(10*ms, accepts), after(5*ms, refuses), []string{v6, v4}, v4, 15 * ms},
		"IPv6 wins although IPv4 has started":    {after(500*ms, accepts), after(300*ms, accepts), []string{v6, v4}, v6, 300 * ms},
		"IPv6 wins although IPv4 has failed":     {refuses, after(300*ms, accepts), []string{v6, v4}, v6, 300 * ms},
		"both fail":                              {after(10*ms, refuses), refuses, []string{v6, v4}, "", 10 * ms},
		"each has the whole timeout":             {silent, silent, []string{v6, v4}, "", 1250 * ms},
		"IPv6 times out while IPv4 is on it":     {after(1100*ms, refuses), silent, []string{v6, v4}, "", 1250 * ms},
		"IPv4 connects after IPv6 has timed out": {after(900*ms, accepts), silent, []string{v6, v4}, v4, 1150 * ms},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bed := dual(t, Spec{ConnectTimeout: time.Second})
				bed.net.set(v4, tt.v4)
				bed.net.set(v6, tt.v6)
				start := time.Now()
				d, err := bed.Connect(t.Context(), client)
				if took := time.Since(start); took != tt.took {
					t.Errorf("took %s, want %s", took, tt.took)
				}
				if diff := cmp.Diff(tt.dials, bed.net.took()); diff != "" {
					t.Error(diff)
				}
				switch {
				case (err == nil) != (tt.to != ""):
					t.Fatalf("got error %v", err)
				case err == nil && d.Addr.String() != tt.to:
					t.Errorf("got %s, want %s", d.Addr, tt.to)
				}
			})
		})
	}
}

func TestHappyEyeballsClosesTheLoser(t *testing.T) {
	late, peer := realConn(t)
	synctest.Test(t, func(t *testing.T) {
		bed := dual(t, Spec{ConnectTimeout: time.Second, EjectAfter: 1, EjectFor: time.Hour})
		bed.net.set(v6, func(context.Context) (*sock.Conn, error) {
			time.Sleep(300 * time.Millisecond) // deaf to the race being over
			return late, nil
		})
		if diff := cmp.Diff([]string{v4}, bed.goes(t, 1)); diff != "" {
			t.Error(diff)
		}
		if !bed.status(t, v6).Up() {
			t.Error("blamed for connecting late")
		}
	})
	_ = peer.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := peer.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the loser's peer reads %v, want EOF", err)
	}
}

// realConn is a connection with a descriptor, made outside any bubble.
func realConn(t *testing.T) (*sock.Conn, net.Conn) {
	t.Helper()
	poller, err := sock.NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = poller.Close() })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	conn, err := poller.Dial(t.Context(), netip.MustParseAddrPort(l.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(); _ = peer.Close() })
	return conn, peer
}

func TestHappyEyeballsEjectsAFamilyThatLeadsNowhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bed := dual(t, Spec{ConnectTimeout: time.Second, EjectAfter: 3, EjectFor: 10 * time.Second})
		bed.net.set(v6, silent)
		bed.goes(t, 3)
		bed.net.took()
		start := time.Now()
		bed.goes(t, 5)
		if took := time.Since(start); took != 0 {
			t.Errorf("five more connects took %s", took)
		}
		if diff := cmp.Diff([]string{v4, v4, v4, v4, v4}, bed.net.took()); diff != "" {
			t.Error(diff)
		}
		if s := bed.status(t, v4); !s.Up() || s.Failures != 0 {
			t.Errorf("IPv4 is blamed: %+v", s)
		}
	})
}

func TestHappyEyeballsDoesNotBlameTheOneThatStartedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bed := dual(t, Spec{ConnectTimeout: time.Second, EjectAfter: 1, EjectFor: time.Hour})
		bed.net.set(v6, after(300*time.Millisecond, accepts))
		bed.net.set(v4, silent)
		bed.goes(t, 3)
		for _, addr := range []string{v4, v6} {
			if s := bed.status(t, addr); !s.Up() || s.Failures != 0 {
				t.Errorf("%s is blamed: %+v", addr, s)
			}
		}
	})
}

func TestHappyEyeballsEndWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bed := dual(t, Spec{Retries: 3})
		bed.net.set(v6, silent)
		bed.net.set(v4, silent)
		for _, d := range []time.Duration{100 * time.Millisecond, 400 * time.Millisecond} {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			start := time.Now()
			if err := bed.fail(t, ctx); err.Reason != Canceled {
				t.Errorf("got %v", err)
			}
			if took := time.Since(start); took != d {
				t.Errorf("took %s, want %s", took, d)
			}
			cancel()
		}
	})
}

func TestHappyEyeballsTurnThroughTheAddressesOfEachFamily(t *testing.T) {
	bed := newBed(t, Spec{Retries: 1}, "dual.test:1")
	bed.names.set("dual.test", "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2")
	bed.net.set("[2001:db8::1]:1", refuses)
	bed.net.set("192.0.2.1:1", refuses)
	d := bed.connect(t)
	want := []string{"[2001:db8::1]:1", "192.0.2.1:1", "[2001:db8::2]:1"}
	if diff := cmp.Diff(want, bed.net.took()); diff != "" {
		t.Error(diff)
	}
	if d.Attempts != 3 || d.Target != "dual.test:1" {
		t.Errorf("got %+v", d)
	}
}
