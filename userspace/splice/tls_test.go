// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv"
	"github.com/spliceway/spliceway/userspace/sock"
	"github.com/spliceway/spliceway/userspace/telemetry"
	"github.com/spliceway/spliceway/userspace/tlsconn"
)

// relayBed is a bed whose engine is relay.
type relayBed struct {
	*bed
	server, client *tls.Config
}

func newRelayBed(t testing.TB) *relayBed {
	t.Helper()
	b := newBedWith(t, SplicerOptions{Workers: 2, Relay: true})
	ca, err := testenv.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	server, err := ca.ServerConfig("a.test")
	if err != nil {
		t.Fatal(err)
	}
	return &relayBed{bed: b, server: server, client: ca.ClientConfig("a.test")}
}

// end is an application's end of a flow: TLS, or the connection itself.
type end interface {
	net.Conn
	CloseWrite() error
}

// shape says on which sides there is TLS, and which version.
type shape struct {
	tls     [2]bool
	version uint16
}

func (s shape) String() string {
	side := func(is bool) string {
		if is {
			return "tls"
		}
		return "tcp"
	}
	return fmt.Sprintf("%s to %s, %s", side(s.tls[In]), side(s.tls[Out]), tls.VersionName(s.version))
}

var shapes = []shape{
	{[2]bool{true, false}, tls.VersionTLS12}, {[2]bool{true, false}, tls.VersionTLS13},
	{[2]bool{true, true}, tls.VersionTLS12}, {[2]bool{true, true}, tls.VersionTLS13},
	{[2]bool{false, true}, tls.VersionTLS13},
}

// secured does the handshake of one leg: the application's end and the gateway's TLS.
func (b *relayBed) secured(app *net.TCPConn, gw *sock.Conn, gatewayIsServer bool, version uint16) (end, *tlsconn.Conn) {
	b.t.Helper()
	server, client := b.server.Clone(), b.client.Clone()
	server.MaxVersion, client.MaxVersion = version, version
	conn, layer := tls.Client(app, client), tlsconn.Server(gw, server)
	if !gatewayIsServer {
		conn, layer = tls.Server(app, server), tlsconn.Client(gw, client)
	}
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- conn.Handshake() }()
	if err := errors.Join(layer.Handshake(ctx), <-done); err != nil {
		b.t.Fatal(err)
	}
	return conn, layer
}

// relayed starts a flow. The raw connections are those below the ends.
func (b *relayBed) relayed(s shape, change func(*Flow)) (ends [2]end, raw [2]*net.TCPConn, result <-chan Result) {
	b.t.Helper()
	var gw [2]*sock.Conn
	results := make(chan Result, 1)
	f := Flow{Done: func(_ *telemetry.Record, r Result) { results <- r }}
	for side := range ends {
		raw[side], gw[side] = b.leg()
		ends[side] = raw[side]
		if s.tls[side] {
			var layer *tlsconn.Conn
			ends[side], layer = b.secured(raw[side], gw[side], side == In, s.version)
			f.TLS[side] = layer
		}
	}
	f.Client, f.Upstream = gw[In], gw[Out]
	if change != nil {
		change(&f)
	}
	b.s.Start(f)
	return ends, raw, results
}

func eachShape(t *testing.T, run func(*testing.T, *relayBed, shape)) {
	t.Helper()
	for _, s := range shapes {
		t.Run(s.String(), func(t *testing.T) { run(t, newRelayBed(t), s) })
	}
}

