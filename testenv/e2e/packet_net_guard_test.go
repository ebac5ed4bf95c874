// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"net"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv"
)

// TestPacketGuardsItsTuples: once a flow is spliced the gateway's own two sockets have
// nothing to say to the ends: not while the agent has them still, nor when it dies with
// them, nor when it closes them.
func TestPacketGuardsItsTuples(t *testing.T) {
	testenv.CheckLeaks(t)
	for _, killed := range []bool{false, true} {
		for _, family := range families {
			name := "the agent hears late of a splice, in " + family
			if killed {
				name = "the agent dies before it hears of a splice, in " + family
			}
			t.Run(name, func(t *testing.T) {
				n := testenv.MustNetwork(t, testenv.NetworkOptions{BackendLink: testenv.LinkOptions{Kind: testenv.TAP}})
				s := netStart(t, n, "")
				uplinks := []*testenv.Capture{testenv.MustCapture(t, n.Clients[0].Uplink), testenv.MustCapture(t, n.Backends[0].Uplink)}
				ends := []*testenv.Capture{testenv.MustCapture(t, n.Clients[0].Device), testenv.MustCapture(t, n.Backends[0].Device)}

				// The agent stands still from before the backend has acknowledged the
				// hello on.
				held := make(chan []byte, 1000)
				wire := n.Backends[0].Wire
				wire.Filter(func(d testenv.Direction, frame []byte) [][]byte {
					p, err := testenv.ParsePacket(wire.IP(frame))
					if d == testenv.ToHost || err != nil || p.Protocol != unix.IPPROTO_TCP || p.Flags.Has(testenv.SYN) {
						return [][]byte{frame}
					}
					held <- frame
					return nil
				})
				dial := func(ctx context.Context) (*net.TCPConn, error) { return n.Clients[0].Dial(ctx, s.gatewayOf(family)) }
				f, _, err := testenv.OpenFlow(short(t), dial, s.listener, hello(t, family+".test"))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = f.Close() })
				s.stop()
				wire.Filter(nil)
				for len(held) > 0 {
					if err := wire.Inject(testenv.ToGateway, <-held); err != nil {
						t.Fatal(err)
					}
				}
				if err := netSay(f.Backend, f.Client, 1000); err != nil {
					t.Fatal(err)
				}
				if err := netSay(f.Client, f.Backend, 1000); err != nil {
					t.Fatal(err)
				}
				end := os.Signal(syscall.SIGCONT)
				if killed {
					end = syscall.SIGKILL
				}
				if err := s.Signal(end); err != nil {
					t.Fatal(err)
				}
				if killed {
					_ = s.Wait(short(t)) // of the signal
				}
				var g errgroup.Group
				g.Go(func() error { return netSay(f.Client, f.Backend, 1<<20) })
				g.Go(func() error { return netSay(f.Backend, f.Client, 1<<20) })
				if err := g.Wait(); err != nil {
					t.Fatal(err)
				}
				// What came out of the gateway an end has said.
				for i, c := range uplinks {
					expectNoEnd(t, c, testenv.Outgoing)
					expectNoEnd(t, ends[i], testenv.Incoming)
				}
				if killed {
					config, err := os.ReadFile(s.file)
					if err != nil {
						t.Fatal(err)
					}
					again := start(t, n, string(config)) // on the state that is left
					if got := again.metric(`packets_total{verdict="dropped_guard"}`); got == 0 {
						t.Error("nothing was dropped: the sockets that died said nothing")
					}
					s.run = again
				}
				s.exchange(f, 1000, 1000, wasSpliced)
			})
		}
	}
}

// expectNoEnd wants no FIN and no RST.
func expectNoEnd(t *testing.T, c *testenv.Capture, direction func(testenv.Seen) bool) {
	t.Helper()
	for _, flag := range []testenv.TCPFlags{testenv.FIN, testenv.RST} {
		if got, err := c.Packets(direction, testenv.WithFlags(flag)); err != nil || len(got) > 0 {
			t.Errorf("%d packets end the flow (%v): %v", len(got), err, got)
		}
	}
}
