// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv/kernel/guest"
)

// openFiles is what systemd allows a service by its LimitNOFILE's default; the
// kernel's own is 4096.
const openFiles = 524288

// mountAll mounts what a Linux system has and tests use.
func mountAll() error {
	for _, m := range []struct{ kind, where, data string }{
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"devtmpfs", "/dev", ""},
		{"tmpfs", "/tmp", "mode=1777"},
		{"bpf", "/sys/fs/bpf", ""},
		{"cgroup2", "/sys/fs/cgroup", ""},
	} {
		if err := os.MkdirAll(m.where, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.where, m.kind, 0, m.data); err != nil {
			return fmt.Errorf("mount %s at %s: %w", m.kind, m.where, err)
		}
	}
	return nil
}

func setUp(modules []guest.Module) error {
	for _, s := range []struct{ name, value string }{
		// Some modules give every new namespace a device, which tests do not expect.
		{"net/core/fb_tunnels_only_for_init_net", "2"},
		{"net/ipv4/tcp_congestion_control", "cubic"},
	} {
		if err := os.WriteFile(filepath.Join("/proc/sys", s.name), []byte(s.value), 0); err != nil {
			return err
		}
	}
	for _, m := range modules {
		if err := load(m); err != nil {
			return fmt.Errorf("load module %s: %w", m.File, err)
		}
	}
	limit := unix.Rlimit{Cur: openFiles, Max: openFiles}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("allow %d open files: %w", openFiles, err)
	}
	return loopbackUp()
}

func load(m guest.Module) error {
	f, err := os.Open(m.File)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), m.Options, 0)
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}
