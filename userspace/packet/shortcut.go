// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/spliceway/spliceway/loader"
	"github.com/spliceway/spliceway/maps"
	"github.com/spliceway/spliceway/userspace/telemetry"
)

// NameShortcut is the engine's name for flows that took the short cut from socket to
// socket.
const NameShortcut = "packet+sockmap"

// shortcutAfter is how many packets must have come from either side since the flip: more
// than a TLS handshake takes, by the end of which it shows what an application does
// with its socket, and more than it pays for to watch.
const shortcutAfter = 16

// ShortcutOptions of UseShortcut and OrderShortcut.
type ShortcutOptions struct {
	// Queue is the bytes in a receive queue from which on sends go by TCP.
	Queue int
	// Listeners are the ports that clients come to.
	Listeners []uint16
	// Onward are those of Listeners whose flows may go on by another device than the
	// loopback device.
	Onward []uint16
	// Ports are those that the agent dials from.
	Ports PortRange
}

// shortcuts is the part of the engine that finds flows between two sockets of this host
// and gives them the short cut.
type shortcuts struct {
	mu      sync.Mutex
	options ShortcutOptions
	mtu     int                  // of the smallest device
	kernel  *loader.Sockmap      // nil: there is none
	avoid   map[reader]time.Time // since when; they do not see the short cut
	join    chan struct{}        // sockets wait to be joined
}

// UseShortcut has flows take the short cut that ask for it. It is called once; kernel is
// the engine's own from then on.
func (e *Engine) UseShortcut(kernel *loader.Sockmap, o ShortcutOptions) error {
	e.shortcuts.mu.Lock()
	e.shortcuts.kernel = kernel
	e.shortcuts.mu.Unlock()
	if err := e.OrderShortcut(o); err != nil {
		return err
	}
	e.running.Go(e.joinSockets)
	e.wakeJoin() // what an earlier agent did not get to
	return nil
}

// OrderShortcut changes what UseShortcut was given; without it, it does nothing.
func (e *Engine) OrderShortcut(o ShortcutOptions) error {
	s := &e.shortcuts
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kernel == nil {
		return nil
	}
	mtu, err := loader.SmallestMTU()
	if err != nil {
		return err
	}
	s.options, s.mtu = o, mtu
	return s.order()
}

// order is called under s.mu.
func (s *shortcuts) order() error {
	o := &s.options
	return s.kernel.Settings.Put(maps.ShortcutOrders{
		Mark: uint32(o.Queue), Packets: shortcutAfter, Listeners: o.Listeners, Onward: o.Onward, First: o.Ports.First, Last: o.Ports.Last, MTU: s.mtu,
	})
}

// devicesChanged looks whether there is a smaller device now, or only larger ones.
func (s *shortcuts) devicesChanged() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kernel == nil {
		return nil
	}
	mtu, err := loader.SmallestMTU()
	if err != nil || mtu == s.mtu {
		return err
	}
	s.mtu = mtu
	return s.order()
}

// HasShortcut tells whether UseShortcut was called.
func (e *Engine) HasShortcut() bool {
	e.shortcuts.mu.Lock()
	defer e.shortcuts.mu.Unlock()
	return e.shortcuts.kernel != nil
}

func (s *shortcuts) close() {
	if s.kernel != nil {
		s.kernel.Close()
	}
}

// reader is an application as far as its address tells: a client by where it is and what
// it connects to, a backend by where it listens.
type reader struct {
	client netip.Addr
	at     netip.AddrPort
}

func readers(e maps.Endpoints) [2]reader {
	return [2]reader{maps.Client: {e.Client.Addr(), e.Listener}, maps.Backend: {at: e.Backend}}
}

// shunFor is how long flows of an application are spared: it may be another one then.
const shunFor = time.Hour

// wants tells whether a flow may take the short cut.
func (s *shortcuts) wants(where maps.Endpoints) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kernel == nil {
		return false
	}
	for _, r := range readers(where) {
		if since, shunned := s.avoid[r]; shunned && time.Since(since) < shunFor {
			return false
		}
	}
	return true
}

// avoidedKept bounds how many applications are remembered.
const avoidedKept = 4096

func (s *shortcuts) shun(r reader) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.avoid == nil || len(s.avoid) >= avoidedKept {
		s.avoid = make(map[reader]time.Time)
	}
	s.avoid[r] = time.Now()
}

func (e *Engine) wakeJoin() {
	select {
	case e.shortcuts.join <- struct{}{}:
	default: // it has not begun yet, and sees this one, too
	}
}

// joinSockets puts sockets into the kernel's map, many at a time where many come.
func (e *Engine) joinSockets() {
	for {
		select {
		case <-e.stop:
			return
		case <-e.shortcuts.join:
		}
		if err := e.shortcuts.kernel.Join(); err != nil {
			e.complain.about(e.logger, "flows do not take the short cut", err)
		}
	}
}

// withShortcut adds what a flow moved by the short cut to what the packets tell of it.
func withShortcut(cuts maps.Shortcuts, id maps.FlowID, f *maps.Flow) {
	if !f.SameHost {
		return
	}
	if cut, err := cuts.Get(id); err == nil {
		f.Take(cut)
	}
}

// countShortcut adds what has gone by the short cut since the last time. It is called
// under Engine.mu.
func (e *Engine) countShortcut(s *spliced, cut *maps.Shortcut) {
	sent := [2]uint64{cut.Ends[maps.Client].Sent, cut.Ends[maps.Backend].Sent}
	switches := cut.Ends[maps.Client].Switches + cut.Ends[maps.Backend].Switches
	if sent == s.cut.sent && switches == s.cut.switches {
		return
	}
	e.metrics.Shortcut(sent[0]-s.cut.sent[0], sent[1]-s.cut.sent[1], uint64(switches-s.cut.switches))
	if s.cut.sent == [2]uint64{} {
		e.metrics.TookShortcut()
	}
	s.cut = shortcutCount{sent, switches}
}

// shortcutCount is what was counted of a flow.
type shortcutCount struct {
	sent     [2]uint64 // bytes, by side
	switches uint32
}

// describeShortcut says in a flow's record how it went.
func describeShortcut(r *telemetry.Record, f *maps.Flow) {
	if !f.SameHost {
		return
	}
	client, backend := &f.Shortcut.Ends[maps.Client], &f.Shortcut.Ends[maps.Backend]
	r.SockmapIn, r.SockmapOut = int64(client.Sent), int64(backend.Sent)
	r.SockmapSwitches = int(client.Switches + backend.Switches)
	if r.SockmapIn+r.SockmapOut > 0 {
		r.Engine = NameShortcut
	}
	r.EngineReason = f.Shortcut.Misfit().String()
}

// lateReaders acts on an application that turned out to read in a way that does not see the
// short cut, after it was given it. Later flows of it are spared; this one ends if
// something is stuck in its queue: whoever waits for that waits forever.
func (e *Engine) lateReaders(s *spliced, f *maps.Flow) {
	for side, a := range [2]netip.AddrPort{maps.Client: f.Client, maps.Backend: f.Backend} {
		end := &f.Shortcut.Ends[side]
		if !end.Joined || end.Misfit != maps.Reader {
			continue
		}
		e.shortcuts.shun(readers(f.Endpoints)[side])
		if !end.Stuck {
			continue
		}
		e.complain.about(e.logger, "a flow was ended: set sockmap to off for its endpoint",
			fmt.Errorf("the application at %s reads with splice(2) or the like, which does not see what came by the short cut", a))
		e.kill(s, telemetry.EndError)
		return
	}
}
