// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/spliceway/spliceway/testenv"
)

// Every byte arrives, both ways at once, whatever the sizes, with TLS end to end.
func TestTransfer(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	ca := testenv.MustCA(t)
	b := tlsBackend(t, n.Backends[0], ca, "a", "a.test")
	r := start(t, n, "endpoints:\n"+endpoint("a", sni("a.test"), at(n.Backends[0], b)))

	transfer := func(t *testing.T, to netip.Addr, seed uint64, up, down int64) error {
		c, err := n.Clients[0].DialTLS(short(t), netip.AddrPortFrom(to, gatewayPort), ca.ClientConfig("a.test"))
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		_, err = testenv.TransferBoth(short(t), c, b, seed, up, down)
		return err
	}
	for i, size := range []struct{ up, down int64 }{
		{0, 0}, {1, 0}, {0, 1}, {16 << 10, 16<<10 + 1}, {1 << 20, 3 << 20}, {32 << 20, 32 << 20},
	} {
		for family, to := range map[string]netip.Addr{"IPv4": n.IPv4, "IPv6": n.IPv6} {
			t.Run(fmt.Sprintf("of %d up and %d down over %s", size.up, size.down, family), func(t *testing.T) {
				if err := transfer(t, to, uint64(i), size.up, size.down); err != nil {
					t.Error(err)
				}
			})
		}
	}
	const flows = 8
	several := func(t *testing.T, size int64) {
		var g errgroup.Group
		for i := range flows {
			to := n.IPv4
			if i%2 == 1 {
				to = n.IPv6
			}
			g.Go(func() error { return transfer(t, to, uint64(100+i), size, size*int64(i)/flows) })
		}
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	}
	t.Run("of eight flows at once", func(t *testing.T) { several(t, 4<<20) })
	t.Run("over links that lose and duplicate packets", func(t *testing.T) {
		for _, d := range []*testenv.Device{n.Clients[0].Device, n.Clients[0].Uplink, n.Backends[0].Device, n.Backends[0].Uplink} {
			if err := d.Impair(testenv.Impairment{Loss: 0.01, Duplicate: 0.01}); err != nil {
				t.Fatal(err)
			}
		}
		several(t, 1<<20)
	})
	if err := b.Failures(); len(err) > 0 {
		t.Errorf("the backend complains: %v", err)
	}
	const all = 6*2 + 2*flows
	r.expectMetric(`connections_total{outcome="routed"}`, all)
	var eof float64
	for _, by := range []string{"client", "upstream"} {
		for _, engine := range []string{"packet", "packet+sockmap", "splice"} {
			eof += r.metric(fmt.Sprintf(`endpoint_connections_total{closed_by=%q,end="eof",endpoint="a",engine=%q,outcome="routed"}`, by, engine))
		}
	}
	if eof != all {
		t.Errorf("%v of %d flows ended with a FIN from both sides", eof, all)
	}
}

// A relay of one network, backend and agent, for tests with both ends in hand.
type relay struct {
	*run
	listener *net.TCPListener
}

func startRelay(t *testing.T, more ...string) relay {
	t.Helper()
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	l, target := listenOn(t, n.Backends[0])
	return relay{start(t, n, "endpoints:\n"+endpoint("a", sni("a.test"), target, more...)), l}
}

// in is the relay in a subtest, which ends what it opens.
func (r relay) in(t *testing.T) relay {
	sub := *r.run
	sub.t = t
	return relay{&sub, r.listener}
}

func (r relay) flow() *testenv.Flow {
	r.t.Helper()
	return r.open(r.net.Clients[0], r.listener, "a.test")
}

func TestHalfClose(t *testing.T) {
	testenv.CheckLeaks(t)
	all := startRelay(t)
	const size = 8 << 20
	for _, by := range []string{"client", "upstream"} {
		ends := func(r relay) (f *testenv.Flow, first, second *net.TCPConn) {
			f = r.flow()
			if by == "client" {
				return f, f.Client, f.Backend
			}
			return f, f.Backend, f.Client
		}
		want := map[string]any{"outcome": "routed", "end": "eof", "closed_by": by}

		t.Run("by the "+by+" first, and megabytes come the other way after it", func(t *testing.T) {
			r := all.in(t)
			f, first, second := ends(r)
			if err := first.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if err := testenv.ExpectEOF(second, patience); err != nil {
				t.Fatalf("the FIN does not arrive by itself: %v", err)
			}
			up, down := int64(0), int64(size)
			if by != "client" {
				up, down = down, up
			}
			client := f.Client.LocalAddr()
			// first's half-close is done already; a second one changes nothing.
			if err := testenv.ExchangePair(short(t), f.Client, f.Backend, 1, up, down); err != nil {
				t.Error(err)
			}
			r.expectLine(client, want)
		})
		t.Run("by the "+by+" with megabytes still on the way before the FIN", func(t *testing.T) {
			r := all.in(t)
			f, first, second := ends(r)
			bigSendBuffer(t, first, 4*size)
			data := pattern(size)
			if _, err := first.Write(data); err != nil {
				t.Fatal(err)
			}
			if err := first.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if n, err := unsent(first); err != nil || n == 0 {
				t.Fatalf("nothing is on its way any more (%v): the test tests nothing", err)
			}
			answer := pattern(size + 1)
			var g errgroup.Group
			g.Go(func() error { return expectBytes(second, data) })
			g.Go(func() error { return expectBytes(first, answer) })
			g.Go(func() error {
				if _, err := second.Write(answer); err != nil {
					return err
				}
				return second.CloseWrite()
			})
			if err := g.Wait(); err != nil {
				t.Fatal(err)
			}
			l := r.lineOf(f.Client.LocalAddr())
			if l["end"] != "eof" {
				t.Errorf("end: %v", l)
			}
			greeting := float64(len(hello(t, "a.test")))
			in, out := greeting+size, float64(size+1)
			if by != "client" {
				in, out = greeting+size+1, size
			}
			if l["bytes_in"] != in || l["bytes_out"] != out {
				t.Errorf("bytes %v in, %v out; want %v and %v", l["bytes_in"], l["bytes_out"], in, out)
			}
		})
	}
	t.Run("and the flow waits for the other side with nothing to say", func(t *testing.T) {
		r := all.in(t)
		f := r.flow()
		if err := f.Client.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if err := testenv.ExpectEOF(f.Backend, patience); err != nil {
			t.Fatal(err)
		}
		r.expectMetric("connections_open", 1)
		if err := f.Backend.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if err := testenv.ExpectEOF(f.Client, patience); err != nil {
			t.Error(err)
		}
		r.expectMetric("connections_open", 0)
	})
}
