// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/userspace/sock"
	"github.com/spliceway/spliceway/userspace/telemetry"
)

// patience is far more than any step here takes.
const patience = 30 * time.Second

// bench is a Splicer with what is needed to put flows through it.
type bed struct {
	t  testing.TB
	p  *sock.Poller
	l  *sock.Listener // both legs come from here
	s  *Splicer
	mu sync.Mutex
}

func newBed(t testing.TB) *bed {
	t.Helper()
	return newBedWith(t, SplicerOptions{Workers: 2})
}

func newBedWith(t testing.TB, opts SplicerOptions) *bed {
	t.Helper()
	p, err := sock.NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	l, err := p.Listen(netip.MustParseAddrPort("127.0.0.1:0"), sock.ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewSplicer(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.Close()
		_ = l.Close()
		_ = p.Close()
	})
	return &bed{t: t, p: p, l: l, s: s}
}

// leg is a connection: the application's end and the gateway's.
func (b *bed) leg() (*net.TCPConn, *sock.Conn) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	app, err := net.Dial("tcp", b.l.Addr().String())
	if err != nil {
		b.t.Fatal(err)
	}
	gw, err := b.l.Accept()
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = app.Close() })
	_ = app.SetDeadline(time.Now().Add(patience))
	return app.(*net.TCPConn), gw
}

// flow starts a flow; its two applications are returned, and its result to come.
func (b *bed) flow(change func(*Flow)) (client, backend *net.TCPConn, result <-chan Result) {
	b.t.Helper()
	client, c := b.leg()
	backend, u := b.leg()
	results := make(chan Result, 1)
	f := Flow{Client: c, Upstream: u, Done: func(_ *telemetry.Record, r Result) { results <- r }}
	if change != nil {
		change(&f)
	}
	b.s.Start(f)
	return client, backend, results
}

func await(t testing.TB, results <-chan Result) Result {
	t.Helper()
	select {
	case r := <-results:
		return r
	case <-time.After(patience):
		t.Fatal("the flow did not end")
	}
	return Result{}
}

func randomBytes(seed uint64, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return b
}

// writeInPieces writes b in pieces of random sizes and closes its direction.
func writeInPieces(c *net.TCPConn, b []byte, r *rand.Rand) error {
	for len(b) > 0 {
		n := min(len(b), 1+int(float64(200<<10)*r.Float64()*r.Float64()*r.Float64()))
		if _, err := c.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return c.CloseWrite()
}

func TestBytesArriveAsTheyWereSent(t *testing.T) {
	b := newBed(t)
	sizes := []struct {
		name    string
		in, out int
	}{
		{"nothing", 0, 0},
		{"one byte each way", 1, 1},
		{"one scratch buffer exactly", scratchSize, scratchSize},
		{"a request and a long answer", 500, 12 << 20},
		{"a long request and an answer", 12 << 20, 500},
		{"long both ways at once", 8 << 20, 8 << 20},
	}
	for i, tt := range sizes {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var moved [2]atomic.Int64
			client, backend, result := b.flow(func(f *Flow) { f.Moved = [2]*atomic.Int64{&moved[0], &moved[1]} })
			up, down := randomBytes(uint64(i), tt.in), randomBytes(uint64(i+100), tt.out)
			var wg sync.WaitGroup
			send := func(c *net.TCPConn, data []byte, seed uint64) {
				if err := writeInPieces(c, data, rand.New(rand.NewPCG(seed, 1))); err != nil {
					t.Errorf("send: %v", err)
				}
			}
			receive := func(c *net.TCPConn, want []byte) {
				h := sha256.New()
				n, err := io.Copy(h, c)
				if err != nil || n != int64(len(want)) {
					t.Errorf("received %d bytes, %v; want %d", n, err, len(want))
				} else if sum := sha256.Sum256(want); !bytes.Equal(h.Sum(nil), sum[:]) {
					t.Errorf("the bytes differ")
				}
			}
			wg.Go(func() { send(client, up, uint64(i)) })
			wg.Go(func() { send(backend, down, uint64(i+100)) })
			wg.Go(func() { receive(backend, up) })
			wg.Go(func() { receive(client, down) })
			wg.Wait()
			r := await(t, result)
			if r.Bytes != [2]int64{int64(tt.in), int64(tt.out)} || r.End != telemetry.EndEOF || r.Err != nil {
				t.Errorf("result: %+v", r)
			}
			if moved[0].Load() != r.Bytes[0] || moved[1].Load() != r.Bytes[1] {
				t.Errorf("moved %d and %d, result %v", moved[0].Load(), moved[1].Load(), r.Bytes)
			}
		})
	}
}