// send writes data in pieces of random sizes and says goodbye.
func send(c end, data []byte, r *rand.Rand) error {
	for len(data) > 0 {
		n := min(len(data), 1+int(float64(200<<10)*r.Float64()*r.Float64()*r.Float64()))
		if _, err := c.Write(data[:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	return c.CloseWrite()
}

func TestRelayedBytesArriveAsTheyWereSent(t *testing.T) {
	sizes := [][2]int{{0, 0}, {1, 0}, {0, 1}, {16383, 16385}, {16384, 16384}, {65536, 65537}, {3 << 20, 5 << 20}, {8 << 20, 100}}
	eachShape(t, func(t *testing.T, b *relayBed, s shape) {
		var wg sync.WaitGroup
		for i, size := range sizes {
			ends, _, result := b.relayed(s, nil)
			wg.Go(func() {
				data := [2][]byte{randomBytes(uint64(i), size[In]), randomBytes(uint64(i+100), size[Out])}
				var both sync.WaitGroup
				for side, c := range ends {
					both.Go(func() {
						if err := send(c, data[side], rand.New(rand.NewPCG(uint64(i), uint64(side)))); err != nil {
							t.Errorf("%v: write: %v", size, err)
						}
					})
					both.Go(func() {
						got, err := io.ReadAll(c)
						if err != nil || sha256.Sum256(got) != sha256.Sum256(data[1-side]) {
							t.Errorf("%v: side %d got %d bytes, %v; want %d", size, side, len(got), err, len(data[1-side]))
						}
					})
				}
				both.Wait()
				r := await(t, result)
				if r.End != telemetry.EndEOF || r.Bytes != [2]int64{int64(size[In]), int64(size[Out])} || r.Err != nil {
					t.Errorf("%v: result %+v", size, r)
				}
			})
		}
		wg.Wait()
	})
}

// TestEitherSideMayCloseFirstAndListenOn: close_notify and FIN are the same to the
// other side, in both directions.
func TestEitherSideMayCloseFirstAndListenOn(t *testing.T) {
	eachShape(t, func(t *testing.T, b *relayBed, s shape) {
		for first := range 2 {
			ends, _, result := b.relayed(s, nil)
			if err := send(ends[first], []byte("question"), rand.New(rand.NewPCG(1, 2))); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(ends[1-first]); err != nil || string(got) != "question" {
				t.Fatalf("got %q, %v", got, err)
			}
			answer := randomBytes(3, 1<<20)
			go func() { _ = send(ends[1-first], answer, rand.New(rand.NewPCG(1, 2))) }()
			if got, err := io.ReadAll(ends[first]); err != nil || !bytes.Equal(got, answer) {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
			by := []telemetry.Side{telemetry.SideClient, telemetry.SideUpstream}[first]
			if r := await(t, result); r.End != telemetry.EndEOF || r.ClosedBy != by {
				t.Errorf("result %+v, want the end by %s", r, by)
			}
		}
	})
}

// TestATruncatedStreamIsNoGoodEnd: FIN without close_notify becomes a reset, after all
// bytes before it.
func TestATruncatedStreamIsNoGoodEnd(t *testing.T) {
	eachShape(t, func(t *testing.T, b *relayBed, s shape) {
		for side := range 2 {
			if !s.tls[side] {
				continue
			}
			ends, raw, result := b.relayed(s, nil)
			data := randomBytes(4, 300_000)
			if _, err := ends[side].Write(data); err != nil {
				t.Fatal(err)
			}
			if err := raw[side].CloseWrite(); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(ends[1-side])
			if !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("the other side got %d bytes and %v, want a reset", len(got), err)
			}
			if !bytes.Equal(got, data[:len(got)]) || len(got) != len(data) {
				t.Errorf("got %d bytes of %d", len(got), len(data))
			}
			by := []telemetry.Side{telemetry.SideClient, telemetry.SideUpstream}[side]
			if r := await(t, result); r.End != telemetry.EndTruncated || r.ClosedBy != by || !errors.Is(r.Err, tlsconn.ErrTruncated) {
				t.Errorf("result %+v", r)
			}
		}
	})
}

// TestWhoLeavesAfterTheGoodbyeWithoutOneEndsNothingEarly: many clients do.
func TestWhoLeavesAfterTheGoodbyeWithoutOneEndsNothingEarly(t *testing.T) {
	b := newRelayBed(t)
	ends, raw, result := b.relayed(shapes[1], nil)
	go func() { _ = send(ends[Out], []byte("all"), rand.New(rand.NewPCG(1, 2))) }()
	if got, err := io.ReadAll(ends[In]); err != nil || string(got) != "all" {
		t.Fatalf("got %q, %v", got, err)
	}
	_ = raw[In].Close()
	if r := await(t, result); r.End != telemetry.EndEOF || r.ClosedBy != telemetry.SideUpstream {
		t.Errorf("result %+v", r)
	}
	if _, err := ends[Out].Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the backend got %v, want a reset: it cannot know that this was all", err)
	}
}

// TestARecordThatIsWrongEndsTheFlow: nothing of it is delivered, and who sent it is told.
func TestARecordThatIsWrongEndsTheFlow(t *testing.T) {
	eachShape(t, func(t *testing.T, b *relayBed, s shape) {
		for side := range 2 {
			if !s.tls[side] {
				continue
			}
			ends, raw, result := b.relayed(s, nil)
			if _, err := ends[side].Write([]byte("good")); err != nil {
				t.Fatal(err)
			}
			bad := append([]byte{23, 3, 3, 0, 64}, randomBytes(1, 64)...)
			if _, err := raw[side].Write(bad); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(ends[1-side])
			if string(got) != "good" || !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("the other side got %q and %v, want a reset after what was good", got, err)
			}
			_, err = ends[side].Read(make([]byte, 1))
			if o, ok := errors.AsType[*net.OpError](err); !ok || o.Op != "remote error" || o.Err.Error() != "tls: bad record MAC" {
				t.Errorf("who sent it got %v, want the alert bad_record_mac", err)
			}
			if r := await(t, result); r.End != telemetry.EndTLSError || r.ClosedBy == telemetry.SideAgent {
				t.Errorf("result %+v", r)
			}
		}
	})
}

func TestAResetIsAResetOnTheOtherSide(t *testing.T) {
	eachShape(t, func(t *testing.T, b *relayBed, s shape) {
		for side := range 2 {
			ends, raw, result := b.relayed(s, nil)
			_ = raw[side].SetLinger(0)
			_ = raw[side].Close()
			if _, err := ends[1-side].Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("got %v, want a reset", err)
			}
			if r := await(t, result); r.End != telemetry.EndReset {
				t.Errorf("result %+v", r)
			}
		}
	})
}

