// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv"
)

// shortcut is a gateway whose client and backend are sockets of one host, spliced, with
// the programs of the short cut attached to that host.
type shortcut struct {
	*gateway
	cut  SockmapObjects
	iter *link.Iter
	now  SockmapSettings
}

// The ports of a test's connections: the same in every namespace.
const (
	clientPort, listenerPort = 10001, 20001
	sourcePort, backendPort  = 30001, 40001
)

// enum port_kind, which has no BTF of its own.
const (
	portListener = 1
	portSource   = 2
)

// flowShortcut and flowLocal are of enum flow_flags.
const (
	flowShortcut = 1
	flowLocal    = 2
)

const (
	bigMark = 1 << 30 // no queue of a test comes to it
	never   = 1 << 30 // packets, as many as none of a test's flows moves
)

var localEvent = event{Kind: PacketEventKindEVENT_LOCAL}

// newShortcut makes a spliced flow whose ends will not join before they are told to
// (order), nor are they found.
func newShortcut(t *testing.T, family string) *shortcut {
	t.Helper()
	s := loadShortcut(t)
	s.client, s.a, s.ends.client, s.front = s.connect(s.ns, family, clientPort, listenerPort)
	s.b, s.backend, s.back, s.ends.backend = s.connect(s.ns, family, sourcePort, backendPort)
	s.splice()
	return s
}

// loadShortcut is all of it but the connections.
func loadShortcut(t *testing.T) *shortcut {
	t.Helper()
	s := &shortcut{gateway: &gateway{engine: load(t), ns: testenv.MustNamespace(t, "gateway")}}
	spec, err := LoadSockmap()
	if err != nil {
		t.Fatal(err)
	}
	replace := map[string]*ebpf.Map{
		SockmapMapFlows: s.Flows, SockmapMapTuples: s.Tuples, SockmapMapRecords: s.Records, SockmapMapDevices: s.Devices,
		SockmapMapEvents: s.Events, SockmapMapPacketCounts: s.PacketCounts,
		SockmapMapCandidates: s.Candidates, SockmapMapShortcuts: s.Shortcuts,
	}
	for name, m := range replace {
		spec.Maps[name].MaxEntries = m.MaxEntries()
	}
	spec.Maps[SockmapMapSockets].MaxEntries = 64
	err = spec.LoadAndAssign(&s.cut, &ebpf.CollectionOptions{MapReplacements: replace})
	if err != nil {
		t.Fatalf("load: %+v", err)
	}
	closed := func(c io.Closer) {
		t.Cleanup(func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	closed(&s.cut)
	s.now = SockmapSettings{Mark: bigMark, Packets: never}
	s.now.Ports[listenerPort], s.now.Ports[sourcePort] = portListener, portSource
	s.order(func(*SockmapSettings) {})

	err = link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: s.cut.Sockets.FD(), Program: s.cut.SockmapSend, Attach: ebpf.AttachSkMsgVerdict,
	})
	if err != nil {
		t.Fatalf("attach to sends: %v", err)
	}
	if s.iter, err = link.AttachIter(link.IterOptions{Program: s.cut.SockmapJoin, Map: s.cut.Joining}); err != nil {
		t.Fatalf("make iterator: %v", err)
	}
	closed(s.iter)
	reads, err := link.AttachTracing(link.TracingOptions{Program: s.cut.SockmapRead, AttachType: ebpf.AttachTraceRawTp})
	if err != nil {
		t.Fatalf("attach to reads: %v", err)
	}
	closed(reads)
	cgroup := rootCgroup(t)
	defer unix.Close(cgroup)
	watch, err := link.AttachRawLink(link.RawLinkOptions{Target: cgroup, Program: s.cut.SockmapWatch, Attach: ebpf.AttachCGroupSockOps})
	if err != nil {
		t.Fatalf("attach to the root cgroup: %v", err)
	}
	closed(watch)
	return s
}

