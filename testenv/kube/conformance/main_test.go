// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime/pkg/log"
)

// inside tells the test that it is in namespaces of its own.
const inside = "SPLICEWAY_CONFORMANCE_INSIDE"

// TestMain runs the tests in a network, a process tree and a tree of mounts of their own:
// whatever happens, all of it ends with them.
func TestMain(m *testing.M) {
	if os.Getenv(inside) == "" {
		os.Exit(enter())
	}
	if err := furnish(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctrl.SetLogger(logr.Discard()) // of the suite's clients: they complain of silence
	os.Exit(m.Run())
}

func enter() int {
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests make namespaces: run as root (sudo make conformance)")
		return 1
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// furnish makes the host: a bridge for pods, and the addresses of Gateways.
func furnish() error {
	for _, command := range [][]string{
		{"mount", "--make-rprivate", "/"},
		{"mount", "-t", "proc", "proc", "/proc"},
		{"mount", "-t", "tmpfs", "tmpfs", "/run"},
		{"mount", "-t", "bpf", "bpf", "/sys/fs/bpf"},
		{"ip", "link", "set", "lo", "up"},
		{"ip", "link", "add", "br0", "type", "bridge"},
		{"ip", "addr", "add", bridge + "/16", "dev", "br0"},
		{"ip", "link", "set", "br0", "up"},
		// The API server wants a host with a default route.
		{"ip", "route", "add", "default", "dev", "br0"},
		{"ip", "route", "add", "local", pool, "dev", "lo"},
	} {
		if err := run(command...); err != nil {
			return err
		}
	}
	return nil
}
