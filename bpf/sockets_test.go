// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv"
)

// gateway is a namespace in which the loopback device holds both connections of a
// flow: client to A, and B to backend. The hello is unread in A and written on B.
type gateway struct {
	*engine
	ends
	ns                    *testenv.Namespace
	client, a, b, backend int // sockets
}

const hello = "a ClientHello, as far as anybody here can tell"

// gatewayOptions say what is different about a gateway's connections. Each runs
// before that connection is made, with both of its sockets: the one that listens
// and the one that connects.
type gatewayOptions struct {
	clientLeg, backendLeg func(ns *testenv.Namespace, listener, dialer int) error
}

var local = map[string]netip.Addr{"IPv4": netip.MustParseAddr("127.0.0.1"), "IPv6": netip.IPv6Loopback()}

func newGateway(t *testing.T, family string, options gatewayOptions) *gateway {
	t.Helper()
	g := &gateway{engine: load(t), ns: testenv.MustNamespace(t, "gateway")}
	g.client, g.a, g.ends.client, g.front = connection(t, g.ns, g.ns, local[family], options.clientLeg)
	g.b, g.backend, g.back, g.ends.backend = connection(t, g.ns, g.ns, local[family], options.backendLeg)
	g.sayHello()
	g.arm()
	g.device(PacketDevice{Flags: PacketDeviceFlagsDEVICE_LOOPBACK})
	return g
}

// sayHello leaves the client's hello unread, and sends it to the backend.
func (g *gateway) sayHello() {
	g.t.Helper()
	g.write(g.client, hello)
	g.waitFor("the hello in A's queue", func() (bool, error) {
		n, err := unix.IoctlGetInt(g.a, unix.SIOCINQ)
		return n == len(hello), err
	})
	g.write(g.b, hello)
	g.waitFor("the backend's kernel to acknowledge the hello", func() (bool, error) {
		n, err := unix.IoctlGetInt(g.b, unix.SIOCOUTQ)
		return n == 0, err
	})
}

// arm puts the flow in the map as the agent would.
func (g *gateway) arm() {
	g.t.Helper()
	client, backend := legs(g.ends, 0, 0, 0, 0, 0, 0)
	f := flowOf(g.ends, client, backend)
	f.State, f.Base = PacketStateARMED, [2]uint32{uint32(len(hello)), uint32(len(hello))}
	f.Legs[0].Ifindex, f.Legs[1].Ifindex = 0, 0
	g.put(f, g.ends)
}

// device says what the loopback device is.
func (g *gateway) device(d PacketDevice) {
	g.t.Helper()
	if err := g.Devices.Put(uint32(1), d); err != nil {
		g.t.Fatal(err)
	}
}

// patience is how long a socket waits for what ought to happen at once.
const patience = 10 * time.Second

// connection makes a connection from one namespace to an address of another one and
// returns its sockets and addresses. They are closed with the test.
func connection(t *testing.T, near, far *testenv.Namespace, at netip.Addr, prepare func(ns *testenv.Namespace, listener, dialer int) error) (dialer, accepted int, from, to netip.AddrPort) {
	t.Helper()
	fds := make([]int, 0, 3)
	t.Cleanup(func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	})
	socket := func(ns *testenv.Namespace) (fd int) {
		t.Helper()
		err := ns.Do(func() (err error) {
			fd, err = newSocket(at)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	listener := socket(far)
	defer unix.Close(listener)
	dialer = socket(near)
	fds = append(fds, dialer)
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("connect to %s: %s: %v", at, what, err)
		}
	}
	if prepare != nil {
		must("prepare", prepare(far, listener, dialer))
	}
	must("bind", unix.Bind(listener, sockaddr(netip.AddrPortFrom(at, 0))))
	must("listen", unix.Listen(listener, 1))
	var err error
	to, err = localAddress(listener)
	must("listener's address", err)
	err = again(func() error { return unix.Connect(dialer, sockaddr(to)) })
	if errors.Is(err, unix.EISCONN) { // connected while it was interrupted
		err = nil
	}
	must("connect", err)
	from, err = localAddress(dialer)
	must("address", err)
	must("accept", again(func() (err error) {
		accepted, _, err = unix.Accept4(listener, unix.SOCK_CLOEXEC)
		return err
	}))
	fds = append(fds, accepted)
	return dialer, accepted, from, to
}

