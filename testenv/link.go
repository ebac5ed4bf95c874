// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink"
)

// ErrNoLinkKind means that the kernel was built without the kind of device
// that a link asks for.
var ErrNoLinkKind = errors.New("kernel has no devices of this kind")

// LinkKind is what the gateway's end of a link is.
type LinkKind string

// The kinds of links. All are Ethernet but for TUN.
const (
	Veth   LinkKind = ""       // one of a veth pair
	TAP    LinkKind = "tap"    // the end of a [Wire] of Ethernet frames
	TUN    LinkKind = "tun"    // the end of a [Wire] of IP packets, as of a tunnel
	VLAN   LinkKind = "vlan"   // VLAN 10 of a veth; the host's end is one too
	Bridge LinkKind = "bridge" // a bridge whose port is a veth
	Bond   LinkKind = "bond"   // a bond (active-backup) of one veth
)

// LinkOptions describes the links of a [Network]'s clients or backends.
type LinkOptions struct {
	Kind LinkKind

	// MTU of both ends, in bytes; 0 leaves 1500. TCP derives its MSS from it.
	MTU int

	// Router puts a namespace that forwards between host and gateway. Kind is
	// of the gateway's link then, and MTU of the host's.
	Router bool
}

// vlanID is the one VLAN of a link.
const vlanID = 10

// join makes the two ends of a link, named and with their addresses, and sets
// them up. The caller closes the wire, where there is one.
func join(host, gateway *Device, options LinkOptions) (*Wire, error) {
	host.peer, gateway.peer = gateway, host
	wire, err := connect(host, gateway, options.Kind)
	if err != nil {
		return wire, err
	}
	for _, device := range []*Device{gateway, host} {
		if options.MTU != 0 {
			if err := device.SetMTU(options.MTU); err != nil {
				return wire, err
			}
		}
		if err := device.addAddresses(); err != nil {
			return wire, err
		}
	}
	return wire, nil
}

// connect makes the devices of a link and sets them up.
func connect(host, gateway *Device, kind LinkKind) (wire *Wire, err error) {
	switch kind {
	case Veth:
		err = addVeth(host.Namespace, host.Name, gateway.Namespace, gateway.Name)
	case TAP, TUN:
		wire, err = newWire(host, gateway, kind == TAP)
	case VLAN, Bridge, Bond:
		err = stack(host, gateway, kind)
	default:
		err = fmt.Errorf("there is no kind of link %q", kind)
	}
	if err != nil {
		return wire, err
	}
	for _, device := range []*Device{gateway, host} {
		for _, name := range []string{device.lower, device.Name} {
			if name == "" {
				continue
			}
			if err := device.Namespace.setUp(name, true); err != nil {
				return wire, err
			}
		}
	}
	return wire, nil
}

// stack makes a veth pair with a device on top of the gateway's end, and for a
// VLAN of the host's end as well.
func stack(host, gateway *Device, kind LinkKind) error {
	gateway.lower = gateway.Name + "-port" // 15 characters at most
	far := host.Name
	if kind == VLAN {
		host.lower = host.Name + "-port"
		far = host.lower
	}
	if err := addVeth(host.Namespace, far, gateway.Namespace, gateway.lower); err != nil {
		return err
	}
	if kind == VLAN {
		if err := gateway.addVLAN(); err != nil {
			return err
		}
		return host.addVLAN()
	}
	attributes := netlink.NewLinkAttrs()
	attributes.Name = gateway.Name
	var master netlink.Link = &netlink.Bridge{LinkAttrs: attributes}
	if kind == Bond {
		bond := netlink.NewLinkBond(attributes)
		bond.Mode, bond.Miimon = netlink.BOND_MODE_ACTIVE_BACKUP, 10 // milliseconds until it sees the carrier
		master = bond
	}
	if err := gateway.Namespace.addLink(master); err != nil {
		return err
	}
	return gateway.Namespace.enslave(gateway.lower, gateway.Name)
}

func (d *Device) addVLAN() error {
	lower, err := d.Namespace.link.LinkByName(d.lower)
	if err != nil {
		return fmt.Errorf("find %s in namespace %s: %w", d.lower, d.Namespace.name, err)
	}
	attributes := netlink.NewLinkAttrs()
	attributes.Name, attributes.ParentIndex = d.Name, lower.Attrs().Index
	return d.Namespace.addLink(&netlink.Vlan{LinkAttrs: attributes, VlanId: vlanID, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q})
}

func addVeth(host *Namespace, hostName string, gateway *Namespace, gatewayName string) error {
	attributes := netlink.NewLinkAttrs()
	attributes.Name = gatewayName
	pair := netlink.NewVeth(attributes)
	pair.PeerName, pair.PeerNamespace = hostName, netlink.NsFd(host.Fd())
	return gateway.addLink(pair)
}

func (n *Namespace) addLink(link netlink.Link) error {
	err := n.link.LinkAdd(link)
	if errors.Is(err, syscall.EOPNOTSUPP) {
		err = ErrNoLinkKind
	}
	if err != nil {
		return fmt.Errorf("add %s %s to namespace %s: %w", link.Type(), link.Attrs().Name, n.name, err)
	}
	return nil
}

// enslave makes a device, which must be down, a port of a bridge or a bond.
func (n *Namespace) enslave(port, master string) error {
	to, err := n.link.LinkByName(master)
	if err != nil {
		return fmt.Errorf("find %s in namespace %s: %w", master, n.name, err)
	}
	link, err := n.link.LinkByName(port)
	if err == nil {
		err = n.link.LinkSetMaster(link, to)
	}
	if err != nil {
		return fmt.Errorf("make %s a port of %s in namespace %s: %w", port, master, n.name, err)
	}
	return nil
}

// addAddresses gives the device those of the plan; a port of a bridge has none.
func (d *Device) addAddresses() error {
	for _, address := range []netip.Addr{d.IPv4, d.IPv6} {
		if !address.IsValid() {
			continue
		}
		if err := d.Namespace.addAddress(d.Name, d.prefix(address)); err != nil {
			return err
		}
	}
	return nil
}
