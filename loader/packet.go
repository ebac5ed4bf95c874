// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/bpf"
	"github.com/spliceway/spliceway/maps"
)

// Packet is the kernel's side of engine packet: programs at the devices' tc hooks,
// and their maps. All of it is pinned: it works on when the process ends, and the
// next one finds it. Its methods may be called from any goroutine.
type Packet struct {
	Tuples    maps.Tuples
	Flows     maps.Flows
	Records   maps.Records
	Shortcuts maps.Shortcuts
	Devices   maps.Devices
	Counts    maps.PacketCounts

	// Fresh: there was no state at the path before.
	Fresh bool

	dir    *pinDir
	links  string // directory of pinned links
	objs   bpf.PacketObjects
	events *ringbuf.Reader
	noTCX  bool // as on kernels before 6.6

	mu       sync.Mutex
	attached map[int]*attachment // by device index
}

// OpenPacket loads the programs and makes the state at path, a directory of a BPF
// file system, or takes over the state that is there. One process at a time can have
// it: the other gets ErrInUse. What stands at the path and is not ours, or is of
// another version, is an error that names it; nothing has changed then.
//
// It attaches to no device but those that the state knows and that are still there;
// their programs are exchanged in one step.
func OpenPacket(path string) (*Packet, error) {
	p, err := openPacket(path)
	switch {
	case errors.Is(err, unix.EPERM):
		return nil, fmt.Errorf("open packet engine: %w (needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN)", err)
	case err != nil:
		return nil, fmt.Errorf("open packet engine: %w", err)
	}
	return p, nil
}

func openPacket(path string) (_ *Packet, err error) {
	_ = rlimit.RemoveMemlock() // kernels before 5.11, see OpenListenSteering
	dir, err := openPinDir(path)
	if err != nil {
		return nil, err
	}
	p := &Packet{dir: dir, attached: make(map[int]*attachment)}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if err := checkPins(path); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(path, layoutDir)); errors.Is(err, os.ErrNotExist) {
		p.Fresh = true
	}
	pinned, err := dir.sub(layoutDir)
	if err != nil {
		return nil, err
	}
	if p.links, err = dir.sub(linksDir); err != nil {
		return nil, err
	}
	spec, err := bpf.LoadPacket()
	if err != nil {
		return nil, fmt.Errorf("read programs: %w", err)
	}
	for _, m := range spec.Maps {
		m.Pinning = ebpf.PinByName
	}
	err = spec.LoadAndAssign(&p.objs, &ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: pinned}})
	if errors.Is(err, ebpf.ErrMapIncompatible) {
		return nil, fmt.Errorf("%w: %s has maps of another version (%v): end them with spliceway unload --bpffs %s", ErrForeign, pinned, err, path)
	}
	if err != nil {
		return nil, fmt.Errorf("load programs: %w", err)
	}
	p.Tuples, p.Flows, p.Records = maps.NewTuples(p.objs.Tuples), maps.NewFlows(p.objs.Flows), maps.NewRecords(p.objs.Records)
	p.Shortcuts = maps.NewShortcuts(p.objs.Shortcuts)
	p.Devices, p.Counts = maps.NewDevices(p.objs.Devices), maps.NewPacketCounts(p.objs.PacketCounts)
	if p.events, err = ringbuf.NewReader(p.objs.Events); err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	return p, p.adoptDevices()
}

// ErrForeign: something that is not the agent's stands where its state belongs.
var ErrForeign = errors.New("the state belongs to something else")

// Directories below the pin path.
var layoutDir = "v" + strconv.Itoa(maps.PacketLayout)

const linksDir = "links"

// checkPins complains of what the agent did not put there.
func checkPins(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("read pin directory: %w", err)
	}
	for _, e := range entries {
		switch name := e.Name(); name {
		case layoutDir, linksDir, sockmapDir:
		case "maps.debug", "progs.debug": // the kernel's own, in the root (bpf_fill_super)
		default:
			what := "something else's"
			if len(name) > 1 && name[0] == 'v' {
				if _, err := strconv.Atoi(name[1:]); err == nil {
					what = "the state of another version of the agent"
				}
			}
			return fmt.Errorf("%w: %s is %s: remove it (spliceway unload --bpffs %s), or set bpffs to another directory", ErrForeign, filepath.Join(path, name), what, path)
		}
	}
	spec, err := pinnedMaps()
	if err != nil {
		return err
	}
	entries, err = os.ReadDir(filepath.Join(path, layoutDir))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read pin directory: %w", err)
	}
	for _, e := range entries {
		at := filepath.Join(path, layoutDir, e.Name())
		if spec[e.Name()] == nil {
			return fmt.Errorf("%w: %s is not a map of the agent's: remove it, or set bpffs to another directory", ErrForeign, at)
		}
		m, err := ebpf.LoadPinnedMap(at, nil)
		if err != nil {
			return fmt.Errorf("%w: %s is not a map of the agent's (%v): remove it, or set bpffs to another directory", ErrForeign, at, err)
		}
		err = spec[e.Name()].Compatible(m)
		_ = m.Close()
		if err != nil {
			return fmt.Errorf("%w: %s is a map of another version (%v): end its flows with spliceway unload --bpffs %s", ErrForeign, at, err, path)
		}
	}
	return nil
}

// pinnedMaps are all maps that stand in the state, by name.
func pinnedMaps() (map[string]*ebpf.MapSpec, error) {
	all := make(map[string]*ebpf.MapSpec)
	for _, load := range []func() (*ebpf.CollectionSpec, error){bpf.LoadPacket, bpf.LoadSockmap} {
		spec, err := load()
		if err != nil {
			return nil, fmt.Errorf("read programs: %w", err)
		}
		for name, m := range spec.Maps {
			all[name] = m
		}
	}
	return all, nil
}

