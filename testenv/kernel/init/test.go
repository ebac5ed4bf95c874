// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"io"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv/kernel/guest"
)

// outputGrace is how long children that a test left behind may hold its output open.
const outputGrace = 10 * time.Second

// test runs one test binary. The error is of starting it; how it ended is an event.
func test(r reporter, p guest.Package) error {
	cmd := exec.Command(p.Binary, p.Args...)
	cmd.Dir = p.Dir
	cmd.Env = []string{"PATH=/bin", "HOME=/tmp", "USER=root"}
	cmd.WaitDelay = outputGrace
	out, in := io.Pipe()
	cmd.Stdout, cmd.Stderr = in, in // the same, so exec copies by one goroutine and lines keep their order
	passed := make(chan struct{})
	go func() {
		defer close(passed)
		lines := bufio.NewReader(out)
		for {
			line, err := lines.ReadString('\n')
			if line != "" {
				r.send(guest.Event{Package: p.Name, Output: strings.TrimSuffix(line, "\n")})
			}
			if err != nil {
				return
			}
		}
	}()
	start := time.Now()
	err := cmd.Run()
	in.Close()
	<-passed
	exit := guest.Exit{Took: time.Since(start)}
	if err != nil {
		exit.Status = err.Error()
	}
	if failed := new(exec.ExitError); err != nil && !errors.As(err, &failed) && !errors.Is(err, exec.ErrWaitDelay) {
		return err
	}
	reap()
	r.send(guest.Event{Package: p.Name, Exit: &exit})
	return nil
}

// reap takes in the orphans that have ended, as is the duty of process 1.
func reap() {
	for {
		if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid <= 0 || err != nil {
			return
		}
	}
}
