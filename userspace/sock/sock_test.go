// SPDX-License-Identifier: Apache-2.0

package sock

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is far more than any step here takes.
const patience = 10 * time.Second

func newPoller(t *testing.T) *Poller {
	t.Helper()
	p, err := NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func listenOn(t *testing.T, p *Poller, addr string, opts ListenOptions) *Listener {
	t.Helper()
	l, err := p.Listen(netip.MustParseAddrPort(addr), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func short(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// accepted connects a net.Conn to l and returns both ends.
func accepted(t *testing.T, l *Listener) (*Conn, *net.TCPConn) {
	t.Helper()
	peer, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = peer.Close() })
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, peer.(*net.TCPConn)
}

func mustWrite(t *testing.T, w io.Writer, s string) {
	t.Helper()
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatal(err)
	}
}

func TestPeekLeavesTheBytesInTheSocket(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(addr, func(t *testing.T) {
			c, peer := accepted(t, listenOn(t, newPoller(t), addr, ListenOptions{}))
			if _, err := c.Peek(make([]byte, 10)); !errors.Is(err, unix.EAGAIN) {
				t.Errorf("peek at an empty queue: got %v, want EAGAIN", err)
			}
			mustWrite(t, peer, "hello")
			if err := c.WaitReadable(short(t), 1); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				b := make([]byte, 10)
				if n, err := c.Peek(b); err != nil || string(b[:n]) != "hello" {
					t.Errorf("got %q, %v", b[:n], err)
				}
			}
			if err := c.Discard(3); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 10)
			if n, err := c.Peek(b); err != nil || string(b[:n]) != "lo" {
				t.Errorf("after Discard(3): got %q, %v", b[:n], err)
			}
			if got, want := c.Remote.String(), peer.LocalAddr().String(); got != want {
				t.Errorf("remote: got %s, want %s", got, want)
			}
		})
	}
}

func TestWaitReadableCountsToN(t *testing.T) {
	c, peer := accepted(t, listenOn(t, newPoller(t), "127.0.0.1:0", ListenOptions{}))
	const size = 300 << 10 // more than the receive buffer begins with
	done := make(chan int, 1)
	go func() {
		for {
			// It may return early, but not when nothing has changed.
			if err := c.WaitReadable(short(t), size); err != nil {
				t.Error(err)
				done <- 0
				return
			}
			b := make([]byte, size)
			if n, _ := c.Peek(b); n == size {
				done <- n
				return
			}
		}
	}()
	chunk := make([]byte, 1000)
	for sent := 0; sent < size; {
		n, err := peer.Write(chunk[:min(len(chunk), size-sent)])
		if err != nil {
			t.Fatal(err)
		}
		sent += n
	}
	if n := <-done; n != size {
		t.Errorf("got %d bytes, want %d", n, size)
	}
}

func TestWaitEndsWithItsContextAndWithThePoller(t *testing.T) {
	p := newPoller(t)
	c, _ := accepted(t, listenOn(t, p, "127.0.0.1:0", ListenOptions{}))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := c.WaitReadable(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want DeadlineExceeded", err)
	}
	errs := make(chan error)
	go func() { errs <- c.WaitReadable(context.Background(), 1) }()
	_ = p.Close()
	if err := <-errs; !errors.Is(err, ErrClosed) {
		t.Errorf("after Close of the poller: got %v, want ErrClosed", err)
	}
}

