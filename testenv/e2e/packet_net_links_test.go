// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"net"
	"net/netip"
	"testing"

	"github.com/spliceway/spliceway/testenv"
)

// TestPacketOverKindsOfLinks: whatever device the gateway has towards an end, and if it
// is one for both.
func TestPacketOverKindsOfLinks(t *testing.T) {
	testenv.CheckLeaks(t)
	tun, tap := testenv.LinkOptions{Kind: testenv.TUN}, testenv.LinkOptions{Kind: testenv.TAP}
	for name, o := range map[string]testenv.NetworkOptions{
		"TUN to the client":       {ClientLink: tun},
		"TUN to the backend":      {BackendLink: tun},
		"TUN to both":             {ClientLink: tun, BackendLink: tun},
		"VLANs":                   {ClientLink: testenv.LinkOptions{Kind: testenv.VLAN}, BackendLink: testenv.LinkOptions{Kind: testenv.VLAN}},
		"bridges":                 {ClientLink: testenv.LinkOptions{Kind: testenv.Bridge}, BackendLink: testenv.LinkOptions{Kind: testenv.Bridge}},
		"a bridge to the backend": {BackendLink: testenv.LinkOptions{Kind: testenv.Bridge}},
		"bonds":                   {ClientLink: testenv.LinkOptions{Kind: testenv.Bond}, BackendLink: testenv.LinkOptions{Kind: testenv.Bond}},
		"routers":                 {ClientLink: testenv.LinkOptions{Router: true}, BackendLink: testenv.LinkOptions{Router: true}},
		"one arm":                 {OneArmed: true},
		"one arm and wires":       {OneArmed: true, ClientLink: tap, BackendLink: tap},
	} {
		t.Run(name, func(t *testing.T) {
			n := testenv.MustNetwork(t, o)
			s := netStart(t, n, "")
			for _, family := range families {
				s.exchange(s.flow(family), 1<<20, 1<<20, wasSpliced)
			}
			if got := s.packets("dropped_error"); got > 0 {
				t.Errorf("%v packets were dropped", got)
			}
		})
	}
}

// TestPacketOnTheGatewaysHost: one end or both are processes beside the agent.
func TestPacketOnTheGatewaysHost(t *testing.T) {
	testenv.CheckLeaks(t)
	local4, local6 := netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()
	for name, c := range map[string]struct {
		clientIsLocal, backendIsLocal bool
		loopback                      bool // what is local is at loopback addresses
		mtu                           int  // of the loopback device
		want                          map[string]any
	}{
		"the client":                          {clientIsLocal: true, mtu: 65536, want: wasSpliced},
		"the client, by a loopback address":   {clientIsLocal: true, mtu: 65536, loopback: true, want: wasSpliced},
		"the client, with a loopback of 1500": {clientIsLocal: true, mtu: 1500, want: wasSpliced},
		"the client, to a loopback address":   {clientIsLocal: true, mtu: 1500, loopback: true, want: wasSpliced},
		"the backend":                         {backendIsLocal: true, mtu: 65536, want: wasSpliced},
		"the backend, on a loopback address":  {backendIsLocal: true, mtu: 65536, loopback: true, want: wasSpliced},
		"both":                                {clientIsLocal: true, backendIsLocal: true, mtu: 65536, want: wasSpliced},
		"both, on loopback addresses":         {clientIsLocal: true, backendIsLocal: true, mtu: 65536, loopback: true, want: wasSpliced},
	} {
		t.Run(name, func(t *testing.T) {
			n := testenv.MustNetwork(t, testenv.NetworkOptions{})
			lo := &testenv.Device{Namespace: n.Gateway, Name: "lo"}
			if err := lo.SetMTU(c.mtu); err != nil {
				t.Fatal(err)
			}
			host, ip4, ip6 := n.Backends[0].Namespace, n.Backends[0].IPv4(), n.Backends[0].IPv6()
			if c.backendIsLocal {
				host, ip4, ip6 = n.Gateway, n.IPv4, n.IPv6
				if c.loopback {
					ip4, ip6 = local4, local6
				}
			}
			s := netStartTo(t, n, host, ip4, ip6, "")
			for _, family := range families {
				from, to := n.Clients[0].Namespace, s.gatewayOf(family)
				if c.clientIsLocal {
					from = n.Gateway
					if c.loopback && family == "IPv4" {
						to = netip.AddrPortFrom(local4, gatewayPort)
					} else if c.loopback {
						to = netip.AddrPortFrom(local6, gatewayPort)
					}
				}
				dial := func(ctx context.Context) (*net.TCPConn, error) { return from.Dial(ctx, to) }
				// By the first connection to a backend it is learnt what that takes.
				if err := s.flowBy(family, dial).Close(); err != nil {
					t.Fatal(err)
				}
				s.exchange(s.flowBy(family, dial), 1<<20, 1<<20, c.want)
			}
		})
	}
}
