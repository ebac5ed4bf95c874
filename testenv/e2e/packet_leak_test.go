// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/spliceway/spliceway/maps"
	"github.com/spliceway/spliceway/testenv"
)

// entries counts what a pinned map has.
func entries(t *testing.T, path string) (n int) {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	key, value := make([]byte, m.KeySize()), make([]byte, m.ValueSize())
	all := m.Iterate()
	for all.Next(&key, &value) {
		n++
	}
	if err := all.Err(); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestPacketLeavesNothing opens and closes many connections: nothing of them is left
// in the kernel's maps or in the agent, and not one failed or missed its engine. As
// many as SPLICEWAY_TEST_CONNECTIONS says, 2,000 if it says nothing.
func TestPacketLeavesNothing(t *testing.T) {
	visits := 2000
	if n, err := strconv.Atoi(os.Getenv("SPLICEWAY_TEST_CONNECTIONS")); err == nil {
		visits = n
	}
	n := opsNetwork(t, testenv.NetworkOptions{})
	ca := testenv.MustCA(t)
	b := tlsBackend(t, n.Backends[0], ca, "a", "a.test")
	state := filepath.Join(testenv.MustBPFFS(t), "state")
	r := start(t, n, "log: {access: false}\nengine: packet\nbpffs: "+state+"\nendpoints:\n"+endpoint("a", sni("a.test"), at(n.Backends[0], b)))
	before := r.held()
	var begun atomic.Int64
	var g sync.WaitGroup
	for range 8 {
		g.Go(func() {
			for begun.Add(1) <= int64(visits) {
				c, err := n.Clients[0].DialTLS(short(t), opsGateway(n), ca.ClientConfig("a.test"))
				if err == nil {
					_, err = testenv.Ask(c, testenv.Request{Mode: testenv.Echo})
					_ = c.Close()
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	g.Wait()
	r.expectMetric("connections_open", 0)
	if spliced := r.metric(`packets_total{verdict="flips"}`); spliced < .995*float64(visits) {
		t.Errorf("%v of %d flows were spliced", spliced, visits)
	}
	for _, name := range []string{"tuples", "flows", "records"} {
		path, left := filepath.Join(state, "v1", name), 0
		if err := testenv.Poll(short(t), func() (bool, error) {
			left = entries(t, path)
			time.Sleep(100 * time.Millisecond) // the walk is not to hold the sweep up
			return left == 0, nil
		}); err != nil {
			t.Errorf("%d %s are left", left, name)
			logFlows(t, filepath.Join(state, "v1", "flows"))
		}
	}
	if err := testenv.Poll(short(t), func() (bool, error) {
		now := r.held()
		return now.sockets <= before.sockets && now.goroutines <= before.goroutines+2, nil
	}); err != nil {
		t.Errorf("the agent holds %+v, before it held %+v", r.held(), before)
	}
}

// logFlows tells what the programs know of the flows that are there.
func logFlows(t *testing.T, path string) {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	now := maps.Monotonic()
	for id, f := range maps.NewFlows(m).All() {
		t.Logf("flow %d, seen %s ago, closed %s ago: %+v", id, now-f.Seen, now-f.Closed, f)
	}
}