func TestHalfCloseKeepsTheOtherDirection(t *testing.T) {
	const size = 6 << 20
	for _, first := range []telemetry.Side{telemetry.SideClient, telemetry.SideUpstream} {
		t.Run(first.String()+" closes first", func(t *testing.T) {
			client, backend, result := newBed(t).flow(nil)
			closer, other := client, backend
			if first == telemetry.SideUpstream {
				closer, other = backend, client
			}
			data := randomBytes(7, size)
			// The FIN comes before a single byte of the other direction.
			if _, err := closer.Write([]byte("request")); err != nil {
				t.Fatal(err)
			}
			if err := closer.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(other); err != nil || string(got) != "request" {
				t.Fatalf("got %q, %v", got, err)
			}
			go func() {
				_, _ = other.Write(data)
				_ = other.Close() // with megabytes in flight
			}()
			got, err := io.ReadAll(closer)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("got %d bytes, %v; want %d", len(got), err, size)
			}
			if r := await(t, result); r.End != telemetry.EndEOF || r.ClosedBy != first {
				t.Errorf("result: %+v", r)
			}
		})
	}
}

// reset closes c with RST.
func reset(t *testing.T, c *net.TCPConn) {
	t.Helper()
	if err := c.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}

func TestAResetArrivesAsAResetAfterTheBytesBeforeIt(t *testing.T) {
	for _, from := range []telemetry.Side{telemetry.SideClient, telemetry.SideUpstream} {
		for _, size := range []int{0, 10, 300 << 10} {
			t.Run(from.String(), func(t *testing.T) {
				client, backend, result := newBed(t).flow(nil)
				breaker, other := client, backend
				if from == telemetry.SideUpstream {
					breaker, other = backend, client
				}
				data := randomBytes(3, size)
				got := make(chan []byte)
				errs := make(chan error)
				go func() {
					var buf bytes.Buffer
					_, err := io.Copy(&buf, other)
					got <- buf.Bytes()
					errs <- err
				}()
				if _, err := breaker.Write(data); err != nil {
					t.Fatal(err)
				}
				// Everything is on its way out before the reset is sent.
				for pending(t, breaker) > 0 {
					time.Sleep(time.Millisecond)
				}
				reset(t, breaker)
				if b := <-got; !bytes.Equal(b, data) {
					t.Errorf("got %d bytes before the reset, want %d", len(b), size)
				}
				if err := <-errs; !errors.Is(err, unix.ECONNRESET) {
					t.Errorf("got %v, want ECONNRESET", err)
				}
				if r := await(t, result); r.End != telemetry.EndReset || r.ClosedBy != from || r.Err == nil {
					t.Errorf("result: %+v", r)
				}
			})
		}
	}
}

func pending(t *testing.T, c *net.TCPConn) (n int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestAResetReachesASideThatDoesNotRead(t *testing.T) {
	client, backend, result := newBed(t).flow(nil)
	go func() { _, _ = backend.Write(make([]byte, 64<<20)) }() // until it is stuck
	waitStuck(t, client)
	reset(t, backend)
	if r := await(t, result); r.End != telemetry.EndReset || r.ClosedBy != telemetry.SideUpstream {
		t.Errorf("result: %+v", r)
	}
	if _, err := io.Copy(io.Discard, client); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("got %v, want ECONNRESET", err)
	}
}

func TestAFlowThatBothSidesResetEndsAtOnce(t *testing.T) {
	client, backend, result := newBed(t).flow(nil)
	go func() { _, _ = backend.Write(make([]byte, 64<<20)) }() // until it is stuck
	go func() { _, _ = client.Write(make([]byte, 64<<20)) }()
	waitStuck(t, client)
	waitStuck(t, backend)
	start := time.Now()
	reset(t, backend)
	reset(t, client)
	if r := await(t, result); r.End != telemetry.EndReset {
		t.Errorf("result: %+v", r)
	}
	if took := time.Since(start); took > lingerReset/2 {
		t.Errorf("it took %s, although nobody is left to wait for", took)
	}
}

