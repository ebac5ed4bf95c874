// SPDX-License-Identifier: Apache-2.0

package control

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// trusted wants root or this process's own user at the other end of a Unix socket.
// The kernel vouches for who called connect(2) or listen(2) (SO_PEERCRED); names in
// the abstract namespace have no modes, and anybody can take or use one.
func trusted(c net.Conn) error {
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if credErr != nil {
		return fmt.Errorf("ask who is at the other end: %w", credErr)
	}
	if own := os.Geteuid(); cred.Uid != 0 && int(cred.Uid) != own {
		return fmt.Errorf("user %d is at the other end, neither root nor user %d", cred.Uid, own)
	}
	return nil
}
