// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// CheckPrivileges returns nil when the process may create namespaces and
// links and load eBPF programs, else an error that names what is missing and
// what to do.
func CheckPrivileges() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData // version 3 carries 64 capabilities in two words
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	var missing []string
	for _, c := range []struct {
		name string
		bit  uint
	}{
		{"CAP_NET_ADMIN", unix.CAP_NET_ADMIN},
		{"CAP_SYS_ADMIN", unix.CAP_SYS_ADMIN},
		{"CAP_BPF", unix.CAP_BPF},
	} {
		if sets[c.bit/32].Effective&(1<<(c.bit%32)) == 0 {
			missing = append(missing, c.name)
		}
	}
	if missing != nil {
		return fmt.Errorf("missing %s: run as root", strings.Join(missing, ", "))
	}
	return nil
}
