// SPDX-License-Identifier: Apache-2.0

package sock

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Classic BPF programs over a packet from its TCP header on; 0 drops it. A listener's
// filter sees the packets of its handshakes, too (tcp_v4_rcv, TCP_NEW_SYN_RECV).
var (
	dropAll  = []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	dropSYNs = []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 13}, // the flags
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: synFlag | ackFlag},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: synFlag, Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},
	}
)

// RFC 9293, section 3.1.
const synFlag, ackFlag = 0x02, 0x10

// Deafen makes the listener ignore new connections, or ends that. A SYN is dropped
// without an answer, so that its client tries again, a second later, with whoever
// listens by then; handshakes that are under way go on, and are accepted. Like FD it
// is for as long as the listener is open.
func (l *Listener) Deafen(on bool) error {
	if on {
		return l.filter(dropSYNs)
	}
	if err := detachFilter(l.fd); err != nil {
		return fmt.Errorf("listen on %s: %w", l.addr, err)
	}
	return nil
}

func (l *Listener) filter(program []unix.SockFilter) error {
	l.filtered.Store(true)
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if err := unix.SetsockoptSockFprog(l.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
		return fmt.Errorf("listen on %s: set SO_ATTACH_FILTER: %w", l.addr, err)
	}
	return nil
}

// detachFilter takes off a filter, if there is one.
func detachFilter(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("set SO_DETACH_FILTER: %w", err)
	}
	return nil
}
