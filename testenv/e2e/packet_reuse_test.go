// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv"
)

// dialFrom dials from the first client, always from the same port.
func (s netSite) dialFrom(family string, port uint16) func(context.Context) (*net.TCPConn, error) {
	own := s.net.Clients[0].IPv4()
	if family == "IPv6" {
		own = s.net.Clients[0].IPv6()
	}
	d := net.Dialer{
		LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(own, port)),
		Control: func(_, _ string, raw syscall.RawConn) error {
			return control(raw, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
		},
	}
	return func(ctx context.Context) (c *net.TCPConn, err error) {
		// Its own last connection may wait for the ACK of its FIN.
		return c, testenv.Poll(ctx, func() (bool, error) {
			c, err = s.net.Clients[0].DialWith(ctx, d, s.gatewayOf(family))
			if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EADDRINUSE) {
				return false, nil
			}
			return err == nil, err
		})
	}
}

// TestPacketWithAPortUsedAgainAtOnce: a client connects again from the port that it just
// had, while the flow before is not forgotten yet.
func TestPacketWithAPortUsedAgainAtOnce(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	all := netStart(t, n, "")
	const visits = 200
	for name, end := range map[string]func(*testenv.Flow) error{
		"after a reset by the client": func(f *testenv.Flow) error {
			return errors.Join(testenv.Reset(f.Client), testenv.ExpectReset(f.Backend, patience))
		},
		"after a reset by the client that nobody has waited for": func(f *testenv.Flow) error {
			return testenv.Reset(f.Client)
		},
		"after a reset by the backend": func(f *testenv.Flow) error {
			return errors.Join(testenv.Reset(f.Backend), testenv.ExpectReset(f.Client, patience))
		},
		"after a FIN of the backend first": func(f *testenv.Flow) error {
			return errors.Join(f.Backend.Close(), testenv.ExpectEOF(f.Client, patience))
		},
	} {
		for i, family := range families {
			t.Run(name+" in "+family, func(t *testing.T) {
				s := all.in(t)
				dial := s.dialFrom(family, uint16(30000+i))
				late := 0
				for visit := range visits {
					begin := time.Now()
					f, err := s.tryFlow(family, dial)
					if err != nil {
						t.Fatalf("visit %d: %v", visit, err)
					}
					if time.Since(begin) > 900*time.Millisecond {
						late++ // a SYN was repeated
					}
					if err := errors.Join(end(f), f.Close()); err != nil {
						t.Fatalf("visit %d: %v", visit, err)
					}
				}
				// One or two may be the machine's.
				if late > 2 {
					t.Errorf("%d of %d connections took longer than a SYN's repetition", late, visits)
				}
			})
		}
	}
	all.expectMetric("connections_open", 0)
	routed := all.metric(`connections_total{outcome="routed"}`)
	if spliced := all.packets("flips"); spliced < routed/2 {
		t.Errorf("%v of %v flows were spliced: little was put to the test", spliced, routed)
	}
}

// TestPacketWithFewSourcePorts: ports go to new flows as soon as their last ones are
// forgotten, and never before; who gets none has engine splice. The backend keeps
// closed connections in mind for a minute when it closed them first, as it does here
// over IPv4.
func TestPacketWithFewSourcePorts(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	state := filepath.Join(testenv.MustBPFFS(t), "state")
	s := netStart(t, n, "bpffs: "+state+"\nsourcePorts: 41000-41255\n")
	greetings := map[string][]byte{}
	for _, family := range families {
		greetings[family] = hello(t, family+".test")
	}
	var server errgroup.Group
	server.Go(func() error {
		for {
			c, err := s.listener.AcceptTCP()
			if errors.Is(err, net.ErrClosed) {
				return nil
			} else if err != nil {
				return err
			}
			server.Go(func() error {
				defer func() { _ = c.Close() }()
				want := greetings["IPv6"]
				backendFirst := endsAddress(c.RemoteAddr()).Addr().Is4()
				if backendFirst {
					want = greetings["IPv4"]
				}
				if err := netExpect(c, want); err != nil {
					return fmt.Errorf("backend of %s: %w", c.RemoteAddr(), err)
				}
				if _, err := c.Write(want); err != nil {
					return err
				}
				if backendFirst {
					if err := c.CloseWrite(); err != nil {
						return err
					}
				}
				_, err := io.Copy(io.Discard, c)
				return err
			})
		}
	})
	visit := func(family string) error {
		c, err := n.Clients[0].Dial(short(t), s.gatewayOf(family))
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		if _, err := c.Write(greetings[family]); err != nil {
			return err
		}
		if err := netExpect(c, greetings[family]); err != nil {
			return err
		}
		if family == "IPv6" {
			if err := c.CloseWrite(); err != nil {
				return err
			}
		}
		return testenv.ExpectEOF(c, patience)
	}
	const inTurn, atOnce, rounds = 1000, 300, 2
	for round := range rounds {
		for i := range inTurn {
			if err := visit(families[i%2]); err != nil {
				t.Fatalf("round %d, connection %d: %v", round, i, err)
			}
		}
		var g errgroup.Group
		for i := range atOnce {
			g.Go(func() error { return visit(families[i%2]) })
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		// Then every port is free again, and the next round takes all of them.
		s.expectMetric("connections_open", 0)
		for _, name := range []string{"tuples", "flows", "records"} {
			if err := testenv.Poll(short(t), func() (bool, error) { return entries(t, filepath.Join(state, "v1", name)) == 0, nil }); err != nil {
				t.Errorf("%s are left", name)
			}
		}
	}
	if err := errors.Join(s.listener.Close(), server.Wait()); err != nil {
		t.Error(err)
	}
	spliced, without := s.packets("flips"), s.metric(`fallbacks_total{reason="source_port"}`)
	t.Logf("%v flows spliced, %v got no port", spliced, without)
	if all := float64(rounds * (inTurn + atOnce)); spliced+without < all*0.995 || spliced < rounds*256*2*0.98 || without == 0 {
		t.Errorf("%v flows spliced, %v got no port, of %v", spliced, without, all)
	}
}
