// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestNetworkTopologies(t *testing.T) {
	for name, options := range map[string]NetworkOptions{
		"TAP":                  {ClientLink: LinkOptions{Kind: TAP}, BackendLink: LinkOptions{Kind: TAP}},
		"TUN":                  {ClientLink: LinkOptions{Kind: TUN}, BackendLink: LinkOptions{Kind: TUN}},
		"TUN behind a router":  {BackendLink: LinkOptions{Kind: TUN, Router: true}},
		"VLAN":                 {ClientLink: LinkOptions{Kind: VLAN}, BackendLink: LinkOptions{Kind: VLAN}},
		"bridge":               {ClientLink: LinkOptions{Kind: Bridge}, BackendLink: LinkOptions{Kind: Bridge}},
		"bond":                 {ClientLink: LinkOptions{Kind: Bond}, BackendLink: LinkOptions{Kind: Bond}},
		"routers":              {ClientLink: LinkOptions{Router: true}, BackendLink: LinkOptions{Router: true}},
		"MTUs":                 {ClientLink: LinkOptions{MTU: 9000}, BackendLink: LinkOptions{MTU: 1300, Kind: Bridge}},
		"one-armed":            {OneArmed: true, Clients: 2, Backends: 2},
		"one-armed by a wire":  {OneArmed: true, ClientLink: LinkOptions{Kind: TAP}},
		"many of several ways": {Clients: 3, Backends: 3, BackendLink: LinkOptions{Kind: TAP, Router: true, MTU: 1400}},
	} {
		t.Run(name, func(t *testing.T) {
			CheckLeaks(t)
			network := MustNetwork(t, options)
			client, host := network.Clients[len(network.Clients)-1], network.Backends[len(network.Backends)-1]
			for _, to := range []struct {
				ns        *Namespace
				addresses []netip.Addr
			}{
				{host.Namespace, []netip.Addr{host.IPv4(), host.IPv6()}},
				{network.Gateway, []netip.Addr{network.IPv4, network.IPv6}},
			} {
				backend := MustBackend(t, to.ns, BackendOptions{})
				for i, address := range to.addresses {
					conn := dialPlain(t, client, netip.AddrPortFrom(address, backend.Port()))
					if _, err := TransferBoth(testContext(t), conn, backend, uint64(i+1), 1<<20, 1<<20); err != nil {
						t.Errorf("by %s: %v", address, err)
					}
				}
			}
		})
	}
}

func TestNetworkNamesMissingKind(t *testing.T) {
	Privileged(t)
	CheckLeaks(t)
	ns := MustNamespace(t, "n")
	attributes := netlink.NewLinkAttrs()
	attributes.Name = "x"
	err := ns.addLink(&netlink.GenericLink{LinkAttrs: attributes, LinkType: "nonsense"})
	if !errors.Is(err, ErrNoLinkKind) {
		t.Errorf("got %v, want %v", err, ErrNoLinkKind)
	}
}

func TestNetworkRefusesLinks(t *testing.T) {
	Privileged(t)
	CheckLeaks(t)
	for _, options := range []NetworkOptions{
		{ClientLink: LinkOptions{Kind: "nonsense"}},
		{OneArmed: true, BackendLink: LinkOptions{Kind: TUN}},
		{OneArmed: true, ClientLink: LinkOptions{Router: true}},
	} {
		if network, err := NewNetwork(options); err == nil {
			network.Close()
			t.Errorf("%+v was accepted", options)
		}
	}
}

// A connection's MSS is what the peer's link and the path leave: 40 bytes less
// in IPv4, and 12 for the timestamps that each segment has.
func TestLinkMTUSetsMSS(t *testing.T) {
	network := MustNetwork(t, NetworkOptions{ClientLink: LinkOptions{MTU: 1300}})
	client, host := network.Clients[0], network.Backends[0]
	backend := MustBackend(t, host.Namespace, BackendOptions{})
	conn := dialPlain(t, client, netip.AddrPortFrom(host.IPv4(), backend.Port()))
	if got := sendingMSS(t, conn); got != 1300-52 {
		t.Errorf("got MSS %d, want 1248", got)
	}
}

func TestRouterSaysWhatItDoesNotTake(t *testing.T) {
	for _, family := range []string{"IPv4", "IPv6"} {
		t.Run(family, func(t *testing.T) {
			CheckLeaks(t)
			network := MustNetwork(t, NetworkOptions{BackendLink: LinkOptions{Router: true}})
			client, host := network.Clients[0], network.Backends[0]
			address, router, overhead := host.IPv4(), host.Router.Near.IPv4, 52
			if family == "IPv6" {
				address, router, overhead = host.IPv6(), host.Router.Near.IPv6, 72
			}
			backend := MustBackend(t, host.Namespace, BackendOptions{})
			if err := host.Router.Far.SetMTU(1300); err != nil {
				t.Fatal(err)
			}
			capture := MustCapture(t, host.Uplink)
			conn := dialPlain(t, client, netip.AddrPortFrom(address, backend.Port()))
			if _, err := TransferBoth(testContext(t), conn, backend, 1, 1<<20, 1<<10); err != nil {
				t.Fatal(err)
			}
			tooBig, err := capture.Wait(testContext(t), func(s Seen) bool { return s.Source.Addr() == router && s.Rest&0xffff == 1300 })
			if err != nil {
				t.Fatal(err)
			}
			if quoted, err := tooBig.Quoted(); err != nil || quoted.Source.String() != conn.LocalAddr().String() {
				t.Errorf("got quotation %s, %v, want of the connection of %s", quoted, err, conn.LocalAddr())
			}
			if got := sendingMSS(t, conn); got != 1300-overhead {
				t.Errorf("got MSS %d, want %d", got, 1300-overhead)
			}
		})
	}
}

// sendingMSS is tcpi_snd_mss, in bytes of payload.
func sendingMSS(t *testing.T, conn *net.TCPConn) int {
	t.Helper()
	return int(tcpInfo(t, conn).Snd_mss)
}

func tcpInfo(t *testing.T, conn *net.TCPConn) *unix.TCPInfo {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var info *unix.TCPInfo
	var infoErr error
	err = raw.Control(func(fd uintptr) { info, infoErr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	if err := errors.Join(err, infoErr); err != nil {
		t.Fatal(fmt.Errorf("read TCP_INFO: %w", err))
	}
	return info
}

// A tentative address answers nobody, and who asked asks again after a second.
// It takes luck to see one where nobody waits: hence so many networks.
func TestNetworkIsUpWithItsAddresses(t *testing.T) {
	for range 20 {
		network := MustNetwork(t, NetworkOptions{OneArmed: true})
		last := network.Backends[0]
		addresses, err := last.link.AddrList(nil, netlink.FAMILY_V6)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addresses {
			if a.Flags&unix.IFA_F_TENTATIVE != 0 {
				t.Errorf("%s is tentative", a.IPNet)
			}
		}
	}
}
