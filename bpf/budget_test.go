// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"reflect"
	"testing"

	"github.com/cilium/ebpf"
)

// budgets are the instructions that the verifier may look at for each program: twice
// what it took with clang 19 and Linux 6.18. The kernel gives up at a million; a
// change that comes near a budget makes paths that do not join again.
var budgets = map[string]uint32{
	"packet_ingress":     30000,
	"packet_ingress_raw": 30000,
	"packet_egress":      700,
	"packet_egress_raw":  700,
	"packet_transit":     40,
	"packet_reroute":     50,
}

func TestVerifierStaysInBudget(t *testing.T) {
	e := load(t)
	programs := reflect.ValueOf(e.PacketPrograms)
	if programs.NumField() != len(budgets) {
		t.Errorf("%d programs, %d budgets", programs.NumField(), len(budgets))
	}
	for i := range programs.NumField() {
		info, err := programs.Field(i).Interface().(*ebpf.Program).Info()
		if err != nil {
			t.Fatal(err)
		}
		took, ok := info.VerifiedInstructions()
		if !ok {
			t.Skip("this kernel does not tell how many instructions were verified (since Linux 5.16)")
		}
		t.Logf("%s: %d instructions verified", info.Name, took)
		if took > budgets[info.Name] {
			t.Errorf("%s: %d instructions verified, budget %d", info.Name, took, budgets[info.Name])
		}
	}
}
