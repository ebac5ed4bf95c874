// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// machine is where a run was made.
type machine struct {
	CPU        string `json:"cpu"`
	Processors int    `json:"processors"`
	Memory     int64  `json:"memoryBytes"`
	Kernel     string `json:"kernel"`
	Go         string `json:"go"`
}

func (m machine) String() string {
	return fmt.Sprintf("%d processors (%s), %.0f GB, Linux %s, client and backend built with %s",
		m.Processors, m.CPU, float64(m.Memory)/1e9, m.Kernel, m.Go)
}

func readMachine() (machine, error) {
	m := machine{Processors: runtime.NumCPU(), Go: runtime.Version()}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return m, os.NewSyscallError("uname", err)
	}
	m.Kernel = unix.ByteSliceToString(name.Release[:])
	page, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return m, err
	}
	kb, err := strconv.ParseInt(value(page, "MemTotal:", 0), 10, 64)
	if err != nil {
		return m, fmt.Errorf("/proc/meminfo: %w", err)
	}
	m.Memory = kb << 10
	if page, err = os.ReadFile("/proc/cpuinfo"); err != nil {
		return m, err
	}
	m.CPU = runtime.GOARCH
	for line := range strings.Lines(string(page)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			m.CPU = strings.TrimSpace(value)
			break
		}
	}
	return m, nil
}
