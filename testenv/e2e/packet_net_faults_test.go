// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/spliceway/spliceway/testenv"
)

// A wire on each side, for what happens to single segments.
var netWires = testenv.NetworkOptions{
	ClientLink: testenv.LinkOptions{Kind: testenv.TAP}, BackendLink: testenv.LinkOptions{Kind: testenv.TAP},
}

// TestPacketOverFaultyWires: what a wire does to segments the two ends repair between
// them, with selective acknowledgements that name the sender's own numbers.
func TestPacketOverFaultyWires(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, netWires)
	s := netStart(t, n, "")
	for name, i := range map[string]testenv.Impairment{
		"loss":         {Loss: 0.02},
		"duplicates":   {Duplicate: 0.05},
		"reordering":   {Reorder: 0.05},
		"all of these": {Loss: 0.01, Duplicate: 0.01, Reorder: 0.02},
	} {
		for _, family := range families {
			t.Run(name+" in "+family, func(t *testing.T) {
				s := s.in(t)
				clients := testenv.MustCapture(t, n.Clients[0].Device)
				f := s.flow(family)
				i.Seed = 1
				devices := []*testenv.Device{n.Clients[0].Device, n.Clients[0].Uplink, n.Backends[0].Device, n.Backends[0].Uplink}
				for _, d := range devices {
					if err := d.Impair(i); err != nil {
						t.Fatal(err)
					}
				}
				s.exchange(f, 1<<20, 1<<20, wasSpliced)
				for _, d := range devices {
					if err := d.Impair(testenv.Impairment{}); err != nil {
						t.Fatal(err)
					}
				}
				expectOwnSACKs(t, clients)
			})
		}
	}
	for name, h := range map[string]*testenv.Host{"client": n.Clients[0], "backend": n.Backends[0]} {
		for _, d := range []testenv.Direction{testenv.ToHost, testenv.ToGateway} {
			if st := h.Wire.Stats(d); st.Lost == 0 || st.Duplicated == 0 || st.Reordered == 0 {
				t.Errorf("the %s's wire, %s: nothing was put to the test: %+v", name, d, st)
			}
		}
	}
}

// expectOwnSACKs wants selective acknowledgements to have reached the device's host,
// each of them of bytes that the host has sent.
func expectOwnSACKs(t *testing.T, c *testenv.Capture) {
	t.Helper()
	packets, err := c.Packets(testenv.WithFlags(testenv.ACK))
	if err != nil {
		t.Fatal(err)
	}
	var first, last uint32 // numbers sent
	began, blocks := false, 0
	for _, p := range packets {
		if p.Outgoing {
			if p.Flags.Has(testenv.RST) {
				continue
			}
			if end := p.Seq + p.SegmentLen(); !began {
				first, last, began = p.Seq, end, true
			} else if int32(end-last) > 0 {
				last = end
			}
			continue
		}
		for _, b := range p.SACK() {
			blocks++
			if int32(b[0]-first) < 0 || int32(b[1]-b[0]) <= 0 || int32(last-b[1]) < 0 {
				t.Fatalf("the client, which sent %d to %d, was told that %d to %d have arrived: %s", first, last, b[0], b[1], p)
			}
		}
	}
	if blocks == 0 {
		t.Error("no selective acknowledgement has arrived: nothing was put to the test")
	}
}

