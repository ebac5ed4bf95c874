// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv"
)

// hello is a ClientHello for the name, small enough for one segment.
func hello(t *testing.T, name string) []byte {
	t.Helper()
	return testenv.MustHello(t, name, testenv.HelloOptions{Classical: true})
}

// tlsBackend is a TLS server for the names on a backend host.
func tlsBackend(t *testing.T, h *testenv.Host, ca *testenv.CA, id, name string, others ...string) *testenv.Backend {
	t.Helper()
	config, err := ca.ServerConfig(name, others...)
	if err != nil {
		t.Fatal(err)
	}
	return testenv.MustBackend(t, h.Namespace, testenv.BackendOptions{Name: id, TLS: config})
}

// plainBackend takes a hello and answers in the clear.
func plainBackend(t *testing.T, h *testenv.Host, id string) *testenv.Backend {
	t.Helper()
	return testenv.MustBackend(t, h.Namespace, testenv.BackendOptions{Name: id})
}

// listenOn is a backend whose every byte is the test's.
func listenOn(t *testing.T, h *testenv.Host) (l *net.TCPListener, at netip.AddrPort) {
	t.Helper()
	l, err := h.Listen(netip.AddrPortFrom(h.IPv4(), 0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l, l.Addr().(*net.TCPAddr).AddrPort()
}

// at is a backend's address.
func at(h *testenv.Host, b *testenv.Backend) netip.AddrPort {
	return netip.AddrPortFrom(h.IPv4(), b.Port())
}

// nobody is an address of the host where nothing listens.
func nobody(t *testing.T, h *testenv.Host) netip.AddrPort {
	t.Helper()
	l, at := listenOn(t, h)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return at
}

// endpoint is one entry of `endpoints`. more are further keys of it: "alpn: [h2]".
func endpoint(name, url string, target netip.AddrPort, more ...string) string {
	keys := append([]string{"name: " + name, fmt.Sprintf("url: %q", url), fmt.Sprintf("upstream: {url: \"tcp://%s\"}", target)}, more...)
	return "- {" + strings.Join(keys, ", ") + "}\n"
}

// sni is the URL of a name on the gateway's port.
func sni(name string) string { return fmt.Sprintf("tls://%s:%d", name, gatewayPort) }

// gateway is where clients connect.
func (r *run) gateway() netip.AddrPort { return netip.AddrPortFrom(r.net.IPv4, gatewayPort) }

// dial connects a client to the gateway. It is closed at the end of the test.
func (r *run) dial(h *testenv.Host) *net.TCPConn {
	r.t.Helper()
	c, err := h.Dial(short(r.t), r.gateway())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	return c
}

// open makes a flow of which both ends are in hand.
func (r *run) open(h *testenv.Host, l *net.TCPListener, name string) *testenv.Flow {
	r.t.Helper()
	dial := func(ctx context.Context) (*net.TCPConn, error) { return h.Dial(ctx, r.gateway()) }
	f, prefix, err := testenv.OpenFlow(short(r.t), dial, l, hello(r.t, name))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = f.Close() })
	if len(prefix) > 0 {
		r.t.Fatalf("%q arrived before the hello", prefix)
	}
	return f
}

// identify asks which backend takes the hello.
func (r *run) identify(h *testenv.Host, hello []byte) (backend string, client net.Addr) {
	r.t.Helper()
	c := r.dial(h)
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		r.t.Fatal(err)
	}
	if _, err := c.Write(hello); err != nil {
		r.t.Fatal(err)
	}
	reply, err := testenv.Ask(c, testenv.Request{})
	if err != nil {
		r.t.Errorf("no backend answers: %v", err)
	}
	return reply.Backend, c.LocalAddr()
}

// seen is what a client reads until the end, and which end: "FIN", "RST" or an error.
func seen(c net.Conn) (data []byte, end string) {
	_ = c.SetReadDeadline(time.Now().Add(patience))
	data, err := io.ReadAll(c)
	switch {
	case err == nil:
		return data, "FIN"
	case errors.Is(err, syscall.ECONNRESET):
		return data, "RST"
	}
	return data, err.Error()
}

// unsent is what the peer's kernel has not acknowledged yet (SIOCOUTQ).
func unsent(c *net.TCPConn) (n int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	if e := raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); e != nil {
		return 0, e
	}
	return n, err
}

// bigSendBuffer has the kernel take megabytes from a writer whose reader sleeps.
func bigSendBuffer(t *testing.T, c *net.TCPConn, n int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if e := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, n) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
}