// waitStuck waits until c's receive queue no longer grows.
func waitStuck(t *testing.T, c *net.TCPConn) (queued int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	last, same := -1, 0
	for same < 20 {
		_ = raw.Control(func(fd uintptr) { queued, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
		if queued == last && queued > 0 {
			same++
		} else {
			last, same = queued, 0
		}
		time.Sleep(5 * time.Millisecond)
	}
	return queued
}

func TestASlowReaderStopsItsWriter(t *testing.T) {
	const offered = 256 << 20
	client, backend, result := newBed(t).flow(nil)
	var written atomic.Int64
	data := randomBytes(1, 1<<20)
	go func() {
		for range offered / len(data) {
			n, err := backend.Write(data)
			written.Add(int64(n))
			if err != nil {
				break
			}
		}
		_ = backend.Close()
	}()
	waitStuck(t, client)
	// Socket buffers (tcp_rmem and tcp_wmem, twice) and a pipe: far below what
	// was offered.
	if w := written.Load(); w > offered/4 {
		t.Errorf("the writer got rid of %d MB with nobody reading", w>>20)
	}
	h, want := sha256.New(), sha256.New()
	n, err := io.Copy(h, client)
	if err != nil || n != offered {
		t.Errorf("got %d bytes, %v; want %d", n, err, offered)
	}
	for range offered / len(data) {
		want.Write(data)
	}
	if !bytes.Equal(h.Sum(nil), want.Sum(nil)) {
		t.Error("the bytes differ")
	}
	_ = client.Close()
	await(t, result)
}

func TestIdleFlowsEnd(t *testing.T) {
	const limit = 150 * time.Millisecond
	t.Run("activity of either direction counts", func(t *testing.T) {
		client, backend, result := newBed(t).flow(func(f *Flow) { f.Idle = limit })
		start := time.Now()
		for time.Since(start) < 3*limit {
			if _, err := backend.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := client.Read(make([]byte, 1)); err != nil {
				t.Fatalf("after %s: %v", time.Since(start), err)
			}
			time.Sleep(limit / 10)
		}
		if r := await(t, result); r.End != telemetry.EndIdleTimeout || r.ClosedBy != telemetry.SideAgent {
			t.Errorf("result: %+v", r)
		}
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("client: got %v, want ECONNRESET", err)
		}
		if _, err := backend.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("backend: got %v, want ECONNRESET", err)
		}
	})
	t.Run("half-closed", func(t *testing.T) {
		client, backend, result := newBed(t).flow(func(f *Flow) { f.Idle, f.HalfClose = time.Hour, limit })
		if err := client.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if _, err := backend.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if r := await(t, result); r.End != telemetry.EndHalfCloseTimeout {
			t.Errorf("result: %+v", r)
		}
	})
}

func TestThePrefaceComesFirstAndIsNotCounted(t *testing.T) {
	b := newBed(t)
	client, c := b.leg()
	backend, u := b.leg()
	if _, err := client.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := c.WaitReadable(ctx, 5); err != nil { // as the peek at a hello does
		t.Fatal(err)
	}
	results := make(chan Result, 1)
	b.s.Start(Flow{Client: c, Upstream: u, Preface: []byte("PROXY...\r\n"), Done: func(_ *telemetry.Record, r Result) { results <- r }})
	_ = client.CloseWrite()
	got, err := io.ReadAll(backend)
	if err != nil || string(got) != "PROXY...\r\nhello" {
		t.Errorf("got %q, %v", got, err)
	}
	_ = backend.Close()
	if r := await(t, results); r.Bytes != [2]int64{5, 0} {
		t.Errorf("result: %+v", r)
	}
}

func TestAnUrgentByteDoesNotStopABulkStream(t *testing.T) {
	client, backend, result := newBed(t).flow(nil)
	data := randomBytes(9, 4<<20)
	go func() {
		raw, _ := client.SyscallConn()
		_, _ = client.Write(data[:len(data)/2])
		_ = raw.Write(func(fd uintptr) bool {
			return !errors.Is(unix.Sendto(int(fd), data[len(data)/2:len(data)/2+1], unix.MSG_OOB, nil), unix.EAGAIN)
		})
		_, _ = client.Write(data[len(data)/2+1:])
		_ = client.CloseWrite()
	}()
	got, err := io.ReadAll(backend)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("got %d bytes, %v; want %d equal ones", len(got), err, len(data))
	}
	_ = backend.Close()
	await(t, result)
}

func openFiles(t testing.TB) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

func TestAnIdleFlowHoldsNoPipe(t *testing.T) {
	b := newBed(t)
	client, backend, _ := b.flow(nil)
	go func() {
		_, _ = client.Write(make([]byte, 4<<20))
		_, _ = client.Write([]byte("end"))
	}()
	if _, err := io.ReadFull(backend, make([]byte, 4<<20+3)); err != nil {
		t.Fatal(err)
	}
	b.s.pipes.close() // those in the pool; what a flow still held would stay
	for _, w := range b.s.workers {
		w.each(func(f *flow) {
			for i := range f.dir {
				if f.dir[i].inPipe != 0 || f.dir[i].rest != nil {
					t.Errorf("direction %d holds %d bytes in a pipe and %d in memory", i, f.dir[i].inPipe, len(f.dir[i].rest))
				}
			}
		})
	}
}

