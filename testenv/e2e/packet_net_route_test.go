// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net"
	"net/netip"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/spliceway/spliceway/testenv"
)

// TestPacketFollowsRoutes: a route moves to another device under a running flow, which
// moves with it.
func TestPacketFollowsRoutes(t *testing.T) {
	testenv.CheckLeaks(t)
	for _, family := range families {
		for _, side := range []string{"client", "backend"} {
			t.Run("to the "+side+" in "+family, func(t *testing.T) {
				// The other end is on a wire: over veth its kernel would see that a
				// packet waits at the gateway for a neighbour, and not repeat it.
				o := testenv.NetworkOptions{BackendLink: testenv.LinkOptions{Kind: testenv.TAP}}
				if side == "backend" {
					o.ClientLink, o.BackendLink = o.BackendLink, o.ClientLink
				}
				n := testenv.MustNetwork(t, o)
				host := n.Clients[0]
				if side == "backend" {
					host = n.Backends[0]
				}
				here, there := secondWay(t, n.Gateway, host.Namespace)
				s := netStart(t, n, "")
				f := s.flow(family)
				from, to := f.Backend, f.Client
				if side == "backend" {
					from, to = f.Client, f.Backend
				}
				way := testenv.MustCapture(t, here)
				moveRoute(t, here, addressOf(to.LocalAddr()), there)
				// Until the agent has seen it the packets go the old way.
				if err := testenv.Poll(short(t), func() (bool, error) {
					if err := netSay(from, to, 100); err != nil {
						return false, err
					}
					moved, err := way.Packets(testenv.Outgoing, testenv.WithPayload)
					return len(moved) > 0, err
				}); err != nil {
					t.Fatal(err)
				}
				moveRoute(t, there, addressOf(to.RemoteAddr()), here)
				// The old way is no more.
				if err := host.Uplink.Impair(testenv.Impairment{Loss: 1}); err != nil {
					t.Fatal(err)
				}
				if err := host.Device.Impair(testenv.Impairment{Loss: 1}); err != nil {
					t.Fatal(err)
				}
				s.exchange(f, 1<<20, 1<<20, wasSpliced)
			})
		}
	}
}

// TestPacketWhenAWayFails: the host's packets come by another device, and later the
// gateway's route leads there, before the agent has heard of it. The kernel, which has
// no socket for them, must not be asked.
func TestPacketWhenAWayFails(t *testing.T) {
	testenv.CheckLeaks(t)
	for _, family := range families {
		for _, side := range []string{"client", "backend"} {
			t.Run("to the "+side+" in "+family, func(t *testing.T) {
				n := testenv.MustNetwork(t, testenv.NetworkOptions{})
				host := n.Clients[0]
				if side == "backend" {
					host = n.Backends[0]
				}
				here, there := secondWay(t, n.Gateway, host.Namespace)
				s := netStart(t, n, "")
				f := s.flow(family)
				from, to := f.Client, f.Backend
				if side == "backend" {
					from, to = f.Backend, f.Client
				}
				s.stop()
				moveRoute(t, there, addressOf(from.RemoteAddr()), here)
				if err := netSay(from, to, 100_000); err != nil {
					t.Errorf("with one route moved: %v", err)
				}
				if family == "IPv4" { // in IPv6 the answers wait for a neighbour on the old device
					moveRoute(t, here, addressOf(from.LocalAddr()), there)
					if err := netSay(from, to, 100_000); err != nil {
						t.Errorf("with both routes moved: %v", err)
					}
				}
				if err := s.Signal(syscall.SIGCONT); err != nil {
					t.Fatal(err)
				}
				s.exchange(f, 1<<20, 1<<20, wasSpliced)
			})
		}
	}
}

// secondWay is a second pair of devices between two namespaces.
func secondWay(t *testing.T, from, to *testenv.Namespace) (here, there *testenv.Device) {
	t.Helper()
	const name = "second"
	// Duplicate address detection would hold neighbour discovery back for seconds.
	netSetting(t, "net/ipv6/conf/all/accept_dad", "0", from, to)
	here = &testenv.Device{Namespace: from, Name: name, IPv4: netip.MustParseAddr("10.77.0.1"), IPv6: netip.MustParseAddr("fd00:77::1")}
	there = &testenv.Device{Namespace: to, Name: name, IPv4: netip.MustParseAddr("10.77.0.2"), IPv6: netip.MustParseAddr("fd00:77::2")}
	if err := from.Do(func() error {
		attributes := netlink.NewLinkAttrs()
		attributes.Name = name
		pair := netlink.NewVeth(attributes)
		pair.PeerName, pair.PeerNamespace = name, netlink.NsFd(to.Fd())
		return netlink.LinkAdd(pair)
	}); err != nil {
		t.Fatal(err)
	}
	for _, d := range []*testenv.Device{here, there} {
		if err := d.SetUp(true); err != nil {
			t.Fatal(err)
		}
		if err := d.Namespace.Do(func() error {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			for _, prefix := range []netip.Prefix{netip.PrefixFrom(d.IPv4, 24), netip.PrefixFrom(d.IPv6, 64)} {
				a, err := netlink.ParseAddr(prefix.String())
				if err != nil {
					return err
				}
				if err := netlink.AddrAdd(link, a); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	return here, there
}

// moveRoute leads what goes to an address out of a device to its peer.
func moveRoute(t *testing.T, out *testenv.Device, to netip.Addr, peer *testenv.Device) {
	t.Helper()
	next := peer.IPv4
	if to.Is6() {
		next = peer.IPv6
	}
	if err := out.Namespace.Do(func() error {
		link, err := netlink.LinkByName(out.Name)
		if err != nil {
			return err
		}
		only := &net.IPNet{IP: to.AsSlice(), Mask: net.CIDRMask(to.BitLen(), to.BitLen())}
		return netlink.RouteAdd(&netlink.Route{Dst: only, Gw: next.AsSlice(), LinkIndex: link.Attrs().Index})
	}); err != nil {
		t.Fatal(err)
	}
}

func addressOf(a net.Addr) netip.Addr { return a.(*net.TCPAddr).AddrPort().Addr().Unmap() }
