// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestNamesAreLookedUpAtFirstNeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bed := newBed(t, Spec{Refresh: 30 * time.Second}, "a.test:1")
		bed.names.set("a.test", "192.0.2.1", "192.0.2.2", "::ffff:192.0.2.2")
		bed.start(t)
		time.Sleep(time.Hour)
		if n := bed.names.count(); n != 0 {
			t.Fatalf("%d lookups before anybody needs one", n)
		}
		want := []string{"192.0.2.1:1", "192.0.2.2:1", "192.0.2.1:1", "192.0.2.2:1"}
		if diff := cmp.Diff(want, bed.goes(t, 4)); diff != "" {
			t.Error(diff)
		}
		if n := bed.names.count(); n != 1 {
			t.Errorf("%d lookups for four connects, want 1", n)
		}
		time.Sleep(10*time.Minute + time.Second)
		if n := bed.names.count(); n != 21 {
			t.Errorf("%d lookups after 20 intervals, want 21", n)
		}
	})
}

func TestRefreshKeepsTheStateOfWhatStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bed := newBed(t, Spec{Refresh: time.Minute, EjectAfter: 1, EjectFor: time.Hour, Retries: 1}, "a.test:1")
		bed.names.set("a.test", "192.0.2.1", "192.0.2.2")
		bed.net.set("192.0.2.1:1", refuses)
		bed.net.set("192.0.2.2:1", refuses)
		bed.start(t)
		bed.fail(t, t.Context())

		bed.names.set("a.test", "192.0.2.2", "192.0.2.3")
		time.Sleep(time.Minute + time.Second)
		if diff := cmp.Diff([]string{"192.0.2.3:1", "192.0.2.3:1"}, bed.goes(t, 2)); diff != "" {
			t.Error(diff)
		}
		if bed.status(t, "192.0.2.2:1").Up() {
			t.Error("the one that stayed has lost its state")
		}

		bed.names.set("a.test", "192.0.2.1", "192.0.2.2")
		bed.net.set("192.0.2.1:1", accepts)
		time.Sleep(time.Minute)
		if !bed.status(t, "192.0.2.1:1").Up() {
			t.Error("the one that was gone has kept its state")
		}
	})
}

func TestFailedRefreshKeepsTheAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bed := newBed(t, Spec{Refresh: time.Minute}, "a.test:1")
		bed.names.set("a.test", "192.0.2.1")
		bed.start(t)
		bed.goes(t, 1)
		bed.names.set("a.test")
		time.Sleep(3*time.Minute + time.Second)
		if diff := cmp.Diff([]string{"192.0.2.1:1"}, bed.goes(t, 1)); diff != "" {
			t.Error(diff)
		}
		bed.names.set("a.test", "192.0.2.2")
		time.Sleep(time.Minute)
		if diff := cmp.Diff([]string{"192.0.2.2:1"}, bed.goes(t, 1)); diff != "" {
			t.Error(diff)
		}
		want := []string{
			"resolved a.test:1 true", "resolved a.test:1 false", "resolved a.test:1 false",
			"resolved a.test:1 false", "resolved a.test:1 true",
		}
		if diff := cmp.Diff(want, bed.events.took()); diff != "" {
			t.Error(diff)
		}
		bed.log.want(t, 2) // one for each change
	})
}

func TestFirstLookupFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bed := newBed(t, Spec{Retries: 2}, "a.test:1")
		for range 5 {
			if err := bed.fail(t, t.Context()); err.Reason != Resolve || len(err.Attempts) != 1 {
				t.Errorf("got %v", err)
			}
		}
		if n := bed.names.count(); n != 1 {
			t.Errorf("%d lookups within a second, want 1", n)
		}
		if s := bed.Status(); len(s) != 1 || s[0].Up() || s[0].Err == nil {
			t.Errorf("got %+v", s)
		}
		bed.names.set("a.test", "192.0.2.1")
		time.Sleep(errorTTL)
		if diff := cmp.Diff([]string{"192.0.2.1:1"}, bed.goes(t, 1)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestUnresolvedTargetStandsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bed := newBed(t, Spec{Retries: 1, Refresh: time.Minute}, "gone.test:1", a)
		bed.start(t)
		bed.goes(t, 1)
		time.Sleep(2 * time.Second)
		for range 4 {
			if d := bed.connect(t); d.Attempts != 1 {
				t.Errorf("a connect took %d attempts", d.Attempts)
			}
		}
		bed.names.set("gone.test", "192.0.2.1")
		time.Sleep(unresolvedRefresh)
		if got := bed.goes(t, 2); got[0] == got[1] {
			t.Errorf("went to %v, want both targets in use again", got)
		}
	})
}

func TestLookupIsDoneOnceForAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bed := newBed(t, Spec{}, "a.test:1")
		bed.names.set("a.test", "192.0.2.1")
		bed.names.delay = time.Second
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() { // does the lookup, and gives up
			_, err := bed.Connect(ctx, client)
			gone <- err
		}()
		synctest.Wait()
		done := make(chan error, 50)
		for range cap(done) {
			go func() {
				_, err := bed.Connect(t.Context(), client)
				done <- err
			}()
		}
		synctest.Wait()
		cancel()
		if err := <-gone; err == nil {
			t.Error("the one that gave up has connected")
		}
		for range cap(done) {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if n := bed.names.count(); n != 2 {
			t.Errorf("%d lookups, want 2: one that was given up, and one for all the others", n)
		}
	})
}

func TestLookupEndsWithTheConnectTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bed := newBed(t, Spec{Retries: 1, ConnectTimeout: time.Second}, "slow.test:1", a)
		bed.names.set("slow.test", "192.0.2.1")
		bed.names.delay = time.Minute
		start := time.Now()
		if diff := cmp.Diff([]string{a}, bed.goes(t, 1)); diff != "" {
			t.Error(diff)
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("took %s, want the connect timeout", took)
		}
	})
}

func TestFamilies(t *testing.T) {
	for name, tt := range map[string]struct {
		family Family
		ips    []string
		want   string // empty: does not resolve
	}{
		"any":                  {AnyFamily, []string{"192.0.2.1", "2001:db8::1"}, v6},
		"IPv4":                 {IPv4, []string{"2001:db8::1", "::ffff:192.0.2.1"}, v4},
		"IPv6":                 {IPv6, []string{"192.0.2.1", "2001:db8::1"}, v6},
		"IPv6 of an IPv4 host": {IPv6, []string{"192.0.2.1", "::ffff:192.0.2.1"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			bed := newBed(t, Spec{Family: tt.family}, "a.test:1")
			bed.names.set("a.test", tt.ips...)
			if tt.want == "" {
				if err := bed.fail(t, t.Context()); err.Reason != Resolve {
					t.Errorf("got %v", err)
				}
				return
			}
			if diff := cmp.Diff([]string{tt.want}, bed.goes(t, 1)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAddressesNeedNoResolver(t *testing.T) {
	bed := newBed(t, Spec{Family: IPv4}, "[::ffff:192.0.2.1]:1", "[2001:db8::1]:1")
	bed.start(t)
	if diff := cmp.Diff([]string{v4, v6}, bed.goes(t, 2)); diff != "" {
		t.Error(diff)
	}
	if bed.names.count() != 0 || bed.bg != nil {
		t.Error("a pool of addresses has a resolver at work")
	}
}

func TestConnectAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bed := newBed(t, Spec{Refresh: time.Minute}, "a.test:1", "b.test:1")
		bed.names.set("a.test", "192.0.2.1")
		bed.names.set("b.test", "192.0.2.2")
		bed.Start(t.Context())
		bed.goes(t, 1)
		bed.Close()
		bed.Close()
		// A name that is not yet known, and one that is.
		if diff := cmp.Diff([]string{"192.0.2.2:1", "192.0.2.1:1"}, bed.goes(t, 2)); diff != "" {
			t.Error(diff)
		}
		time.Sleep(time.Hour)
		if n := bed.names.count(); n != 2 {
			t.Errorf("%d lookups, want 2: none in the background after Close", n)
		}
	})
}

// TestRefreshWaitsForALookupUnderWay instead of asking again and again whether it is
// over: a name without an address has no pause between two looks.
func TestRefreshWaitsForALookupUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bed := newBed(t, Spec{}, "a.test:1")
		bed.names.set("a.test", "192.0.2.1")
		bed.names.delay = time.Second
		start := time.Now()
		go func() { _, _ = bed.Connect(t.Context(), client) }()
		synctest.Wait() // it looks up
		bed.lookOrWait(t.Context(), &bed.targets[0])
		if took := time.Since(start); took != time.Second {
			t.Errorf("returned after %s, want the whole lookup", took)
		}
		if n := bed.names.count(); n != 1 {
			t.Errorf("%d lookups, want 1", n)
		}
	})
}
