// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"github.com/spliceway/spliceway/testenv/kernel/guest"
)

// commandLine: an oops ends the machine, and -no-reboot makes a panic's reboot the
// end of the emulator. What watches for stalls would see them in a slow emulation.
const commandLine = "console=ttyS0 panic=-1 oops=panic nowatchdog nosoftlockup rcupdate.rcu_cpu_stall_suppress=1 tsc=unstable"

// machine is a virtual one, without disk and network.
type machine struct {
	options
	kernel, initramfs string
	console           string // file for what the kernel and init say
}

// boot runs the machine to its end and calls event, one at a time, for what comes
// from init. It returns nil if init said that all was done.
func (m *machine) boot(ctx context.Context, event func(guest.Event)) error {
	cmd := exec.CommandContext(ctx, emulator,
		"-machine", "accel="+m.accel, "-cpu", "max", "-smp", strconv.Itoa(m.cpus), "-m", strconv.Itoa(m.memory),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", m.kernel, "-initrd", m.initramfs, "-append", commandLine,
		"-serial", "file:"+m.console, "-serial", "stdio")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	events, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	guestErr := readEvents(events, event)
	// To the end, or the emulator waits for somebody to read.
	_, _ = io.Copy(io.Discard, events)
	if err := cmd.Wait(); ctx.Err() != nil {
		return context.Cause(ctx)
	} else if err != nil {
		return fmt.Errorf("%s: %w: %s", emulator, err, strings.TrimSpace(stderr.String()))
	}
	return guestErr
}

var errDied = errors.New("the machine ended before its tests did")

func readEvents(events io.Reader, event func(guest.Event)) error {
	decoder := json.NewDecoder(events)
	for {
		var e guest.Event
		if err := decoder.Decode(&e); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return errDied
		} else if err != nil {
			return fmt.Errorf("read the guest's report: %w", err)
		}
		switch {
		case e.Error != "":
			return fmt.Errorf("init in the guest: %s", e.Error)
		case e.Done:
			return nil
		}
		event(e)
	}
}

// consoleText is what the kernel has said, without the emulator's line ends.
func (m *machine) consoleText() string {
	data, err := os.ReadFile(m.console)
	if err != nil {
		return err.Error()
	}
	return strings.ReplaceAll(string(data), "\r", "")
}
