// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/spliceway/spliceway/testenv"
)

func TestReset(t *testing.T) {
	testenv.CheckLeaks(t)
	all := startRelay(t)
	for _, by := range []string{"client", "upstream"} {
		open := func(r relay) (f *testenv.Flow, from, to *net.TCPConn) {
			f = r.flow()
			if by == "client" {
				return f, f.Client, f.Backend
			}
			return f, f.Backend, f.Client
		}
		want := map[string]any{"outcome": "routed", "end": "reset", "closed_by": by, "level": "INFO"}

		t.Run("by the "+by+" of an idle flow arrives as a reset", func(t *testing.T) {
			r := all.in(t)
			f, from, to := open(r)
			client := f.Client.LocalAddr()
			if err := testenv.Reset(from); err != nil {
				t.Fatal(err)
			}
			if err := testenv.ExpectReset(to, patience); err != nil {
				t.Error(err)
			}
			r.expectLine(client, want)
		})
		t.Run("by the "+by+" arrives behind the bytes before it", func(t *testing.T) {
			r := all.in(t)
			f, from, to := open(r)
			client := f.Client.LocalAddr()
			data := pattern(100_000)
			if _, err := from.Write(data); err != nil {
				t.Fatal(err)
			}
			// A reset drops what its own kernel has not sent.
			if err := testenv.Poll(short(t), func() (bool, error) {
				n, err := unsent(from)
				return n == 0, err
			}); err != nil {
				t.Fatal(err)
			}
			if err := testenv.Reset(from); err != nil {
				t.Fatal(err)
			}
			// Reading begins when the agent is through with the flow: nothing
			// waits for the reader.
			l := r.expectLine(client, want)
			got, end := seen(to)
			if end != "RST" {
				t.Errorf("the flow ends with %s", end)
			}
			if string(got) != string(data) {
				t.Errorf("%d bytes arrived, %d were sent; the line is %v", len(got), len(data), l)
			}
		})
		t.Run("by the "+by+" arrives behind more bytes than the reader has room for", func(t *testing.T) {
			ofSplice(t, "nothing waits in the agent")
			r := all.in(t)
			f, from, to := open(r)
			client := f.Client.LocalAddr()
			data := pattern(1 << 20)
			bigSendBuffer(t, from, 2*len(data))
			if _, err := from.Write(data); err != nil {
				t.Fatal(err)
			}
			if err := testenv.Poll(short(t), func() (bool, error) {
				n, err := unsent(from)
				return n == 0, err
			}); err != nil {
				t.Fatal(err)
			}
			if err := testenv.Reset(from); err != nil {
				t.Fatal(err)
			}
			if got, end := seen(to); end != "RST" || string(got) != string(data) {
				t.Errorf("%d bytes of %d arrived, and %s", len(got), len(data), end)
			}
			r.expectLine(client, want)
		})
		t.Run("by the "+by+" after its FIN arrives", func(t *testing.T) {
			r := all.in(t)
			f, from, to := open(r)
			client := f.Client.LocalAddr()
			if err := from.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if err := testenv.ExpectEOF(to, patience); err != nil {
				t.Fatal(err)
			}
			if err := testenv.Reset(from); err != nil {
				t.Fatal(err)
			}
			// A reader has seen the FIN; a writer learns of the reset.
			if err := writeUntilError(to); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				t.Errorf("writing ends with %v", err)
			}
			r.expectLine(client, want)
		})
		t.Run("by the "+by+" in the middle of a transfer stops its writer", func(t *testing.T) {
			r := all.in(t)
			f, from, to := open(r)
			client := f.Client.LocalAddr()
			stopped := make(chan error, 1)
			go func() { stopped <- writeUntilError(to) }()
			if _, err := io.CopyN(io.Discard, from, 1<<20); err != nil {
				t.Fatal(err)
			}
			if err := testenv.Reset(from); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-stopped:
				if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
					t.Errorf("writing ends with %v", err)
				}
			case <-short(t).Done():
				t.Error("the writer goes on")
			}
			r.expectLine(client, want)
		})
	}
	// Two at a time: each takes as long as the agent waits for the sleeper.
	t.Run("arrives at a peer that does not read what it was sent before", func(t *testing.T) {
		r := all.in(t)
		var g errgroup.Group
		for _, by := range []string{"client", "upstream"} {
			f := r.flow()
			from, to := f.Client, f.Backend
			if by == "upstream" {
				from, to = to, from
			}
			client := f.Client.LocalAddr()
			g.Go(func() error {
				if _, err := fillUp(from); err != nil {
					return err
				}
				if err := testenv.Reset(from); err != nil {
					return err
				}
				r.expectLine(client, map[string]any{"outcome": "routed", "end": "reset", "closed_by": by})
				if _, end := seen(to); end != "RST" {
					return fmt.Errorf("the flow that the %s reset ends with %s", by, end)
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	})
	t.Run("leaves nothing behind in the agent", func(t *testing.T) {
		r := all.in(t)
		before := r.held()
		const rounds = 300
		for range rounds {
			f := r.flow()
			if err := testenv.Reset(f.Client); err != nil {
				t.Fatal(err)
			}
			if err := testenv.ExpectReset(f.Backend, patience); err != nil {
				t.Fatal(err)
			}
			_ = f.Close()
		}
		r.expectMetric("connections_open", 0)
		r.expectHeld(before)
	})
}

// writeUntilError writes until that fails.
func writeUntilError(c *net.TCPConn) error {
	if err := c.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	b := make([]byte, 64<<10)
	for {
		if _, err := c.Write(b); err != nil {
			return err
		}
	}
}

// stalled is how long a writer must get nothing off to count as stopped.
const stalled = 300 * time.Millisecond

// fillUp writes until the way is full, and returns how many bytes it holds.
func fillUp(c *net.TCPConn) (n int64, err error) {
	block := pattern(1 << 20)
	for {
		if err := c.SetWriteDeadline(time.Now().Add(stalled)); err != nil {
			return n, err
		}
		k, err := c.Write(block[n%int64(len(block)):])
		n += int64(k)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && k == 0:
			return n, c.SetWriteDeadline(time.Time{})
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			return n, err
		}
	}
}
