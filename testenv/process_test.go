// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain lets the test binary be the child that the tests start.
func TestMain(m *testing.M) {
	switch os.Getenv("TESTENV_CHILD") {
	case "":
		os.Exit(m.Run())
	case "serve":
		os.Exit(serve())
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("ready")
		for {
			time.Sleep(time.Hour) // not select: nothing else runs, and Go would say deadlock
		}
	case "exit":
		fmt.Print("last words")
		os.Exit(3)
	}
}

func serve() int {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	listener, err := net.Listen("tcp", "127.0.0.1:7443")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer listener.Close()
	fmt.Fprintln(os.Stderr, "listening")
	<-stop
	fmt.Println("stopped")
	return 0
}

func TestProcess(t *testing.T) {
	CheckLeaks(t)
	t.Run("serves in its namespace until stopped", func(t *testing.T) {
		ns := MustNamespace(t, "n")
		p := child(t, "serve", ns)
		if err := p.WaitListening(testContext(t), 7443); err != nil {
			t.Fatal(err)
		}
		if _, err := p.WaitLine(testContext(t), func(line string) bool { return line == "listening" }); err != nil {
			t.Error(err)
		}
		if conn, err := net.Dial("tcp", "127.0.0.1:7443"); err == nil {
			conn.Close()
			t.Error("the child listens outside its namespace")
		}
		if err := p.Stop(testContext(t)); err != nil {
			t.Error(err)
		}
		if got := p.Log().String(); got != "listening\nstopped" {
			t.Errorf("got output %q", got)
		}
		if err := p.Stop(testContext(t)); err != nil {
			t.Errorf("second stop: %v", err)
		}
	})
	t.Run("is killed when it does not stop", func(t *testing.T) {
		p := child(t, "stubborn", nil)
		if _, err := p.WaitLine(testContext(t), func(line string) bool { return line == "ready" }); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := p.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
		}
		if err := syscall.Kill(p.Pid(), 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("the child is still there: %v", err)
		}
	})
	t.Run("that ends ends the waiting", func(t *testing.T) {
		p := child(t, "exit", nil)
		_, err := p.WaitLine(testContext(t), func(string) bool { return false })
		if !errors.Is(err, errLogEnded) || !strings.Contains(err.Error(), "last words") {
			t.Errorf("got %v, want %v with the output", err, errLogEnded)
		}
		if err := p.WaitListening(testContext(t), 7443); err == nil {
			t.Error("a dead child listens")
		}
		var exit *exec.ExitError
		if err := p.Wait(testContext(t)); !errors.As(err, &exit) || exit.ExitCode() != 3 {
			t.Errorf("got %v, want exit status 3", err)
		}
	})
	t.Run("that cannot start is an error", func(t *testing.T) {
		if _, err := StartProcess(ProcessOptions{Path: "/nowhere"}); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("got %v, want %v", err, os.ErrNotExist)
		}
	})
}

func TestBaselineFindsLeaks(t *testing.T) {
	Privileged(t)
	for name, c := range map[string]struct {
		leak func(t *testing.T) (undo func())
		want string
	}{
		"of a goroutine": {
			leak: func(*testing.T) func() {
				stop := make(chan struct{})
				go func() { <-stop }()
				return func() { close(stop) }
			},
			want: "TestBaselineFindsLeaks",
		},
		"of a descriptor": {
			leak: func(t *testing.T) func() {
				f, err := os.Open("/dev/null")
				if err != nil {
					t.Fatal(err)
				}
				return func() { f.Close() }
			},
			want: "=/dev/null",
		},
		"of a thread": {
			leak: func(t *testing.T) func() {
				ns := MustNamespace(t, "n")
				inside, stop, done := make(chan struct{}), make(chan struct{}), make(chan error)
				go func() {
					done <- ns.Do(func() error { close(inside); <-stop; runtime.Gosched(); return nil })
				}()
				<-inside
				return func() { close(stop); <-done }
			},
			want: "in another network namespace",
		},
	} {
		t.Run(name, func(t *testing.T) {
			baseline, err := NewBaseline()
			if err != nil {
				t.Fatal(err)
			}
			undo := c.leak(t)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			if err := baseline.Check(ctx); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q in it", err, c.want)
			}
			undo()
		})
	}
}

func TestUsage(t *testing.T) {
	self := os.Getpid()
	const size = 32 << 20
	block, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(block)
	before, err := ReadMemory(self)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < size; i += os.Getpagesize() {
		block[i] = 1
	}
	after, err := ReadMemory(self)
	if err != nil {
		t.Fatal(err)
	}
	if grown := after.PSS - before.PSS; grown < size-size/8 || grown > size+size/8 || after.RSS < after.PSS || after.Private > after.RSS {
		t.Errorf("got %+v after %+v, want about %d bytes more", after, before, size)
	}

	process, err := ReadProcessCPU(self)
	if err != nil {
		t.Fatal(err)
	}
	system, err := ReadSystemCPU()
	if err != nil {
		t.Fatal(err)
	}
	err = Poll(testContext(t), func() (bool, error) { // works until the clock of /proc has moved
		sha256.Sum256(block)
		now, err := ReadProcessCPU(self)
		return now.Sub(process).Total() >= 50*time.Millisecond, err
	})
	if err != nil {
		t.Fatal(err)
	}
	now, err := ReadSystemCPU()
	if err != nil {
		t.Fatal(err)
	}
	if busy := now.Sub(system).Busy(); busy < 30*time.Millisecond {
		t.Errorf("the machine was busy for %v, want about 50ms at least", busy)
	}
}

func child(t *testing.T, what string, ns *Namespace) *Process {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return MustProcess(t, ProcessOptions{Path: program, Namespace: ns, Env: append(os.Environ(), "TESTENV_CHILD="+what)})
}
