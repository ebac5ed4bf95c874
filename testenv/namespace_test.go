// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
)

func TestNamespaceDo(t *testing.T) {
	CheckLeaks(t)
	ns := MustNamespace(t, "n")
	home := currentNamespace(t)
	t.Run("runs inside", func(t *testing.T) {
		var inside string
		if err := ns.Do(func() error { inside = currentNamespace(t); return nil }); err != nil {
			t.Fatal(err)
		}
		if inside == home {
			t.Error("the function ran outside")
		}
	})
	t.Run("returns the error", func(t *testing.T) {
		if err := ns.Do(func() error { return os.ErrInvalid }); err != os.ErrInvalid {
			t.Errorf("got %v, want %v", err, os.ErrInvalid)
		}
	})
	t.Run("reports an ended goroutine and spares the first thread", func(t *testing.T) {
		var ends sync.WaitGroup
		for range 50 { // enough to use every thread that there is
			ends.Go(func() {
				err := ns.Do(func() error { runtime.Goexit(); return nil })
				if !errors.Is(err, errNoReturn) {
					t.Errorf("got %v, want %v", err, errNoReturn)
				}
			})
		}
		ends.Wait()
		if now, err := os.Readlink("/proc/self/ns/net"); now != home || err != nil {
			t.Errorf("the process is in %s, %v, want %s", now, err, home)
		}
	})
	t.Run("nests", func(t *testing.T) {
		other := MustNamespace(t, "other")
		err := ns.Do(func() error {
			before := currentNamespace(t)
			if err := other.Do(func() error { return nil }); err != nil {
				return err
			}
			if currentNamespace(t) != before {
				t.Error("the outer namespace was lost")
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	t.Run("starts commands inside", func(t *testing.T) {
		var out strings.Builder
		cmd := exec.Command("readlink", "/proc/self/ns/net")
		cmd.Stdout = &out
		if err := ns.Start(cmd); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil || strings.TrimSpace(out.String()) == home {
			t.Errorf("got %q, %v, want another namespace than %s", out.String(), err, home)
		}
	})
	t.Run("fails after close", func(t *testing.T) {
		closed := MustNamespace(t, "closed")
		if err := closed.Close(); err != nil {
			t.Fatal(err)
		}
		if err := closed.Do(func() error { return nil }); err == nil {
			t.Error("a closed namespace was entered")
		}
	})
}

func BenchmarkNamespaceDo(b *testing.B) {
	ns := MustNamespace(b, "n")
	for b.Loop() {
		if err := ns.Do(func() error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

func currentNamespace(t *testing.T) string {
	t.Helper()
	name, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Error(err)
	}
	return name
}
