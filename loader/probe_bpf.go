// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"math"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// bpfChecks are what the programs of this version need.
func bpfChecks() []check {
	const without = "listen takes single addresses only, no prefix"
	return []check{
		{Feature{Name: "bpf syscall", UsedBy: PrefixListeners, Since: "3.18", Without: without,
			For: "run programs in the kernel"}, askBPF},
		{Feature{Name: "sk_lookup program", UsedBy: PrefixListeners, Since: "5.9", Without: without,
			For: "choose the listener of a connection"}, hasProgram(ebpf.SkLookup)},
		{Feature{Name: "sockmap", UsedBy: PrefixListeners, Since: "5.7", Without: without,
			For: "hold listening sockets where a program finds them"}, askListenSockmap},
		{Feature{Name: "LPM trie", UsedBy: PrefixListeners, Since: "4.11", Without: without,
			For: "find the prefix of an address"}, hasMap(ebpf.LPMTrie)},
	}
}

// packetChecks are what engine packet needs.
func packetChecks() []check {
	const without = "all flows have the engine splice"
	feature := func(name, since, use string) Feature {
		return Feature{Name: name, UsedBy: PacketEngine, Since: since, For: use, Without: without}
	}
	tcx := feature("tcx link", "6.6", "attach tc programs beside those of others")
	tcx.Without = "nothing but a way to attach: clsact is used"
	clsact := feature("clsact", "4.5", "attach tc programs where there is no tcx")
	clsact.Without = "nothing where there is tcx, else all flows have the engine splice"
	return append([]check{
		{feature("kernel BTF", "5.4", "tell programs how this kernel's structures are laid out"), askBTF},
		{feature("tc program", "4.1", "change and redirect packets at a device"), hasProgram(ebpf.SchedCLS)},
		{tcx, askTCX},
		{clsact, askClsact},
		{feature("ring buffer", "5.8", "carry events from programs to user space"), hasMap(ebpf.RingBuf)},
		{feature("syscall program", "5.14", "run a program on user space's call"), hasProgram(ebpf.Syscall)},
		{feature("compare-and-swap", "5.12", "change state that several CPUs write"), askCompareAndSwap},
		{feature("bpf_skc_lookup_tcp", "5.2", "find the socket of a packet"), hasTCHelper(asm.FnSkcLookupTcp)},
		{feature("bpf_skc_to_tcp_sock", "5.9", "read the TCP state of a socket"), hasTCHelper(asm.FnSkcToTcpSock)},
		{feature("bpf_redirect_neigh", "5.10", "send a packet out with the neighbour's address filled in"), hasTCHelper(asm.FnRedirectNeigh)},
		{feature("bpf_ktime_get_coarse_ns", "5.11", "tell the time cheaply"), hasTCHelper(asm.FnKtimeGetCoarseNs)},
		{feature("bpf_loop", "5.17", "walk TCP options in any layout"), hasTCHelper(asm.FnLoop)},
		{feature("map batch operations", "5.6", "look at all flows at little cost"), askBatch},
	}, packetProgramChecks(feature)...)
}

// unusedBPFChecks are abilities that no program of this version uses.
func unusedBPFChecks() []check {
	return []check{
		{Feature{Name: "bpf_redirect_peer", Since: "5.10",
			For: "hand a packet to the other end of a veth"}, hasTCHelper(asm.FnRedirectPeer)},
	}
}

func hasProgram(t ebpf.ProgramType) func() (string, error) {
	return func() (string, error) { return "", features.HaveProgramType(t) }
}

func hasMap(t ebpf.MapType) func() (string, error) {
	return func() (string, error) { return "", features.HaveMapType(t) }
}

func hasTCHelper(f asm.BuiltinFunc) func() (string, error) {
	return func() (string, error) { return "", features.HaveProgramHelper(ebpf.SchedCLS, f) }
}

