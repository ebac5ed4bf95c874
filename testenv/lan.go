// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// lanSide is the second byte of a one-armed network's addresses.
const lanSide = 9

// lan is the one subnet of a one-armed network: a namespace with a bridge, to
// which each host and the gateway have a link.
type lan struct {
	namespace *Namespace
	gateway   *Device
	ports     []*Device
}

const lanBridge = "bridge"

func (n *Network) addLAN() error {
	ns, err := newNode("lan", "")
	if err != nil {
		return err
	}
	n.lan = &lan{namespace: ns}
	attributes := netlink.NewLinkAttrs()
	attributes.Name = lanBridge
	if err := ns.addLink(&netlink.Bridge{LinkAttrs: attributes}); err != nil {
		return err
	}
	if err := ns.setUp(lanBridge, true); err != nil {
		return err
	}
	n.lan.gateway = newLANDevice(n.Gateway, "lan", 0, 1)
	_, err = n.lan.plug(n.lan.gateway, "gateway", LinkOptions{})
	return err
}

// plugIn links a host to the subnet.
func (n *Network) plugIn(host *Host, name string, side, number int, options LinkOptions) (err error) {
	if options.Router || options.Kind != Veth && options.Kind != TAP {
		return fmt.Errorf("one-armed: want a link of kind veth or %s without router, got %+v", TAP, options)
	}
	host.Device, host.Uplink = newLANDevice(host.Namespace, "eth0", side, 2+number), n.lan.gateway
	host.Wire, err = n.lan.plug(host.Device, name, options)
	return err
}

// plug joins a device to a new port of the bridge.
func (l *lan) plug(device *Device, name string, options LinkOptions) (*Wire, error) {
	port := &Device{Namespace: l.namespace, Name: name}
	l.ports = append(l.ports, port)
	wire, err := join(device, port, options)
	if err != nil {
		return wire, err
	}
	return wire, l.namespace.enslave(name, lanBridge)
}

func (l *lan) close() error {
	var errs []error
	for _, port := range l.ports {
		errs = append(errs, port.clearLoss())
	}
	return errors.Join(append(errs, l.namespace.Close())...)
}

func newLANDevice(ns *Namespace, name string, side, number int) *Device {
	return &Device{
		Namespace: ns,
		Name:      name,
		IPv4:      netip.AddrFrom4([4]byte{10, lanSide, byte(side), byte(number)}),
		IPv6:      netip.MustParseAddr(fmt.Sprintf("fd00:%d::%d:%d", lanSide, side, number)),
		bits4:     16,
		bits6:     64,
	}
}