// TestAReaderThatDoesNotReadStopsItsWriter, and what waits for it is bounded. When it
// reads, it gets everything.
func TestAReaderThatDoesNotReadStopsItsWriter(t *testing.T) {
	eachShape(t, func(t *testing.T, b *relayBed, s shape) {
		for side := range 2 {
			ends, _, result := b.relayed(s, nil)
			data := randomBytes(5, 64<<20)
			sent := make(chan error, 1)
			go func() { sent <- send(ends[side], data, rand.New(rand.NewPCG(1, 2))) }()
			stalled(t, b, side)
			b.eachFlow(func(f *flow) {
				waits := len(f.dir[side].rest)
				if l := f.tls[1-side]; l != nil {
					waits += l.Pending()
				}
				if waits > relayScratch+relayScratch/16 {
					t.Errorf("%d bytes wait in the gateway", waits)
				}
			})
			select {
			case err := <-sent:
				t.Errorf("64 MB went to a reader that does not read: %v", err)
			default:
			}
			got := sha256.New()
			if n, err := io.Copy(got, ends[1-side]); err != nil || n != int64(len(data)) || [32]byte(got.Sum(nil)) != sha256.Sum256(data) {
				t.Errorf("got %d bytes, %v", n, err)
			}
			_ = ends[1-side].Close()
			if err := <-sent; err != nil {
				t.Error(err)
			}
			await(t, result)
		}
	})
}

// stalled waits until the only flow's direction has stopped to move.
func stalled(t *testing.T, b *relayBed, direction int) {
	t.Helper()
	last, since := int64(-1), time.Now()
	for end := time.Now().Add(patience); time.Since(since) < 300*time.Millisecond; time.Sleep(10 * time.Millisecond) {
		var moved int64
		b.eachFlow(func(f *flow) { moved = f.dir[direction].bytes })
		if moved != last {
			last, since = moved, time.Now()
		}
		if time.Now().After(end) {
			t.Fatal("the flow goes on and on")
		}
	}
}

func (b *bed) eachFlow(do func(*flow)) {
	for _, w := range b.s.workers {
		w.each(do)
	}
}

