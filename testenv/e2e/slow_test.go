// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/spliceway/spliceway/testenv"
)

// A reader that sleeps stops its writer, and costs the agent no memory: what waits
// is in the kernel, in socket buffers and one pipe per direction.
func TestSlowReader(t *testing.T) {
	testenv.CheckLeaks(t)
	all := startRelay(t)
	for _, by := range []string{"client", "upstream"} {
		t.Run("at the "+by+" of hundreds of megabytes", func(t *testing.T) {
			r := all.in(t)
			f := r.flow()
			reader, writer := f.Client, f.Backend
			if by == "upstream" {
				reader, writer = writer, reader
			}
			before := r.memory()
			const offered = 256 << 20
			waiting, err := fillUp(writer)
			if err != nil {
				t.Fatal(err)
			}
			after := r.memory()
			t.Logf("the way holds %.1f MB of %d MB; the agent's PSS grew by %d KB", float64(waiting)/(1<<20), offered>>20, (after-before)>>10)
			// Two sockets' send and receive buffers at their largest
			// (tcp_wmem, tcp_rmem: 4 and 6 MB, and a kernel that overcommits
			// them) and a pipe.
			if waiting > 64<<20 {
				t.Errorf("the writer was let go on for %d MB", waiting>>20)
			}
			if after-before > 4<<20 {
				t.Errorf("the agent grew by %d KB for one slow reader", (after-before)>>10)
			}
			var g errgroup.Group
			g.Go(func() error {
				rest := pattern(1 << 20)
				for n := waiting; n < offered; {
					k, err := writer.Write(rest[n%int64(len(rest)):])
					n += int64(k)
					if err != nil {
						return err
					}
				}
				return writer.CloseWrite()
			})
			g.Go(func() error { return expectBlocks(reader, pattern(1<<20), offered) })
			if err := g.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

// Many of them, both ways at once: the agent holds two sockets and at most two pipes
// for each, and gives all of it back when it cuts them for having stood still.
func TestSlowReaders(t *testing.T) {
	testenv.CheckLeaks(t)
	// Long enough for all of them to fill up.
	all := startRelay(t, "timeouts: {idle: 3s}")
	n := all.net
	for _, ns := range []*testenv.Namespace{n.Gateway, n.Clients[0].Namespace, n.Backends[0].Namespace} {
		// Small buffers fill up soon.
		for _, key := range []string{"net/ipv4/tcp_rmem", "net/ipv4/tcp_wmem"} {
			if err := ns.SetSysctl(key, "4096 65536 262144"); err != nil {
				t.Fatal(err)
			}
		}
	}
	r := all.in(t)
	const flows = 50
	before, memory := r.held(), r.memory()
	var g errgroup.Group
	var waiting atomic.Int64
	var open []*testenv.Flow
	for range flows {
		f := r.flow()
		open = append(open, f)
		for _, c := range []*net.TCPConn{f.Client, f.Backend} {
			g.Go(func() error {
				n, err := fillUp(c)
				waiting.Add(n)
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	now, grown := r.held(), r.memory()-memory
	t.Logf("%d flows hold %d MB and %d pipe ends; the agent's PSS grew by %d KB", flows, waiting.Load()>>20, now.pipes-before.pipes, grown>>10)
	if grown > flows*(128<<10)+4<<20 { // the race detector takes its part
		t.Errorf("the agent grew by %d KB for %d flows", grown>>10, flows)
	}
	if most := before.sockets + 2*flows + 1; now.sockets > most {
		t.Errorf("%d sockets, at most %d are needed", now.sockets, most)
	}
	if most := before.pipes + keptPipeEnds + 4*flows; now.pipes > most {
		t.Errorf("%d pipe ends, at most %d are needed", now.pipes, most)
	}
	for _, f := range open {
		r.expectLine(f.Client.LocalAddr(), map[string]any{"outcome": "routed", "end": "idle_timeout"})
		if _, end := seen(f.Client); end != "RST" {
			t.Errorf("the client sees %s", end)
		}
	}
	r.expectMetric("connections_open", 0)
	r.expectHeld(before)
}

// memory is the agent's PSS in bytes.
func (r *run) memory() int64 {
	r.t.Helper()
	m, err := testenv.ReadMemory(r.Pid())
	if err != nil {
		r.t.Fatal(err)
	}
	return m.PSS
}

// expectBlocks reads to the FIN and wants total bytes of the block, repeated.
func expectBlocks(c net.Conn, block []byte, total int64) error {
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for n := int64(0); ; {
		k, err := c.Read(buf)
		for got := buf[:k]; len(got) > 0; {
			want := block[n%int64(len(block)):]
			want = want[:min(len(want), len(got))]
			if string(got[:len(want)]) != string(want) {
				return fmt.Errorf("other bytes than those that were sent, near byte %d", n)
			}
			n, got = n+int64(len(want)), got[len(want):]
		}
		switch {
		case errors.Is(err, io.EOF) && n == total:
			return nil
		case err != nil:
			return fmt.Errorf("after %d of %d bytes: %w", n, total, err)
		}
	}
}
