// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

const allowedPath = "/proc/sys/net/ipv4/tcp_allowed_congestion_control"

// SetCongestionControl makes algorithm the default of the namespace's new
// sockets. The kernel refuses one that is not allowed to everyone, whatever
// the capabilities (net/ipv4/tcp_cong.c, tcp_set_default_congestion_control).
func (n *Namespace) SetCongestionControl(algorithm string) error {
	if err := n.SetSysctl("net/ipv4/tcp_congestion_control", algorithm); err != nil {
		return fmt.Errorf("%w (is %q among net.ipv4.tcp_allowed_congestion_control of the first namespace?)", err, algorithm)
	}
	return nil
}

// AllowCongestionControl lets every namespace choose algorithm, by the one
// list of the whole machine, and returns what puts the list back. Only the
// machine's first namespace can: elsewhere the file is read-only.
//
// Benchmarks want cubic: bbr, the default of some kernels, paces by timers and
// halves what a local link can carry.
func AllowCongestionControl(algorithm string) (undo func() error, err error) {
	before, err := os.ReadFile(allowedPath)
	if err != nil {
		return nil, fmt.Errorf("read allowed congestion controls: %w", err)
	}
	if slices.Contains(strings.Fields(string(before)), algorithm) {
		return func() error { return nil }, nil
	}
	list := strings.TrimSpace(string(before)) + " " + algorithm
	if err := os.WriteFile(allowedPath, []byte(list), 0); err != nil {
		return nil, fmt.Errorf("allow congestion control %s: %w", algorithm, err)
	}
	return func() error {
		if err := os.WriteFile(allowedPath, before, 0); err != nil {
			return fmt.Errorf("restore allowed congestion controls: %w", err)
		}
		return nil
	}, nil
}