func TestHungUpTellsOfAFinBehindUnreadBytes(t *testing.T) {
	c, peer := accepted(t, listenOn(t, newPoller(t), "127.0.0.1:0", ListenOptions{}))
	mustWrite(t, peer, "half a hello")
	_ = peer.CloseWrite()
	for !c.HungUp() {
		if err := c.WaitReadable(short(t), 1000); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := c.Peek(make([]byte, 100)); n != 12 || err != nil {
		t.Errorf("got %d, %v; want the 12 bytes before the FIN", n, err)
	}
}

func TestAcceptEndsWithClose(t *testing.T) {
	l := listenOn(t, newPoller(t), "127.0.0.1:0", ListenOptions{})
	errs := make(chan error)
	go func() {
		_, err := l.Accept()
		errs <- err
	}()
	_ = l.Close()
	if err := <-errs; !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
	if _, err := l.Accept(); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: got %v, want ErrClosed", err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestListenersAreNotMPTCPAndShareNoPort(t *testing.T) {
	p := newPoller(t)
	l := listenOn(t, p, "127.0.0.1:0", ListenOptions{DeferAccept: 1})
	if proto, err := unix.GetsockoptInt(l.FD(), unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil || proto != unix.IPPROTO_TCP {
		t.Errorf("protocol: got %d, %v; want TCP", proto, err)
	}
	if v, err := unix.GetsockoptInt(l.FD(), unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT); err != nil || v == 0 {
		t.Errorf("TCP_DEFER_ACCEPT: got %d, %v", v, err)
	}
	if _, err := p.Listen(l.Addr(), ListenOptions{}); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("second listener: got %v, want EADDRINUSE", err)
	}
}

func TestDeferAcceptWaitsForTheFirstByte(t *testing.T) {
	l := listenOn(t, newPoller(t), "127.0.0.1:0", ListenOptions{DeferAccept: 5})
	silent, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	talker, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = talker.Close() }()
	mustWrite(t, talker, "x")
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if got, want := c.Remote.String(), talker.LocalAddr().String(); got != want {
		t.Errorf("accepted %s first, want the one that spoke, %s", got, want)
	}
	if n, err := c.Peek(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("peek at accept: got %d, %v", n, err)
	}
}

func TestDial(t *testing.T) {
	p := newPoller(t)
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		l := listenOn(t, p, addr, ListenOptions{})
		c, err := p.Dial(short(t), l.Addr())
		if err != nil {
			t.Fatal(err)
		}
		peer, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if c.Local != peer.Remote || c.Remote != peer.Local {
			t.Errorf("ends do not match: %s-%s and %s-%s", c.Local, c.Remote, peer.Local, peer.Remote)
		}
		if err := c.Write(short(t), []byte("hi")); err != nil {
			t.Error(err)
		}
		if err := peer.WaitReadable(short(t), 2); err != nil {
			t.Error(err)
		}
		c.Reset()
		for {
			if _, err := peer.Peek(make([]byte, 8)); err != nil && !errors.Is(err, unix.EAGAIN) {
				if !errors.Is(err, unix.ECONNRESET) {
					t.Errorf("got %v, want ECONNRESET", err)
				}
				break
			}
			_ = peer.Discard(2)
			if err := peer.WaitReadable(short(t), 1); err != nil {
				t.Fatal(err)
			}
		}
		_ = peer.Close()
		_ = l.Close()
		if _, err := p.Dial(short(t), l.Addr()); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("dial to a closed port: got %v, want ECONNREFUSED", err)
		}
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	// A full accept queue drops SYNs: backlog 0 lets one connection in.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	p := newPoller(t)
	var last error
	for range 4 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		c, err := p.Dial(ctx, AddrPort(sa))
		cancel()
		if err == nil {
			defer func() { _ = c.Close() }()
		}
		last = err
	}
	if !errors.Is(last, context.DeadlineExceeded) {
		t.Errorf("got %v, want DeadlineExceeded", last)
	}
}

func TestCloseGracefullySendsFinDespiteUnreadBytes(t *testing.T) {
	c, peer := accepted(t, listenOn(t, newPoller(t), "127.0.0.1:0", ListenOptions{}))
	mustWrite(t, peer, "something that nobody reads")
	if err := c.WaitReadable(short(t), 1); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseGracefully(); err != nil {
		t.Fatal(err)
	}
	if _, err := peer.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want EOF", err)
	}
}

func TestUrgentBytesStayInTheStream(t *testing.T) {
	c, peer := accepted(t, listenOn(t, newPoller(t), "127.0.0.1:0", ListenOptions{}))
	mustWrite(t, peer, "ab")
	raw, err := peer.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) { err = unix.Sendto(int(fd), []byte("!"), unix.MSG_OOB, nil) })
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, peer, "cd")
	b := make([]byte, 10)
	n := 0
	for n < 5 {
		if err := c.WaitReadable(short(t), n+1); err != nil {
			t.Fatal(err)
		}
		if n, err = c.Peek(b); err != nil {
			t.Fatal(err)
		}
		// A peek stops before the urgent mark once; it is behind it after.
		if n == 2 {
			if err := c.Discard(2); err != nil {
				t.Fatal(err)
			}
			n, b = 2, b[2:]
			if m, err := c.Peek(b); err != nil || string(b[:m]) != "!cd" {
				t.Fatalf("behind the mark: got %q, %v", b[:m], err)
			}
			return
		}
	}
	if string(b[:n]) != "ab!cd" {
		t.Errorf("got %q", b[:n])
	}
}

