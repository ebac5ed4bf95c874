// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// attachment is the two programs of one device.
type attachment struct {
	index int
	name  string
	raw   bool        // no link-layer header
	links []link.Link // tcx: ingress, egress; held, or the programs go with them
}

func (a *attachment) release() {
	for _, l := range a.links {
		_ = l.Close() // pinned: it stays
	}
}

// The two hooks, by the name of their link.
var hooks = []struct {
	name   string
	tcx    ebpf.AttachType
	parent uint32 // clsact's
}{
	{"ingress", ebpf.AttachTCXIngress, netlink.HANDLE_MIN_INGRESS},
	{"egress", ebpf.AttachTCXEgress, netlink.HANDLE_MIN_EGRESS},
}

// Attach puts the programs on a device, by index, in the network namespace of the
// calling thread; once is enough. tcx is used where the kernel has it (6.6), else
// clsact.
func (p *Packet) Attach(index int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.attached == nil {
		return os.ErrClosed
	}
	if p.attached[index] != nil {
		return nil
	}
	dev, err := netlink.LinkByIndex(index)
	if err != nil {
		return fmt.Errorf("attach to device %d: %w", index, err)
	}
	if err := p.attach(dev); err != nil {
		return fmt.Errorf("attach to %s: %w", dev.Attrs().Name, err)
	}
	return nil
}

func (p *Packet) attach(dev netlink.Link) error {
	attrs := dev.Attrs()
	raw, err := isRaw(attrs)
	if err != nil {
		return err
	}
	a := &attachment{index: attrs.Index, name: attrs.Name, raw: raw}
	for i := range hooks {
		if err := p.hook(a, i); err != nil {
			a.release()
			return errors.Join(err, detach(p.links, a.index))
		}
	}
	if err := p.Devices.Put(a.index, raw, attrs.RawFlags&unix.IFF_LOOPBACK != 0); err != nil {
		a.release()
		return errors.Join(err, detach(p.links, a.index))
	}
	p.attached[a.index] = a
	return nil
}

// isRaw tells whether packets of the device begin with their network header
// (dev_is_mac_header_xmit and what tc sees of it).
func isRaw(attrs *netlink.LinkAttrs) (bool, error) {
	switch attrs.EncapType {
	case "ether", "loopback":
		return false, nil
	case "none", "ipip", "sit", "tunnel6", "gre", "gre6", "ppp", "rawip":
		return true, nil
	}
	return false, fmt.Errorf("link type %q is not supported", attrs.EncapType)
}

func (p *Packet) program(hook int, raw bool) *ebpf.Program {
	switch {
	case hook == 0 && raw:
		return p.objs.PacketIngressRaw
	case hook == 0:
		return p.objs.PacketIngress
	case raw:
		return p.objs.PacketEgressRaw
	}
	return p.objs.PacketEgress
}

// hook attaches one program, or exchanges the one that an earlier agent left.
func (p *Packet) hook(a *attachment, i int) error {
	prog := p.program(i, a.raw)
	pin := filepath.Join(p.links, strconv.Itoa(a.index)+"-"+hooks[i].name)
	if l, err := link.LoadPinnedLink(pin, nil); err == nil {
		if err := p.takeOver(l, prog, a.index); err == nil {
			a.links = append(a.links, l)
			return nil
		}
		// A link whose device has gone, and its index has come back.
		_ = l.Unpin()
		_ = l.Close()
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s is not a link of the agent's: %w", pin, err)
	}
	if p.noTCX {
		return p.clsact(a, i, prog)
	}
	l, err := link.AttachTCX(link.TCXOptions{Interface: a.index, Program: prog, Attach: hooks[i].tcx})
	if errors.Is(err, ebpf.ErrNotSupported) {
		return p.clsact(a, i, prog)
	}
	if err != nil {
		return fmt.Errorf("tcx %s: %w", hooks[i].name, err)
	}
	if err := l.Pin(pin); err != nil {
		return errors.Join(fmt.Errorf("pin: %w", err), l.Close())
	}
	a.links = append(a.links, l)
	return nil
}

