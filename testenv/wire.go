// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// wireFrame is more than any frame: TUN and TAP devices have no offloads unless
// asked, so the kernel cuts what it sends to the MTU.
const wireFrame = 64<<10 + 64

// wireQueue is the frames that a device holds for the forwarder. Long, so that
// a slow forwarder is no cause of losses.
const wireQueue = 10000

// Direction is one of the two of a [Wire].
type Direction int

// The directions of the wire between a host and the gateway.
const (
	ToHost Direction = iota
	ToGateway
)

func (d Direction) String() string {
	if d == ToHost {
		return "to host"
	}
	return "to gateway"
}

// Wire is a link whose frames pass through this process: two TAP devices, or
// two TUN devices, and a goroutine for each direction in between. A test can
// have frames lost, doubled, delayed and reordered by [Device.Impair], and do
// whatever it likes to them by [Wire.Filter] and [Wire.Inject].
//
// It carries whole frames in their order and one at a time, no more than a
// few Gbit/s. Checksums are complete and segments fit the MTU, unlike on veth.
type Wire struct {
	// Ethernet says that the frames have Ethernet headers (TAP).
	Ethernet bool

	ends       [2]*os.File // by the direction that leads there
	lanes      [2]lane
	forwarders sync.WaitGroup

	mu     sync.Mutex // one call of filter at a time
	filter func(Direction, []byte) [][]byte
}

// newWire makes the devices of both ends and begins to forward. The caller
// sets them up, and closes the wire.
func newWire(host, gateway *Device, ethernet bool) (*Wire, error) {
	w := &Wire{Ethernet: ethernet}
	for direction, device := range map[Direction]*Device{ToHost: host, ToGateway: gateway} {
		file, err := device.Namespace.openTUN(device.Name, ethernet)
		if err != nil {
			return nil, errors.Join(err, w.Close())
		}
		w.ends[direction] = file
		link, err := device.Namespace.link.LinkByName(device.Name)
		if err == nil {
			err = device.Namespace.link.LinkSetTxQLen(link, wireQueue)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("set queue of %s: %w", device.Name, err), w.Close())
		}
		device.wire, device.out = w, 1-direction
	}
	for _, direction := range []Direction{ToHost, ToGateway} {
		w.forwarders.Go(func() { w.forward(direction) })
	}
	return w, nil
}

// Filter has f called with each frame, before impairments, and forwards what
// it returns instead: nothing, the frame, others. Nil ends it. f owns the
// frame; it is called once at a time and must not call Filter.
func (w *Wire) Filter(f func(direction Direction, frame []byte) [][]byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.filter = f
}

// Inject delivers a frame, past filter and impairments.
func (w *Wire) Inject(direction Direction, frame []byte) error {
	if _, err := w.ends[direction].Write(frame); err != nil {
		return fmt.Errorf("inject a frame %s: %w", direction, err)
	}
	return nil
}

// Stats returns what impairments did in a direction since the wire was made.
func (w *Wire) Stats(direction Direction) WireStats {
	l := &w.lanes[direction]
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stats
}

// IP returns the part of a frame from the IP header on, which is for
// [ParsePacket]. It is empty in a frame too short for its Ethernet header.
func (w *Wire) IP(frame []byte) []byte {
	return frame[min(len(frame), w.headerLen()):]
}

// Frame returns a frame like the given one with another IP packet in it.
func (w *Wire) Frame(like []byte, p Packet) []byte {
	return slices.Concat(like[:w.headerLen()], p.Bytes())
}

// Close stops forwarding and removes both devices. A second Close does nothing.
func (w *Wire) Close() error {
	var errs []error
	for _, file := range w.ends {
		if file == nil {
			continue
		}
		if err := file.Close(); !errors.Is(err, os.ErrClosed) {
			errs = append(errs, err)
		}
	}
	w.forwarders.Wait()
	return errors.Join(errs...)
}

func (w *Wire) headerLen() int {
	if w.Ethernet {
		return 14
	}
	return 0
}

// forward carries frames in one direction until the wire is closed.
func (w *Wire) forward(direction Direction) {
	in, out, lane := w.ends[1-direction], w.ends[direction], &w.lanes[direction]
	buf := make([]byte, wireFrame)
	for {
		if in.SetReadDeadline(lane.next()) != nil {
			return // closed
		}
		n, err := in.Read(buf)
		now := time.Now()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
		case err != nil:
			return // closed, or the device went with its namespace
		default:
			for _, frame := range w.filtered(direction, slices.Clone(buf[:n])) {
				lane.admit(frame, w.isTCP(frame), now)
			}
		}
		for _, frame := range lane.due(now) {
			_, _ = out.Write(frame) // EIO: the device is down; a wire does not notice
		}
	}
}

func (w *Wire) filtered(direction Direction, frame []byte) [][]byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.filter == nil {
		return [][]byte{frame}
	}
	return w.filter(direction, frame)
}

func (w *Wire) isTCP(frame []byte) bool {
	b := w.IP(frame)
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		return b[9] == unix.IPPROTO_TCP
	case len(b) >= 40 && b[0]>>4 == 6:
		return b[6] == unix.IPPROTO_TCP
	}
	return false
}
