// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// hostChecks are what the agent uses besides BPF.
func hostChecks() []check {
	return []check{
		{Feature{Name: "splice", UsedBy: SpliceEngine, Required: true, Since: "2.6.25",
			For: "move bytes between sockets without copying them", Without: "no connection can be relayed"}, askSplice},
		{Feature{Name: "pipes of 256 KiB", UsedBy: SpliceEngine, Since: "2.6.35",
			For: "move a large burst at once", Without: "bulk transfers cost more system calls"}, askPipeSize},
		{Feature{Name: "SO_RCVLOWAT", UsedBy: Listeners, Required: true, Since: "4.18",
			For: "wake up when more of a ClientHello is there", Without: "a hello in several parts cannot be awaited"}, hasOption(unix.SOL_SOCKET, unix.SO_RCVLOWAT, 2)},
		{Feature{Name: "TCP_DEFER_ACCEPT", UsedBy: Listeners, Required: true, Since: "2.4",
			For: "keep silent connections out of the agent", Without: "listeners cannot be opened"}, hasOption(unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 1)},
		{Feature{Name: "accept queue of 4096", UsedBy: Listeners, Since: "5.4",
			For: "hold a burst of connections until they are accepted (net.core.somaxconn)", Without: "bursts above it are delayed by a second or refused"}, askAcceptQueue},
		{Feature{Name: "65536 open files", UsedBy: Listeners, Since: "any",
			For: "hold many connections, two to six files each (RLIMIT_NOFILE, hard)", Without: "fewer connections at a time"}, askOpenFiles},
	}
}

// packetHostChecks are what engine packet needs that is no BPF.
func packetHostChecks() []check {
	return []check{
		{Feature{Name: "TCP_REPAIR", UsedBy: PacketEngine, Since: "3.5", Without: "all flows have the engine splice",
			For: "close a connection silently"}, hasOption(unix.IPPROTO_TCP, unix.TCP_REPAIR, 1)},
		{Feature{Name: "bpffs", UsedBy: PacketEngine, Since: "4.4", Without: "nothing at /sys/fs/bpf, where the agent mounts it itself",
			For: "keep programs and maps when their process ends"}, isMounted("bpf")},
	}
}

// unusedHostChecks are abilities that no part of this version uses.
func unusedHostChecks() []check {
	return []check{
		{Feature{Name: "MPTCP", Since: "5.6",
			For: "TCP over several paths; the agent's sockets are always plain TCP"}, askMPTCP},
	}
}

// askSplice moves a byte from a socket through a pipe into a socket.
func askSplice() (string, error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return "", fmt.Errorf("make sockets: %w", err)
	}
	defer unix.Close(ends[0])
	defer unix.Close(ends[1])
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return "", fmt.Errorf("make pipe: %w", err)
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])

	if _, err := unix.Write(ends[0], []byte{1}); err != nil {
		return "", fmt.Errorf("write to socket: %w", err)
	}
	for _, hop := range [][2]int{{ends[1], pipe[1]}, {pipe[0], ends[1]}} {
		n, err := unix.Splice(hop[0], nil, hop[1], nil, 1, unix.SPLICE_F_NONBLOCK)
		switch {
		case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL):
			return "", fmt.Errorf("splice: %w: %w", err, ErrNotSupported)
		case errors.Is(err, unix.EPERM):
			return "refused: a seccomp filter is in the way", ErrNotSupported
		case err != nil:
			return "", fmt.Errorf("splice: %w", err)
		case n != 1:
			return "", fmt.Errorf("splice moved %d bytes of 1", n)
		}
	}
	return "", nil
}

// askPipeSize asks for as much as the engine does.
func askPipeSize() (string, error) {
	const want = 256 << 10
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return "", fmt.Errorf("make pipe: %w", err)
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	// Over the limit is EPERM (pipe_set_size).
	if _, err := unix.FcntlInt(uintptr(pipe[1]), unix.F_SETPIPE_SZ, want); errors.Is(err, unix.EPERM) {
		return "no pipe of 256 KiB: raise fs.pipe-max-size or fs.pipe-user-pages-soft", ErrNotSupported
	} else if err != nil {
		return "", fmt.Errorf("set pipe size: %w", err)
	}
	return "", nil
}

// hasOption sets a socket option on a fresh TCP socket.
func hasOption(level, option, value int) func() (string, error) {
	return func() (string, error) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return "", fmt.Errorf("make socket: %w", err)
		}
		defer unix.Close(fd)
		err = unix.SetsockoptInt(fd, level, option, value)
		switch {
		case errors.Is(err, unix.ENOPROTOOPT):
			return "the kernel does not know the option", ErrNotSupported
		case err != nil:
			return "", fmt.Errorf("set socket option: %w", err)
		}
		return "", nil
	}
}

// askAcceptQueue wants the default of Linux 5.4 and later.
func askAcceptQueue() (string, error) {
	const want = 4096
	data, err := os.ReadFile("/proc/sys/net/core/somaxconn")
	if err != nil {
		return "", err
	}
	got, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return "", fmt.Errorf("read net.core.somaxconn: %w", err)
	}
	if got < want {
		return fmt.Sprintf("%d connections: set net.core.somaxconn to %d or more", got, want), ErrNotSupported
	}
	return fmt.Sprintf("%d connections", got), nil
}

// askOpenFiles asks for the hard limit: the agent raises the soft one itself.
func askOpenFiles() (string, error) {
	const want = 65536
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return "", fmt.Errorf("read open file limit: %w", err)
	}
	if limit.Max < want && !hasCapability(unix.CAP_SYS_RESOURCE) {
		return fmt.Sprintf("%d files: raise the hard limit to %d or more (LimitNOFILE= in systemd)", limit.Max, want), ErrNotSupported
	}
	return fmt.Sprintf("%d files", limit.Max), nil
}

func askMPTCP() (string, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
	switch {
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EINVAL):
		return "the kernel was built without it", ErrNotSupported
	case errors.Is(err, unix.ENOPROTOOPT):
		return "turned off (net.mptcp.enabled)", ErrNotSupported
	case err != nil:
		return "", fmt.Errorf("make socket: %w", err)
	}
	return "", unix.Close(fd)
}

// isMounted looks for a file system of the type in this mount namespace.
func isMounted(fsType string) func() (string, error) {
	return func() (string, error) {
		data, err := os.ReadFile("/proc/self/mounts")
		if err != nil {
			return "", err
		}
		for line := range strings.Lines(string(data)) {
			// Device, mount point, type, options (proc_pid_mounts(5)).
			if fields := strings.Fields(line); len(fields) > 2 && fields[2] == fsType {
				return fields[1], nil
			}
		}
		return "not mounted", ErrNotSupported
	}
}
