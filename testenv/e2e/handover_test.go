// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/spliceway/spliceway/testenv"
)

// The places that these tests move one address of the gateway between: each listens
// on it, by a socket of another width.
var handoverWidths = []string{"[10.0.0.1]", "[]", "[10.0.0.0/24]"}

// TestReloadHandsAnAddressOver moves an address to a wider and to a narrower socket
// and back while clients connect to it as fast as they can. Not one may notice.
func TestReloadHandsAnAddressOver(t *testing.T) {
	n := opsNetwork(t, testenv.NetworkOptions{})
	backend := opsBackend(t, n, 0, "a")
	opsLocalRoute(t, n, "10.0.0.0/24")
	endpoint := "endpoints:\n" + opsEndpoint("a", opsURL(opsTarget(n, 0)))
	hello := opsHello(t, "a.test")
	r := start(t, n, "log: {access: false}\n"+endpoint)

	ctx, cancel := context.WithCancel(short(t))
	defer cancel()
	var load sync.WaitGroup
	defer load.Wait()
	defer cancel()
	var served, failed atomic.Int64
	for range 4 {
		load.Go(func() {
			for ctx.Err() == nil {
				// Not ctx: what has begun is to end well.
				if err := handoverVisit(short(t), n.Clients[0], opsGateway(n), hello); err != nil {
					if failed.Add(1) <= 3 {
						t.Error(err)
					}
					continue
				}
				served.Add(1)
			}
		})
	}
	const reloads, between = 12, 200
	for i := range reloads {
		target := served.Load() + failed.Load() + between
		if err := testenv.Poll(ctx, func() (bool, error) { return served.Load()+failed.Load() >= target, nil }); err != nil {
			t.Fatal(err)
		}
		opsReload(r, "log: {access: false}\nlisten: "+handoverWidths[i%len(handoverWidths)]+"\n"+endpoint)
	}
	cancel()
	load.Wait()
	t.Logf("%d connections during %d reloads, %d failed", served.Load(), reloads, failed.Load())
	if failed.Load() > 0 || int64(backend.Accepted()) != served.Load() {
		t.Errorf("%d failed; %d reached the backend, want %d", failed.Load(), backend.Accepted(), served.Load())
	}
}

// handoverVisit is a whole connection to a plain backend.
func handoverVisit(ctx context.Context, host *testenv.Host, to netip.AddrPort, hello []byte) error {
	c, err := host.Dial(ctx, to)
	if err != nil {
		return err
	}
	_, err = c.Write(hello)
	if err == nil {
		_, err = testenv.Ask(c, testenv.Request{Mode: testenv.Echo})
	}
	if err == nil {
		err = errors.Join(c.CloseWrite(), testenv.ExpectEOF(c, patience))
	}
	return errors.Join(err, c.Close())
}

// TestReloadKeepsHandshakesUnderWay: a client that has connected and said nothing is
// a half-open connection to the kernel (TCP_DEFER_ACCEPT), known to one listening
// socket alone. It must not notice that another one has taken its place.
func TestReloadKeepsHandshakesUnderWay(t *testing.T) {
	n := opsNetwork(t, testenv.NetworkOptions{})
	opsBackend(t, n, 0, "a")
	opsLocalRoute(t, n, "10.0.0.0/24")
	endpoint := "endpoints:\n" + opsEndpoint("a", opsURL(opsTarget(n, 0)))
	listen := func(l string) string { return "listen: " + l + "\n" + endpoint }
	hello := opsHello(t, "a.test")
	for _, from := range handoverWidths {
		for _, to := range handoverWidths {
			if from == to {
				continue
			}
			t.Run("from "+from+" to "+to, func(t *testing.T) {
				r := start(t, n, listen(from))
				c := opsSend(t, n.Clients[0], opsGateway(n), nil)
				opsReload(r, listen(to))
				if _, err := c.Write(hello); err != nil {
					t.Fatal(err)
				}
				if _, err := testenv.Ask(c, testenv.Request{Mode: testenv.Echo}); err != nil {
					t.Fatal(err)
				}
				opsLeave(t, r, c)
				// And there and back while the old socket still takes leave.
				c = opsSend(t, n.Clients[0], opsGateway(n), nil)
				opsReload(r, listen(from))
				if _, err := c.Write(hello); err != nil {
					t.Fatal(err)
				}
				if _, err := testenv.Ask(c, testenv.Request{Mode: testenv.Echo}); err != nil {
					t.Fatal(err)
				}
				opsLeave(t, r, c)
				opsSignal(r, syscall.SIGTERM)
				opsExit(t, r, 0)
			})
		}
	}
}