// Interrupt ends ReadEvent. It may be called twice.
func (p *Packet) Interrupt() {
	if p.events != nil {
		_ = p.events.Close()
	}
}

// Close gives the state up for another process. The programs stay, and with them the
// flows. Nothing may be read of the state meanwhile.
func (p *Packet) Close() {
	p.Interrupt()
	p.mu.Lock()
	for _, a := range p.attached {
		a.release()
	}
	p.attached = nil
	p.mu.Unlock()
	_ = p.objs.Close()
	p.dir.close()
}

// ReadEvent waits for the next message of the programs. os.ErrClosed: Interrupt
// or Close was called.
func (p *Packet) ReadEvent(into *ringbuf.Record) (maps.FlowEvent, error) {
	if err := p.events.ReadInto(into); err != nil {
		return maps.FlowEvent{}, err
	}
	return maps.DecodeFlowEvent(into.RawSample)
}

// EventBuffer is what ReadEvent reads into.
type EventBuffer = ringbuf.Record

// Transit changes a flow's state if it is from, in one step, and returns the state
// that was found: from if it has changed, maps.FlowFree if there is no such flow.
func (p *Packet) Transit(id maps.FlowID, from, to maps.FlowState) (was maps.FlowState, err error) {
	t := bpf.PacketTransition{Flow: uint64(id), From: bpf.PacketState(from), To: bpf.PacketState(to)}
	if _, err := p.objs.PacketTransit.Run(&ebpf.RunOptions{Context: &t, ContextOut: &t}); err != nil {
		return 0, fmt.Errorf("change state of flow %d: %w", id, err)
	}
	return maps.FlowState(t.Was), nil
}

// Reroute sends a side's packets out of another device, which must be attached.
func (p *Packet) Reroute(id maps.FlowID, side maps.Side, device int) error {
	p.mu.Lock()
	a := p.attached[device]
	p.mu.Unlock()
	if a == nil {
		return fmt.Errorf("reroute flow %d: device %d has no programs", id, device)
	}
	t := bpf.PacketTransition{Flow: uint64(id), Side: bpf.PacketSide(side), Ifindex: uint32(device), Way: bpf.PacketWayWAY_NEIGH}
	if a.raw {
		t.Way = bpf.PacketWayWAY_RAW
	}
	if _, err := p.objs.PacketReroute.Run(&ebpf.RunOptions{Context: &t, ContextOut: &t}); err != nil {
		return fmt.Errorf("reroute flow %d: %w", id, err)
	}
	return nil
}

// PacketState is the flows of a state, to be read only.
type PacketState struct {
	Flows     maps.Flows
	Records   maps.Records
	Shortcuts maps.Shortcuts

	opened []*ebpf.Map
}

// Close is the reader's last call.
func (s *PacketState) Close() {
	for _, m := range s.opened {
		_ = m.Close()
	}
}

// ReadPacket opens the flows of the state at path to read them, beside an agent or
// without one. No state is os.ErrNotExist.
func ReadPacket(path string) (*PacketState, error) {
	spec, err := bpf.LoadPacket()
	if err != nil {
		return nil, fmt.Errorf("read programs: %w", err)
	}
	s := new(PacketState)
	for _, name := range []string{bpf.PacketMapFlows, bpf.PacketMapRecords, bpf.PacketMapShortcuts} {
		m, err := readPinned(spec.Maps[name], filepath.Join(path, layoutDir))
		if err != nil {
			s.Close()
			return nil, err
		}
		s.opened = append(s.opened, m)
	}
	s.Flows, s.Records, s.Shortcuts = maps.NewFlows(s.opened[0]), maps.NewRecords(s.opened[1]), maps.NewShortcuts(s.opened[2])
	return s, nil
}

// UnloadPacket takes the programs and the state at path out of the kernel. Flows that
// are left lose their way: their packets go to the kernel, which answers with resets.
// A path where nothing is, is no error; a running agent is ErrInUse.
func UnloadPacket(path string) error {
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	dir, err := lockPinDir(path)
	if err != nil {
		return fmt.Errorf("unload: %w", err)
	}
	defer dir.close()
	errs := []error{
		unpinLink(filepath.Join(path, sockmapDir, watchPin)),
		unpinLink(filepath.Join(path, sockmapDir, readPin)),
		detachAll(filepath.Join(path, linksDir)),
		os.RemoveAll(filepath.Join(path, sockmapDir)),
		os.RemoveAll(filepath.Join(path, linksDir)),
	}
	entries, err := os.ReadDir(path)
	errs = append(errs, err)
	for _, e := range entries {
		if len(e.Name()) > 1 && e.Name()[0] == 'v' {
			errs = append(errs, os.RemoveAll(filepath.Join(path, e.Name())))
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, unix.ENOTEMPTY) {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("unload: %w", err)
	}
	return nil
}

// readPinned opens a map for reading; one of another layout is ErrForeign.
func readPinned(spec *ebpf.MapSpec, dir string) (*ebpf.Map, error) {
	at := filepath.Join(dir, spec.Name)
	m, err := ebpf.LoadPinnedMap(at, &ebpf.LoadPinOptions{ReadOnly: true})
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return nil, fmt.Errorf("read %s: %w (needs root)", at, err)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", at, err)
	}
	if err := spec.Compatible(m); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %s is of another version: %w", ErrForeign, at, err), m.Close())
	}
	return m, nil
}