// TestAnIdleRelayedFlowHoldsNoBuffer after a bulk transfer each way.
func TestAnIdleRelayedFlowHoldsNoBuffer(t *testing.T) {
	if !tlsconn.LendsBuffers() {
		t.Fatal("crypto/tls keeps its buffer: see tlsconn/buffer.go")
	}
	eachShape(t, func(t *testing.T, b *relayBed, s shape) {
		ends, _, _ := b.relayed(s, nil)
		for side := range 2 {
			data := randomBytes(6, 4<<20)
			go func() { _, _ = ends[side].Write(data) }()
			if _, err := io.ReadFull(ends[1-side], make([]byte, len(data))); err != nil {
				t.Fatal(err)
			}
		}
		b.eachFlow(func(f *flow) {
			for side, l := range f.tls {
				if l == nil {
					continue
				}
				if held := l.(*tlsconn.Conn).Held(); held > 0 || l.Pending() > 0 {
					t.Errorf("side %d holds %d bytes, and %d that are pending", side, held, l.Pending())
				}
			}
		})
	})
}

// TestBothMayWriteFirstAndReadLater: a direction that is stuck does not hold up the
// other one.
func TestBothMayWriteFirstAndReadLater(t *testing.T) {
	eachShape(t, func(t *testing.T, b *relayBed, s shape) {
		ends, _, result := b.relayed(s, nil)
		big := randomBytes(7, 32<<20)
		stuck := make(chan error, 1)
		go func() { stuck <- send(ends[Out], big, rand.New(rand.NewPCG(1, 2))) }() // the client does not read
		stalled(t, b, Out)
		up := randomBytes(8, 16<<20)
		go func() { _ = send(ends[In], up, rand.New(rand.NewPCG(3, 4))) }()
		if got, err := io.ReadAll(ends[Out]); err != nil || !bytes.Equal(got, up) {
			t.Fatalf("got %d bytes, %v", len(got), err)
		}
		if got, err := io.ReadAll(ends[In]); err != nil || !bytes.Equal(got, big) {
			t.Fatalf("got %d bytes, %v", len(got), err)
		}
		if err := <-stuck; err != nil {
			t.Error(err)
		}
		await(t, result)
	})
}

// TestBytesByByteAndAtOnce: records of one byte, split anywhere on the wire.
func TestRecordsOfOneByteSplitAnywhere(t *testing.T) {
	b := newRelayBed(t)
	b.client.DynamicRecordSizingDisabled = true
	app, gw := b.leg()
	backend, u := b.leg()
	trickle := &trickling{TCPConn: app, r: rand.New(rand.NewPCG(9, 9))}
	client, layer := tls.Client(trickle, b.client), tlsconn.Server(gw, b.server)
	done := make(chan error, 1)
	go func() { done <- client.Handshake() }()
	if err := errors.Join(layer.Handshake(t.Context()), <-done); err != nil {
		t.Fatal(err)
	}
	results := make(chan Result, 1)
	f := Flow{Client: gw, Upstream: u, Done: func(_ *telemetry.Record, r Result) { results <- r }}
	f.TLS[In] = layer
	b.s.Start(f)
	data := randomBytes(10, 2000)
	go func() {
		for i := range data {
			_, _ = client.Write(data[i : i+1])
		}
		_ = client.CloseWrite()
	}()
	if got, err := io.ReadAll(backend); err != nil || !bytes.Equal(got, data) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	_ = backend.Close()
	await(t, results)
}

// trickling writes in small pieces.
type trickling struct {
	*net.TCPConn
	r *rand.Rand
}

func (c *trickling) Write(b []byte) (int, error) {
	for n := 0; n < len(b); {
		m, err := c.TCPConn.Write(b[n:min(len(b), n+1+c.r.IntN(9))])
		if err != nil {
			return n, err
		}
		n += m
	}
	return len(b), nil
}

// TestRelayedIdleFlowsEnd by the same timeouts as others.
func TestRelayedIdleFlowsEnd(t *testing.T) {
	b := newRelayBed(t)
	ends, _, result := b.relayed(shapes[1], func(f *Flow) { f.Idle = 50 * time.Millisecond })
	if r := await(t, result); r.End != telemetry.EndIdleTimeout {
		t.Errorf("result %+v", r)
	}
	if _, err := ends[In].Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("got %v, want a reset", err)
	}
}

