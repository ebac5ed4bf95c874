// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spliceway/spliceway/testenv"
)

// Clients that send a large hello in records and segments of one byte, as fast as
// they can, fill the kernel's queues with thousands of tiny buffers. It must not
// cost the agent much to look at them, nor others their service.
func TestHelloByteByByte(t *testing.T) {
	testenv.CheckLeaks(t)
	const (
		clients = 20
		timeout = 3 * time.Second
		slack   = 3 * time.Second // for a machine that has other things to do
	)
	n, ca := testenv.MustNetwork(t, testenv.NetworkOptions{Clients: 2}), testenv.MustCA(t)
	b := tlsBackend(t, n.Backends[0], ca, "a", "a.test")
	r := start(t, n, "timeouts: {hello: "+timeout.String()+"}\nendpoints:\n"+endpoint("a", sni("a.test"), at(n.Backends[0], b)))
	h := inRecords(t, testenv.MustHello(t, "a.test", testenv.HelloOptions{Size: 60 << 10}), 1)
	h = h[:len(h)-1] // never whole, however fast it comes

	before, err := testenv.ReadProcessCPU(r.Pid())
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	var sent atomic.Int64
	var attack sync.WaitGroup
	for range clients {
		c := r.dial(n.Clients[0])
		attack.Go(func() {
			for i := range h {
				if _, err := c.Write(h[i : i+1]); err != nil {
					break // the agent has had enough
				}
				sent.Add(1)
			}
		})
	}
	over := make(chan struct{})
	go func() { attack.Wait(); close(over) }()
	served, slowest := 0, time.Duration(0)
	for done := false; !done; served++ {
		select {
		case <-over:
			done = true
		default:
		}
		begin := time.Now()
		c, err := n.Clients[1].DialTLS(short(t), r.gateway(), ca.ClientConfig("a.test"))
		if err != nil {
			t.Fatal(err)
		}
		slowest = max(slowest, time.Since(begin))
		_ = c.Close()
	}
	took := time.Since(begin)
	after, err := testenv.ReadProcessCPU(r.Pid())
	if err != nil {
		t.Fatal(err)
	}
	cpu := after.Sub(before)
	t.Logf("%d bytes sent one by one in %s; the agent's time: user %s, system %s; %d others were served, the slowest handshake took %s",
		sent.Load(), took.Round(time.Millisecond), cpu.User, cpu.System, served, slowest.Round(time.Millisecond))
	r.expectMetric(`connections_total{outcome="hello_timeout"}`, clients)
	if took > timeout+slack {
		t.Errorf("the clients were there for %s, the timeout is %s", took, timeout)
	}
	if most := 3 * timeout / 2; cpu.Total() > most {
		t.Errorf("they cost the agent %s, want %s at most", cpu.Total(), most)
	}
	if slowest > 2*time.Second {
		t.Errorf("a handshake took %s meanwhile", slowest)
	}
}
