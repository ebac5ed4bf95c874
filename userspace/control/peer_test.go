// SPDX-License-Identifier: Apache-2.0

package control

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// place is a path of the test's own.
func place(t *testing.T) string { return fmt.Sprintf("/%s/%d", t.Name(), os.Getpid()) }

// The socket is free again as soon as the agent has ended, and nobody is there then.
func TestCloseLeavesNothing(t *testing.T) {
	for range 20 {
		s, err := Listen(place(t), Flows{})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if _, err := NewClient(place(t)).List(t.Context()); !errors.Is(err, ErrNoAgent) {
			t.Errorf("after the end: got %v, want %v", err, ErrNoAgent)
		}
	}
}

// Who takes the agent's name is not believed.
func TestImpostor(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test becomes another user: run it as root (sudo make test)")
	}
	listening := make(chan net.Listener)
	go func() {
		runtime.LockOSThread() // for good: the thread is nobody's, and ends with the goroutine
		const nobody = 65534
		// Of this thread alone, unlike syscall.Setresuid.
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			t.Errorf("setresuid: %v", errno)
			listening <- nil
			return
		}
		l, err := net.ListenUnix("unix", address(place(t)))
		if err != nil {
			t.Error(err)
			listening <- nil
			return
		}
		listening <- l
	}()
	l := <-listening
	if l == nil {
		t.FailNow()
	}
	defer func() { _ = l.Close() }()
	if _, err := NewClient(place(t)).List(t.Context()); err == nil || !strings.Contains(err.Error(), "is not the agent's: user 65534 ") {
		t.Errorf("got %v, want a refusal", err)
	}
}

func TestAddress(t *testing.T) {
	long := "/" + strings.Repeat("x", 200)
	for path, want := range map[string]string{"/sys/fs/bpf/spliceway": "@spliceway/sys/fs/bpf/spliceway", "/a//b/": "@spliceway/a/b"} {
		if got := address(path).Name; got != want {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
	a, b := address(long).Name, address(long+"y").Name
	if a == b || len(a) > longestAddress || !strings.HasPrefix(a, "@spliceway-") {
		t.Errorf("long paths: %s and %s", a, b)
	}
}
