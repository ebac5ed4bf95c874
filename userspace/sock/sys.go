// SPDX-License-Identifier: Apache-2.0

package sock

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls below never sleep: each descriptor is non-blocking. So they go to
// the kernel without telling the Go scheduler, which saves its bookkeeping on
// the two or three calls that every burst of bytes costs.

// Recv is recv(2). It returns 0 bytes and no error at the end of the stream.
// Errors are bare errno values: EAGAIN when there is nothing to read.
func Recv(fd int, b []byte, flags int) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), uintptr(flags), 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
			continue
		}
		return 0, errno
	}
}

// Send is send(2) with MSG_NOSIGNAL. It may take only a part of b. Errors are
// bare errno values: EAGAIN when the send buffer is full.
func Send(fd int, b []byte, flags int) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), uintptr(flags|unix.MSG_NOSIGNAL), 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
			continue
		}
		return 0, errno
	}
}

// Splice is splice(2) between a socket and a pipe, without offsets. Errors are
// bare errno values: EAGAIN when the socket has nothing, or takes nothing.
func Splice(from, to, length int) (int, error) {
	const flags = unix.SPLICE_F_MOVE | unix.SPLICE_F_NONBLOCK
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(length), flags)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
			continue
		}
		return 0, errno
	}
}

// Pending returns how many bytes written to the socket have not been sent yet
// (SIOCOUTQNSD, tcp_ioctl): those that a reset now would lose.
func Pending(fd int) int {
	n, err := unix.IoctlGetInt(fd, unix.SIOCOUTQNSD)
	if err != nil {
		return 0
	}
	return n
}
