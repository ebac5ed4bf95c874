// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// explainListen adds to a failed bind what its reader needs: who has the port, or
// which right is missing.
func explainListen(err error, addr netip.AddrPort) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		owner := portOwner("/proc", addr)
		if owner == "" {
			owner = "another process"
		}
		return fmt.Errorf("%w: the port is taken by %s; one address and port has one listener: stop it, or change `listen` or the port in the endpoints' URLs", err, owner)
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: a port below 1024 needs root or CAP_NET_BIND_SERVICE", err)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("%w: this host does not have the address; see `listen`", err)
	}
	return err
}

// portOwner names the process that listens where addr cannot be bound: "pid 123
// (nginx) on 0.0.0.0:443". Empty if it cannot be found, as for a process of
// another user or of another PID namespace.
func portOwner(proc string, addr netip.AddrPort) string {
	family := "tcp"
	if addr.Addr().Is6() {
		family = "tcp6"
	}
	for _, table := range []string{family, "tcp6"} { // a dual-stack socket holds both families
		inode, bound, ok := listenerInode(filepath.Join(proc, "net", table), addr)
		if !ok {
			continue
		}
		if pid, name := socketHolder(proc, inode); pid != 0 {
			return fmt.Sprintf("pid %d (%s) on %s", pid, name, bound)
		}
		return fmt.Sprintf("a process that cannot be seen from here, on %s", bound)
	}
	return ""
}

// listenerInode finds a listening socket that conflicts with addr in a table of
// the form of /proc/net/tcp (proc(5)).
func listenerInode(file string, addr netip.AddrPort) (inode string, bound netip.AddrPort, ok bool) {
	f, err := os.Open(file)
	if err != nil {
		return "", bound, false
	}
	defer func() { _ = f.Close() }()
	const listen = "0A"
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) < 10 || fields[3] != listen {
			continue
		}
		bound, ok := parseProcAddr(fields[1])
		if !ok || bound.Port() != addr.Port() {
			continue
		}
		if bound.Addr() == addr.Addr() || bound.Addr().IsUnspecified() || addr.Addr().IsUnspecified() {
			return fields[9], bound, true
		}
	}
	return "", bound, false
}

// parseProcAddr reads "0100007F:1F90": 32-bit words in the host's byte order
// (little-endian on every machine this runs on), port in hexadecimal.
func parseProcAddr(s string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(s, ":")
	p, err := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || len(host)%8 != 0 {
		return netip.AddrPort{}, false
	}
	var b []byte
	for i := 0; i < len(host); i += 8 {
		w, err := strconv.ParseUint(host[i:i+8], 16, 32)
		if err != nil {
			return netip.AddrPort{}, false
		}
		b = append(b, byte(w), byte(w>>8), byte(w>>16), byte(w>>24))
	}
	a, ok := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), ok
}

// socketHolder finds a process that has the socket open.
func socketHolder(proc, inode string) (pid int, name string) {
	link := "socket:[" + inode + "]"
	dirs, _ := filepath.Glob(filepath.Join(proc, "[0-9]*", "fd"))
	for _, dir := range dirs {
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue // it ended, or is another user's
		}
		for _, fd := range fds {
			if to, err := os.Readlink(filepath.Join(dir, fd.Name())); err != nil || to != link {
				continue
			}
			pid, _ = strconv.Atoi(filepath.Base(filepath.Dir(dir)))
			comm, _ := os.ReadFile(filepath.Join(filepath.Dir(dir), "comm"))
			return pid, strings.TrimSpace(string(comm))
		}
	}
	return 0, ""
}
