// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is a network namespace held by a file descriptor. It lives until
// Close and until the last socket and process in it are gone. Make one with
// [NewNamespace]; the zero value is of no use.
type Namespace struct {
	name   string
	handle netns.NsHandle
	link   *netlink.Handle // speaks rtnetlink inside the namespace, from any thread
}

// NewNamespace creates an empty namespace with its loopback device up. The
// name is for messages only.
func NewNamespace(name string) (*Namespace, error) {
	n := &Namespace{name: name, handle: netns.None()}
	err := onOwnThread(func() (err error) {
		n.handle, err = netns.New()
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create namespace %s: %w", name, err), n.Close())
	}
	n.link, err = netlink.NewHandleAt(n.handle, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open netlink in namespace %s: %w", name, err), n.Close())
	}
	if err := n.setUp("lo", true); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// Name returns the name given to [NewNamespace].
func (n *Namespace) Name() string { return n.name }

// Fd returns the descriptor that holds the namespace, for setns(2). It stays
// the Namespace's own; -1 after Close.
func (n *Namespace) Fd() int { return int(n.handle) }

// Close lets go of the namespace. Sockets made in it go on working and keep
// it alive until they are closed. A second Close does nothing.
func (n *Namespace) Close() error {
	if n.link != nil {
		n.link.Close()
		n.link = nil
	}
	if !n.handle.IsOpen() {
		return nil
	}
	if err := n.handle.Close(); err != nil {
		return fmt.Errorf("close namespace %s: %w", n.name, err)
	}
	return nil
}

// Do runs f inside the namespace and returns its error.
//
// f runs on a goroutine of its own, locked to its thread: goroutines that f
// starts are outside the namespace, a socket that f makes stays inside. A test
// must not call FailNow in f (Do then returns an error and the test goes on).
func (n *Namespace) Do(f func() error) error {
	return onOwnThread(func() error {
		if err := netns.Set(n.handle); err != nil {
			return fmt.Errorf("enter namespace %s: %w", n.name, err)
		}
		return f()
	})
}

// Start starts cmd inside the namespace. The caller waits for it.
// See [StartProcess] for a child that must not outlive the caller.
func (n *Namespace) Start(cmd *exec.Cmd) error { return n.Do(cmd.Start) }

// SetSysctl writes a setting of the namespace, named by its path below
// /proc/sys ("net/ipv4/ip_forward").
func (n *Namespace) SetSysctl(path, value string) error {
	return n.Do(func() error { // /proc/sys/net shows the namespace of the thread that opens it
		if err := os.WriteFile(filepath.Join("/proc/sys", path), []byte(value), 0); err != nil {
			return fmt.Errorf("set sysctl in namespace %s: %w", n.name, err)
		}
		return nil
	})
}

func (n *Namespace) setUp(device string, up bool) error {
	link, err := n.link.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find %s in namespace %s: %w", device, n.name, err)
	}
	set := n.link.LinkSetDown
	if up {
		set = n.link.LinkSetUp
	}
	if err := set(link); err != nil {
		return fmt.Errorf("set %s of namespace %s up=%t: %w", device, n.name, up, err)
	}
	return nil
}

// errNoReturn is what a caller gets when f left by runtime.Goexit.
var errNoReturn = errors.New("the function ended its goroutine instead of returning")

// onOwnThread runs f where it may change the thread's namespace. The thread
// goes back to the scheduler only once it is back where it came from;
// otherwise it stays locked, and the runtime destroys it with the goroutine.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	goLocked(func() {
		err := errNoReturn
		defer func() { done <- err }()

		origin, getErr := netns.Get()
		if getErr != nil {
			runtime.UnlockOSThread()
			err = fmt.Errorf("open the thread's namespace: %w", getErr)
			return
		}
		defer origin.Close() // a read-only descriptor of nsfs: nothing to lose
		err = f()
		if backErr := netns.Set(origin); backErr != nil {
			err = errors.Join(err, fmt.Errorf("leave namespace: %w", backErr))
			return
		}
		runtime.UnlockOSThread()
	})
	return <-done
}

// goLocked runs f on a goroutine of its own that is locked to its thread. If f
// does not unlock it, the thread is destroyed with the goroutine. That must
// not be the process's first thread: the runtime cannot destroy it, only park
// it wherever f left it, and /proc/self/ns is what it shows.
func goLocked(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		elsewhere := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(elsewhere)
			f()
		}()
		<-elsewhere // this goroutine keeps the first thread until another has been taken
		runtime.UnlockOSThread()
	}()
}
