// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
)

// Baseline is what a process held at one moment: goroutines, descriptors,
// links of its network namespace. It is about the whole process, so nothing
// else may run beside what is checked, parallel tests least of all.
type Baseline struct {
	goroutines int
	fds        map[string]string // number -> target
	links      []string
}

// NewBaseline reads the state of now.
func NewBaseline() (*Baseline, error) {
	// The runtime opens its epoll descriptors with the first pollable file, and
	// keeps them. Let that be before the count.
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("take baseline: %w", err)
	}
	if err := errors.Join(r.Close(), w.Close()); err != nil {
		return nil, fmt.Errorf("take baseline: %w", err)
	}
	b := &Baseline{goroutines: settledGoroutines()}
	if b.fds, err = openFds(); err != nil {
		return nil, fmt.Errorf("take baseline: %w", err)
	}
	if b.links, err = links(); err != nil {
		return nil, fmt.Errorf("take baseline: %w", err)
	}
	return b, nil
}

// Check waits until no more is held than at the baseline, and returns an error
// with everything that is still too much when ctx ends: goroutines with their
// stacks, descriptors with what they refer to, links, threads left in another
// network namespace. It collects garbage, because package net keeps the pipes
// of splice(2) until then.
func (b *Baseline) Check(ctx context.Context) error {
	var leaks, broken error
	_ = Poll(ctx, func() (bool, error) { // its only error is that leaks remain
		runtime.GC()
		leaks, broken = b.leaks()
		return leaks == nil || broken != nil, nil
	})
	return errors.Join(leaks, broken)
}

func (b *Baseline) leaks() (leaks, broken error) {
	var found []error
	if n := runtime.NumGoroutine(); n > b.goroutines {
		found = append(found, fmt.Errorf("%d goroutines, %d at the start:\n%s", n, b.goroutines, stacks()))
	}
	fds, err := openFds()
	if err != nil {
		return nil, err
	}
	if len(fds) > len(b.fds) {
		found = append(found, fmt.Errorf("%d descriptors, %d at the start; new: %s", len(fds), len(b.fds), newFds(b.fds, fds)))
	}
	now, err := links()
	if err != nil {
		return nil, err
	}
	for _, name := range now {
		if !slices.Contains(b.links, name) {
			found = append(found, fmt.Errorf("link %s is new", name))
		}
	}
	strays, err := strayThreads()
	if err != nil {
		return nil, err
	}
	if len(strays) > 0 {
		found = append(found, fmt.Errorf("threads %v are in another network namespace", strays))
	}
	return errors.Join(found...), nil
}

// settledGoroutines counts once nothing has ended for a moment: a goroutine
// on its last instructions would make room for a leak.
func settledGoroutines() int {
	const rounds = 5
	n := runtime.NumGoroutine()
	for range rounds {
		time.Sleep(pollInterval)
		n = min(n, runtime.NumGoroutine())
	}
	return n
}

func openFds() (map[string]string, error) {
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	fds := make(map[string]string, len(entries))
	for _, entry := range entries {
		target, err := os.Readlink(filepath.Join(dir, entry.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // the directory's own, or one closed meanwhile
		}
		if err != nil {
			return nil, err
		}
		fds[entry.Name()] = target
	}
	return fds, nil
}

func newFds(before, now map[string]string) string {
	var list []string
	for number, target := range now {
		if before[number] != target {
			list = append(list, number+"="+target)
		}
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

func links() ([]string, error) {
	list, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var names []string
	for _, link := range list {
		names = append(names, link.Attrs().Name)
	}
	return names, nil
}

// strayThreads lists threads whose network namespace is not the process's,
// which keeps that namespace and its links alive.
func strayThreads() ([]string, error) {
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return nil, err
	}
	tasks, err := filepath.Glob("/proc/self/task/*")
	if err != nil {
		return nil, err
	}
	var strays []string
	for _, task := range tasks {
		ns, err := os.Readlink(filepath.Join(task, "ns/net"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err == nil && ns != home {
			strays = append(strays, filepath.Base(task))
		}
	}
	return strays, nil
}

func stacks() string {
	var out bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&out, 1); err != nil {
		return err.Error()
	}
	return out.String()
}
