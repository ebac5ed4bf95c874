// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/bpf"
)

// ListenPrefixes says at which slot of ListenSockets the socket is that serves an
// address prefix at a port. The zero value is of no use.
type ListenPrefixes struct{ m *ebpf.Map }

// NewListenPrefixes wraps the map; it stays the caller's.
func NewListenPrefixes(m *ebpf.Map) ListenPrefixes { return ListenPrefixes{m} }

// Put adds a prefix or moves it to another slot. Packets see the change at once.
func (p ListenPrefixes) Put(prefix netip.Prefix, port uint16, slot uint32) error {
	key, err := listenKey(prefix, port)
	if err != nil {
		return err
	}
	if err := p.m.Put(key, slot); err != nil {
		return fmt.Errorf("put prefix %s port %d: %w", prefix, port, err)
	}
	return nil
}

// Delete takes a prefix out. One that is not there is ebpf.ErrKeyNotExist.
func (p ListenPrefixes) Delete(prefix netip.Prefix, port uint16) error {
	key, err := listenKey(prefix, port)
	if err != nil {
		return err
	}
	if err := p.m.Delete(key); err != nil {
		return fmt.Errorf("delete prefix %s port %d: %w", prefix, port, err)
	}
	return nil
}

// listenKey lays a prefix out as the trie wants it: the port and the family are
// bits that always match whole, the address follows.
func listenKey(prefix netip.Prefix, port uint16) (bpf.ListenPrefix, error) {
	const exactBits = 8 * (unsafe.Offsetof(bpf.ListenPrefix{}.Addr) - unsafe.Offsetof(bpf.ListenPrefix{}.Port))
	key := bpf.ListenPrefix{Port: port}
	switch addr := prefix.Addr(); {
	case !prefix.IsValid():
		return key, errors.New("listen prefix is not valid")
	case addr.Is4In6():
		// Such packets are IPv4 by the time they are looked up.
		return key, fmt.Errorf("listen prefix %s: write an IPv4 prefix as IPv4", prefix)
	case addr.Is4():
		key.Family = unix.AF_INET
	default:
		key.Family = unix.AF_INET6
	}
	key.Prefixlen = uint32(exactBits) + uint32(prefix.Bits())
	copy(key.Addr[:], prefix.Masked().Addr().AsSlice())
	return key, nil
}

// ListenSockets holds the listening sockets, by slot. The kernel takes a socket
// out by itself when its last descriptor is closed. The zero value is of no use.
type ListenSockets struct{ m *ebpf.Map }

// NewListenSockets wraps the map; it stays the caller's.
func NewListenSockets(m *ebpf.Map) ListenSockets { return ListenSockets{m} }

// Len is the number of slots.
func (s ListenSockets) Len() uint32 { return s.m.MaxEntries() }

// Put sets the socket of a slot, in one step if there was one before. The
// descriptor stays the caller's, and must be a TCP socket that listens.
func (s ListenSockets) Put(slot uint32, fd uintptr) error {
	if err := s.m.Put(slot, uint64(fd)); err != nil {
		return fmt.Errorf("put socket in slot %d: %w", slot, err)
	}
	return nil
}

// Delete empties a slot. One that is empty already is no error: the kernel may
// have been first.
func (s ListenSockets) Delete(slot uint32) error {
	// A sockmap says EINVAL where other maps say ENOENT (__sock_map_delete).
	err := s.m.Delete(slot)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("delete socket in slot %d: %w", slot, err)
	}
	return nil
}

// ListenVerdict is how one lookup of a listener ended (enum verdict of
// bpf/include/listen.h). All but ListenAssigned left the packet to the kernel.
type ListenVerdict uint32

const (
	ListenNotTCP   = ListenVerdict(bpf.ListenVerdictNOT_TCP)   // another protocol
	ListenNoPrefix = ListenVerdict(bpf.ListenVerdictNO_PREFIX) // address and port are in no prefix
	ListenAssigned = ListenVerdict(bpf.ListenVerdictASSIGNED)  // led to the prefix's socket
	ListenNoSocket = ListenVerdict(bpf.ListenVerdictNO_SOCKET) // the prefix's socket is closed
	ListenTaken    = ListenVerdict(bpf.ListenVerdictTAKEN)     // an earlier program had chosen a socket
	ListenRefused  = ListenVerdict(bpf.ListenVerdictREFUSED)   // the kernel would not have the socket
)

const listenVerdicts = ListenVerdict(bpf.ListenVerdictVERDICTS)

// String is the verdict's label in metrics: lower case, as in C.
func (v ListenVerdict) String() string {
	switch v {
	case ListenNotTCP:
		return "not_tcp"
	case ListenNoPrefix:
		return "no_prefix"
	case ListenAssigned:
		return "assigned"
	case ListenNoSocket:
		return "no_socket"
	case ListenTaken:
		return "taken"
	case ListenRefused:
		return "refused"
	}
	return fmt.Sprintf("verdict(%d)", uint32(v))
}

// ListenVerdicts counts lookups by how they ended. The zero value is of no use.
type ListenVerdicts struct{ m *ebpf.Map }

// NewListenVerdicts wraps the map; it stays the caller's.
func NewListenVerdicts(m *ebpf.Map) ListenVerdicts { return ListenVerdicts{m} }

// Read returns every verdict's count since the map was created, summed over the
// CPUs. It is not one instant: lookups go on while it reads.
func (c ListenVerdicts) Read() (map[ListenVerdict]uint64, error) {
	counts := make(map[ListenVerdict]uint64, listenVerdicts)
	var perCPU []uint64
	for v := range listenVerdicts {
		if err := c.m.Lookup(uint32(v), &perCPU); err != nil {
			return nil, fmt.Errorf("read verdict %s: %w", v, err)
		}
		counts[v] = 0
		for _, n := range perCPU {
			counts[v] += n
		}
	}
	return counts, nil
}
