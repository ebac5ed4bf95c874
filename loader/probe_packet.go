// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/bpf"
)

// packetProgramChecks load the programs of engine packet as they are, one by one: what
// this kernel's verifier says is the last word.
func packetProgramChecks(feature func(name, since, use string) Feature) []check {
	spec, err := bpf.LoadPacket()
	var checks []check
	for _, p := range []struct{ name, use string }{
		{bpf.PacketProgPacketIngress, "splice flows and translate their packets"},
		{bpf.PacketProgPacketIngressRaw, "the same, on devices without a link-layer header"},
		{bpf.PacketProgPacketEgress, "keep what the agent's own sockets say of spliced flows off the wire"},
		{bpf.PacketProgPacketEgressRaw, "the same, on devices without a link-layer header"},
		{bpf.PacketProgPacketTransit, "change a flow's state"},
		{bpf.PacketProgPacketReroute, "change a flow's device"},
	} {
		ask := loadsAlone(spec, p.name)
		if err != nil {
			ask = func() (string, error) { return "", fmt.Errorf("read programs: %w", err) }
		}
		checks = append(checks, check{feature("program "+p.name, "6.1", p.use), ask})
	}
	return checks
}

// loadsAlone loads one program with maps of its own and takes it out again. What the
// verifier has against it is the detail.
func loadsAlone(spec *ebpf.CollectionSpec, name string) func() (string, error) {
	return func() (string, error) {
		alone := spec.Copy()
		for other := range alone.Programs {
			if other != name {
				delete(alone.Programs, other)
			}
		}
		c, err := ebpf.NewCollection(alone)
		if refusal := (*ebpf.VerifierError)(nil); errors.As(err, &refusal) && !errors.Is(err, unix.EPERM) {
			return verdict(refusal), ErrNotSupported
		}
		if err != nil {
			return "", err
		}
		c.Close()
		return "", nil
	}
}

// verdict is the first line of what the verifier says is wrong: the last of its log
// that is no statistics.
func verdict(e *ebpf.VerifierError) string {
	for _, l := range slices.Backward(e.Log) {
		if l = strings.TrimSpace(l); l != "" && !strings.HasPrefix(l, "processed ") && !strings.HasPrefix(l, "verification time") &&
			!strings.HasPrefix(l, "stack depth") {
			return "the verifier refuses it: " + l
		}
	}
	return "the kernel refuses it: " + e.Cause.Error()
}

// askClsact attaches a program in a network namespace that is gone afterwards.
func askClsact() (string, error) {
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with its namespace
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("make network namespace: %w", err)
			return
		}
		err = tryProgram(&ebpf.ProgramSpec{
			Type: ebpf.SchedCLS, License: "Dual BSD/GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
		}, func(p *ebpf.Program) error {
			const loopback = 1 // the first device of every namespace
			if err := netlink.QdiscAdd(clsactQdisc(loopback)); err != nil {
				return fmt.Errorf("add clsact: %w", err)
			}
			if err := netlink.FilterReplace(clsactFilter(loopback, 0, p.FD())); err != nil {
				return fmt.Errorf("add filter: %w", err)
			}
			return nil
		})
	}()
	<-done
	if errors.Is(err, unix.ENOENT) { // qdisc_lookup_ops, tcf_proto_lookup_ops
		return "the kernel was built without it (NET_SCH_INGRESS, NET_CLS_BPF): " + err.Error(), ErrNotSupported
	}
	return "", err
}

// askBatch looks at an empty map.
func askBatch() (string, error) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return "", err
	}
	defer m.Close()
	var at ebpf.MapBatchCursor
	if _, err := m.BatchLookup(&at, make([]uint32, 1), make([]uint32, 1), nil); !errors.Is(err, ebpf.ErrKeyNotExist) {
		return "", err
	}
	return "", nil
}
