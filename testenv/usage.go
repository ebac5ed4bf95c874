// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of the times in /proc: 1/USER_HZ, which is 100 on every
// architecture that the project builds for.
const tick = 10 * time.Millisecond

// Memory is what a process occupies, in bytes.
type Memory struct {
	RSS     int64 // resident pages, shared ones in full
	PSS     int64 // resident pages, each divided by how many processes map it
	Private int64 // resident pages of this process alone
}

// ReadMemory reads /proc/PID/smaps_rollup. The kernel walks the page tables
// for it: milliseconds for a large process.
func ReadMemory(pid int) (Memory, error) {
	var m Memory
	path := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
	content, err := os.ReadFile(path)
	if err != nil {
		return m, fmt.Errorf("read memory: %w", err)
	}
	into := map[string]*int64{"Rss:": &m.RSS, "Pss:": &m.PSS, "Private_Clean:": &m.Private, "Private_Dirty:": &m.Private}
	lines := bufio.NewScanner(bytes.NewReader(content))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) != 3 || into[fields[0]] == nil {
			continue
		}
		kilobytes, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return m, fmt.Errorf("read memory: %s: %w", path, err)
		}
		*into[fields[0]] += kilobytes << 10
	}
	return m, nil
}

// ProcessCPU is processor time that a process has used since its start, in
// steps of 10 ms, its ended threads included and its children not.
type ProcessCPU struct {
	User, System time.Duration
}

// Total is user and system time together.
func (c ProcessCPU) Total() time.Duration { return c.User + c.System }

// Sub is the time used since an earlier reading.
func (c ProcessCPU) Sub(earlier ProcessCPU) ProcessCPU {
	return ProcessCPU{User: c.User - earlier.User, System: c.System - earlier.System}
}

// ReadProcessCPU reads /proc/PID/stat. What softirqs do for a process's
// packets is not in it: see [SystemCPU].
func ReadProcessCPU(pid int) (ProcessCPU, error) {
	path := fmt.Sprintf("/proc/%d/stat", pid)
	content, err := os.ReadFile(path)
	if err != nil {
		return ProcessCPU{}, fmt.Errorf("read process CPU: %w", err)
	}
	// The second field, the command, may hold blanks and brackets.
	fields := strings.Fields(string(content[bytes.LastIndexByte(content, ')')+1:]))
	const userField, systemField = 14 - 3, 15 - 3 // proc_pid_stat(5) counts from 1; field 3 is the first here
	times, err := ticks(fields, userField, systemField)
	if err != nil {
		return ProcessCPU{}, fmt.Errorf("read process CPU: %s: %w", path, err)
	}
	return ProcessCPU{User: times[0], System: times[1]}, nil
}

// SystemCPU is the time of all processors together since boot, in steps of
// 10 ms. Guest time is in User, as the kernel counts it.
type SystemCPU struct {
	User, Nice, System, Idle, IOWait, IRQ, SoftIRQ, Steal time.Duration
}

// Busy is the time in which processors worked, for whatever process, interrupts
// included. Stolen time is not: another guest had the processor.
func (c SystemCPU) Busy() time.Duration {
	return c.User + c.Nice + c.System + c.IRQ + c.SoftIRQ
}

// Sub is the time since an earlier reading.
func (c SystemCPU) Sub(earlier SystemCPU) SystemCPU {
	return SystemCPU{
		User:    c.User - earlier.User,
		Nice:    c.Nice - earlier.Nice,
		System:  c.System - earlier.System,
		Idle:    c.Idle - earlier.Idle,
		IOWait:  c.IOWait - earlier.IOWait,
		IRQ:     c.IRQ - earlier.IRQ,
		SoftIRQ: c.SoftIRQ - earlier.SoftIRQ,
		Steal:   c.Steal - earlier.Steal,
	}
}

// ReadSystemCPU reads the first line of /proc/stat.
func ReadSystemCPU() (SystemCPU, error) {
	content, err := os.ReadFile("/proc/stat")
	if err != nil {
		return SystemCPU{}, fmt.Errorf("read system CPU: %w", err)
	}
	line, _, _ := strings.Cut(string(content), "\n")
	t, err := ticks(strings.Fields(line), 1, 2, 3, 4, 5, 6, 7, 8)
	if err != nil {
		return SystemCPU{}, fmt.Errorf("read system CPU: %w", err)
	}
	return SystemCPU{User: t[0], Nice: t[1], System: t[2], Idle: t[3], IOWait: t[4], IRQ: t[5], SoftIRQ: t[6], Steal: t[7]}, nil
}

func ticks(fields []string, indices ...int) ([]time.Duration, error) {
	var times []time.Duration
	for _, i := range indices {
		if i >= len(fields) {
			return nil, fmt.Errorf("%d fields, want more than %d", len(fields), i)
		}
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return nil, err
		}
		times = append(times, time.Duration(n)*tick)
	}
	return times, nil
}