// TestRelayAgainstAModel: random writes, closes and resets on both sides; whatever
// arrived is a prefix of what was sent, and all of it where the end was a good one.
func TestRelayAgainstAModel(t *testing.T) {
	eachShape(t, func(t *testing.T, b *relayBed, s shape) {
		var wg sync.WaitGroup
		for i := range 60 {
			ends, raw, result := b.relayed(s, nil)
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(i), 77))
				data := [2][]byte{randomBytes(uint64(i), r.IntN(200_000)), randomBytes(uint64(i)+1000, r.IntN(200_000))}
				how := [2]int{r.IntN(4), r.IntN(4)} // mostly good
				var got [2][]byte
				var errs, sent [2]error
				var both sync.WaitGroup
				for side, c := range ends {
					seed := r.Uint64()
					both.Go(func() {
						own := rand.New(rand.NewPCG(seed, 1))
						if how[side] != 0 {
							sent[side] = send(c, data[side], own)
							return
						}
						_, _ = c.Write(data[side][:own.IntN(len(data[side])+1)])
						if own.IntN(2) == 0 {
							_ = raw[side].SetLinger(0)
						}
						_ = raw[side].Close()
					})
					both.Go(func() { got[1-side], errs[1-side] = io.ReadAll(c) })
				}
				both.Wait()
				for _, c := range raw {
					_ = c.Close()
				}
				res := await(t, result)
				for d := range 2 { // direction d starts at side d
					if len(got[d]) > len(data[d]) || !bytes.Equal(got[d], data[d][:len(got[d])]) {
						t.Errorf("flow %d, direction %d: other bytes than were sent", i, d)
					}
					// A socket tells of a reset once, and its writer may be who hears it.
					if errs[d] == nil && sent[1-d] == nil && len(got[d]) != len(data[d]) && (s.tls[d] || how[d] != 0) {
						t.Errorf("flow %d, direction %d: a good end after %d bytes of %d (%v, %+v)", i, d, len(got[d]), len(data[d]), how, res)
					}
				}
			})
		}
		wg.Wait()
	})
}

// flooded is a Layer whose peer was answered too much, until the second Flush.
type flooded struct {
	flushes int
	text    []byte
}

func (l *flooded) Detach(int) {}
func (l *flooded) Park()      {}
func (l *flooded) Read(b []byte) (int, error) {
	if len(l.text) == 0 {
		return 0, unix.EAGAIN
	}
	n := copy(b, l.text)
	l.text = l.text[n:]
	return n, nil
}
func (l *flooded) Write([]byte) error   { return nil }
func (l *flooded) CloseWrite() error    { return nil }
func (l *flooded) Truncated(error) bool { return false }
func (l *flooded) Flooded() bool        { return l.flushes < 2 }
func (l *flooded) Pending() int {
	if l.Flooded() {
		return 1
	}
	return 0
}
func (l *flooded) Flush() error {
	if l.flushes++; l.flushes < 2 {
		return unix.EAGAIN
	}
	return nil
}

