// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
)

// outputGrace is how long a process that has ended may leave its output open
// to children of its own.
const outputGrace = 10 * time.Second

// ProcessOptions describes a [Process].
type ProcessOptions struct {
	Namespace *Namespace // nil: the caller's
	Path      string     // the program; without a slash it is looked up in PATH
	Args      []string   // without the program's name
	Env       []string   // nil: the caller's
	Dir       string     // empty: the caller's
	Tee       io.Writer  // also gets the output, as it comes; nil: nowhere
}

// Process is a child with its output captured. It never outlives its parent:
// the kernel kills it (PR_SET_PDEATHSIG).
type Process struct {
	cmd  *exec.Cmd
	log  *Log
	done chan struct{} // closed at the end, after err is set
	err  error
}

// StartProcess starts a child, in a namespace if there is one. The caller ends
// it by [Process.Stop], or waits for its end.
func StartProcess(options ProcessOptions) (*Process, error) {
	p := &Process{
		cmd:  exec.Command(options.Path, options.Args...),
		log:  newLog(options.Tee),
		done: make(chan struct{}),
	}
	p.cmd.Env, p.cmd.Dir = options.Env, options.Dir
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log // one pipe: lines keep their order
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.cmd.WaitDelay = outputGrace
	started := make(chan error, 1)
	goLocked(func() { p.run(options.Namespace, started) })
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", options.Path, err)
	}
	return p, nil
}

// run is the child's whole life, on one thread that is the child's alone: the
// signal of PR_SET_PDEATHSIG comes with the end of the thread that started it,
// not of the process. The thread stays locked, so the runtime destroys it, and
// the namespace that it entered is left with it.
func (p *Process) run(ns *Namespace, started chan<- error) {
	if ns != nil {
		if err := netns.Set(ns.handle); err != nil {
			started <- fmt.Errorf("enter namespace %s: %w", ns.name, err)
			return
		}
	}
	err := p.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	p.err = p.cmd.Wait()
	p.log.end()
	close(p.done)
}

// Pid returns the process ID, which is good until the end of the process.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Log returns the output, standard output and error together.
func (p *Process) Log() *Log { return p.log }

// Done is closed when the process has ended and its output is complete.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends a signal. It returns [os.ErrProcessDone] after the end.
func (p *Process) Signal(signal os.Signal) error { return p.cmd.Process.Signal(signal) }

// Wait waits for the end of the process, but not beyond ctx. The error is nil
// for status 0 and an [*exec.ExitError] for any other, as from [exec.Cmd.Wait].
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("wait for process %d: %w", p.Pid(), context.Cause(ctx))
	}
}

// Stop sends SIGTERM, waits for the end, kills the process if ctx ends first,
// and returns what Wait does. Stopping one that has ended is harmless.
func (p *Process) Stop(ctx context.Context) error {
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop process %d: %w", p.Pid(), err)
	}
	err := p.Wait(ctx)
	select {
	case <-p.done:
		return p.err
	default:
	}
	if killErr := p.cmd.Process.Kill(); killErr != nil && !errors.Is(killErr, os.ErrProcessDone) {
		return errors.Join(err, fmt.Errorf("kill process %d: %w", p.Pid(), killErr))
	}
	<-p.done
	return err
}

// WaitLine waits for a line of output that match accepts, among those that
// came already too, and returns it. It ends early if the process does.
func (p *Process) WaitLine(ctx context.Context, match func(line string) bool) (string, error) {
	line, err := p.log.Wait(ctx, match)
	if err != nil {
		return "", fmt.Errorf("process %d: %w", p.Pid(), err)
	}
	return line, nil
}

// WaitListening waits until something listens on a TCP port, on whatever
// address, in the process's network namespace. It connects to nothing, so a
// server does not notice.
func (p *Process) WaitListening(ctx context.Context, port uint16) error {
	err := Poll(ctx, func() (bool, error) {
		select {
		case <-p.done:
			return false, fmt.Errorf("it has ended (%v); its output: %s", p.err, p.log.Tail())
		default:
		}
		for _, table := range []string{"tcp", "tcp6"} {
			found, err := listens(fmt.Sprintf("/proc/%d/net/%s", p.Pid(), table), port)
			if found || err != nil {
				return found, err
			}
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("wait for process %d to listen on port %d: %w", p.Pid(), port, err)
	}
	return nil
}

// listens searches a table of proc_pid_net(5) for a socket in LISTEN (0A).
func listens(table string, port uint16) (bool, error) {
	content, err := os.ReadFile(table)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ESRCH) {
		return false, nil // no IPv6, or the process is just ending
	}
	if err != nil {
		return false, err
	}
	suffix := fmt.Sprintf(":%04X", port)
	for line := range bytes.Lines(content) {
		fields := strings.Fields(string(line))
		if len(fields) > 3 && fields[3] == "0A" && strings.HasSuffix(fields[1], suffix) {
			return true, nil
		}
	}
	return false, nil
}
