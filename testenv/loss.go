// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"errors"
	"fmt"
	"io"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
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
// calling thread's namespace. Closing what is returned ends it.
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
	attached, err := AttachTC(ifindex, program, ebpf.AttachTCXIngress)
	closeErr := program.Close() // what is attached holds it
	if err != nil {
		return nil, errors.Join(fmt.Errorf("attach loss program: %w", err), closeErr)
	}
	return attached, closeErr
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
