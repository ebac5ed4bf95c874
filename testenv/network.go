// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// maxHosts is what one byte of the IPv4 plan can number, less a reserve.
const maxHosts = 250

// NetworkOptions describes a [Network]. The zero value is one client and one
// backend with the machine's default congestion control.
type NetworkOptions struct {
	Clients  int // 0 means 1; at most 250
	Backends int // 0 means 1; at most 250

	// CongestionControl is set in every namespace; empty inherits. Inside a
	// namespace only algorithms that the first namespace allows to everyone
	// can be chosen ("reno" always): see [AllowCongestionControl].
	CongestionControl string
}

// Network is client hosts, a gateway and backend hosts; the package comment
// has the plan of addresses. It is all up and reachable when [NewNetwork]
// returns, and all gone after Close.
type Network struct {
	Gateway  *Namespace
	Clients  []*Host
	Backends []*Host

	// IPv4 and IPv6 are the gateway's own addresses, reachable from every host.
	IPv4, IPv6 netip.Addr
}

// Host is one client or backend.
type Host struct {
	*Namespace
	Device *Device // the host's end of its link
	Uplink *Device // the gateway's end
}

// IPv4 returns the host's first IPv4 address.
func (h *Host) IPv4() netip.Addr { return h.Device.IPv4 }

// IPv6 returns the host's first IPv6 address.
func (h *Host) IPv6() netip.Addr { return h.Device.IPv6 }

// AddAddress gives the host one more address on its link, to dial from: a
// benchmark that opens many short connections from one address spends its time
// searching for free ports.
func (h *Host) AddAddress(address netip.Addr) error {
	return h.addAddress(h.Device.Name, linkPrefix(address))
}

// NewNetwork builds a network. On an error nothing of it is left.
func NewNetwork(options NetworkOptions) (*Network, error) {
	clients, backends := max(options.Clients, 1), max(options.Backends, 1)
	if clients > maxHosts || backends > maxHosts {
		return nil, fmt.Errorf("build network: %d clients and %d backends, at most %d of each", clients, backends, maxHosts)
	}
	n := &Network{IPv4: netip.MustParseAddr("10.0.0.1"), IPv6: netip.MustParseAddr("fd00::1")}
	if err := n.build(clients, backends, options.CongestionControl); err != nil {
		return nil, errors.Join(fmt.Errorf("build network: %w", err), n.Close())
	}
	return n, nil
}

// Close lets go of every namespace; the kernel removes the links with them. A
// second Close does nothing.
func (n *Network) Close() error {
	var errs []error
	for _, host := range append(append([]*Host(nil), n.Clients...), n.Backends...) {
		errs = append(errs, host.Device.clearLoss(), host.Uplink.clearLoss(), host.Namespace.Close())
	}
	if n.Gateway != nil {
		errs = append(errs, n.Gateway.Close())
	}
	return errors.Join(errs...)
}

func (n *Network) build(clients, backends int, congestion string) error {
	var err error
	if n.Gateway, err = newNode("gateway", congestion); err != nil {
		return err
	}
	for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		if err := n.Gateway.SetSysctl(key, "1"); err != nil {
			return err
		}
	}
	for _, address := range []netip.Addr{n.IPv4, n.IPv6} {
		if err := n.Gateway.addAddress("lo", netip.PrefixFrom(address, address.BitLen())); err != nil {
			return err
		}
	}
	for i := range clients {
		if err := n.addHost(&n.Clients, "client", 1, i, congestion); err != nil {
			return err
		}
	}
	for i := range backends {
		if err := n.addHost(&n.Backends, "backend", 2, i, congestion); err != nil {
			return err
		}
	}
	return n.waitUp()
}

// addHost makes a namespace and its link to the gateway. The host is in the
// list before it is complete, so that Close finds it.
func (n *Network) addHost(list *[]*Host, kind string, side, number int, congestion string) error {
	name := fmt.Sprintf("%s%d", kind, number)
	ns, err := newNode(name, congestion)
	if err != nil {
		return err
	}
	host := &Host{Namespace: ns, Device: newDevice(ns, "eth0", side, number, 2), Uplink: newDevice(n.Gateway, name, side, number, 1)}
	host.Device.peer, host.Uplink.peer = host.Uplink, host.Device
	*list = append(*list, host)

	attributes := netlink.NewLinkAttrs()
	attributes.Name = host.Uplink.Name
	pair := netlink.NewVeth(attributes)
	pair.PeerName = host.Device.Name
	pair.PeerNamespace = netlink.NsFd(ns.Fd())
	if err := n.Gateway.link.LinkAdd(pair); err != nil {
		return fmt.Errorf("add veth to %s: %w", name, err)
	}
	for _, device := range []*Device{host.Uplink, host.Device} {
		if err := device.SetUp(true); err != nil {
			return err
		}
		for _, address := range []netip.Addr{device.IPv4, device.IPv6} {
			if err := device.Namespace.addAddress(device.Name, linkPrefix(address)); err != nil {
				return err
			}
		}
	}
	return host.addDefaultRoutes()
}

// newNode makes a namespace that will hold IPv6 addresses. Duplicate address
// detection is off: there are no duplicates, and it would hold each address
// back for a second.
func newNode(name, congestion string) (*Namespace, error) {
	ns, err := NewNamespace(name)
	if err != nil {
		return nil, err
	}
	if err := ns.SetSysctl("net/ipv6/conf/default/accept_dad", "0"); err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	if congestion != "" {
		if err := ns.SetCongestionControl(congestion); err != nil {
			return nil, errors.Join(err, ns.Close())
		}
	}
	return ns, nil
}

func newDevice(ns *Namespace, name string, side, number int, host byte) *Device {
	return &Device{
		Namespace: ns,
		Name:      name,
		IPv4:      netip.AddrFrom4([4]byte{10, byte(side), byte(number), host}),
		IPv6:      netip.MustParseAddr(fmt.Sprintf("fd00:%d:%d::%d", side, number, host)),
	}
}

func linkPrefix(address netip.Addr) netip.Prefix {
	if address.Is4() {
		return netip.PrefixFrom(address, 24)
	}
	return netip.PrefixFrom(address, 64)
}

func (n *Namespace) addAddress(device string, prefix netip.Prefix) error {
	link, err := n.link.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find %s in namespace %s: %w", device, n.name, err)
	}
	address, err := netlink.ParseAddr(prefix.String())
	if err != nil {
		return fmt.Errorf("address %s: %w", prefix, err)
	}
	if prefix.Addr().Is6() {
		address.Flags = unix.IFA_F_NODAD
	}
	if err := n.link.AddrAdd(link, address); err != nil {
		return fmt.Errorf("add address %s to %s of namespace %s: %w", prefix, device, n.name, err)
	}
	return nil
}

func (h *Host) addDefaultRoutes() error {
	for _, via := range []netip.Addr{h.Uplink.IPv4, h.Uplink.IPv6} {
		if err := h.link.RouteAdd(&netlink.Route{Gw: via.AsSlice()}); err != nil {
			return fmt.Errorf("add default route of namespace %s via %s: %w", h.name, via, err)
		}
	}
	return nil
}

// waitUp waits until every link has a carrier on both ends, which the kernel
// reports a moment after the second end was set up.
func (n *Network) waitUp() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, host := range append(append([]*Host(nil), n.Clients...), n.Backends...) {
		for _, device := range []*Device{host.Device, host.Uplink} {
			if err := Poll(ctx, device.isUp); err != nil {
				return fmt.Errorf("wait for %s of namespace %s: %w", device.Name, device.Namespace.name, err)
			}
		}
	}
	return nil
}
