// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// patience is how long anything may take that ought to happen at once.
const patience = 10 * time.Second

// requireRoot fails, never skips: what was not tested must not look tested.
func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes network namespaces and loads BPF programs: run it as root (sudo make test)")
	}
}

// asNobody runs do as a user without privileges and returns what it returned. It
// is another process, the same test over again: a process remembers what it found
// out about BPF while it was root.
func asNobody(t *testing.T, do func() string) string {
	t.Helper()
	const child, mark = "LOADER_TEST_AS_NOBODY", "--- as nobody:"
	if os.Getenv(child) != "" {
		fmt.Println(mark + do())
		t.SkipNow() // the rest is the parent's
	}
	requireRoot(t)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), child+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("run as nobody: %v\n%s", err, out)
	}
	_, said, found := strings.Cut(string(out), mark)
	if !found {
		t.Fatalf("run as nobody: no answer in\n%s", out)
	}
	said, _, _ = strings.Cut(said, "\n")
	return said
}

// enterNamespace moves the test into a new network namespace, which goes away
// with it. Its loopback device holds the prefixes. A subtest is a goroutine of its
// own, and outside.
func enterNamespace(t *testing.T, prefixes ...string) {
	t.Helper()
	requireRoot(t)
	// Namespaces belong to threads, so the test keeps its own.
	runtime.LockOSThread()
	before, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer unix.Close(before)
		if err := unix.Setns(before, unix.CLONE_NEWNET); err != nil {
			// The thread stays locked and ends with the test's goroutine.
			t.Errorf("leave network namespace: %v", err)
			return
		}
		runtime.UnlockOSThread()
	})
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make network namespace: %v", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	for _, p := range prefixes {
		_, dst, err := net.ParseCIDR(p)
		if err != nil {
			t.Fatal(err)
		}
		route := &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: dst, Type: unix.RTN_LOCAL,
			Table: unix.RT_TABLE_LOCAL, Scope: unix.RT_SCOPE_HOST}
		if err := netlink.RouteAdd(route); err != nil {
			t.Fatalf("add local route %s: %v", p, err)
		}
	}
}

// listen opens a plain TCP listener on an address that need not be there.
func listen(t *testing.T, addr string) *net.TCPListener {
	t.Helper()
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var opt error
		err := raw.Control(func(fd uintptr) {
			opt = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
		})
		return errors.Join(err, opt)
	}}
	config.SetMultipathTCP(false)
	l, err := config.Listen(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

// fdOf lends the listener's own descriptor, good while the listener is open.
func fdOf(t *testing.T, l syscall.Conn) uintptr {
	t.Helper()
	raw, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var got uintptr
	if err := raw.Control(func(fd uintptr) { got = fd }); err != nil {
		t.Fatal(err)
	}
	return got
}

// dial connects from a loopback address: left to itself, the kernel would connect
// each local address from itself, and source and destination look the same.
func dial(addr string) (net.Conn, error) {
	from := net.IPv4(127, 0, 0, 1)
	if netip.MustParseAddrPort(addr).Addr().Is6() {
		from = net.IPv6loopback
	}
	d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: from}}
	return d.Dial("tcp", addr)
}

// arrives checks that a connection to addr comes out of l, as one to addr.
func arrives(t *testing.T, addr string, l *net.TCPListener) {
	t.Helper()
	client, err := dial(addr)
	if err != nil {
		t.Errorf("connect: %v", err)
		return
	}
	defer client.Close()
	if err := l.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Errorf("connection to %s came out of another socket: %v", addr, err)
		return
	}
	defer server.Close()
	if got, want := server.LocalAddr().(*net.TCPAddr).AddrPort(), netip.MustParseAddrPort(addr); got != want {
		t.Errorf("accepted connection has local address %s, want %s", got, want)
	}
	if got, want := server.RemoteAddr().String(), client.LocalAddr().String(); got != want {
		t.Errorf("accepted the connection of %s, want that of %s", got, want)
	}
}

// isRefused checks that nobody listens at addr.
func isRefused(t *testing.T, addr string) {
	t.Helper()
	c, err := dial(addr)
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("connect to %s: got %v, want a refusal", addr, err)
	}
}