// TestPacketWithSegmentsCutAnew: a sender may repeat bytes in other segments than it
// sent them in before. What overlaps arrives once.
func TestPacketWithSegmentsCutAnew(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, netWires)
	s := netStart(t, n, "")
	var cut atomic.Int64
	for _, h := range []*testenv.Host{n.Clients[0], n.Backends[0]} {
		var last testenv.Packet
		h.Wire.Filter(func(d testenv.Direction, frame []byte) [][]byte {
			p, err := testenv.ParsePacket(h.Wire.IP(frame))
			if err != nil || d != testenv.ToGateway || len(p.Payload) < 1000 {
				return [][]byte{frame}
			}
			before := last
			last = p
			if before.Source != p.Source || before.Seq+uint32(len(before.Payload)) != p.Seq || len(before.Payload) < 400 {
				return [][]byte{frame}
			}
			cut.Add(1)
			// The end of the one before with the beginning of this, then all of this
			// from before where that ended.
			const back, half = 400, 500
			head, tail := p, p
			head.Seq, head.Payload = p.Seq-back, slices.Concat(before.Payload[len(before.Payload)-back:], p.Payload[:half])
			head.Flags &^= testenv.FIN
			tail.Seq, tail.Payload = p.Seq+half/2, bytes.Clone(p.Payload[half/2:])
			return [][]byte{h.Wire.Frame(frame, head), h.Wire.Frame(frame, tail)}
		})
	}
	for _, family := range families {
		t.Run(family, func(t *testing.T) {
			s := s.in(t)
			s.exchange(s.flow(family), 1<<20, 1<<20, wasSpliced)
		})
	}
	if cut.Load() < 1000 {
		t.Errorf("%d segments were cut anew: nothing was put to the test", cut.Load())
	}
}

// TestPacketWhileADeviceIsDown: a flow survives that a device of the gateway goes down
// and comes up again.
func TestPacketWhileADeviceIsDown(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	// Or the address that the flow is from goes with the device.
	netSetting(t, "net/ipv6/conf/all/keep_addr_on_down", "1", n.Gateway)
	s := netStart(t, n, "")
	for _, family := range families {
		for name, side := range map[string]struct{ down, other *testenv.Host }{
			"client":  {n.Clients[0], n.Backends[0]},
			"backend": {n.Backends[0], n.Clients[0]},
		} {
			t.Run("to the "+name+" in "+family, func(t *testing.T) {
				s := s.in(t)
				f := s.flow(family)
				from, to := f.Backend, f.Client
				if name == "backend" {
					from, to = f.Client, f.Backend
				}
				arrived := testenv.MustCapture(t, side.other.Uplink)
				if err := side.down.Uplink.SetUp(false); err != nil {
					t.Fatal(err)
				}
				data := pattern(10_000)
				if _, err := from.Write(data); err != nil {
					t.Fatal(err)
				}
				if _, err := arrived.Wait(short(t), testenv.Incoming, testenv.WithPayload); err != nil {
					t.Fatal(err)
				}
				if err := side.down.Uplink.SetUp(true); err != nil {
					t.Fatal(err)
				}
				if err := netExpect(to, data); err != nil {
					t.Fatal(err)
				}
				s.exchange(f, 1<<20, 1<<20, wasSpliced)
			})
		}
	}
}

// TestPacketWhenTheBackendsHostIsGone: nobody says that it is. The idle timeout ends
// the flow, whether the client is silent or repeats itself.
func TestPacketWhenTheBackendsHostIsGone(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	s := netStart(t, n, "timeouts: {idle: 500ms}\n")
	for _, family := range families {
		t.Run(family, func(t *testing.T) {
			s := s.in(t)
			silent := s.flow(family)
			loud := s.flow(family)
			host := n.Backends[0]
			if err := host.Device.Impair(testenv.Impairment{Loss: 1}); err != nil {
				t.Fatal(err)
			}
			if _, err := loud.Client.Write(pattern(1000)); err != nil {
				t.Fatal(err)
			}
			for name, f := range map[string]*testenv.Flow{"silent": silent, "loud": loud} {
				if err := testenv.ExpectReset(f.Client, patience); err != nil {
					t.Errorf("the %s client: %v", name, err)
				}
				s.expectLine(f.Client.LocalAddr(), map[string]any{"engine": "packet", "end": "idle_timeout", "closed_by": "agent"})
			}
			if err := host.Device.Impair(testenv.Impairment{}); err != nil {
				t.Fatal(err)
			}
		})
	}
}
