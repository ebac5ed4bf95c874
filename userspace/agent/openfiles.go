// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// filesPerFlow is what a flow may need at once: two sockets, and a pipe of two
// ends in each direction while bytes are stuck in it.
const filesPerFlow = 6

// raiseOpenFiles asks for a limit of want open files, soft and hard, and says
// with numbers what it means if that cannot be had.
func (a *agent) raiseOpenFiles(want int) {
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		a.logger.Warn("cannot read the open file limit", "error", err.Error())
		return
	}
	target := uint64(want)
	if most := maxOpenFiles(); most > 0 {
		target = min(target, most)
	}
	// The first needs CAP_SYS_RESOURCE if the hard limit is below the target.
	for _, l := range []unix.Rlimit{
		{Cur: target, Max: max(target, old.Max)},
		{Cur: min(target, old.Max), Max: old.Max},
	} {
		if l.Cur <= old.Cur && l.Cur < target {
			continue
		}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err == nil {
			break
		}
	}
	var got unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &got); err != nil {
		return
	}
	a.metrics.SetOpenFilesLimit(got.Cur)
	if got.Cur < uint64(want) {
		a.logger.Warn("the open file limit is lower than asked for: raise it (LimitNOFILE= in systemd, fs.nr_open) or lower limits.openFiles",
			"limit", got.Cur, "wanted", want, "connections", got.Cur/filesPerFlow)
	}
}

// maxOpenFiles is fs.nr_open, the most that any process may ask for; 0: unknown.
func maxOpenFiles() uint64 {
	b, err := os.ReadFile("/proc/sys/fs/nr_open")
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// monotonicMicroseconds is CLOCK_MONOTONIC, as systemd counts.
func monotonicMicroseconds() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail for this clock
	return ts.Nano() / 1000
}
