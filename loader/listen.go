// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/bpf"
	"github.com/spliceway/spliceway/maps"
)

var (
	// ErrNotSupported: the kernel is too old or was built without it. The text of
	// the error that wraps it says what is missing and since when Linux has it.
	ErrNotSupported = ebpf.ErrNotSupported
	// ErrFull: no more prefixes can be steered.
	ErrFull = errors.New("no slot left")
	// ErrClosed: the ListenSteering was closed.
	ErrClosed = errors.New("listen steering is closed")
)

// ListenSteering leads connections to any address of a prefix to one listening
// socket, with an sk_lookup program on the network namespace it was opened in. Its
// methods may be called from any goroutine.
//
// The addresses must be local to the host, which is the administrator's to set
// up: "ip route add local 203.0.113.0/24 dev lo". A connection has the address
// that the client asked for as its local address.
//
// Within a prefix, at its port, the given socket wins over any other listener:
// sk_lookup comes before the kernel's own search and cannot ask whether some
// process is bound to the exact address. Another sk_lookup program that was
// attached earlier and chose a socket wins over this one. All other traffic is
// untouched.
//
// Nothing is pinned: the sockets die with the process, and the program without
// them would lead nowhere. The kernel detaches it when the process ends, however
// it ends.
type ListenSteering struct {
	mu   sync.Mutex
	objs bpf.ListenObjects
	// link must be held: collected as garbage it is closed, and the program is
	// detached without a word.
	link     *link.NetNsLink
	prefixes maps.ListenPrefixes
	sockets  maps.ListenSockets
	verdicts maps.ListenVerdicts
	slots    map[steered]uint32
	free     []uint32
	closed   bool
}

// steered is what one socket serves.
type steered struct {
	prefix netip.Prefix // masked
	port   uint16
}

// OpenListenSteering attaches the program to the network namespace of the calling
// thread, with no prefix in it yet. It needs Linux 5.9 (else ErrNotSupported),
// CAP_NET_ADMIN and CAP_BPF (CAP_SYS_ADMIN before 5.8). The caller closes what it
// gets.
func OpenListenSteering() (*ListenSteering, error) {
	s, err := openListenSteering()
	switch {
	case errors.Is(err, unix.EPERM):
		return nil, fmt.Errorf("open listen steering: %w (needs CAP_BPF and CAP_NET_ADMIN)", err)
	case err != nil:
		return nil, fmt.Errorf("open listen steering: %w", err)
	}
	return s, nil
}

func openListenSteering() (*ListenSteering, error) {
	// Kernels before 5.11 charge maps to this limit. Where it cannot be lifted it
	// may still be wide enough, and if not, loading says so.
	_ = rlimit.RemoveMemlock()

	s := &ListenSteering{slots: make(map[steered]uint32)}
	if err := bpf.LoadListenObjects(&s.objs, nil); err != nil {
		if missing := features.HaveProgramType(ebpf.SkLookup); errors.Is(missing, ErrNotSupported) {
			return nil, fmt.Errorf("sk_lookup programs need Linux 5.9: %w", ErrNotSupported)
		}
		return nil, fmt.Errorf("load program: %w", err)
	}
	s.prefixes = maps.NewListenPrefixes(s.objs.Prefixes)
	s.sockets = maps.NewListenSockets(s.objs.Sockets)
	s.verdicts = maps.NewListenVerdicts(s.objs.Verdicts)
	for slot := range s.sockets.Len() {
		s.free = append(s.free, slot)
	}

	// A thread may be in another namespace than its process.
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open network namespace: %w", err), s.objs.Close())
	}
	defer ns.Close()
	s.link, err = link.AttachNetNs(int(ns.Fd()), s.objs.SteerListen)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("attach to network namespace: %w", err), s.objs.Close())
	}
	return s, nil
}

