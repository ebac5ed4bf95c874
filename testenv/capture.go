// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Capture collects the TCP and ICMP packets at a device, both directions: what
// arrives before the device's tc programs see it, what leaves after they let it.
// Nothing runs for it: packets wait in the kernel until a method is called.
type Capture struct {
	mu     sync.Mutex
	socket *packetSocket
	seen   []Seen
}

// NewCapture begins to collect. The caller closes it.
func NewCapture(device *Device) (*Capture, error) {
	socket, err := newPacketSocket(device)
	if err != nil {
		return nil, err
	}
	return &Capture{socket: socket}, nil
}

// Close ends the capture. A second Close does nothing.
func (c *Capture) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.socket.close()
}

// Packets returns all packets so far that every filter accepts, in their
// order. None that passed the device before the call is missing, so it can
// show that something was not sent. It is an error if the kernel lost any.
func (c *Capture) Packets(filters ...func(Seen) bool) ([]Seen, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.socket.fd >= 0 {
		more, err := c.socket.drain()
		c.seen = append(c.seen, more...)
		if err != nil {
			return nil, err
		}
	}
	var list []Seen
	accepts := all(filters)
	for _, seen := range c.seen {
		if accepts(seen) {
			list = append(list, seen)
		}
	}
	return list, nil
}

// Wait waits for a packet that every filter accepts and returns the first,
// which may have come long ago.
func (c *Capture) Wait(ctx context.Context, filters ...func(Seen) bool) (Seen, error) {
	var found []Seen
	err := Poll(ctx, func() (_ bool, err error) {
		found, err = c.Packets(filters...)
		return len(found) > 0, err
	})
	if err != nil {
		return Seen{}, fmt.Errorf("wait for a packet at %s: %w", c.socket.device.Name, err)
	}
	return found[0], nil
}

// Forget drops all packets so far, so that from now on only newer ones count.
func (c *Capture) Forget() error {
	_, err := c.Packets()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = nil
	return err
}

func all(filters []func(Seen) bool) func(Seen) bool {
	return func(s Seen) bool {
		return !slices.ContainsFunc(filters, func(accepts func(Seen) bool) bool { return !accepts(s) })
	}
}

// Outgoing accepts what left by the device.
func Outgoing(s Seen) bool { return s.Outgoing }

// Incoming accepts what arrived at the device.
func Incoming(s Seen) bool { return !s.Outgoing }

// WithPayload accepts what carries bytes.
func WithPayload(s Seen) bool { return len(s.Payload) > 0 }

// After accepts what the kernel saw later than a time. The machine's first
// capture takes the kernel a moment to have the time: see [Capture.Forget] for
// an order that does not depend on clocks.
func After(t time.Time) func(Seen) bool {
	return func(s Seen) bool { return s.Time.After(t) }
}

// Between accepts TCP of one connection, either way.
func Between(a, b netip.AddrPort) func(Seen) bool {
	return func(s Seen) bool {
		return s.Protocol == unix.IPPROTO_TCP && (s.Source == a && s.Destination == b || s.Source == b && s.Destination == a)
	}
}

// WithFlags accepts TCP that has all of the flags.
func WithFlags(flags TCPFlags) func(Seen) bool {
	return func(s Seen) bool { return s.Protocol == unix.IPPROTO_TCP && s.Flags.Has(flags) }
}
