// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/cilium/ebpf"

	"github.com/spliceway/spliceway/bpf"
)

// Misfit is why a socket is not given the short cut (enum misfit).
type Misfit uint32

// The ones that are asked for by name.
const (
	Fits   = Misfit(bpf.SockmapMisfitFITS)
	Reader = Misfit(bpf.SockmapMisfitREADER)
)

var misfits = [...]string{
	"", "blocking_socket", "kernel_tls", "socket_in_use", "zerocopy", "rcvlowat", "tcp_inq", "reader", "not_accepted",
}

// The table has the enumeration's length: one of these does not compile otherwise.
const (
	_ = uint(len(misfits) - int(bpf.SockmapMisfitMISFITS))
	_ = uint(int(bpf.SockmapMisfitMISFITS) - len(misfits))
)

// String is the word for logs and metrics (telemetry.SockmapReasons); that of Fits is
// empty.
func (m Misfit) String() string {
	if int(m) < len(misfits) {
		return misfits[m]
	}
	return fmt.Sprintf("misfit(%d)", uint32(m))
}

// ShortcutEnd is one side's socket of a flow that is local, and what it sent.
type ShortcutEnd struct {
	Fit      bool   // it is to be joined, or was
	Joined   bool   // the socket is in the map
	Misfit   Misfit // why it does not take the short cut (any more)
	Stuck    bool   // its reader does not see what came by the short cut
	Sent     uint64 // bytes by the short cut
	Messages uint64 // sends that these were
	Road     uint64 // bytes by TCP since it joined
	Switches uint32 // how often it changed from one to the other
}

// Shortcut is what the programs know of a flow between two sockets of this host.
type Shortcut struct {
	Ends [2]ShortcutEnd // by Side
	// Seen is when something last went by it, of CLOCK_MONOTONIC; 0: never.
	Seen time.Duration
}

// Waits tells whether both sockets are fit and not joined yet.
func (s *Shortcut) Waits() bool {
	client, backend := &s.Ends[Client], &s.Ends[Backend]
	return client.Fit && backend.Fit && s.Misfit() == Fits && !(client.Joined && backend.Joined)
}

// Misfit is why the flow does not take the short cut, if there is a reason.
func (s *Shortcut) Misfit() Misfit {
	return max(s.Ends[Client].Misfit, s.Ends[Backend].Misfit)
}

// Take adds what a flow moved by the short cut. It is called once.
func (f *Flow) Take(cut Shortcut) {
	f.Shortcut = cut
	for side := range Side(2) {
		f.Delivered[side.Other()] += cut.Ends[side].Sent
	}
	f.Seen = max(f.Seen, cut.Seen)
}

// Shortcuts holds the flows whose ends are sockets of this host. The zero value is of
// no use.
type Shortcuts struct{ m *ebpf.Map }

// NewShortcuts wraps the map; it stays the caller's.
func NewShortcuts(m *ebpf.Map) Shortcuts { return Shortcuts{m} }

// Get returns a flow's; ErrNotFound: none of its sockets has been found.
func (s Shortcuts) Get(id FlowID) (Shortcut, error) {
	var v bpf.SockmapShortcut
	if err := s.m.Lookup(uint64(id), &v); err != nil {
		return Shortcut{}, fmt.Errorf("read short cut of flow %d: %w", id, err)
	}
	var cut Shortcut
	for side := range v.Ends {
		e := &v.Ends[side]
		cut.Ends[side] = ShortcutEnd{
			Fit: e.State >= bpf.SockmapEndStateFIT, Joined: e.State == bpf.SockmapEndStateJOINED, Misfit: Misfit(e.Misfit), Stuck: e.Stuck != 0,
			Sent: e.Bytes, Messages: e.Messages, Road: e.Road, Switches: e.Switches,
		}
		cut.Seen = max(cut.Seen, ticks(e.Seen))
	}
	return cut, nil
}

// Delete takes a flow out: what its sockets send goes by TCP. One that is not there is
// no error.
func (s Shortcuts) Delete(id FlowID) error {
	if err := s.m.Delete(uint64(id)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete short cut of flow %d: %w", id, err)
	}
	return nil
}

// Len counts the flows, by walking them all.
func (s Shortcuts) Len() (int, error) {
	var k uint64
	var v bpf.SockmapShortcut
	n := 0
	all := s.m.Iterate()
	for all.Next(&k, &v) {
		n++
	}
	return n, all.Err()
}

// ShortcutOrders is what the agent wants of the short cut.
type ShortcutOrders struct {
	// Mark is the bytes in a receive queue from which on sends go by TCP. 0: all do.
	Mark uint32
	// Packets must have come from either side before a flow takes the short cut.
	Packets uint32
	// Listeners are the ports that clients connect to; First to Last those that the
	// agent dials from. Only sockets with one of these at the other end are looked at.
	Listeners   []uint16
	First, Last uint16
	// MTU is that of the smallest device that a client of this host, on the loopback
	// device, may be connected to by a listener of Onward. 0: there is no other device.
	MTU    int
	Onward []uint16
}

// enum port_kind of bpf/include/sockmap.h.
const (
	portListener = 1
	portSource   = 2
	portSegments = 4
)

// ShortcutSettings holds the orders. The zero value is of no use.
type ShortcutSettings struct{ m *ebpf.Map }

// NewShortcutSettings wraps the map; it stays the caller's.
func NewShortcutSettings(m *ebpf.Map) ShortcutSettings { return ShortcutSettings{m} }

// Put replaces the orders.
func (s ShortcutSettings) Put(o ShortcutOrders) error {
	v := bpf.SockmapSettings{Mark: o.Mark, Packets: o.Packets}
	for _, p := range o.Listeners {
		v.Ports[p] |= portListener
	}
	const header4, header6 = 20 + 20, 40 + 20
	if o.MTU > 0 {
		v.Mss4, v.Mss6 = uint16(min(o.MTU-header4, math.MaxUint16)), uint16(min(o.MTU-header6, math.MaxUint16))
		for _, p := range o.Onward {
			v.Ports[p] |= portSegments
		}
	}
	if o.First > 0 {
		for p := int(o.First); p <= int(o.Last); p++ {
			v.Ports[p] |= portSource
		}
	}
	if err := s.m.Put(uint32(0), &v); err != nil {
		return fmt.Errorf("put settings of the short cut: %w", err)
	}
	return nil
}
