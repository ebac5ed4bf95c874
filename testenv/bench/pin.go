// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// pin puts every thread of the processes on one processor, the last that this one
// may use: the first gets most interrupts. Threads to come inherit it. Unpin lets
// all of them go where this process could before.
func pin(pids ...int) (unpin func(), err error) {
	var allowed, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return nil, fmt.Errorf("read processor affinity: %w", err)
	}
	one.Set(lastCPU(&allowed))
	unpin = func() {
		for _, pid := range pids {
			_ = setAffinity(pid, &allowed) // a process that has ended needs none
		}
	}
	for _, pid := range pids {
		if err := setAffinity(pid, &one); err != nil {
			unpin()
			return nil, fmt.Errorf("pin process %d: %w", pid, err)
		}
	}
	return unpin, nil
}

func lastCPU(set *unix.CPUSet) int {
	last, left := 0, set.Count()
	for cpu := 0; left > 0; cpu++ {
		if set.IsSet(cpu) {
			last = cpu
			left--
		}
	}
	return last
}

// setAffinity goes over the threads until it meets no new one: a thread that is
// made meanwhile has the affinity of its maker, which may be the old one.
func setAffinity(pid int, set *unix.CPUSet) error {
	done := make(map[int]bool)
	for found := true; found; {
		found = false
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			return err
		}
		for _, entry := range entries {
			tid, err := strconv.Atoi(entry.Name())
			if err != nil || done[tid] {
				continue
			}
			if err := unix.SchedSetaffinity(tid, set); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("thread %d: %w", tid, err)
			}
			done[tid], found = true, true
		}
	}
	return nil
}