func (p *Packet) takeOver(l link.Link, prog *ebpf.Program, index int) error {
	info, err := l.Info()
	if err != nil {
		return err
	}
	if tcx := info.TCX(); tcx == nil || int(tcx.Ifindex) != index {
		return errors.New("not this device's")
	}
	return l.Update(prog)
}

// Before tcx there is clsact: a filter that is the device's own, and needs no pin.
const (
	clsactPriority = 49152 // behind those of most others, before what the kernel would choose
	clsactHandle   = 0x53570001
	clsactName     = "spliceway"
)

func (p *Packet) clsact(a *attachment, i int, prog *ebpf.Program) error {
	if err := netlink.QdiscAdd(clsactQdisc(a.index)); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact: %w", err)
	}
	if err := netlink.FilterReplace(clsactFilter(a.index, i, prog.FD())); err != nil {
		return fmt.Errorf("clsact %s: %w", hooks[i].name, err)
	}
	return nil
}

func clsactQdisc(index int) *netlink.Clsact {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
}

func clsactFilter(index, hook, fd int) *netlink.BpfFilter {
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: index, Parent: hooks[hook].parent, Handle: clsactHandle, Protocol: unix.ETH_P_ALL, Priority: clsactPriority,
		},
		Fd: fd, Name: clsactName, DirectAction: true,
	}
}

// adoptDevices takes over the devices that the state knows; those that are gone it
// forgets.
func (p *Packet) adoptDevices() error {
	indexes, err := p.Devices.Indexes()
	if err != nil {
		return fmt.Errorf("read devices: %w", err)
	}
	for _, index := range indexes {
		if dev, err := netlink.LinkByIndex(index); err == nil && p.attach(dev) == nil {
			continue
		}
		if err := errors.Join(p.Devices.Delete(index), detach(p.links, index)); err != nil {
			return err
		}
	}
	return nil
}

// Gone forgets a device that is not there any more.
func (p *Packet) Gone(index int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a := p.attached[index]; a != nil {
		_ = p.Devices.Delete(index)
		a.release()
		_ = detach(p.links, index)
		delete(p.attached, index)
	}
}

// Attached are the names of the devices that have programs.
func (p *Packet) Attached() map[int]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	names := make(map[int]string, len(p.attached))
	for i, a := range p.attached {
		names[i] = a.name
	}
	return names
}

// detach takes the programs off one device.
func detach(links string, index int) error {
	var errs []error
	for i, h := range hooks {
		pin := filepath.Join(links, strconv.Itoa(index)+"-"+h.name)
		if l, err := link.LoadPinnedLink(pin, nil); err == nil {
			errs = append(errs, l.Unpin(), detachLink(l), l.Close())
		}
		if err := netlink.FilterDel(clsactFilter(index, i, -1)); err != nil &&
			!errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("delete clsact filter: %w", err))
		}
	}
	return errors.Join(errs...)
}

// detachLink detaches now: closing may leave it to a worker.
func detachLink(l link.Link) error {
	if err := l.Detach(); err != nil && !errors.Is(err, ebpf.ErrNotSupported) && !errors.Is(err, unix.ENOLINK) {
		return fmt.Errorf("detach: %w", err)
	}
	return nil
}

// detachAll takes the programs off all devices that have pinned links or our filter.
func detachAll(links string) error {
	var errs []error
	entries, err := os.ReadDir(links)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	indexes := make(map[int]bool)
	for _, e := range entries {
		name, _, _ := strings.Cut(e.Name(), "-")
		if index, err := strconv.Atoi(name); err == nil {
			indexes[index] = true
		}
	}
	devices, err := netlink.LinkList()
	if err != nil {
		errs = append(errs, fmt.Errorf("list devices: %w", err))
	}
	for _, dev := range devices {
		for _, h := range hooks {
			filters, _ := netlink.FilterList(dev, h.parent)
			for _, f := range filters {
				if b, ok := f.(*netlink.BpfFilter); ok && b.Name == clsactName && b.Handle == clsactHandle {
					indexes[dev.Attrs().Index] = true
				}
			}
		}
	}
	for index := range indexes {
		errs = append(errs, detach(links, index))
	}
	return errors.Join(errs...)
}
