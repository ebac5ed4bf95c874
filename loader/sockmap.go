// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/bpf"
	"github.com/spliceway/spliceway/maps"
)

// Sockmap is the kernel's side of the short cut between sockets of this host: programs
// that see the host's connections, their sends and their reads, and their maps. Like
// Packet, whose state it shares, all of it is pinned. Its methods may be called from
// any goroutine.
type Sockmap struct {
	Settings maps.ShortcutSettings

	objs  bpf.SockmapObjects
	links []io.Closer // pinned; held for as long as the process runs
	iter  *link.Iter
}

// sockmapDir holds the links, below the pin path.
const (
	sockmapDir = "sockmap"
	watchPin   = "watch"
	readPin    = "read"
)

// OpenSockmap loads the programs of the short cut and attaches them: to all sockets of
// the host, if root is that of the cgroup v2 hierarchy ("": found by itself), and to
// reads. What an earlier process attached is replaced.
func (p *Packet) OpenSockmap(root string) (*Sockmap, error) {
	s, err := p.openSockmap(root)
	if err != nil {
		return nil, fmt.Errorf("open sockmap: %w", err)
	}
	return s, nil
}

func (p *Packet) openSockmap(root string) (_ *Sockmap, err error) {
	charged, err := redirectsCharged()
	if err != nil {
		return nil, fmt.Errorf("see whether redirected bytes are charged: %w", err)
	}
	if !charged {
		return nil, fmt.Errorf("this kernel does not charge sockets for redirected bytes, so their queues could grow without bound: %w", ErrNotSupported)
	}
	s := new(Sockmap)
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	spec, err := bpf.LoadSockmap()
	if err != nil {
		return nil, fmt.Errorf("read programs: %w", err)
	}
	for _, m := range spec.Maps {
		m.Pinning = ebpf.PinByName
	}
	pinned := filepath.Join(p.dir.path, layoutDir)
	if err := spec.LoadAndAssign(&s.objs, &ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: pinned}}); err != nil {
		return nil, fmt.Errorf("load programs: %w", err)
	}
	s.Settings = maps.NewShortcutSettings(s.objs.SockmapSettings)
	err = link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: s.objs.Sockets.FD(), Program: s.objs.SockmapSend, Attach: ebpf.AttachSkMsgVerdict,
	})
	if err != nil {
		return nil, fmt.Errorf("attach to sends: %w", err)
	}
	if s.iter, err = link.AttachIter(link.IterOptions{Program: s.objs.SockmapJoin, Map: s.objs.Joining}); err != nil {
		return nil, fmt.Errorf("make iterator: %w", err)
	}
	dir, err := p.dir.sub(sockmapDir)
	if err != nil {
		return nil, err
	}
	cgroup, err := openRootCgroup(root)
	if err != nil {
		return nil, fmt.Errorf("find the root cgroup: %w", err)
	}
	defer cgroup.Close()
	// First what sees that a socket must be left alone, last what finds sockets.
	err = s.hold(filepath.Join(dir, readPin), func() (pinnable, error) {
		return link.AttachTracing(link.TracingOptions{Program: s.objs.SockmapRead, AttachType: ebpf.AttachTraceRawTp})
	})
	if err != nil {
		return nil, fmt.Errorf("attach to reads: %w", err)
	}
	err = s.hold(filepath.Join(dir, watchPin), func() (pinnable, error) {
		return link.AttachRawLink(link.RawLinkOptions{Target: int(cgroup.Fd()), Program: s.objs.SockmapWatch, Attach: ebpf.AttachCGroupSockOps})
	})
	if err != nil {
		return nil, fmt.Errorf("attach to the root cgroup: %w", err)
	}
	return s, nil
}

type pinnable interface {
	io.Closer
	Pin(string) error
}

// hold attaches and pins at path. What is pinned there goes only when the new one is
// there.
func (s *Sockmap) hold(path string, attach func() (pinnable, error)) error {
	l, err := attach()
	if err != nil {
		return err
	}
	s.links = append(s.links, l)
	if err := unpinLink(path); err != nil {
		return err
	}
	if err := l.Pin(path); err != nil {
		return fmt.Errorf("pin: %w", err)
	}
	return nil
}

// unpinLink detaches what is pinned at path, if anything is.
func unpinLink(path string) error {
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: %s is not a link of the agent's: %w", ErrForeign, path, err)
	}
	return errors.Join(l.Unpin(), detachLink(l), l.Close())
}

// UnwatchSockets has no more sockets found for the short cut, until OpenSockmap. Those
// that have it keep it.
func (p *Packet) UnwatchSockets() error {
	if err := unpinLink(filepath.Join(p.dir.path, sockmapDir, watchPin)); err != nil {
		return fmt.Errorf("close sockmap: %w", err)
	}
	return nil
}

// Join puts the sockets that are to join into the map. Calls must not overlap.
func (s *Sockmap) Join() error {
	r, err := s.iter.Open()
	if err != nil {
		return fmt.Errorf("join sockets: %w", err)
	}
	defer r.Close()
	// The program runs as the file is read; it writes nothing.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return fmt.Errorf("join sockets: %w", err)
	}
	return nil
}

// Close gives up the handles. The programs stay.
func (s *Sockmap) Close() {
	if s.iter != nil {
		_ = s.iter.Close()
	}
	for _, l := range s.links {
		_ = l.Close()
	}
	_ = s.objs.Close()
}

// openRootCgroup opens the root of the cgroup v2 hierarchy, at path or, if that is
// empty, wherever it is mounted.
func openRootCgroup(path string) (*os.File, error) {
	dir, err := openCgroup(path)
	if err != nil {
		return nil, err
	}
	// All but the root have it (cgroup_base_files).
	if err := unix.Faccessat(int(dir.Fd()), "cgroup.type", unix.F_OK, 0); err == nil {
		_ = dir.Close()
		return nil, errors.New("this process sees only a part of the cgroups, as in a container: mount the host's root cgroup and set cgroup to where it is")
	}
	return dir, nil
}

func openCgroup(path string) (*os.File, error) {
	if path == "" {
		if path = cgroupMount(); path == "" {
			return mountCgroup()
		}
	}
	dir, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open cgroup: %w", err)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &fs); err != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
		_ = dir.Close()
		return nil, fmt.Errorf("%s is not in a cgroup v2 file system", path)
	}
	return dir, nil
}

// cgroupMount is where the top of the cgroup v2 hierarchy is mounted, as far as this
// process sees it (proc_pid_mountinfo(5)); empty: nowhere.
func cgroupMount() string {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(mounts)) {
		mount, fs, _ := strings.Cut(line, " - ")
		fields := strings.Fields(mount)
		if strings.HasPrefix(fs, "cgroup2 ") && len(fields) > 4 && fields[3] == "/" {
			return fields[4]
		}
	}
	return ""
}

// mountCgroup mounts the hierarchy where no path leads to; it goes with the file.
func mountCgroup() (*os.File, error) {
	fs, err := unix.Fsopen("cgroup2", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open cgroup2: %w", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("mount cgroup2: %w", err)
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, fmt.Errorf("mount cgroup2: %w", err)
	}
	defer unix.Close(mount)
	fd, err := unix.Openat(mount, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open cgroup2: %w", err)
	}
	return os.NewFile(uintptr(fd), "cgroup2"), nil
}