// askBPF makes the simplest map. A refusal to a process that has the capability
// is an answer, not a want of privileges: containers and hardened kernels do so.
func askBPF() (string, error) {
	err := features.HaveMapType(ebpf.Array)
	switch {
	case errors.Is(err, unix.ENOSYS):
		return "the kernel was built without it", ErrNotSupported
	case errors.Is(err, unix.EPERM) && hasCapability(unix.CAP_BPF, unix.CAP_SYS_ADMIN):
		return "refused although this process has the capability: a container, a seccomp filter or kernel lockdown is in the way", ErrNotSupported
	}
	return "", err
}

// hasCapability reports whether one of the capabilities is effective in this
// thread, be it only in a user namespace of its own.
func hasCapability(anyOf ...int) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData // version 3 carries 64 capabilities in two words
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return false
	}
	for _, c := range anyOf {
		if sets[c/32].Effective&(1<<(c%32)) != 0 {
			return true
		}
	}
	return false
}

// askListenSockmap does not rely on the map's type alone: it came with 4.14, but
// took established sockets only before 5.7 (and UDP's with 5.8).
func askListenSockmap() (string, error) {
	if err := features.HaveMapType(ebpf.SockMap); err != nil {
		return "", err
	}
	fd, err := loopbackListener()
	if err != nil {
		return "", fmt.Errorf("listen on loopback: %w", err)
	}
	defer unix.Close(fd)
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.SockMap, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		return "", err
	}
	defer m.Close()
	if err := m.Put(uint32(0), uint64(fd)); errors.Is(err, unix.EOPNOTSUPP) {
		return "takes no listening sockets", ErrNotSupported
	} else if err != nil {
		return "", err
	}
	return "", nil
}

// loopbackListener listens at a port of the kernel's choice, also where the
// loopback device is down. The caller closes the descriptor.
func loopbackListener() (fd int, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return -1, err
	}
	err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	}
	if err == nil {
		err = unix.Listen(fd, 0)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func askBTF() (string, error) {
	_, err := os.Stat("/sys/kernel/btf/vmlinux")
	if errors.Is(err, os.ErrNotExist) {
		return "the kernel was built without it (CONFIG_DEBUG_INFO_BTF)", ErrNotSupported
	}
	return "", err
}

func askCompareAndSwap() (string, error) {
	err := tryProgram(&ebpf.ProgramSpec{
		Type: ebpf.SocketFilter,
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R0, 0),
			asm.StoreMem(asm.RFP, -8, asm.R0, asm.DWord),
			asm.Mov.Imm(asm.R1, 1),
			asm.CmpXchg.Mem(asm.RFP, asm.R1, asm.DWord, -8),
			asm.Mov.Imm(asm.R0, 0),
			asm.Return(),
		},
	}, func(*ebpf.Program) error { return nil })
	if errors.Is(err, unix.EINVAL) {
		return "the verifier does not know the instruction", ErrNotSupported
	}
	return "", err
}

// askTCX attaches to a device that does not exist: a kernel with tcx misses the
// device, one without does not know the attach type.
func askTCX() (string, error) {
	return "", tryProgram(&ebpf.ProgramSpec{
		Type:         ebpf.SchedCLS,
		License:      "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	}, func(p *ebpf.Program) error {
		l, err := link.AttachTCX(link.TCXOptions{Interface: math.MaxInt32, Program: p, Attach: ebpf.AttachTCXIngress})
		if errors.Is(err, unix.ENODEV) {
			return nil
		}
		if err == nil {
			return errors.Join(errors.New("a program was attached to a device that does not exist"), l.Close())
		}
		return err
	})
}

// tryProgram loads a program, uses it and takes it out again.
func tryProgram(spec *ebpf.ProgramSpec, use func(*ebpf.Program) error) error {
	p, err := ebpf.NewProgram(spec)
	if err != nil {
		return err
	}
	defer p.Close()
	return use(p)
}
