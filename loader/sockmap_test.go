// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/bpf"
	"github.com/spliceway/spliceway/maps"
	"github.com/spliceway/spliceway/testenv"
)

func openSockmap(t *testing.T, p *Packet) *Sockmap {
	t.Helper()
	s, err := p.OpenSockmap("")
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(s.Close)
	return s
}

// mapsOf are the numbers of maps of a state. Each program of the short cut has one.
func mapsOf(t *testing.T, path string) (ids []ebpf.MapID) {
	t.Helper()
	for _, name := range []string{bpf.SockmapMapOwners, bpf.SockmapMapJoining, bpf.SockmapMapSockets} {
		m, err := ebpf.LoadPinnedMap(filepath.Join(path, layoutDir, name), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		info, err := m.Info()
		if err != nil {
			t.Fatal(err)
		}
		id, _ := info.ID()
		ids = append(ids, id)
	}
	return ids
}

// nameIfOf is a program's name if it has one of the maps; others come and go.
func nameIfOf(id ebpf.ProgramID, ids []ebpf.MapID) string {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return ""
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return ""
	}
	used, _ := info.MapIDs()
	if slices.ContainsFunc(used, func(m ebpf.MapID) bool { return slices.Contains(ids, m) }) {
		return info.Name
	}
	return ""
}

