// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/maps"
	"github.com/spliceway/spliceway/testenv"
)

// pinPath is a place for state, gone with the test.
func pinPath(t *testing.T) string {
	t.Helper()
	return filepath.Join(testenv.MustBPFFS(t), "state")
}

func openPacketAt(t *testing.T, path string) *Packet {
	t.Helper()
	p, err := OpenPacket(path)
	if err != nil {
		var v *ebpf.VerifierError
		if errors.As(err, &v) {
			t.Fatalf("%+v", v)
		}
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// devices makes one device with link-layer addresses and one without.
func devices(t *testing.T) (ether, raw int) {
	t.Helper()
	for _, l := range []netlink.Link{
		&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "ether0"}, PeerName: "ether1"},
		&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "raw0"}, Mode: netlink.TUNTAP_MODE_TUN},
	} {
		if err := netlink.LinkAdd(l); err != nil {
			t.Fatalf("add %s: %v", l.Attrs().Name, err)
		}
	}
	index := func(name string) int {
		i, err := net.InterfaceByName(name)
		if err != nil {
			t.Fatal(err)
		}
		return i.Index
	}
	return index("ether0"), index("raw0")
}

// programs is how many programs of ours a device has.
func programs(t *testing.T, index int) int {
	t.Helper()
	n := 0
	for _, h := range hooks {
		if r, err := queryTCX(index, h.tcx); err == nil {
			n += r
		}
		dev, err := netlink.LinkByIndex(index)
		if err != nil {
			t.Fatal(err)
		}
		filters, _ := netlink.FilterList(dev, h.parent)
		for _, f := range filters {
			if b, ok := f.(*netlink.BpfFilter); ok && strings.HasPrefix(b.Name, clsactName) {
				n++
			}
		}
	}
	return n
}

