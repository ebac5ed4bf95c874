// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spliceway/spliceway/testenv"
)

// gatewayProcesses are the subject's process and its children (nginx's workers).
func (b *bed) gatewayProcesses() ([]int, error) {
	pids := []int{b.process.Pid()}
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pids[0]))
	if err != nil || lists == nil {
		return nil, fmt.Errorf("find the subject's processes: no /proc/%d/task/*/children (CONFIG_PROC_CHILDREN): %w", pids[0], err)
	}
	for _, list := range lists {
		content, err := os.ReadFile(list)
		if errors.Is(err, os.ErrNotExist) {
			continue // a thread that has just ended
		}
		if err != nil {
			return nil, fmt.Errorf("find the subject's processes: %w", err)
		}
		for _, field := range strings.Fields(string(content)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				return nil, fmt.Errorf("find the subject's processes: %s: %w", list, err)
			}
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// gatewayCPU is user and system time of the subject's processes since their start.
func (b *bed) gatewayCPU() (time.Duration, error) {
	var sum time.Duration
	pids, err := b.gatewayProcesses()
	for _, pid := range pids {
		used, err := testenv.ReadProcessCPU(pid)
		if err != nil {
			return 0, err
		}
		sum += used.Total()
	}
	return sum, err
}

// gatewaySeconds is [bed.gatewayCPU] in seconds, [nothing] where there is no subject to
// run.
func (b *bed) gatewaySeconds() (float64, error) {
	if b.process == nil {
		return nothing, nil
	}
	used, err := b.gatewayCPU()
	return used.Seconds(), err
}

// gatewayMemory is the PSS of the subject's processes, in bytes.
func (b *bed) gatewayMemory() (int64, error) {
	var sum int64
	pids, err := b.gatewayProcesses()
	for _, pid := range pids {
		m, err := testenv.ReadMemory(pid)
		if err != nil {
			return 0, err
		}
		sum += m.PSS
	}
	return sum, err
}

// timedGateway is [bed.timed], but the CPU is that of the subject's processes alone:
// with TLS the client works harder than any of them.
func (b *bed) timedGateway(f func() (units int64, err error)) (effort, error) {
	before, err := b.gatewayCPU()
	if err != nil {
		return effort{}, err
	}
	start := time.Now()
	units, err := f()
	took := time.Since(start)
	if err != nil {
		return effort{}, err
	}
	after, err := b.gatewayCPU()
	if err != nil {
		return effort{}, err
	}
	if units == 0 || after <= before {
		return effort{}, fmt.Errorf("%d units of work were done, in %s of the gateway's CPU: nothing to measure", units, after-before)
	}
	return effort{units: units, took: took, cpu: (after - before).Seconds()}, nil
}
