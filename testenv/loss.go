// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"errors"
	"fmt"
	"io"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Verdicts of a tcx program and the flag of bpf_clone_redirect, from
// include/uapi/linux/bpf.h.
const (
	tcxNext        = -1
	tcxDrop        = 2
	redirectArrive = 1 // BPF_F_INGRESS

	markOffset = 8 // of mark in struct __sk_buff
)

// copyMark is on the copy of a duplicate when it comes by again. No other mark
// gets here: a packet loses its own on the way into the namespace.
const copyMark = 0x64757065

// attachLoss loses and duplicates packets that arrive at an interface of the
// calling thread's namespace. Closing what is returned ends it. Before Linux 6.6,
// which brought tcx, it is a filter of clsact.
//
// The copy of a duplicate comes by as a packet of its own, and is left alone.
func attachLoss(ifindex int, loss, duplicate float64) (io.Closer, error) {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name:         "testenv_loss",
		Type:         ebpf.SchedCLS,
		License:      "Dual BSD/GPL",
		Instructions: lossInstructions(ifindex, loss, duplicate),
	})
	if err != nil {
		return nil, fmt.Errorf("load loss program: %w", err)
	}
	attached, err := link.AttachTCX(link.TCXOptions{
		Interface: ifindex,
		Program:   program,
		Attach:    ebpf.AttachTCXIngress,
	})
	if errors.Is(err, ebpf.ErrNotSupported) {
		return attachLossFilter(ifindex, program)
	}
	closeErr := program.Close() // the link holds the program
	if err != nil {
		return nil, errors.Join(fmt.Errorf("attach loss program: %w", err), closeErr)
	}
	return attached, closeErr
}

// lossFilter is a filter of clsact, and what it must be taken away with: the namespace.
type lossFilter struct {
	*netlink.Handle
	*netlink.BpfFilter
}

func attachLossFilter(ifindex int, program *ebpf.Program) (io.Closer, error) {
	defer program.Close() // the filter holds it
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("attach loss program: %w", err)
	}
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	if err := handle.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		handle.Close()
		return nil, fmt.Errorf("attach loss program: add clsact: %w", err)
	}
	filter := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: ifindex, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1,
		},
		Fd: program.FD(), Name: "testenv_loss", DirectAction: true,
	}
	if err := handle.FilterReplace(filter); err != nil {
		handle.Close()
		return nil, fmt.Errorf("attach loss program: %w", err)
	}
	return &lossFilter{handle, filter}, nil
}

// Close takes the filter away. A device that is gone took it along.
func (f *lossFilter) Close() error {
	defer f.Handle.Close()
	if err := f.FilterDel(f.BpfFilter); err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("detach loss program: %w", err)
	}
	return nil
}

func lossInstructions(ifindex int, loss, duplicate float64) asm.Instructions {
	program := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R7, asm.R6, markOffset, asm.Word),
		asm.JEq.Imm(asm.R7, copyMark, "unmark"),
	}
	if loss > 0 {
		program = append(program, unlessChance(loss, "keep")...)
		program = append(program, asm.Mov.Imm(asm.R0, tcxDrop), asm.Return())
	}
	program = append(program, asm.Mov.Imm(asm.R0, 0).WithSymbol("keep"))
	if duplicate > 0 {
		program = append(program, unlessChance(duplicate, "pass")...)
		program = append(program,
			asm.Mov.Imm(asm.R8, copyMark), // Linux 6.1 stores no immediate into a context
			asm.StoreMem(asm.R6, markOffset, asm.R8, asm.Word),
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.Mov.Imm(asm.R2, int32(ifindex)),
			asm.Mov.Imm(asm.R3, redirectArrive),
			asm.FnCloneRedirect.Call(),
		)
	}
	return append(program,
		asm.Mov.Imm(asm.R8, 0).WithSymbol("unmark"),
		asm.StoreMem(asm.R6, markOffset, asm.R8, asm.Word),
		asm.Mov.Imm(asm.R0, tcxNext).WithSymbol("pass"),
		asm.Return(),
	)
}

// unlessChance jumps to label but for the given fraction of its runs, which is
// above 0. The draw is of 32 bits, compared as such: an immediate of 64 would
// be extended by its sign.
func unlessChance(fraction float64, label string) asm.Instructions {
	limit := uint32(max(0, fraction*(1<<32)-1))
	return asm.Instructions{
		asm.FnGetPrandomU32.Call(),
		asm.JGT.Imm32(asm.R0, int32(limit), label),
	}
}
