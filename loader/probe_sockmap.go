// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/bpf"
)

// sockmapChecks are what the short cut between sockets of this host needs.
func sockmapChecks() []check {
	feature := func(name, since, use string) Feature {
		return Feature{Name: name, UsedBy: Shortcut, Since: since, For: use, Without: "flows between processes of this host have the engine packet alone"}
	}
	kernel := feature("kernel with sockmap's fixes", "6.18", "have sockmap on without being asked (6.1.192 and 6.12.105 have them, too)")
	kernel.Without = "sockmap is off unless it is set to on"
	checks := []check{
		{feature("root cgroup", "4.5", "see all connections of the host"), askRootCgroup},
		{feature("sock_ops program", "4.13", "hear of connections being made"), hasProgram(ebpf.SockOps)},
		{feature("sk_msg program", "4.17", "see and redirect what a socket sends"), hasProgram(ebpf.SkMsg)},
		{feature("sockhash", "4.18", "hold sockets by a key of one's own"), hasMap(ebpf.SockHash)},
		{feature("redirected bytes are charged", "6.13", "bound what waits in a socket's queue (6.1.123 and 6.12.8 have it, too)"), askCharge},
		{kernel, func() (string, error) {
			if err := SockmapKernel(); err != nil {
				return err.Error(), ErrNotSupported
			}
			return "", nil
		}},
	}
	spec, err := bpf.LoadSockmap()
	for _, p := range []struct{ name, use string }{
		{bpf.SockmapProgSockmapWatch, "find the sockets of spliced flows"},
		{bpf.SockmapProgSockmapJoin, "put them into a map"},
		{bpf.SockmapProgSockmapSend, "redirect what they send, where order and memory allow it"},
		{bpf.SockmapProgSockmapRead, "leave sockets alone that are read by splice(2)"},
	} {
		ask := loadsAlone(spec, p.name)
		if err != nil {
			ask = func() (string, error) { return "", fmt.Errorf("read programs: %w", err) }
		}
		checks = append(checks, check{feature("program "+p.name, "6.1", p.use), ask})
	}
	return checks
}

func askRootCgroup() (string, error) {
	dir, err := openRootCgroup("")
	if err != nil {
		if !errors.Is(err, unix.EPERM) {
			return err.Error(), ErrNotSupported
		}
		return "", err
	}
	name := dir.Name()
	return name, dir.Close()
}

// chargeTried is more than a socket is charged for besides.
const chargeTried = 64 << 10

// askCharge redirects bytes between two sockets of its own and looks whether the
// receiver is charged for them (bpf_tcp_ingress).
func askCharge() (string, error) {
	charged, err := redirectsCharged()
	if err == nil && !charged {
		return "a queue could grow without bound", ErrNotSupported
	}
	return "", err
}

func redirectsCharged() (charged bool, err error) {
	sockets, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.SockHash, KeySize: 4, ValueSize: 8, MaxEntries: 2})
	if err != nil {
		return false, err
	}
	defer sockets.Close()
	const receiver = 1
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SkMsg, License: "Dual BSD/GPL", Instructions: asm.Instructions{
		asm.StoreImm(asm.RFP, -4, receiver, asm.Word),
		asm.LoadMapPtr(asm.R2, sockets.FD()),
		asm.Mov.Reg(asm.R3, asm.RFP),
		asm.Add.Imm(asm.R3, -4),
		asm.Mov.Imm(asm.R4, 1), // BPF_F_INGRESS
		asm.FnMsgRedirectHash.Call(),
		asm.Return(),
	}})
	if err != nil {
		return false, err
	}
	defer program.Close()
	if err := link.RawAttachProgram(link.RawAttachProgramOptions{Target: sockets.FD(), Program: program, Attach: ebpf.AttachSkMsgVerdict}); err != nil {
		return false, fmt.Errorf("attach: %w", err)
	}
	from, to, err := loopbackPair()
	if err != nil {
		return false, err
	}
	defer unix.Close(from)
	defer unix.Close(to)
	for key, fd := range []int{from, receiver: to} {
		if err := sockets.Put(uint32(key), uint64(fd)); err != nil {
			return false, fmt.Errorf("put socket: %w", err)
		}
	}
	if _, err := unix.Write(from, make([]byte, chargeTried)); err != nil {
		return false, fmt.Errorf("send: %w", err)
	}
	n, err := receiveMemory(to)
	return n >= chargeTried, err
}

// loopbackPair makes a TCP connection to this host itself.
func loopbackPair() (from, to int, err error) {
	const kind = unix.SOCK_STREAM | unix.SOCK_CLOEXEC
	listener, err := unix.Socket(unix.AF_INET, kind, 0)
	if err != nil {
		return -1, -1, fmt.Errorf("make socket: %w", err)
	}
	defer unix.Close(listener)
	at := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	if err := unix.Bind(listener, at); err != nil {
		return -1, -1, fmt.Errorf("bind: %w", err)
	}
	if err := unix.Listen(listener, 1); err != nil {
		return -1, -1, fmt.Errorf("listen: %w", err)
	}
	name, err := unix.Getsockname(listener)
	if err != nil {
		return -1, -1, fmt.Errorf("listen: %w", err)
	}
	if from, err = unix.Socket(unix.AF_INET, kind, 0); err != nil {
		return -1, -1, fmt.Errorf("make socket: %w", err)
	}
	if err = unix.Connect(from, name); err == nil {
		to, _, err = unix.Accept4(listener, unix.SOCK_CLOEXEC)
	}
	if err != nil {
		_ = unix.Close(from)
		return -1, -1, fmt.Errorf("connect: %w", err)
	}
	return from, to, nil
}

// receiveMemory is the bytes that a socket is charged for what it has not read:
// SO_MEMINFO's first word (sk_get_meminfo).
func receiveMemory(fd int) (uint32, error) {
	var info [9]uint32 // SK_MEMINFO_VARS
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, fmt.Errorf("read SO_MEMINFO: %w", errno)
	}
	return info[0], nil
}