// linksWith are the names of the programs of all links whose programs have these maps.
func linksWith(t *testing.T, ids []ebpf.MapID) (names []string) {
	t.Helper()
	var all link.Iterator
	defer all.Close()
	for all.Next() {
		info, err := all.Link.Info()
		if err != nil {
			continue
		}
		if name := nameIfOf(info.Program, ids); name != "" {
			names = append(names, name)
		}
	}
	if err := all.Err(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

func programsWith(t *testing.T, ids []ebpf.MapID) (names []string) {
	t.Helper()
	for id := ebpf.ProgramID(0); ; {
		var err error
		if id, err = ebpf.ProgramGetNextID(id); errors.Is(err, os.ErrNotExist) {
			slices.Sort(names)
			return names
		} else if err != nil {
			t.Fatal(err)
		}
		if name := nameIfOf(id, ids); name != "" {
			names = append(names, name)
		}
	}
}

// wantLinks waits, because the kernel takes its time to let go.
func wantLinks(t *testing.T, when string, ids []ebpf.MapID, want ...string) {
	t.Helper()
	wantSoon(t, "links "+when, func() []string { return linksWith(t, ids) }, want)
}

func wantSoon(t *testing.T, what string, get func() []string, want []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var got []string
	err := testenv.Poll(ctx, func() (bool, error) {
		got = get()
		return slices.Equal(got, want), nil
	})
	if err != nil {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func TestSockmapIsTakenOver(t *testing.T) {
	enterNamespace(t)
	path := pinPath(t)
	p := openPacketAt(t, path)
	s := openSockmap(t, p)
	ids := mapsOf(t, path)
	all := []string{"sockmap_join", "sockmap_read", "sockmap_watch"}
	wantLinks(t, "after open", ids, all...)
	if err := s.Settings.Put(maps.ShortcutOrders{Mark: 1, Packets: 2}); err != nil {
		t.Fatal(err)
	}
	if err := s.Join(); err != nil {
		t.Error(err)
	}
	s.Close()
	p.Close()
	wantLinks(t, "after Close", ids, all[1:]...)

	p = openPacketAt(t, path)
	s = openSockmap(t, p)
	if got := mapsOf(t, path); !slices.Equal(got, ids) {
		t.Errorf("maps %v became %v", ids, got)
	}
	wantLinks(t, "after the next open", ids, all...)
	s.Close()
	// The same process may ask again, as after an error.
	s = openSockmap(t, p)
	wantLinks(t, "after one more open", ids, all...)
	if err := p.UnwatchSockets(); err != nil {
		t.Fatal(err)
	}
	wantLinks(t, "after UnwatchSockets", ids, "sockmap_join", "sockmap_read", "sockmap_watch")
	s.Close()
	wantLinks(t, "after UnwatchSockets and Close", ids, "sockmap_read")
	p.Close()
	if err := UnloadPacket(path); err != nil {
		t.Fatal(err)
	}
	wantLinks(t, "after unload", ids)
	wantSoon(t, "programs after unload", func() []string { return programsWith(t, ids) }, nil)
	wantSoon(t, "maps after unload", func() (left []string) {
		for _, id := range ids {
			if m, err := ebpf.NewMapFromID(id); err == nil {
				left = append(left, m.String())
				m.Close()
			}
		}
		return left
	}, nil)
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after unload: %v", err)
	}
}

func TestSockmapNeedsTheRootCgroup(t *testing.T) {
	enterNamespace(t)
	path := pinPath(t)
	p := openPacketAt(t, path)
	plain := t.TempDir()
	for _, c := range []struct{ name, root, want string }{
		{"not there", filepath.Join(plain, "none"), filepath.Join(plain, "none")},
		{"another file system", plain, plain + " is not in a cgroup v2 file system"},
		{"below the root", subCgroup(t), "mount the host's root cgroup and set cgroup to where it is"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := p.OpenSockmap(c.root)
			if err == nil {
				s.Close()
				t.Fatal("it was taken")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %q, want it to have %q", err, c.want)
			}
			wantLinks(t, "after the error", mapsOf(t, path))
		})
	}
	openSockmap(t, p)
}

// subCgroup is the path of a cgroup below the root, for the length of the test.
func subCgroup(t *testing.T) string {
	t.Helper()
	root, err := openRootCgroup("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	name := fmt.Sprintf("spliceway-test-%d", os.Getpid())
	if err := unix.Mkdirat(int(root.Fd()), name, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unlinkat(int(root.Fd()), name, unix.AT_REMOVEDIR); err != nil {
			t.Error(err)
		}
	})
	return fmt.Sprintf("/proc/self/fd/%d/%s", root.Fd(), name)
}

func TestSockmapKernelVersions(t *testing.T) {
	const mainline = "#1 SMP PREEMPT_DYNAMIC Mon Jan 5 12:00:00 UTC 2026"
	for _, c := range []struct {
		release, version, signature string
		stable                      [3]int // zero: none
		on                          bool
	}{
		{"6.1.0-42-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-10-01)", "", [3]int{6, 1, 192}, true},
		{"6.1.0-40-cloud-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.191-1 (2026-09-01)", "", [3]int{6, 1, 191}, false},
		{"6.12.117+deb12-cloud-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.12.117-1~bpo12+1 (2026-10-01)", "", [3]int{6, 12, 117}, true},
		{"6.12.104+deb13-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.12.104-1 (2026-08-01)", "", [3]int{6, 12, 104}, false},
		{"6.8.0-45-generic", "#45-Ubuntu SMP PREEMPT_DYNAMIC", "Ubuntu 6.8.0-45.45-generic 6.8.12\n", [3]int{6, 8, 12}, false},
		{"6.18.0-9-generic", "#9-Ubuntu SMP PREEMPT_DYNAMIC", "Ubuntu 6.18.0-9.9-generic 6.18.3\n", [3]int{6, 18, 3}, true},
		{"5.14.0-570.el9.x86_64", "#1 SMP PREEMPT_DYNAMIC", "", [3]int{}, false},
		{"6.12.0-124.8.1.el10_1.x86_64", "#1 SMP PREEMPT_DYNAMIC", "", [3]int{}, false},
		{"6.18.44-fc-v657", mainline, "", [3]int{6, 18, 44}, true},
		{"6.18.0", mainline, "", [3]int{6, 18, 0}, true},
		{"6.17.13", mainline, "", [3]int{6, 17, 13}, false},
		{"6.12.105", mainline, "", [3]int{6, 12, 105}, true},
		{"6.6.200", mainline, "", [3]int{6, 6, 200}, false},
		{"6.1.192", mainline, "", [3]int{6, 1, 192}, true},
		{"7.2.0", mainline, "", [3]int{7, 2, 0}, true},
		{"7.2.0-rc1", mainline, "", [3]int{7, 2, 0}, true},
		{"5.15.999", mainline, "", [3]int{5, 15, 999}, false},
		{"unheard of", mainline, "", [3]int{}, false},
		{"6.18", mainline, "", [3]int{}, false},
		{"", "", "", [3]int{}, false},
	} {
		v, ok := stableVersion(c.release, c.version, c.signature)
		if v != c.stable || ok != (c.stable != [3]int{}) {
			t.Errorf("%q, %q, %q is made from %v, %t, want %v", c.release, c.version, c.signature, v, ok, c.stable)
		}
		if !ok {
			continue
		}
		switch err := sockmapVersion(v); {
		case c.on != (err == nil), err != nil && !errors.Is(err, ErrSockmapKernel):
			t.Errorf("%v: %v, want it on: %t", v, err, c.on)
		case err != nil && !strings.Contains(err.Error(), "the fixes that it depends on are in"):
			t.Errorf("%v: %q does not say which has the fixes", v, err)
		}
	}
}
