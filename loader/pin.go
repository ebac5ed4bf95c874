// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrInUse: another process holds the state.
var ErrInUse = errors.New("another agent is running with this bpffs path")

// pinDir is a directory of a BPF file system that this process alone works in.
type pinDir struct {
	path string
	lock *os.File // of the directory: its lock goes with the process, however it ends
}

// openPinDir makes the directory where it is missing, and takes its lock. A path below
// /sys/fs/bpf on a host that has not mounted the BPF file system there has it mounted,
// as systemd does at boot.
func openPinDir(path string) (*pinDir, error) {
	if err := mountBPFFS(path); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make pin directory: %w", err)
	}
	return lockPinDir(path)
}

func lockPinDir(path string) (*pinDir, error) {
	if err := checkBPFFS(path); err != nil {
		return nil, err
	}
	lock, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open pin directory: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w", path, ErrInUse)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return &pinDir{path, lock}, nil
}

func (d *pinDir) close() { _ = d.lock.Close() }

// sub returns the path of a directory below, made where it is missing.
func (d *pinDir) sub(name string) (string, error) {
	path := filepath.Join(d.path, name)
	if err := os.MkdirAll(path, 0o700); err != nil {
		return "", fmt.Errorf("make pin directory: %w", err)
	}
	return path, nil
}

func checkBPFFS(path string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	if fs.Type != unix.BPF_FS_MAGIC {
		return fmt.Errorf("%s is not in a BPF file system: mount one (mount -t bpf bpf DIR) and set bpffs to a directory of it", path)
	}
	return nil
}

const sysBPF = "/sys/fs/bpf"

func mountBPFFS(path string) error {
	if path != sysBPF && !strings.HasPrefix(path, sysBPF+"/") {
		return nil
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(sysBPF, &fs); err != nil {
		return fmt.Errorf("look at %s: %w", sysBPF, err)
	}
	if fs.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if err := unix.Mount("bpf", sysBPF, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount the BPF file system at %s: %w", sysBPF, err)
	}
	return nil
}
