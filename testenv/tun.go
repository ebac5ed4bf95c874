// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const tunPath = "/dev/net/tun"

// ErrNoTUN means that there is no way to a TUN or TAP device: the kernel was
// built without CONFIG_TUN, or the file system lacks the device node.
var ErrNoTUN = errors.New("no TUN/TAP devices (CONFIG_TUN; mknod " + tunPath + " c 10 200)")

// openTUN makes a TAP device, or a TUN device, in the namespace. Reads and
// writes of the file are whole frames without a header of the driver's own.
// The device is gone when the file is closed.
func (n *Namespace) openTUN(name string, ethernet bool) (*os.File, error) {
	mode := uint16(unix.IFF_TUN)
	if ethernet {
		mode = unix.IFF_TAP
	}
	var fd int
	err := n.Do(func() (err error) { // the device will be where its file was opened
		fd, err = unix.Open(tunPath, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
			err = ErrNoTUN
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open %s in namespace %s: %w", tunPath, n.name, err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(mode | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make device %s in namespace %s: %w", name, n.name, err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil // to the poller only now: there was nothing to wait for before
}