func TestAbortResetsBothSides(t *testing.T) {
	b := newBed(t)
	client, backend, result := b.flow(nil)
	if n := b.s.Flows(); n != 1 {
		t.Errorf("%d flows, want 1", n)
	}
	b.s.Abort(telemetry.EndDrain)
	if r := await(t, result); r.End != telemetry.EndDrain || r.ClosedBy != telemetry.SideAgent {
		t.Errorf("result: %+v", r)
	}
	for _, c := range []*net.TCPConn{client, backend} {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("got %v, want ECONNRESET", err)
		}
	}
	if n := b.s.Flows(); n != 0 {
		t.Errorf("%d flows, want 0", n)
	}
}

func TestNothingIsLeftOfFlowsThatEnded(t *testing.T) {
	b := newBed(t)
	before := openFiles(t)
	var wg sync.WaitGroup
	for i := range 200 {
		client, backend, result := b.flow(nil)
		wg.Go(func() {
			_, _ = client.Write(randomBytes(uint64(i), i*500))
			if i%3 == 0 {
				_ = client.SetLinger(0)
			}
			_ = client.Close()
			_, _ = io.Copy(io.Discard, backend)
			_ = backend.Close()
			await(t, result)
		})
	}
	wg.Wait()
	b.s.pipes.close()
	if after := openFiles(t); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
	for _, w := range b.s.workers {
		w.mu.Lock()
		if len(w.timers) != 0 || len(w.free) != len(w.slots) {
			t.Errorf("%d timers, %d of %d slots free", len(w.timers), len(w.free), len(w.slots))
		}
		w.mu.Unlock()
	}
}

func TestWithoutDescriptorsForPipesBytesAreCopied(t *testing.T) {
	b := newBed(t)
	client, backend, result := b.flow(nil)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	b.s.pipes.close()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &old) }()
	data := randomBytes(5, 4<<20)
	go func() {
		_, _ = client.Write(data)
		_ = client.CloseWrite()
	}()
	got, err := io.ReadAll(backend)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("got %d bytes, %v; want %d", len(got), err, len(data))
	}
	_ = backend.Close()
	await(t, result)
}

// stepped is a Splicer whose only worker runs when the test says so: handle is given
// what epoll has at that moment.
func stepped(t *testing.T) (s *Splicer, step func()) {
	t.Helper()
	s = newSplicer("splice", scratchSize)
	w, err := newWorker(&s.pipes, s.burst)
	if err != nil {
		t.Fatal(err)
	}
	s.workers = []*worker{w}
	t.Cleanup(func() { _ = s.Close() })
	return s, func() {
		t.Helper()
		events := make([]unix.EpollEvent, 16)
		n, err := unix.EpollWait(w.epfd, events, 0)
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			w.handle(&events[i])
		}
	}
}

// arrived waits until n bytes are in the receive queue of fd.
func arrived(t *testing.T, fd, n int) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		got, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
		if err != nil {
			t.Fatal(err)
		}
		if got == n {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d bytes have arrived, want %d", got, n)
		}
	}
}

// TestUrgentByteInTheQueueIsNotItsEnd: recv stops before an urgent byte. When all of
// it came with one edge there is no other one to tell of the rest.
func TestUrgentByteInTheQueueIsNotItsEnd(t *testing.T) {
	b := newBed(t)
	s, step := stepped(t)
	client, c := b.leg()
	backend, u := b.leg()
	s.Start(Flow{Client: c, Upstream: u})
	step() // what epoll says of a new descriptor
	f := s.workers[0].slots[0].f
	raw, err := client.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(raw.Control(func(fd uintptr) {
		for _, p := range []struct {
			bytes string
			flags int
		}{{"abc", 0}, {"X", unix.MSG_OOB}, {"def", 0}} {
			err = errors.Join(err, unix.Sendto(int(fd), []byte(p.bytes), p.flags, nil))
		}
	}), err)
	if err != nil {
		t.Fatal(err)
	}
	arrived(t, f.fds[In], len("abcXdef"))
	step()
	if got := f.dir[In].bytes; got != int64(len("abcXdef")) {
		t.Fatalf("one edge, and %d bytes moved; want all", got)
	}
	got := make([]byte, len("abcXdef"))
	if _, err := io.ReadFull(backend, got); err != nil || string(got) != "abcXdef" {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestResetLooksAgainLessAndLess while the last bytes have not left.
func TestResetLooksAgainLessAndLess(t *testing.T) {
	looks, at := 0, time.Duration(0)
	for ; at < lingerReset; looks++ {
		pause := lingerPause(at)
		if pause < lingerFirst || pause > lingerLast || at >= lingerFirst && pause != min(at, lingerLast) {
			t.Fatalf("%s after the reset: a pause of %s", at, pause)
		}
		at += pause
	}
	if looks > 60 {
		t.Errorf("%d looks in %s", looks, lingerReset)
	}
}
