// SPDX-License-Identifier: Apache-2.0

package control

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/userspace/splice"
)

// place is an address of the test's own.
func place(t *testing.T) string { return fmt.Sprintf("/%s/%d", t.Name(), os.Getpid()) }

// serve answers for flows, of which none ever ends.
func serve(t *testing.T, bpffs string, flows []splice.FlowInfo) *Client {
	t.Helper()
	s, err := Listen(bpffs, Flows{
		List: func() []splice.FlowInfo { return flows },
		Kill: func(match func(*splice.FlowInfo) bool) (n int) {
			for i := range flows {
				if match(&flows[i]) {
					n++
				}
			}
			return n
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return NewClient(bpffs)
}

func TestListArrivesAsItIs(t *testing.T) {
	at := netip.MustParseAddrPort
	want := []splice.FlowInfo{
		{ID: "1", Engine: "splice", EngineReason: "configured", Endpoint: "a", SNI: "a.test", Start: time.Unix(1, 2).UTC(), Age: 1.5, Idle: 0.25,
			Client: at("[2001:db8::1]:1"), Listener: at("[2001:db8::2]:443"), Local: at("10.0.0.1:3"), Upstream: at("10.0.0.2:443"),
			BytesIn: 1, BytesOut: 2, PacketsIn: 3, PacketsOut: 4, HalfClosed: true},
		{ID: "2"},
	}
	got, err := serve(t, place(t), want).List(t.Context())
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestKillPicks(t *testing.T) {
	c := serve(t, place(t), []splice.FlowInfo{{ID: "1", Endpoint: "a"}, {ID: "2", Endpoint: "a"}, {ID: "3"}})
	for name, tc := range map[string]struct {
		selection Selection
		want      int
	}{
		"IDs":      {Selection{IDs: []string{"3", "x", "1", "y"}}, 2},
		"endpoint": {Selection{Endpoint: "a"}, 2},
		"another":  {Selection{Endpoint: "b"}, 0},
		"all":      {Selection{All: true}, 3},
		"nothing":  {Selection{}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := c.Kill(t.Context(), tc.selection); err != nil || got != tc.want {
				t.Errorf("%d flows, %v, want %d", got, err, tc.want)
			}
		})
	}
}

func TestNoAgent(t *testing.T) {
	if _, err := NewClient(place(t)).List(t.Context()); !errors.Is(err, ErrNoAgent) {
		t.Errorf("got %v, want %v", err, ErrNoAgent)
	}
	s, err := Listen(place(t), Flows{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(place(t), Flows{}); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("a second agent: got %v, want %v", err, unix.EADDRINUSE)
	}
	_ = s.Close()
	if _, err := NewClient(place(t)).List(t.Context()); !errors.Is(err, ErrNoAgent) {
		t.Errorf("after the end: got %v, want %v", err, ErrNoAgent)
	}
}

// asNobody runs f on a thread of another user, which ends with it.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test becomes another user: run it as root (sudo make test)")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		const nobody = 65534
		// Of this thread alone, unlike syscall.Setresuid.
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			t.Errorf("setresuid: %v", errno)
			return
		}
		f()
	}()
	<-done
}

func TestOthersAreRefused(t *testing.T) {
	serve(t, place(t), []splice.FlowInfo{{ID: "secret"}})
	for _, request := range []string{"GET /flows", "POST /flows/kill"} {
		asNobody(t, func() {
			conn, err := net.Dial("unix", address(place(t)).Name)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			fmt.Fprintf(conn, "%s HTTP/1.0\r\nContent-Length: 12\r\n\r\n{\"all\":true}", request)
			answer := make([]byte, 4096)
			n, _ := conn.Read(answer)
			if got := string(answer[:n]); !strings.HasPrefix(got, "HTTP/1.0 403 ") || !strings.Contains(got, "user 65534 ") || !strings.Contains(got, "run the command as root") || strings.Contains(got, "secret") {
				t.Errorf("%s: %s", request, got)
			}
		})
	}
}

// Who takes the agent's name is not believed.
func TestImpostor(t *testing.T) {
	var l net.Listener
	asNobody(t, func() {
		var err error
		if l, err = net.Listen("unix", address(place(t)).Name); err != nil {
			t.Error(err)
		}
	})
	if l == nil {
		return
	}
	defer l.Close()
	if _, err := NewClient(place(t)).List(t.Context()); err == nil || !strings.Contains(err.Error(), "is not the agent's: ") {
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
