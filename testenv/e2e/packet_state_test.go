// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/spliceway/spliceway/testenv"
)

// TestPacketStateIsOneAgents: a second agent with the same state says so and ends, and
// the first one's flows do not notice.
func TestPacketStateIsOneAgents(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	state := filepath.Join(testenv.MustBPFFS(t), "state")
	s := netStart(t, n, "bpffs: "+state+"\n")
	f := s.flow("IPv4")
	second := launch(t, n, "admin: {address: off}\nengine: auto\nbpffs: "+state+"\nendpoints:\n"+endpoint("a", "tls://a.test:9444", nobody(t, n.Backends[0])))
	opsExit(t, second, 1)
	if want := state + ": another agent is running with this bpffs path"; !strings.Contains(second.Log().String(), want) {
		t.Errorf("%q is not in\n%s", want, second.Log())
	}
	s.exchange(f, 1<<20, 1<<20, wasSpliced)
	s.exchange(s.flow("IPv6"), 1000, 1000, wasSpliced)
}

// TestPacketRefusesForeignState: what stands in the agent's place and is not its own is
// named, and left as it is.
func TestPacketRefusesForeignState(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	directory := func(path string) error { return os.MkdirAll(path, 0o700) }
	otherMap := func(path string) error {
		m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
		if err != nil {
			return err
		}
		defer func() { _ = m.Close() }()
		return m.Pin(path)
	}
	program := func(path string) error {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SocketFilter, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
		if err != nil {
			return err
		}
		defer func() { _ = p.Close() }()
		return p.Pin(path)
	}
	for name, c := range map[string]struct {
		make func(path string) error
		at   string
	}{
		"a map of another kind":    {make: otherMap, at: "v1/flows"},
		"a map of another name":    {make: otherMap, at: "v1/other"},
		"a program":                {make: program, at: "v1/flows"},
		"a directory for a map":    {make: directory, at: "v1/flows"},
		"somebody's directory":     {make: directory, at: "somebody"},
		"another version's state":  {make: directory, at: "v2"},
		"a program in the top dir": {make: program, at: "prog"},
	} {
		t.Run(name, func(t *testing.T) {
			state := filepath.Join(testenv.MustBPFFS(t), "state")
			at := filepath.Join(state, c.at)
			if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := c.make(at); err != nil {
				t.Fatal(err)
			}
			r := launch(t, n, "log: {access: true}\nengine: auto\nbpffs: "+state+"\nendpoints:\n"+endpoint("a", sni("a.test"), nobody(t, n.Backends[0])))
			opsExit(t, r, 1)
			if log := r.Log().String(); !strings.Contains(log, "the state belongs to something else: "+at+" ") || !strings.Contains(log, "bpffs") {
				t.Errorf("%s is not named, or no way out:\n%s", at, log)
			}
			if _, err := os.Stat(at); err != nil {
				t.Errorf("it is not there any more: %v", err)
			}
			entries, err := os.ReadDir(filepath.Dir(at))
			if err != nil || len(entries) != 1 {
				t.Errorf("something has come to it: %v (%v)", entries, err)
			}
		})
	}
}

// TestPacketWithoutItsFileSystem: where state cannot be pinned there is a warning, and
// engine splice.
func TestPacketWithoutItsFileSystem(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	for _, engine := range []string{"auto", "packet"} {
		t.Run(engine, func(t *testing.T) {
			l, target := listenOn(t, n.Backends[0])
			dir := filepath.Join(t.TempDir(), "state")
			r := start(t, n, fmt.Sprintf("log: {access: true}\nengine: %s\nbpffs: %s\nendpoints:\n%s", engine, dir, endpoint("a", sni("a.test"), target)))
			warning, err := r.WaitLine(short(t), says("this host cannot have engine packet: flows have engine splice"))
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(warning, `"level":"WARN"`) || !strings.Contains(warning, dir+" is not in a BPF file system") {
				t.Errorf("the warning: %s", warning)
			}
			s := netSite{r, l}
			s.exchange(r.open(n.Clients[0], l, "a.test"), 1<<20, 1<<20, wasNot("unavailable"))
		})
	}
}
