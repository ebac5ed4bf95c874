// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// MountBPFFS mounts a BPF file system of its own at a new directory. undo takes both
// away, and with them what is pinned there.
func MountBPFFS() (dir string, undo func() error, err error) {
	if dir, err = os.MkdirTemp("", "bpffs"); err != nil {
		return "", nil, fmt.Errorf("mount bpffs: %w", err)
	}
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		_ = os.Remove(dir)
		return "", nil, fmt.Errorf("mount bpffs at %s: %w", dir, err)
	}
	return dir, func() error {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount bpffs at %s: %w", dir, err)
		}
		return os.Remove(dir)
	}, nil
}
