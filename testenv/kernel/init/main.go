// SPDX-License-Identifier: Apache-2.0

// Command init is the only program of a test kernel besides the tests: it sets the
// machine up, runs the plan, reports, and reboots, which ends the emulator.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv/kernel/guest"
)

func main() {
	if filepath.Base(os.Args[0]) == "readlink" {
		readlink()
		return
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init: this sets up a whole machine and reboots it: it is for test kernels (make test-kernel)")
		os.Exit(1)
	}
	// Before anything else: without these there is no way to tell what is wrong.
	err := mountAll()
	events, openErr := os.OpenFile(guest.Events, os.O_WRONLY|unix.O_NOCTTY, 0)
	r := reporter{json.NewEncoder(events)}
	if err = errors.Join(err, openErr); err == nil {
		err = run(r)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
		r.send(guest.Event{Error: err.Error()})
	}
	r.send(guest.Event{Done: err == nil})
	// What is in the port's buffer would be lost with the machine.
	_ = unix.IoctlSetInt(int(events.Fd()), unix.TCSBRK, 1)
	err = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	fmt.Fprintln(os.Stderr, "init: reboot:", err) // and the kernel panics, for want of an init
}

func run(r reporter) error {
	data, err := os.ReadFile(guest.PlanFile)
	if err != nil {
		return err
	}
	var plan guest.Plan
	if err := json.Unmarshal(data, &plan); err != nil {
		return fmt.Errorf("read %s: %w", guest.PlanFile, err)
	}
	if err := setUp(plan.Modules); err != nil {
		return err
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return err
	}
	r.send(guest.Event{Booted: unix.ByteSliceToString(name.Release[:])})
	for _, p := range plan.Packages {
		if err := test(r, p); err != nil {
			return fmt.Errorf("run the tests of %s: %w", p.Name, err)
		}
	}
	return nil
}

// reporter writes events. What it cannot write, nobody would read.
type reporter struct{ encoder *json.Encoder }

func (r reporter) send(e guest.Event) { _ = r.encoder.Encode(e) }

// readlink stands in for readlink(1), which tests run in a namespace.
func readlink() {
	for _, name := range os.Args[1:] {
		target, err := os.Readlink(name)
		if err != nil {
			fmt.Fprintln(os.Stderr, "readlink:", err)
			os.Exit(1)
		}
		fmt.Println(target)
	}
}
