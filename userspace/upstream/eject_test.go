// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestEjection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bed := newBed(t, Spec{Retries: 1, EjectAfter: 3, EjectFor: 10 * time.Second}, a, b)
		bed.net.set(a, refuses)
		bed.goes(t, 5)
		if diff := cmp.Diff([]string{a, b, b, a, b, b, a, b}, bed.net.took()); diff != "" {
			t.Errorf("until the third failure in a row: %s", diff)
		}
		want := []string{
			"failed " + a + " refused", "failed " + a + " refused",
			"ejected " + a, "changed " + a + " false: refused", "failed " + a + " refused",
		}
		if diff := cmp.Diff(want, bed.events.took()); diff != "" {
			t.Error(diff)
		}
		if s := bed.status(t, a); s.Up() || !s.Healthy || s.Failures != 3 || !s.EjectedUntil.Equal(time.Now().Add(10*time.Second)) {
			t.Errorf("got %+v", s)
		}

		time.Sleep(10*time.Second - time.Nanosecond)
		bed.goes(t, 4)
		if diff := cmp.Diff([]string{b, b, b, b}, bed.net.took()); diff != "" {
			t.Errorf("while ejected: %s", diff)
		}

		time.Sleep(time.Nanosecond)
		bed.goes(t, 3)
		if diff := cmp.Diff([]string{b, a, b, b}, bed.net.took()); diff != "" {
			t.Errorf("one trial, and out again: %s", diff)
		}
		if diff := cmp.Diff([]string{"ejected " + a, "failed " + a + " refused"}, bed.events.took()); diff != "" {
			t.Errorf("it was down all the time: %s", diff)
		}

		time.Sleep(10 * time.Second)
		bed.net.set(a, accepts)
		bed.goes(t, 4)
		if diff := cmp.Diff([]string{b, a, b, a}, bed.net.took()); diff != "" {
			t.Errorf("after a trial that works: %s", diff)
		}
		if diff := cmp.Diff([]string{"changed " + a + " true: connected"}, bed.events.took()); diff != "" {
			t.Error(diff)
		}
		bed.log.want(t, 2) // one for each change
	})
}

func TestEjectionTriesWithOneConnectOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spec := weights(t, RoundRobin, 9, 1) // the turn is a's
		spec.Retries, spec.EjectAfter, spec.EjectFor = 1, 1, time.Second
		bed := newBed(t, spec)
		bed.net.set(a, refuses)
		bed.goes(t, 1)
		time.Sleep(time.Second)
		bed.net.set(a, after(time.Minute, accepts))
		bed.net.took()

		ctx, cancel := context.WithCancel(t.Context())
		go func() { _, _ = bed.Connect(ctx, client) }() // the trial, which takes its time
		synctest.Wait()
		bed.goes(t, 3)
		if diff := cmp.Diff([]string{a, b, b, b}, bed.net.took()); diff != "" {
			t.Error(diff)
		}
		cancel() // no verdict: the next connect is a trial again
		synctest.Wait()
		bed.net.set(a, accepts)
		bed.goes(t, 1)
		if diff := cmp.Diff([]string{a}, bed.net.took()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestEjectionNeedsFailuresInARow(t *testing.T) {
	bed := newBed(t, Spec{EjectAfter: 2, EjectFor: time.Hour}, a)
	for range 3 {
		bed.net.set(a, refuses)
		bed.fail(t, t.Context())
		bed.net.set(a, accepts)
		bed.goes(t, 1)
	}
	if !bed.status(t, a).Up() {
		t.Error("ejected, though every second connect worked")
	}
}

func TestEjectionIsNotForWantsOfThisHost(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EMFILE, unix.ENFILE, unix.EADDRNOTAVAIL, unix.ENOBUFS, unix.ENOMEM} {
		bed := newBed(t, Spec{EjectAfter: 1, EjectFor: time.Hour}, a)
		bed.net.set(a, fails(errno))
		bed.fail(t, t.Context())
		if s := bed.status(t, a); !s.Up() || s.Failures != 0 {
			t.Errorf("%v: the target is blamed: %+v", errno, s)
		}
	}
}

func TestEjectionOffByDefault(t *testing.T) {
	bed := newBed(t, Spec{}, a)
	bed.net.set(a, refuses)
	for range 20 {
		bed.fail(t, t.Context())
	}
	if !bed.status(t, a).Up() {
		t.Error("ejected")
	}
}

func TestPoolFailsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bed := newBed(t, Spec{EjectAfter: 1, EjectFor: time.Minute}, a, b)
		bed.net.set(a, refuses)
		bed.net.set(b, refuses)
		bed.fail(t, t.Context())
		bed.fail(t, t.Context())
		until := bed.status(t, a).EjectedUntil
		bed.net.took()

		time.Sleep(time.Second)
		bed.fail(t, t.Context())
		bed.fail(t, t.Context())
		if got := bed.net.took(); len(got) != 2 || got[0] == got[1] {
			t.Errorf("all out: dialled %v, want both", got)
		}
		if got := bed.status(t, a).EjectedUntil; !got.Equal(until) {
			t.Errorf("a failure while out moved the trial from %s to %s", until, got)
		}
		bed.net.set(b, accepts)
		for range 2 {
			_, _ = bed.Connect(t.Context(), client)
		}
		if !bed.status(t, b).Up() {
			t.Error("a connect that works does not bring the address back")
		}
	})
}

func TestEachDownHasItsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bed := newBed(t, Spec{Refresh: time.Minute, EjectAfter: 1, EjectFor: time.Hour}, a, "many.test:1")
		bed.names.set("many.test", "192.0.2.1", "192.0.2.2")
		for _, addr := range []string{a, "192.0.2.1:1", "192.0.2.2:1"} {
			bed.net.set(addr, refuses)
		}
		bed.Start(t.Context())
		for range 3 {
			bed.fail(t, t.Context())
		}
		down := func() (n int) {
			for _, e := range bed.events.took() {
				switch {
				case strings.Contains(e, " false: "):
					n++
				case strings.Contains(e, " true: "):
					n--
				}
			}
			return n
		}
		if n := down(); n != 3 {
			t.Errorf("%d down, want all 3", n)
		}
		bed.names.set("many.test", "192.0.2.2")
		time.Sleep(2 * time.Minute)
		if n := down(); n != -1 {
			t.Errorf("one address gone: the number that are down changes by %d", n)
		}
		bed.Close()
		bed.Close()
		if n := down(); n != -2 {
			t.Errorf("closed: the number that are down changes by %d", n)
		}
		bed.net.set(a, accepts)
		bed.net.set("192.0.2.2:1", accepts)
		bed.goes(t, 2) // connections that were accepted before
		if n := down(); n != 0 {
			t.Errorf("after Close it changes by %d", n)
		}
		bed.log.want(t, 3)
	})
}

func TestRetryFallsBackToWhatIsOut(t *testing.T) {
	bed := newBed(t, Spec{Retries: 1, EjectAfter: 1, EjectFor: time.Hour}, a, b)
	bed.net.set(a, refuses)
	bed.goes(t, 1) // ejects a
	bed.net.set(a, accepts)
	bed.net.set(b, refuses)
	if diff := cmp.Diff([]string{a}, bed.goes(t, 1)); diff != "" {
		t.Error(diff)
	}
}