// rootCgroup is the root of the cgroup v2 hierarchy.
func rootCgroup(t *testing.T) int {
	t.Helper()
	fs, err := unix.Fsopen("cgroup2", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Fatalf("open cgroup2: %v", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		t.Fatalf("mount cgroup2: %v", err)
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID)
	if err != nil {
		t.Fatalf("mount cgroup2: %v", err)
	}
	defer unix.Close(mount)
	fd, err := unix.Openat(mount, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open cgroup2: %v", err)
	}
	return fd
}

// order changes the settings.
func (s *shortcut) order(change func(*SockmapSettings)) {
	s.t.Helper()
	change(&s.now)
	if err := s.cut.SockmapSettings.Put(uint32(0), &s.now); err != nil {
		s.t.Fatal(err)
	}
}

func (s *shortcut) mark(bytes uint32) {
	s.t.Helper()
	s.order(func(o *SockmapSettings) { o.Mark = bytes })
}

func (s *shortcut) packets(n uint32) {
	s.t.Helper()
	s.order(func(o *SockmapSettings) { o.Packets = n })
}

// connect makes a connection between two ports of a namespace. Its sockets do not wait.
func (s *shortcut) connect(ns *testenv.Namespace, family string, from, to uint16) (dialer, accepted int, near, far netip.AddrPort) {
	s.t.Helper()
	t := s.t.(*testing.T)
	dialer, accepted, near, far = connection(t, ns, ns, local[family], func(ns *testenv.Namespace, _, dialer int) error {
		// The listener takes what port is free.
		only := strconv.Itoa(int(to))
		return errors.Join(ns.SetSysctl("net/ipv4/ip_local_port_range", only+" "+only),
			unix.Bind(dialer, sockaddr(netip.AddrPortFrom(local[family], from))))
	})
	for _, fd := range []int{dialer, accepted} {
		err := errors.Join(unix.SetNonblock(fd, true), unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
		if err != nil {
			t.Fatal(err)
		}
	}
	return dialer, accepted, near, far
}

// splice takes the flow out of A and B.
func (s *shortcut) splice() {
	s.t.Helper()
	t := s.t.(*testing.T)
	s.sayHello()
	s.arm()
	f := s.flow()
	f.Flags |= flowShortcut
	s.put(f, s.ends)
	s.device(PacketDevice{Flags: PacketDeviceFlagsDEVICE_LOOPBACK})
	attach(t, s.ns, s.PacketIngress, ebpf.AttachTCXIngress, 1)
	attach(t, s.ns, s.PacketEgress, ebpf.AttachTCXEgress, 1)
	s.receives(s.backend, hello)
	s.send(s.backend, "ServerHello")
	s.receives(s.client, "ServerHello")
	s.wantState(PacketStateSPLICED)
	s.wantEvents(splicedEvent)
}

// side's socket.
func (s *shortcut) socket(side PacketSide) int {
	if side == PacketSideCLIENT {
		return s.client
	}
	return s.backend
}

func (s *shortcut) send(fd int, data string) {
	s.t.Helper()
	if err := sendAll(fd, []byte(data)); err != nil {
		s.t.Fatal(err)
	}
}

// receives checks what comes next.
func (s *shortcut) receives(fd int, want string) {
	s.t.Helper()
	if err := receiveAll(fd, []byte(want)); err != nil {
		s.t.Fatal(err)
	}
}

// ready waits until a socket can be read or written.
func ready(fd int, events int16) error {
	p := []unix.PollFd{{Fd: int32(fd), Events: events}}
	return again(func() error {
		n, err := unix.Poll(p, int(patience.Milliseconds()))
		if n == 0 && err == nil {
			return fmt.Errorf("socket %d: nothing happened for %s", fd, patience)
		}
		return err
	})
}

func sendAll(fd int, data []byte) error {
	for len(data) > 0 {
		n, err := unix.SendmsgN(fd, data, nil, nil, unix.MSG_NOSIGNAL)
		switch {
		case errors.Is(err, unix.EAGAIN):
			err = ready(fd, unix.POLLOUT)
		case errors.Is(err, unix.EINTR):
			err = nil
		}
		if err != nil {
			return fmt.Errorf("send: %w", err)
		}
		data = data[max(n, 0):]
	}
	return nil
}

func receiveAll(fd int, want []byte) error {
	got := make([]byte, len(want))
	for at := 0; at < len(got); {
		n, err := unix.Read(fd, got[at:])
		switch {
		case errors.Is(err, unix.EAGAIN):
			err = ready(fd, unix.POLLIN)
		case errors.Is(err, unix.EINTR):
			err = nil
		case n == 0 && err == nil:
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("read, after %d of %d bytes: %w", at, len(got), err)
		}
		at += max(n, 0)
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("got other bytes than were sent: %.60q, want %.60q", got, want)
	}
	return nil
}

// pingPong has both ends send and hear the ACK of it.
func (s *shortcut) pingPong(one, other int) {
	s.t.Helper()
	s.send(one, "ping")
	s.receives(other, "ping")
	s.send(other, "pong")
	s.receives(one, "pong")
}

// quiet waits until all that was sent is acknowledged: no packet is due then.
func (s *shortcut) quiet() {
	s.t.Helper()
	s.waitFor("all ACKs", func() (bool, error) {
		c, errC := unix.IoctlGetInt(s.client, unix.SIOCOUTQ)
		b, errB := unix.IoctlGetInt(s.backend, unix.SIOCOUTQ)
		return c == 0 && b == 0, errors.Join(errC, errB)
	})
}

// state is what the programs know of the flow; none: no end of it is found.
func (s *shortcut) state() (v SockmapShortcut) {
	s.t.Helper()
	if err := s.Shortcuts.Lookup(uint64(flowID), &v); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		s.t.Fatal(err)
	}
	return v
}

// talk goes on until both ends' states are what they ought to be.
func (s *shortcut) talk(what string, done func(client, backend SockmapEndState) bool) {
	s.t.Helper()
	s.waitFor(what, func() (bool, error) {
		s.pingPong(s.client, s.backend)
		v := s.state()
		return done(v.Ends[0].State, v.Ends[1].State), nil
	})
}

// found has both ends known.
func (s *shortcut) found() {
	s.t.Helper()
	s.talk("both ends to be found", func(c, b SockmapEndState) bool {
		return c >= SockmapEndStateFOUND && b >= SockmapEndStateFOUND
	})
}

// fit has both ends ready to join.
func (s *shortcut) fit() {
	s.t.Helper()
	s.packets(0)
	s.talk("both ends to be fit", func(c, b SockmapEndState) bool {
		return c >= SockmapEndStateFIT && b >= SockmapEndStateFIT
	})
	s.quiet()
	s.wantEvents(localEvent)
}

// join runs the iterator.
func (s *shortcut) join() {
	s.t.Helper()
	r, err := s.iter.Open()
	if err == nil {
		_, err = io.Copy(io.Discard, r)
		err = errors.Join(err, r.Close())
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// joined is a flow that takes the short cut from now on. No packet is on its way.
func joined(t *testing.T, family string) *shortcut {
	t.Helper()
	s := newShortcut(t, family)
	s.fit()
	s.join()
	for side, e := range s.state().Ends {
		if e.State != SockmapEndStateJOINED || e.Misfit != SockmapMisfitFITS {
			t.Fatalf("side %d: state %d, misfit %d, want it joined", side, e.State, e.Misfit)
		}
	}
	return s
}

// ways is what a side has sent, and how.
type ways struct{ cut, messages, road, switches uint64 }

func (s *shortcut) ways(side PacketSide) ways {
	s.t.Helper()
	e := s.state().Ends[side]
	return ways{e.Bytes, e.Messages, e.Road, uint64(e.Switches)}
}

// wantWays checks what a side has sent since the flow joined.
func (s *shortcut) wantWays(side PacketSide, want ways) {
	s.t.Helper()
	if got := s.ways(side); got != want {
		s.t.Errorf("side %d sent %+v, want %+v", side, got, want)
	}
}

// inSockets are the cookies of the sockets in the map, by side; 0: none.
func (s *shortcut) inSockets() (cookies [2]uint64) {
	s.t.Helper()
	for side := range cookies {
		err := s.cut.Sockets.Lookup(SockmapSocketKey{Flow: flowID, Side: uint64(side)}, &cookies[side])
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			s.t.Fatal(err)
		}
	}
	return cookies
}

// inQueue is the memory of what a socket has unread, as the programs count it.
func (s *shortcut) inQueue(fd int) uint32 {
	s.t.Helper()
	var info [9]uint32 // SK_MEMINFO_VARS
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		s.t.Fatalf("SO_MEMINFO: %v", errno)
	}
	return info[0] // SK_MEMINFO_RMEM_ALLOC
}
