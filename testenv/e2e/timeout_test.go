// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"
	"time"

	"github.com/spliceway/spliceway/testenv"
)

func TestTimeouts(t *testing.T) {
	testenv.CheckLeaks(t)
	const idle, halfClose = 1500 * time.Millisecond, 500 * time.Millisecond
	all := startRelay(t, "timeouts: {idle: "+idle.String()+", halfClose: "+halfClose.String()+"}")

	t.Run("of an idle flow reset both sides, and activity either way puts them off", func(t *testing.T) {
		r := all.in(t)
		f := r.flow()
		// The pace is what is tested: a byte every sixth of the limit, one way
		// only, for longer than the limit.
		begin := time.Now()
		tick := time.NewTicker(idle / 6)
		defer tick.Stop()
		for time.Since(begin) < idle*5/4 {
			<-tick.C
			if _, err := f.Backend.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := f.Client.Read(make([]byte, 1)); err != nil {
				t.Fatalf("after %s of traffic: %v", time.Since(begin), err)
			}
		}
		last := time.Now()
		if err := testenv.ExpectReset(f.Client, patience); err != nil {
			t.Error(err)
		}
		if took := time.Since(last); took < idle*9/10 {
			t.Errorf("cut %s after the last byte, %s are allowed", took, idle)
		}
		if err := testenv.ExpectReset(f.Backend, patience); err != nil {
			t.Error(err)
		}
		r.expectLine(f.Client.LocalAddr(), map[string]any{"outcome": "routed", "end": "idle_timeout", "closed_by": "agent"})
	})
	t.Run("of a half-closed flow are its own, and reset what is left", func(t *testing.T) {
		r := all.in(t)
		f := r.flow()
		if err := f.Client.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if err := testenv.ExpectEOF(f.Backend, patience); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if err := testenv.ExpectReset(f.Client, patience); err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took > idle-100*time.Millisecond {
			t.Errorf("it took %s, the limit is %s", took, halfClose)
		}
		r.expectLine(f.Client.LocalAddr(), map[string]any{"outcome": "routed", "end": "half_close_timeout", "closed_by": "agent"})
	})
}
