// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// rawEnd is a socket that is driven by system calls of its own, in an application's own
// epoll loop or in blocking mode. Reads are one goroutine's, writes another's.
type rawEnd struct {
	fd    int
	read  func(fd int, b []byte) (int, error)
	write func(fd int, b []byte) (int, error)
	// waiters are an epoll instance for reads and one for writes; -1: in blocking mode.
	waiters [2]int
	// wakes is how often one woke up, idle how often there was nothing to be done then.
	wakes, idle [2]int
	closed      atomic.Bool
}

// Indexes of rawEnd's.
const (
	reading = iota
	writing
)

// raw takes an end out of package net's hands. edge is EPOLLET or 0.
func (f *sockmapFlow) raw(t *testing.T, end int, edge uint32) *rawEnd {
	t.Helper()
	e := &rawEnd{fd: f.takeOut(t, end), read: unix.Read, write: unix.Write, waiters: [2]int{-1, -1}}
	f.ends[end] = e
	for i, events := range []uint32{reading: unix.EPOLLIN | unix.EPOLLRDHUP, writing: unix.EPOLLOUT} {
		var err error
		if e.waiters[i], err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err == nil {
			err = unix.EpollCtl(e.waiters[i], unix.EPOLL_CTL_ADD, e.fd, &unix.EpollEvent{Events: events | edge})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return e
}

// blocking takes an end out of package net's hands, in blocking mode.
func (f *sockmapFlow) blocking(t *testing.T, end int) *rawEnd {
	t.Helper()
	e := &rawEnd{fd: f.takeOut(t, end), read: unix.Read, write: unix.Write, waiters: [2]int{-1, -1}}
	f.ends[end] = e
	if err := unix.SetNonblock(e.fd, false); err != nil {
		t.Fatal(err)
	}
	return e
}

func (f *sockmapFlow) takeOut(t *testing.T, end int) (own int) {
	t.Helper()
	c := f.tcp(end)
	raw, err := c.SyscallConn()
	if err == nil {
		err = control(raw, func(fd int) (err error) {
			own, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
			return err
		})
	}
	if err = errors.Join(err, c.Close()); err != nil {
		t.Fatal(err)
	}
	return own
}

func (e *rawEnd) Read(b []byte) (int, error) {
	n, err := e.do(reading, func() (int, error) { return e.read(e.fd, b) })
	if n == 0 && err == nil && len(b) > 0 {
		return 0, io.EOF
	}
	return n, err
}

func (e *rawEnd) Write(b []byte) (written int, err error) {
	for written < len(b) {
		n, err := e.do(writing, func() (int, error) { return e.write(e.fd, b[written:]) })
		if written += n; err != nil {
			return written, err
		}
	}
	return written, nil
}

// do calls until it does not have to wait.
func (e *rawEnd) do(what int, call func() (int, error)) (int, error) {
	for woken := false; ; {
		n, err := call()
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN && e.waiters[what] >= 0:
			if woken {
				e.idle[what]++
			}
			if err := e.wait(what); err != nil {
				return 0, err
			}
			woken = true
		case err != nil:
			return 0, os.NewSyscallError([]string{"read", "write"}[what], err)
		default:
			return n, nil
		}
	}
}

func (e *rawEnd) wait(what int) error {
	var events [1]unix.EpollEvent
	for {
		n, err := unix.EpollWait(e.waiters[what], events[:], int(patience.Milliseconds()))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return fmt.Errorf("wait: %w", err)
		case n == 0:
			return errors.New("nothing has woken it")
		default:
			e.wakes[what]++
			return nil
		}
	}
}

func (e *rawEnd) CloseWrite() error { return unix.Shutdown(e.fd, unix.SHUT_WR) }

func (e *rawEnd) abandon() { _ = unix.Shutdown(e.fd, unix.SHUT_RDWR) } // fails on one that is closed only

func (e *rawEnd) Close() error {
	if !e.closed.CompareAndSwap(false, true) {
		return nil
	}
	for _, w := range e.waiters {
		if w >= 0 {
			_ = unix.Close(w)
		}
	}
	return unix.Close(e.fd)
}
