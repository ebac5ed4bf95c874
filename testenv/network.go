// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
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

	ClientLink, BackendLink LinkOptions

	// OneArmed puts all hosts and the gateway into one subnet, the gateway with
	// one device. The links are those of the hosts then.
	OneArmed bool
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

	lan *lan // nil unless one-armed
}

// Host is one client or backend.
type Host struct {
	*Namespace
	Device *Device // the host's end of its link
	Uplink *Device // the gateway's end, or its one device when it is one-armed
	Wire   *Wire   // of the host's link, nil without
	Router *Router // between host and gateway, nil without
}

// IPv4 returns the host's first IPv4 address.
func (h *Host) IPv4() netip.Addr { return h.Device.IPv4 }

// IPv6 returns the host's first IPv6 address.
func (h *Host) IPv6() netip.Addr { return h.Device.IPv6 }

// AddAddress gives the host one more address on its link, to dial from: a
// benchmark that opens many short connections from one address spends its time
// searching for free ports.
func (h *Host) AddAddress(address netip.Addr) error {
	if err := h.addAddress(h.Device.Name, h.Device.prefix(address)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return h.waitAddresses(ctx)
}

// NewNetwork builds a network. On an error nothing of it is left.
func NewNetwork(options NetworkOptions) (*Network, error) {
	clients, backends := max(options.Clients, 1), max(options.Backends, 1)
	if clients > maxHosts || backends > maxHosts {
		return nil, fmt.Errorf("build network: %d clients and %d backends, at most %d of each", clients, backends, maxHosts)
	}
	n := &Network{IPv4: netip.MustParseAddr("10.0.0.1"), IPv6: netip.MustParseAddr("fd00::1")}
	if err := n.build(clients, backends, options); err != nil {
		return nil, errors.Join(fmt.Errorf("build network: %w", err), n.Close())
	}
	return n, nil
}

// Close lets go of every namespace; the kernel removes the links with them. A
// second Close does nothing.
func (n *Network) Close() error {
	var errs []error
	for _, host := range n.hosts() {
		errs = append(errs, host.close())
	}
	if n.lan != nil {
		errs = append(errs, n.lan.close())
	}
	if n.Gateway != nil {
		errs = append(errs, n.Gateway.Close())
	}
	return errors.Join(errs...)
}

func (n *Network) build(clients, backends int, options NetworkOptions) error {
	var err error
	if n.Gateway, err = newRouterNode("gateway", options.CongestionControl); err != nil {
		return err
	}
	for _, address := range []netip.Addr{n.IPv4, n.IPv6} {
		if err := n.Gateway.addAddress("lo", netip.PrefixFrom(address, address.BitLen())); err != nil {
			return err
		}
	}
	if options.OneArmed {
		if err := n.addLAN(); err != nil {
			return err
		}
	}
	for i := range clients {
		if err := n.addHost(&n.Clients, "client", 1, i, options.ClientLink, options.CongestionControl); err != nil {
			return err
		}
	}
	for i := range backends {
		if err := n.addHost(&n.Backends, "backend", 2, i, options.BackendLink, options.CongestionControl); err != nil {
			return err
		}
	}
	return n.waitUp()
}

// addHost makes a namespace and its link to the gateway. The host is in the
// list before it is complete, so that Close finds it.
func (n *Network) addHost(list *[]*Host, kind string, side, number int, options LinkOptions, congestion string) error {
	name := fmt.Sprintf("%s%d", kind, number)
	ns, err := newNode(name, congestion)
	if err != nil {
		return err
	}
	host := &Host{Namespace: ns}
	*list = append(*list, host)
	switch {
	case n.lan != nil:
		err = n.plugIn(host, name, side, number, options)
	case options.Router:
		err = n.addRouted(host, name, side, number, options, congestion)
	default:
		host.Device, host.Uplink = newDevice(ns, "eth0", side, number, 2), newDevice(n.Gateway, name, side, number, 1)
		host.Wire, err = join(host.Device, host.Uplink, options)
	}
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	return host.addRoutes(defaultRoutes, host.gateway())
}

// hosts are all of them, clients first.
func (n *Network) hosts() []*Host { return slices.Concat(n.Clients, n.Backends) }

// gateway is the device that the host sends to what is not on its link.
func (h *Host) gateway() *Device {
	if h.Router != nil {
		return h.Router.Far
	}
	return h.Uplink
}

func (h *Host) close() error {
	var errs []error
	for _, device := range []*Device{h.Device, h.Uplink} {
		if device != nil {
			errs = append(errs, device.clearLoss())
		}
	}
	if h.Wire != nil {
		errs = append(errs, h.Wire.Close())
	}
	if h.Router != nil {
		errs = append(errs, h.Router.close())
	}
	return errors.Join(append(errs, h.Namespace.Close())...)
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

// newRouterNode makes a namespace that forwards.
func newRouterNode(name, congestion string) (*Namespace, error) {
	ns, err := newNode(name, congestion)
	if err != nil {
		return nil, err
	}
	for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		if err := ns.SetSysctl(key, "1"); err != nil {
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
		bits4:     24,
		bits6:     64,
	}
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
	if err := n.link.AddrAdd(link, address); err != nil {
		return fmt.Errorf("add address %s to %s of namespace %s: %w", prefix, device, n.name, err)
	}
	return nil
}

// defaultRoutes are the destinations of everything.
var defaultRoutes = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}

// addRoutes sends destinations to a device of another namespace.
func (n *Namespace) addRoutes(destinations []netip.Prefix, via *Device) error {
	for _, destination := range destinations {
		next := via.IPv4
		if destination.Addr().Is6() {
			next = via.IPv6
		}
		to, err := netlink.ParseIPNet(destination.String())
		if err == nil {
			err = n.link.RouteAdd(&netlink.Route{Dst: to, Gw: next.AsSlice()})
		}
		if err != nil {
			return fmt.Errorf("add route to %s via %s in namespace %s: %w", destination, next, n.name, err)
		}
	}
	return nil
}

// waitUp waits until every link has a carrier on both ends, which the kernel
// reports a moment after the second end was set up, and every address is heard.
func (n *Network) waitUp() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	namespaces := []*Namespace{n.Gateway}
	for _, host := range n.hosts() {
		namespaces = append(namespaces, host.Namespace)
		devices := []*Device{host.Device, host.Device.peer, host.Uplink}
		if host.Router != nil {
			namespaces = append(namespaces, host.Router.Namespace)
			devices = append(devices, host.Router.Near, host.Router.Far)
		}
		for _, device := range devices {
			if err := Poll(ctx, device.isUp); err != nil {
				return fmt.Errorf("wait for %s of namespace %s: %w", device.Name, device.Namespace.name, err)
			}
		}
	}
	for _, namespace := range namespaces {
		if err := namespace.waitAddresses(ctx); err != nil {
			return err
		}
	}
	return nil
}

// waitAddresses waits until no IPv6 address is tentative. Even without
// duplicate address detection the kernel joins an address's multicast group by
// itself a little later, and a neighbour that asks before asks in vain, and
// again only after a second.
func (n *Namespace) waitAddresses(ctx context.Context) error {
	err := Poll(ctx, func() (bool, error) {
		addresses, err := n.link.AddrList(nil, netlink.FAMILY_V6)
		return !slices.ContainsFunc(addresses, func(a netlink.Addr) bool { return a.Flags&unix.IFA_F_TENTATIVE != 0 }), err
	})
	if err != nil {
		return fmt.Errorf("wait for addresses of namespace %s: %w", n.name, err)
	}
	return nil
}