// again calls f until no signal interrupts it: the runtime sends them, and a socket
// with a timeout does not go on by itself (signal(7)).
func again(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// newSocket makes a TCP socket in the thread's namespace. It and those that come out
// of it wait no longer than their patience.
func newSocket(at netip.Addr) (int, error) {
	family := unix.AF_INET
	if at.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return -1, err
	}
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &limit); err != nil {
			return -1, errors.Join(err, unix.Close(fd))
		}
	}
	return fd, nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is6() {
		return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}

func localAddress(fd int) (netip.AddrPort, error) {
	sa, err := unix.Getsockname(fd)
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)), err
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port)), err
	}
	return netip.AddrPort{}, errors.Join(err, fmt.Errorf("local address of socket %d: %v", fd, sa))
}

func (g *gateway) write(fd int, data string) {
	g.t.Helper()
	err := again(func() error {
		_, err := unix.Write(fd, []byte(data))
		return err
	})
	if err != nil {
		g.t.Fatal(err)
	}
}

func (g *gateway) waitFor(what string, done func() (bool, error)) {
	g.t.Helper()
	waitFor(g.t, what, done)
}

func waitFor(t testing.TB, what string, done func() (bool, error)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := testenv.Poll(ctx, done); err != nil {
		t.Fatalf("wait for %s: %v", what, err)
	}
}

// sequence numbers of a socket, read as a checkpoint would.
type sequence struct {
	sent, received uint32 // the next byte to write, and to come
}

func (g *gateway) sequence(fd int) (s sequence) {
	g.t.Helper()
	// Off again without a window probe, which would be a packet on the wire.
	const off = -1
	repair := func(value int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, value) }
	queue := func(which int) (uint32, error) {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR_QUEUE, which); err != nil {
			return 0, err
		}
		n, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUEUE_SEQ)
		return uint32(n), err
	}
	const receiveQueue, sendQueue = 1, 2
	err := repair(1)
	if err == nil {
		var errIn, errOut error
		s.received, errIn = queue(receiveQueue)
		s.sent, errOut = queue(sendQueue)
		err = errors.Join(errIn, errOut, repair(off))
	}
	if err != nil {
		g.t.Fatalf("read sequence numbers: %v", err)
	}
	return s
}

// answer is the next segment of the backend to B: it acknowledges the hello.
func (g *gateway) answer(payload string) segment {
	g.t.Helper()
	s := g.from(PacketSideBACKEND)
	at := g.sequence(g.b)
	s.seq, s.ack, s.payload = at.received, at.sent, []byte(payload)
	return s
}

// give runs a program inside the namespace.
func (g *gateway) give(program *ebpf.Program, s segment) (verdict uint32, out []byte) {
	g.t.Helper()
	err := g.ns.Do(func() (err error) {
		verdict, out, err = runProgram(program, s.frame(), skbContext{})
		return err
	})
	if err != nil {
		g.t.Fatal(err)
	}
	return verdict, out
}

// passes checks that ingress leaves a segment to the kernel.
func (g *gateway) passes(s segment) {
	g.t.Helper()
	verdict, out := g.give(g.PacketIngress, s)
	if verdict != verdictUnspec {
		g.t.Errorf("verdict: got %d, want the packet passed", int32(verdict))
	}
	wantBytes(g.t, out, s.frame())
}

// mute lets nothing leave the loopback device of a namespace.
func mute(t *testing.T, ns *testenv.Namespace) {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "BSD", AttachType: ebpf.AttachTCXEgress,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, verdictShot), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	attach(t, ns, program, ebpf.AttachTCXEgress, 1)
}

// attach puts a program on a device for the length of the test.
func attach(t *testing.T, ns *testenv.Namespace, program *ebpf.Program, where ebpf.AttachType, ifindex int) {
	t.Helper()
	var attached io.Closer
	err := ns.Do(func() (err error) {
		attached, err = testenv.AttachTC(ifindex, program, where)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := attached.Close(); err != nil {
			t.Error(err)
		}
	})
}