// Add leads connections to the prefix's addresses at port to the socket fd, which
// must be a TCP socket that listens, of the prefix's family; to which address it
// is bound makes no difference. Bits behind the prefix are ignored. The descriptor
// stays the caller's; when it is closed the prefix leads nowhere until Remove or
// another Add.
//
// Where prefixes overlap the longest wins. A prefix and port that are there
// already change over to the new socket in one step: add what is new, then remove
// what is old, and no connection is lost in between. What waits in the old
// socket's queue is for its owner to accept.
func (s *ListenSteering) Add(prefix netip.Prefix, port uint16, fd uintptr) error {
	at := steered{prefix.Masked(), port}
	if err := s.add(at, fd); err != nil {
		return fmt.Errorf("steer %s port %d: %w", prefix, port, err)
	}
	return nil
}

func (s *ListenSteering) add(at steered, fd uintptr) error {
	if !at.prefix.IsValid() || at.port == 0 {
		return errors.New("a valid prefix and a port are needed")
	}
	if err := checkListener(int(fd), at.prefix.Addr()); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	if slot, ok := s.slots[at]; ok {
		return s.sockets.Put(slot, fd)
	}
	if len(s.free) == 0 {
		return fmt.Errorf("%w: at most %d prefixes and ports", ErrFull, s.sockets.Len())
	}
	// The slot that has been free for longest: a packet on its way through the
	// program may just have been told of the one given back last.
	slot := s.free[0]
	// The socket first: a packet that finds the prefix must find the socket.
	if err := s.sockets.Put(slot, fd); err != nil {
		return err
	}
	if err := s.prefixes.Put(at.prefix, at.port, slot); err != nil {
		return errors.Join(err, s.sockets.Delete(slot))
	}
	s.slots[at] = slot
	s.free = s.free[1:]
	return nil
}

// checkListener tells a descriptor that could never be assigned while there is
// somebody to tell: the program could only count it.
func checkListener(fd int, addr netip.Addr) error {
	family := unix.AF_INET6
	if addr.Is4() {
		family = unix.AF_INET
	}
	for _, want := range []struct {
		opt, value int
		complaint  string
	}{
		{unix.SO_PROTOCOL, unix.IPPROTO_TCP, "not a TCP socket"},
		{unix.SO_ACCEPTCONN, 1, "not a listening socket"},
		{unix.SO_DOMAIN, family, "not a socket of the prefix's address family"},
	} {
		got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, want.opt)
		if err != nil {
			return fmt.Errorf("ask descriptor %d what it is: %w", fd, err)
		}
		if got != want.value {
			return fmt.Errorf("descriptor %d is %s", fd, want.complaint)
		}
	}
	return nil
}

// Remove leaves connections to the prefix's addresses at port to the kernel
// again, or to a shorter prefix. Established ones stay. Removing what was not
// added is an error.
func (s *ListenSteering) Remove(prefix netip.Prefix, port uint16) error {
	at := steered{prefix.Masked(), port}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	slot, ok := s.slots[at]
	if !ok {
		return fmt.Errorf("prefix %s port %d is not steered", prefix, port)
	}
	if err := s.prefixes.Delete(at.prefix, at.port); err != nil {
		return fmt.Errorf("stop steering: %w", err)
	}
	// From here on no packet finds the slot; an error leaves it out of use.
	delete(s.slots, at)
	if err := s.sockets.Delete(slot); err != nil {
		return fmt.Errorf("stop steering %s port %d: %w", prefix, port, err)
	}
	s.free = append(s.free, slot)
	return nil
}

// Counters returns how many lookups of a listener ended in each verdict since
// Open. It counts lookups, not connections: a repeated SYN counts again.
func (s *ListenSteering) Counters() (map[maps.ListenVerdict]uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	return s.verdicts.Read()
}

// Close detaches the program: when it returns, no packet meets it any more. The
// sockets stay open. Closing twice does nothing.
func (s *ListenSteering) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	// Closing a link may leave the detaching to a worker; Detach does it here.
	if err := errors.Join(s.link.Detach(), s.link.Close(), s.objs.Close()); err != nil {
		return fmt.Errorf("close listen steering: %w", err)
	}
	return nil
}