// queued waits until n connections are in l's accept queue (tcp_get_info has its
// length in tcpi_unacked).
func queued(t *testing.T, l *Listener, n int) {
	t.Helper()
	for ctx := short(t); ; time.Sleep(time.Millisecond) {
		info, err := unix.GetsockoptTCPInfo(l.FD(), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			t.Fatal(err)
		}
		if int(info.Unacked) == n {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("%d connections in the queue, want %d", info.Unacked, n)
		}
	}
}

func TestStopKeepsWhatIsInTheQueue(t *testing.T) {
	l := listenOn(t, newPoller(t), "127.0.0.1:0", ListenOptions{})
	const n = 5
	var peers [n]net.Conn
	for i := range peers {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		peers[i] = c
	}
	queued(t, l, n)
	l.Stop()
	for i := range peers {
		c, err := l.Accept()
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		defer func() { _ = c.Close() }()
		if err := c.Write(short(t), []byte("x")); err != nil {
			t.Errorf("connection %d: %v", i, err)
		}
	}
	if c, err := l.Accept(); !errors.Is(err, ErrClosed) {
		t.Errorf("behind the last one: got %v, %v; want ErrClosed", c, err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	for i, c := range peers {
		_ = c.SetReadDeadline(time.Now().Add(patience))
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Errorf("client %d: %v", i, err)
		}
	}
}

func TestADeafListenerFinishesHandshakesAndBeginsNone(t *testing.T) {
	p := newPoller(t)
	l := listenOn(t, p, "127.0.0.1:0", ListenOptions{DeferAccept: 5})
	early, err := p.Dial(short(t), l.Addr()) // half-open to the kernel until it speaks
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = early.Close() }()
	if err := l.Deafen(true); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if c, err := p.Dial(ctx, l.Addr()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a new connection: got %v, %v; want no answer", c, err)
	}
	if err := early.Write(short(t), []byte("x")); err != nil {
		t.Fatal(err)
	}
	queued(t, l, 1)
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if c.Remote != early.Local {
		t.Errorf("accepted %s, want %s", c.Remote, early.Local)
	}
	if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0); !errors.Is(err, unix.ENOENT) {
		t.Errorf("the connection has the listener's filter: detaching it gives %v, want ENOENT", err)
	}
	for range 2 {
		if err := l.Deafen(false); err != nil {
			t.Fatal(err)
		}
	}
	late, err := p.Dial(short(t), l.Addr())
	if err != nil {
		t.Fatalf("after the end of that: %v", err)
	}
	_ = late.Close()
}

// TestAnEventOfAnOlderDescriptorIsNotTheYoungersHangUp: the poller's goroutine may
// have an event in its hands while the descriptor is closed and its number comes back.
func TestAnEventOfAnOlderDescriptorIsNotTheYoungersHangUp(t *testing.T) {
	p := newPoller(t)
	c, _ := accepted(t, listenOn(t, p, "127.0.0.1:0", ListenOptions{}))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.WaitReadable(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	hangUp := func(gen int32) *unix.EpollEvent {
		return &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP, Fd: int32(c.fd), Pad: gen}
	}
	p.wake(hangUp(c.at.gen - 1))
	if c.HungUp() {
		t.Error("a sound connection is taken for hung up")
	}
	p.wake(hangUp(c.at.gen))
	if !c.HungUp() {
		t.Error("its own event is passed by")
	}
	other, _ := accepted(t, listenOn(t, p, "127.0.0.1:0", ListenOptions{}))
	_ = other.WaitReadable(ctx, 1)
	if other.at.gen == c.at.gen {
		t.Error("two waiters have the same generation")
	}
}