// TestAFloodThatEndsIsReadOn: what makes room for answers comes as an event of the other
// direction.
func TestAFloodThatEndsIsReadOn(t *testing.T) {
	b := newBed(t)
	s, step := stepped(t)
	_, c := b.leg()
	backend, u := b.leg()
	l := &flooded{text: []byte("read on")}
	f := Flow{Client: c, Upstream: u}
	f.TLS[In] = l
	s.Start(f)
	if l.flushes != 1 || len(l.text) == 0 {
		t.Fatalf("%d flushes, %q is unread", l.flushes, l.text)
	}
	step() // there is room to write
	got := make([]byte, 7)
	if _, err := io.ReadFull(backend, got); err != nil || string(got) != "read on" {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestABurstOfSmallRecordsIsBounded, and so is what is answered meanwhile: each key
// update that asks for one is answered with one.
func TestABurstOfSmallRecordsIsBounded(t *testing.T) {
	for _, updates := range []int{0, 15} { // crypto/tls takes 16 records without data in a row
		t.Run(fmt.Sprintf("%d key updates each", updates), func(t *testing.T) {
			b := newRelayBed(t)
			app, gw := b.leg()
			client := testenv.NewRecords(app, b.client, true)
			layer := tlsconn.Server(gw, b.server)
			done := make(chan error, 1)
			go func() { done <- client.TLS().Handshake() }()
			if err := errors.Join(layer.Handshake(t.Context()), <-done, client.Ready()); err != nil {
				t.Fatal(err)
			}
			var wire []byte
			var err error
			for range 200 {
				for range updates {
					if wire, err = client.SealKeyUpdate(wire); err != nil {
						t.Fatal(err)
					}
				}
				wire = client.Seal(wire, testenv.RecordData, []byte("x"))
			}
			fd := gw.Detach()
			t.Cleanup(func() { _ = unix.Close(fd) })
			layer.Detach(fd)
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1) // the client does not read
			_ = app.SetReadBuffer(1)
			if _, err := app.Write(wire); err != nil {
				t.Fatal(err)
			}
			if err := testenv.Poll(t.Context(), func() (bool, error) {
				n, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
				return n == len(wire), err
			}); err != nil {
				t.Fatal(err)
			}
			d := &direction{readable: true}
			scratch := make([]byte, relayScratch)
			total := 0
			for total < 200 {
				n, err := d.decrypt(layer, scratch)
				if err != nil || n > maxRecords || !d.readable && total+n < 200 {
					t.Fatalf("%d bytes in one burst, %v, readable %t", n, err, d.readable)
				}
				total += n
				// One record's worth of answers may come on top of the limit.
				if layer.Pending() > 4<<10+16*64 {
					t.Fatalf("%d bytes of answers wait", layer.Pending())
				}
				if layer.Flooded() {
					if n >= maxRecords {
						t.Errorf("a flood was read on for %d records", n)
					}
					return
				}
			}
			if updates > 0 && layer.Pending() > 0 {
				t.Errorf("%d bytes of answers wait, and nobody calls it a flood", layer.Pending())
			}
		})
	}
}

// TestAKeyUpdateAfterTheGoodbye of the other direction cannot be answered, and the
// direction that is open goes on.
func TestAKeyUpdateAfterTheGoodbye(t *testing.T) {
	b := newRelayBed(t)
	app, gw := b.leg()
	client, in := b.secured(app, gw, true, tls.VersionTLS13)
	backend, u := b.leg()
	server := testenv.NewRecords(backend, b.server, false)
	out := tlsconn.Client(u, b.client.Clone())
	done := make(chan error, 1)
	go func() { done <- server.TLS().Handshake() }()
	if err := errors.Join(out.Handshake(t.Context()), <-done, server.Ready()); err != nil {
		t.Fatal(err)
	}
	results := make(chan Result, 1)
	f := Flow{Client: gw, Upstream: u, Done: func(_ *telemetry.Record, r Result) { results <- r }}
	f.TLS[In], f.TLS[Out] = in, out
	b.s.Start(f)
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(server.TLS()); err != nil {
		t.Fatal(err)
	}
	wire, err := server.SealKeyUpdate(server.Seal(nil, testenv.RecordData, []byte("before, ")))
	if err != nil {
		t.Fatal(err)
	}
	wire = server.Seal(wire, testenv.RecordData, []byte("after"))
	wire = server.Seal(wire, testenv.RecordAlert, []byte{1, 0}) // close_notify
	if _, err := backend.Write(wire); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(client); err != nil || string(got) != "before, after" {
		t.Errorf("got %q, %v", got, err)
	}
	_ = backend.Close()
	if r := await(t, results); r.End != telemetry.EndEOF {
		t.Errorf("result %+v", r)
	}
}

// TestWhoEndsAfterTheGoodbyeWithoutOneGetsTheRest: FIN without close_notify, sent while
// what it is told is still in sockets.
func TestWhoEndsAfterTheGoodbyeWithoutOneGetsTheRest(t *testing.T) {
	b := newRelayBed(t)
	ends, raw, result := b.relayed(shapes[1], nil)
	data := randomBytes(4, 1_000_000)
	if _, err := ends[Out].Write(data); err != nil {
		t.Fatal(err)
	}
	if err := ends[Out].CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := testenv.Poll(t.Context(), func() (bool, error) {
		said := false
		b.eachFlow(func(f *flow) { said = f.dir[Out].closed })
		return said, nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := raw[In].CloseWrite(); err != nil {
		t.Fatal(err)
	}
	r := await(t, result) // all is over before a byte is read
	if r.End != telemetry.EndEOF || r.Bytes[Out] != int64(len(data)) {
		t.Errorf("result %+v", r)
	}
	if got, err := io.ReadAll(ends[In]); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the client got %d bytes of %d, %v", len(got), len(data), err)
	}
}