func TestPacketAttachesAndIsTakenOver(t *testing.T) {
	enterNamespace(t)
	path := pinPath(t)
	ether, raw := devices(t)
	p := openPacketAt(t, path)
	for _, index := range []int{ether, raw, ether, 1} {
		if err := p.Attach(index); err != nil {
			t.Fatal(err)
		}
	}
	for _, index := range []int{ether, raw, 1} {
		if n := programs(t, index); n != 2 {
			t.Errorf("device %d has %d programs, want 2", index, n)
		}
	}
	e := maps.Endpoints{
		Client: netip.MustParseAddrPort("10.0.0.1:1"), Listener: netip.MustParseAddrPort("10.0.0.2:2"),
		Backend: netip.MustParseAddrPort("10.0.0.3:3"), Local: netip.MustParseAddrPort("10.0.0.4:4"),
	}
	if err := p.Flows.Arm(7, maps.Arming{Endpoints: e, Unread: 100, Written: 200}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Tuples.Put(7, e); err != nil {
		t.Fatal(err)
	}
	p.Close()

	// Nothing of it ends with the process that made it.
	if n := programs(t, ether); n != 2 {
		t.Errorf("%d programs after Close, want 2", n)
	}
	p = openPacketAt(t, path)
	if n := programs(t, ether); n != 2 {
		t.Errorf("%d programs after the next open, want 2", n)
	}
	if got := p.Attached(); len(got) != 3 || got[ether] != "ether0" {
		t.Errorf("attached: %v", got)
	}
	f, err := p.Flows.Get(7)
	if err != nil || f.Endpoints != e || f.State != maps.FlowArmed || f.Unread != 100 || f.Written != 200 {
		t.Errorf("got %+v, %v", f, err)
	}
	if was, err := p.Transit(7, maps.FlowArmed, maps.FlowDeclined); err != nil || was != maps.FlowArmed {
		t.Errorf("transit: %s, %v", was, err)
	}
	if was, err := p.Transit(7, maps.FlowArmed, maps.FlowDone); err != nil || was != maps.FlowDeclined {
		t.Errorf("transit from another state: %s, %v", was, err)
	}
	if was, err := p.Transit(8, maps.FlowArmed, maps.FlowDone); err != nil || was != maps.FlowFree {
		t.Errorf("transit of no flow: %s, %v", was, err)
	}

	if err := UnloadPacket(path); !errors.Is(err, ErrInUse) {
		t.Errorf("unload under an agent: %v, want ErrInUse", err)
	}
	p.Close()
	if err := UnloadPacket(path); err != nil {
		t.Fatal(err)
	}
	for _, index := range []int{ether, raw, 1} {
		if n := programs(t, index); n != 0 {
			t.Errorf("device %d has %d programs after unload", index, n)
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after unload: %v", err)
	}
	if err := UnloadPacket(path); err != nil {
		t.Errorf("unload of nothing: %v", err)
	}
	// And anew.
	p = openPacketAt(t, path)
	if _, err := p.Flows.Get(7); !errors.Is(err, maps.ErrNotFound) {
		t.Errorf("a flow of before: %v", err)
	}
}

// TestPacketWithoutTCX is how it works before Linux 6.6.
func TestPacketWithoutTCX(t *testing.T) {
	enterNamespace(t)
	path := pinPath(t)
	ether, raw := devices(t)
	p := openPacketAt(t, path)
	p.noTCX = true
	for _, index := range []int{ether, raw} {
		if err := p.Attach(index); err != nil {
			t.Fatal(err)
		}
		if n := programs(t, index); n != 2 {
			t.Errorf("device %d has %d programs, want 2", index, n)
		}
	}
	p.Close()
	if n := programs(t, ether); n != 2 {
		t.Errorf("%d programs after Close, want 2", n)
	}
	if err := UnloadPacket(path); err != nil {
		t.Fatal(err)
	}
	for _, index := range []int{ether, raw} {
		if n := programs(t, index); n != 0 {
			t.Errorf("device %d has %d programs after unload", index, n)
		}
	}
}

func TestPacketForgetsADeviceThatGoes(t *testing.T) {
	enterNamespace(t)
	path := pinPath(t)
	ether, raw := devices(t)
	p := openPacketAt(t, path)
	for _, index := range []int{ether, raw} {
		if err := p.Attach(index); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(index int) {
		dev, err := netlink.LinkByIndex(index)
		if err == nil {
			err = netlink.LinkDel(dev)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	remove(ether)
	p.Gone(ether)
	if got := p.Attached(); len(got) != 1 || got[raw] != "raw0" {
		t.Errorf("attached: %v", got)
	}
	if err := p.Attach(ether); err == nil {
		t.Error("attached to a device that is gone")
	}
	p.Close()
	remove(raw) // while nobody looks
	p = openPacketAt(t, path)
	if got := p.Attached(); len(got) != 0 {
		t.Errorf("attached: %v", got)
	}
	if left, err := os.ReadDir(filepath.Join(path, linksDir)); err != nil || len(left) != 0 {
		t.Errorf("links left: %v, %v", left, err)
	}
}

func TestPacketRefusesWhatIsNotItsOwn(t *testing.T) {
	enterNamespace(t)
	root := testenv.MustBPFFS(t)
	path := filepath.Join(root, "state")
	refuses := func(t *testing.T, want error, says string) {
		t.Helper()
		p, err := OpenPacket(path)
		if err == nil {
			p.Close()
		}
		if !errors.Is(err, want) || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want %v that says %q", err, want, says)
		}
	}
	pin := func(t *testing.T, at string, spec *ebpf.MapSpec) {
		t.Helper()
		m, err := ebpf.NewMap(spec)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o700), m.Pin(at), m.Close()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(at) })
	}
	array := &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	t.Run("running", func(t *testing.T) {
		p := openPacketAt(t, path)
		refuses(t, ErrInUse, path)
		p.Close()
		if err := UnloadPacket(path); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("map", func(t *testing.T) {
		at := filepath.Join(path, "theirs")
		pin(t, at, array)
		refuses(t, ErrForeign, at)
	})
	t.Run("map of our name", func(t *testing.T) {
		at := filepath.Join(path, layoutDir, "flows")
		pin(t, at, array)
		refuses(t, ErrForeign, "flows")
	})
	t.Run("map among ours", func(t *testing.T) {
		at := filepath.Join(path, layoutDir, "theirs")
		pin(t, at, array)
		refuses(t, ErrForeign, at)
	})
	t.Run("other version", func(t *testing.T) {
		at := filepath.Join(path, "v0")
		if err := os.Mkdir(at, 0o700); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.Remove(at) }()
		refuses(t, ErrForeign, "another version")
	})
	t.Run("no BPF file system", func(t *testing.T) {
		path = t.TempDir()
		if _, err := OpenPacket(path); err == nil || !strings.Contains(err.Error(), "is not in a BPF file system") {
			t.Errorf("got %v", err)
		}
	})
}

func TestReservePorts(t *testing.T) {
	enterNamespace(t)
	reserved := func() string {
		text, err := os.ReadFile(reservedPorts)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	if err := os.WriteFile(reservedPorts, []byte("8080,40010-40020\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := ReservePorts(1024, 2000); err != nil { // the kernel does not choose them
		t.Fatal(err)
	}
	if got := reserved(); got != "8080,40010-40020" {
		t.Errorf("got %q", got)
	}
	for range 2 {
		if err := ReservePorts(40000, 40100); err != nil {
			t.Fatal(err)
		}
		if got := reserved(); got != "8080,40000-40100" {
			t.Errorf("got %q", got)
		}
	}
	if err := ReleasePorts(40000, 40100); err != nil {
		t.Fatal(err)
	}
	if got := reserved(); got != "8080" {
		t.Errorf("got %q", got)
	}
}

func TestRoutesTellTheDevice(t *testing.T) {
	enterNamespace(t)
	ether, _ := devices(t)
	r, err := OpenRoutes()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	dev, err := netlink.LinkByIndex(ether)
	if err != nil {
		t.Fatal(err)
	}
	own, to := netip.MustParseAddr("10.1.1.1"), netip.MustParseAddr("10.1.1.2")
	if _, err := r.Device(to, netip.Addr{}); !errors.Is(err, unix.ENETUNREACH) {
		t.Errorf("no route: %v", err)
	}
	addr, err := netlink.ParseAddr(own.String() + "/24")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(netlink.LinkSetUp(dev), netlink.AddrAdd(dev, addr)); err != nil {
		t.Fatal(err)
	}
	<-r.Changed
	for range 2 {
		if got, err := r.Device(to, own); err != nil || got != ether {
			t.Errorf("got %d, %v, want %d", got, err, ether)
		}
	}
	if err := netlink.LinkDel(dev); err != nil {
		t.Fatal(err)
	}
	if got := <-r.Gone; got != ether {
		t.Errorf("gone: %d, want %d", got, ether)
	}
}

func queryTCX(index int, at ebpf.AttachType) (int, error) {
	r, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: at})
	if err != nil {
		return 0, err
	}
	return len(r.Programs), nil
}
