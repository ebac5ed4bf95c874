// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

// ErrNoNetem means that the kernel was built without CONFIG_NET_SCH_NETEM, so
// that delay and reordering are to be had on a [Wire] only. Loss and duplicates
// are to be had anywhere.
var ErrNoNetem = errors.New("kernel has no netem (CONFIG_NET_SCH_NETEM)")

// Device is one end of a link of a [Network].
type Device struct {
	Namespace  *Namespace
	Name       string
	IPv4, IPv6 netip.Addr

	bits4, bits6 int    // lengths of the link's prefixes
	lower        string // the device that this one is on top of, if any
	peer         *Device
	loss         link.Link // at the peer's ingress, see Impair
	wire         *Wire     // nil but for the end of one
	out          Direction // of the wire, from here
}

// Impairment is what happens to packets that leave a device. The zero value
// is a clean link. Fractions are 0 to 1.
//
// A packet here is what the kernel hands over a veth in one go, up to 64 KB
// of one flow, so losing one is a burst on a real wire. On a [Wire] it is a
// TCP segment, and nothing else is touched: a lost ARP request costs a second.
type Impairment struct {
	Loss      float64 // fraction of packets lost
	Duplicate float64 // fraction delivered twice

	// Without a wire these need netem.
	Delay  time.Duration // added to each packet
	Jitter time.Duration // the delay varies by up to this much

	// Reorder is the fraction that skips the delay, which there must be. On a
	// wire it is the fraction that 1 to 5 later segments overtake.
	Reorder float64

	// Seed chooses the sequence of fates on a wire: the nth segment of a
	// direction after Impair meets the same one each time.
	Seed uint64
}

// SetUp puts the device up or takes it down. The peer loses its carrier with
// it; taking it down drops its IPv6 addresses and routes as on any machine.
func (d *Device) SetUp(up bool) error { return d.Namespace.setUp(d.Name, up) }

// Impair replaces what was set before. It returns an error that wraps
// [ErrNoNetem] where a field needs a kernel with netem.
//
// Loss and duplicates are made on the arriving side, by an eBPF program at the
// peer's tcx ingress: a drop on the sending side is reported to the local TCP,
// which would then back off without ever missing a packet.
func (d *Device) Impair(i Impairment) error {
	for _, fraction := range []float64{i.Loss, i.Duplicate, i.Reorder} {
		if !(fraction >= 0 && fraction <= 1) {
			return fmt.Errorf("impair %s: fraction %v is not between 0 and 1", d.Name, fraction)
		}
	}
	if d.wire != nil {
		d.wire.lanes[d.out].impair(i)
		return nil
	}
	if i.Reorder > 0 && i.Delay == 0 {
		return fmt.Errorf("impair %s: reordering needs a delay to skip", d.Name)
	}
	if err := d.setNetem(i); err != nil {
		return fmt.Errorf("impair %s of namespace %s: %w", d.Name, d.Namespace.name, err)
	}
	if err := d.setLoss(i.Loss, i.Duplicate); err != nil {
		return fmt.Errorf("impair %s of namespace %s: %w", d.Name, d.Namespace.name, err)
	}
	return nil
}

// SetMTU sets the largest IP packet, in bytes, that this end sends; the other
// end keeps its own. Below 1280 a device has no IPv6.
func (d *Device) SetMTU(mtu int) error {
	for _, name := range []string{d.lower, d.Name} {
		if name == "" {
			continue
		}
		dev, err := d.Namespace.link.LinkByName(name)
		if err == nil {
			err = d.Namespace.link.LinkSetMTU(dev, mtu)
		}
		if err != nil {
			return fmt.Errorf("set MTU %d of %s of namespace %s: %w", mtu, name, d.Namespace.name, err)
		}
	}
	return nil
}

func (d *Device) prefix(address netip.Addr) netip.Prefix {
	if address.Is4() {
		return netip.PrefixFrom(address, d.bits4)
	}
	return netip.PrefixFrom(address, d.bits6)
}

func (d *Device) setNetem(i Impairment) error {
	handle := d.Namespace.link
	dev, err := handle.LinkByName(d.Name)
	if err != nil {
		return err
	}
	attributes := netlink.QdiscAttrs{
		LinkIndex: dev.Attrs().Index,
		Handle:    netlink.MakeHandle(1, 0),
		Parent:    netlink.HANDLE_ROOT,
	}
	if i.Delay == 0 && i.Jitter == 0 {
		err := handle.QdiscDel(&netlink.Netem{QdiscAttrs: attributes})
		if err != nil && !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.EINVAL) {
			return fmt.Errorf("remove netem: %w", err)
		}
		return nil // ENOENT, EINVAL: there was none
	}
	err = handle.QdiscReplace(netlink.NewNetem(attributes, netlink.NetemQdiscAttrs{
		Latency:     uint32(i.Delay.Microseconds()),
		Jitter:      uint32(i.Jitter.Microseconds()),
		ReorderProb: float32(i.Reorder * 100), // in percent, as tc-netem(8)
	}))
	if errors.Is(err, syscall.ENOENT) {
		return ErrNoNetem
	}
	return err
}

func (d *Device) setLoss(loss, duplicate float64) error {
	if err := d.clearLoss(); err != nil {
		return err
	}
	if loss == 0 && duplicate == 0 {
		return nil
	}
	dev, err := d.peer.Namespace.link.LinkByName(d.peer.Name)
	if err != nil {
		return err
	}
	// The kernel looks the interface index up in the namespace of the caller.
	return d.peer.Namespace.Do(func() (err error) {
		d.loss, err = attachLoss(dev.Attrs().Index, loss, duplicate)
		return err
	})
}

func (d *Device) clearLoss() error {
	if d.loss == nil {
		return nil
	}
	err := d.loss.Close()
	d.loss = nil
	return err
}

func (d *Device) isUp() (bool, error) {
	dev, err := d.Namespace.link.LinkByName(d.Name)
	if err != nil {
		return false, err
	}
	// TUN and TAP devices do not tell.
	state := dev.Attrs().OperState
	return state == netlink.OperUp || state == netlink.OperUnknown && d.wire != nil, nil
}
