// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"slices"
	"testing"

	"github.com/spliceway/spliceway/testenv"
)

// TestPacketWithTCPOptions: what the legs negotiated apart either is no difference to a
// packet, or is reason to have splice. The bytes are right in any case.
func TestPacketWithTCPOptions(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	s := netStart(t, n, "")
	const hugeWindow = "4096 131072 1073741824" // window scale 14
	type setting struct{ key, value string }
	usual := []setting{
		{"net/ipv4/tcp_timestamps", "1"}, {"net/ipv4/tcp_sack", "1"}, {"net/ipv4/tcp_window_scaling", "1"},
		{"net/ipv4/tcp_rmem", "4096 131072 6291456"},
	}
	timestamps, sack := setting{"net/ipv4/tcp_timestamps", "0"}, setting{"net/ipv4/tcp_sack", "0"}
	unscaled, huge := setting{"net/ipv4/tcp_window_scaling", "0"}, setting{"net/ipv4/tcp_rmem", hugeWindow}
	for name, c := range map[string]struct {
		client, gateway, backend []setting
		want                     map[string]any
	}{
		"no timestamps at the client":  {client: []setting{timestamps}, want: wasNot("timestamps")},
		"no timestamps at the backend": {backend: []setting{timestamps}, want: wasNot("timestamps")},
		"no timestamps at both":        {client: []setting{timestamps}, backend: []setting{timestamps}, want: wasSpliced},
		"no SACK at the client":        {client: []setting{sack}, want: wasNot("sack")},
		"no SACK at the backend":       {backend: []setting{sack}, want: wasNot("sack")},
		"no SACK at both":              {client: []setting{sack}, backend: []setting{sack}, want: wasSpliced},
		"no options at both":           {client: []setting{sack, timestamps, unscaled}, backend: []setting{sack, timestamps, unscaled}, want: wasSpliced},
		"no scale at the client":       {client: []setting{unscaled}, want: wasSpliced},
		"no scale at the backend":      {backend: []setting{unscaled}, want: wasSpliced},
		"scales 0 and 14":              {client: []setting{unscaled}, gateway: []setting{huge}, backend: []setting{huge}, want: wasSpliced},
		"scales 14 and 0":              {client: []setting{huge}, gateway: []setting{huge}, backend: []setting{unscaled}, want: wasSpliced},
		"scale 14 at the client":       {client: []setting{huge}, want: wasSpliced},
		"scale 14 at the backend":      {backend: []setting{huge}, want: wasSpliced},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.in(t)
			for ns, all := range map[*testenv.Namespace][]setting{n.Clients[0].Namespace: c.client, n.Gateway: c.gateway, n.Backends[0].Namespace: c.backend} {
				for _, one := range slices.Concat(usual, all) {
					netSetting(t, one.key, one.value, ns)
				}
			}
			for _, family := range families {
				s.exchange(s.flow(family), 1<<20, 1<<20, c.want)
			}
		})
	}
}

// ecn are the bits of it in the traffic class (RFC 3168, section 5).
const ecn = 3

// TestPacketWithECNOnOneLeg: the other leg's end has not agreed to it. It must see no
// packet that says ECN.
func TestPacketWithECNOnOneLeg(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	s := netStart(t, n, "")
	netSetting(t, "net/ipv4/tcp_ecn", "1", n.Gateway) // it asks backends, too
	for _, family := range families {
		for name, legs := range map[string]struct{ with, without *testenv.Host }{
			"client": {n.Clients[0], n.Backends[0]}, "backend": {n.Backends[0], n.Clients[0]},
		} {
			t.Run("the "+name+"'s, in "+family, func(t *testing.T) {
				s := s.in(t)
				netSetting(t, "net/ipv4/tcp_ecn", "1", legs.with.Namespace)
				netSetting(t, "net/ipv4/tcp_ecn", "0", legs.without.Namespace)
				one, other := testenv.MustCapture(t, legs.with.Device), testenv.MustCapture(t, legs.without.Device)
				f := s.flow(family)
				s.exchange(f, 1<<20, 1<<20, wasSpliced)
				marked := func(p testenv.Seen) bool { return p.TrafficClass&ecn != 0 }
				if sent, err := one.Packets(testenv.Outgoing, testenv.WithPayload, marked); err != nil || len(sent) == 0 {
					t.Errorf("no packet was marked: nothing was put to the test (%v)", err)
				}
				for _, c := range []*testenv.Capture{one, other} {
					got, err := c.Packets(testenv.Incoming, testenv.WithPayload, marked)
					if err != nil {
						t.Fatal(err)
					}
					for i := range got {
						// The gateway's own hello, to a backend that agreed.
						if c == one && name == "backend" && i == 0 {
							continue
						}
						t.Fatalf("%d packets arrived that say ECN, the first: %s, class %#x", len(got), got[i], got[i].TrafficClass)
					}
				}
			})
		}
	}
}

// TestPacketWithLargerSegmentsAtTheClient: segments that the way to the backend does
// not take are never asked of the client, or the flow is not spliced.
func TestPacketWithLargerSegmentsAtTheClient(t *testing.T) {
	testenv.CheckLeaks(t)
	for _, family := range families {
		for name, c := range map[string]struct {
			client, backend int
			want            map[string]any
		}{
			"9000 and 1500": {9000, 1500, wasNot("mss")},
			"1500 and 1300": {1500, 1300, wasNot("mss")},
			"1500 and 9000": {1500, 9000, wasSpliced},
		} {
			t.Run(name+" in "+family, func(t *testing.T) {
				n := testenv.MustNetwork(t, testenv.NetworkOptions{
					ClientLink: testenv.LinkOptions{MTU: c.client}, BackendLink: testenv.LinkOptions{MTU: c.backend},
				})
				s := netStart(t, n, "")
				// By the first connection to a backend it is learnt what that takes.
				if err := s.flow(family).Close(); err != nil {
					t.Fatal(err)
				}
				s.exchange(s.flow(family), 1<<20, 1<<20, c.want)
			})
		}
	}
}
