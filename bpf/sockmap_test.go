// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv"
)

// both sides, as senders.
var sides = []PacketSide{PacketSideCLIENT, PacketSideBACKEND}

func TestSockmapFindsAndJoinsBothEnds(t *testing.T) {
	for _, family := range families {
		t.Run(family.name, func(t *testing.T) {
			s := newShortcut(t, family.name)
			if s.flow().Flags&flowLocal == 0 {
				t.Fatal("the flip did not find both ends to be local")
			}
			s.found()
			// Packets of one side alone are not enough.
			for _, side := range sides {
				s.quiet()
				f := s.flow()
				f.Moved[side].Packets += never
				s.put(f, s.ends)
				if side == PacketSideBACKEND {
					break
				}
				for range 8 {
					s.pingPong(s.client, s.backend)
				}
				for side, e := range s.state().Ends {
					if e.State != SockmapEndStateFOUND || e.Misfit != SockmapMisfitFITS {
						t.Errorf("before there were packets enough: side %d: state %d, misfit %d, want it found", side, e.State, e.Misfit)
					}
				}
				s.wantEvents()
			}
			s.talk("both ends to be fit", func(c, b SockmapEndState) bool {
				return c == SockmapEndStateFIT && b == SockmapEndStateFIT
			})
			s.wantEvents(localEvent)
			if got := s.inSockets(); got != [2]uint64{} {
				t.Errorf("sockets %v have joined by themselves", got)
			}
			s.join()
			if got, want := s.inSockets(), [2]uint64{cookie(t, s.client), cookie(t, s.backend)}; got != want {
				t.Errorf("sockets in the map: %v, want %v", got, want)
			}
			for side, e := range s.state().Ends {
				if e.State != SockmapEndStateJOINED {
					t.Errorf("side %d: state %d, want it joined", side, e.State)
				}
			}
		})
	}
}

func cookie(t *testing.T, fd int) uint64 {
	t.Helper()
	n, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestSockmapRedirectsSends(t *testing.T) {
	for _, family := range families {
		t.Run(family.name, func(t *testing.T) {
			s := joined(t, family.name)
			before := s.flow().Moved
			const sends, size = 100, 1000
			for i := range sends {
				for _, side := range sides {
					s.send(s.socket(side), strings.Repeat(string(rune('a'+i%26)), size))
				}
			}
			for i := range sends {
				for _, side := range sides {
					s.receives(s.socket(1-side), strings.Repeat(string(rune('a'+i%26)), size))
				}
			}
			for _, side := range sides {
				s.wantWays(side, ways{cut: sends * size, messages: sends})
			}
			if after := s.flow().Moved; after != before {
				t.Errorf("there were packets: %+v, want %+v", after, before)
			}
		})
	}
}

// Both ends send and read at once, in pieces of all sizes, with marks at which sends
// change from one way to the other all the time.
func TestSockmapKeepsOrder(t *testing.T) {
	for _, family := range families {
		for _, mark := range []uint32{bigMark, 64 << 10, 20000} {
			t.Run(fmt.Sprintf("%s, mark %d", family.name, mark), func(t *testing.T) {
				const seed, size = 9, 8 << 20
				s := joined(t, family.name)
				s.mark(mark)
				r := rand.New(rand.NewPCG(seed, uint64(mark)))
				var transfers errgroup.Group
				for _, side := range sides {
					data := randomBytes(r, size)
					pieces := rand.New(rand.NewPCG(seed, uint64(side)))
					transfers.Go(func() error {
						for rest := data; len(rest) > 0; {
							n := min(1+pieces.IntN(1<<(4+pieces.IntN(14))), len(rest))
							if err := sendAll(s.socket(side), rest[:n]); err != nil {
								return err
							}
							rest = rest[n:]
						}
						return nil
					})
					transfers.Go(func() error { return receiveAll(s.socket(1-side), data) })
				}
				if err := transfers.Wait(); err != nil {
					t.Fatal(err)
				}
				for _, side := range sides {
					w := s.ways(side)
					t.Logf("side %d: %+v", side, w)
					if w.cut+w.road != size {
						t.Errorf("side %d: %+v, want %d bytes in all", side, w, size)
					}
					if w.cut == 0 {
						t.Errorf("side %d: nothing took the short cut", side)
					}
				}
			})
		}
	}
}

func TestSockmapWaitsForWhatCameByTCP(t *testing.T) {
	for _, family := range families {
		for _, side := range sides {
			t.Run(fmt.Sprintf("%s, from side %d", family.name, side), func(t *testing.T) {
				s := joined(t, family.name)
				from, to := s.socket(side), s.socket(1-side)
				s.mark(0)
				s.send(from, "one")
				s.wantWays(side, ways{road: 3, switches: 1})
				s.mark(bigMark)
				s.send(from, "two") // whether one has arrived or not
				s.wantWays(side, ways{road: 6, switches: 1})
				s.quiet()
				s.receives(to, "onetw")
				s.send(from, "three")
				s.wantWays(side, ways{road: 11, switches: 1})
				s.receives(to, "othree")
				s.send(from, "four")
				s.wantWays(side, ways{cut: 4, messages: 1, road: 11, switches: 2})
				s.receives(to, "four")
			})
		}
	}
}

func TestSockmapBoundsTheQueue(t *testing.T) {
	const mark = 256 << 10
	for _, size := range []int{1000, 16 << 10, 100 << 10} {
		t.Run(fmt.Sprintf("sends of %d bytes", size), func(t *testing.T) {
			s := joined(t, "IPv4")
			s.mark(mark)
			piece := strings.Repeat("0123456789abcdef", size/16+1)[:size]
			sent := 0
			for s.ways(0).road == 0 {
				queued := s.inQueue(s.backend)
				n, err := unix.SendmsgN(s.client, []byte(piece), nil, nil, unix.MSG_NOSIGNAL)
				if err != nil {
					t.Fatalf("send, after %d bytes: %v", sent, err)
				}
				sent += n
				w := s.ways(0)
				switch {
				case w.road == 0 && int(queued)+size > mark:
					t.Fatalf("a send took the short cut to a queue of %d bytes", queued)
				case w.road != 0 && int(queued)+size <= mark:
					t.Fatalf("a send went by TCP with %d bytes in the queue", queued)
				}
			}
			// What went by TCP waits for its turn, or is dropped and comes again.
			w := s.ways(0)
			if w.cut < mark/2 || w.cut > mark {
				t.Errorf("%d bytes went by the short cut, want about %d", w.cut, mark)
			}
			if queued := s.inQueue(s.backend); queued > mark+receiveBuffer(t, s.backend) {
				t.Errorf("%d bytes of memory are queued", queued)
			}
			// As long as anything is unread, TCP is the way.
			all := strings.Repeat(piece, sent/size+1)[:sent]
			s.receives(s.backend, all[:w.cut-1])
			s.send(s.client, "!")
			if now := s.ways(0); now.cut != w.cut || now.switches != 1 {
				t.Errorf("with a byte unread, %+v became %+v", w, now)
			}
			s.receives(s.backend, all[w.cut-1:]+"!")
			w = s.ways(0)
			s.send(s.client, "?")
			s.wantWays(0, ways{cut: w.cut + 1, messages: w.messages + 1, road: w.road, switches: w.switches + 1})
			s.receives(s.backend, "?")
		})
	}
}

// A send that the queue may not hold at all is TCP's from the start.
func TestSockmapLargeSend(t *testing.T) {
	const mark = 64 << 10
	s := joined(t, "IPv4")
	s.mark(mark)
	piece := strings.Repeat("0123456789abcdef", 2*mark/16)
	s.send(s.client, piece)
	if w := s.ways(0); w.cut != 0 || w.road == 0 {
		t.Errorf("%d bytes at once, with a mark of %d: %+v", len(piece), mark, w)
	}
	s.receives(s.backend, piece)
}

// Most of a receive buffer of a set size is TCP's: it would drop what comes when the
// short cut has filled it, and no window would open when that is read.
func TestSockmapLeavesRoom(t *testing.T) {
	const size = 1000
	s := joined(t, "IPv4")
	s.mark(1 << 20)
	if err := unix.SetsockoptInt(s.backend, unix.SOL_SOCKET, unix.SO_RCVBUF, 64<<10); err != nil {
		t.Fatal(err)
	}
	room := uint64(receiveBuffer(t, s.backend) / 4)
	for s.ways(0).road == 0 {
		s.send(s.client, strings.Repeat("x", size))
	}
	if w := s.ways(0); w.cut > room || w.cut+size <= room {
		t.Errorf("%d bytes took the short cut, want %d and not more", w.cut, room)
	}
	s.receives(s.backend, strings.Repeat("x", int(s.ways(0).cut+s.ways(0).road)))
}

func receiveBuffer(t *testing.T, fd int) uint32 {
	t.Helper()
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}

func TestSockmapLeavesMisfitsAlone(t *testing.T) {
	option := func(level, name, value int) func(*testing.T, int) {
		return func(t *testing.T, fd int) {
			if err := unix.SetsockoptInt(fd, level, name, value); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T, fd int)
		misfit  SockmapMisfit
	}{
		{"blocking", func(t *testing.T, fd int) {
			if err := unix.SetNonblock(fd, false); err != nil {
				t.Fatal(err)
			}
		}, SockmapMisfitBLOCKING},
		{"kernel TLS", turnOnTLS, SockmapMisfitULP},
		{"in a map of its own", func(t *testing.T, fd int) {
			m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.SockMap, KeySize: 4, ValueSize: 4, MaxEntries: 1})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { m.Close() })
			if err := m.Put(uint32(0), uint32(fd)); err != nil {
				t.Fatal(err)
			}
		}, SockmapMisfitUSED},
		{"SO_ZEROCOPY", option(unix.SOL_SOCKET, unix.SO_ZEROCOPY, 1), SockmapMisfitZEROCOPY},
		{"SO_RCVLOWAT", option(unix.SOL_SOCKET, unix.SO_RCVLOWAT, 2), SockmapMisfitLOWAT},
		{"TCP_INQ", option(unix.IPPROTO_TCP, unix.TCP_INQ, 1), SockmapMisfitINQUIRES},
		{"splice", func(t *testing.T, fd int) {}, SockmapMisfitREADER},
	} {
		for _, side := range sides {
			t.Run(fmt.Sprintf("%s, side %d", c.name, side), func(t *testing.T) {
				s := newShortcut(t, "IPv4")
				s.found()
				c.prepare(t, s.socket(side))
				if c.misfit == SockmapMisfitREADER {
					s.send(s.socket(1-side), "spliced")
					s.splices(s.socket(side), "spliced")
				}
				s.packets(0)
				s.waitFor("the socket to be judged", func() (bool, error) {
					// None of them waits for more than what comes at once.
					s.pingPong(s.client, s.backend)
					v := s.state()
					return v.Ends[side].Misfit != SockmapMisfitFITS && v.Ends[1-side].State == SockmapEndStateFIT, nil
				})
				s.join()
				s.join()
				if got := s.state().Ends[side]; got.Misfit != c.misfit || got.State != SockmapEndStateFOUND {
					t.Errorf("misfit %d, state %d, want %d and found", got.Misfit, got.State, c.misfit)
				}
				if got := s.state().Ends[1-side]; got.Misfit != SockmapMisfitFITS || got.State == SockmapEndStateJOINED {
					t.Errorf("the other end: misfit %d, state %d", got.Misfit, got.State)
				}
				if got := s.inSockets(); got != [2]uint64{} {
					t.Errorf("sockets have joined: %v", got)
				}
				s.wantEvents()
				s.pingPong(s.client, s.backend)
				s.wantWays(side, ways{})
			})
		}
	}
}

func turnOnTLS(t *testing.T, fd int) {
	t.Helper()
	err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_ULP, "tls")
	if errors.Is(err, unix.ENOENT) {
		t.Skip("this kernel has no TLS of its own (CONFIG_TLS)")
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A socket that no process has any more still hears ACKs: it is over, and no misfit.
func TestSockmapLeavesClosedSocketsAlone(t *testing.T) {
	s := newShortcut(t, "IPv4")
	s.found()
	s.quiet()
	s.packets(0)
	s.close(&s.backend)
	s.waitFor("its FIN to be acknowledged", func() (bool, error) {
		return s.flow().Marks&PacketMarkMARK_FIN_ACKED_BACKEND != 0, nil
	})
	if got := s.state().Ends[1]; got.Misfit != SockmapMisfitFITS || got.State != SockmapEndStateFOUND {
		t.Errorf("misfit %d, state %d, want none and found", got.Misfit, got.State)
	}
}

// What changes between being found fit and joining counts.
func TestSockmapJudgesAgainWhenASocketJoins(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(s *shortcut)
		misfit SockmapMisfit
	}{
		{"blocking", func(s *shortcut) {
			if err := unix.SetNonblock(s.backend, false); err != nil {
				s.t.Fatal(err)
			}
		}, SockmapMisfitBLOCKING},
		{"splice", func(s *shortcut) {
			s.send(s.client, "spliced")
			s.splices(s.backend, "spliced")
		}, SockmapMisfitREADER},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newShortcut(t, "IPv4")
			s.fit()
			c.change(s)
			s.join()
			if got := s.state().Ends[1]; got.Misfit != c.misfit || got.State != SockmapEndStateFIT {
				t.Errorf("misfit %d, state %d, want %d and fit", got.Misfit, got.State, c.misfit)
			}
			s.send(s.client, "abc")
			s.receives(s.backend, "abc")
			if w := s.ways(0); w.cut != 0 {
				t.Errorf("%d bytes took the short cut", w.cut)
			}
		})
	}
}

func TestSockmapReaderTurnsToSplice(t *testing.T) {
	t.Run("with an empty queue", func(t *testing.T) {
		s := joined(t, "IPv4")
		s.mark(0)
		s.send(s.client, "by TCP")
		s.splices(s.backend, "by TCP")
		s.mark(bigMark)
		if e := s.state().Ends[1]; e.Misfit != SockmapMisfitREADER || e.Stuck != 0 {
			t.Errorf("misfit %d, stuck %d, want %d and not stuck", e.Misfit, e.Stuck, SockmapMisfitREADER)
		}
		s.wantEvents()
		s.send(s.client, "and so for good")
		s.splices(s.backend, "and so for good")
		s.wantWays(0, ways{road: 21, switches: 1})
		s.send(s.backend, "the other way as ever")
		s.receives(s.client, "the other way as ever")
		s.wantWays(1, ways{cut: 21, messages: 1})
	})
	t.Run("with something in the queue", func(t *testing.T) {
		s := joined(t, "IPv4")
		s.send(s.client, "abc")
		pipe := newPipe(t)
		if n, err := unix.Splice(s.backend, nil, pipe[1], nil, 100, unix.SPLICE_F_NONBLOCK); n > 0 || !errors.Is(err, unix.EAGAIN) {
			t.Fatalf("splice: %d, %v", n, err)
		}
		if e := s.state().Ends[1]; e.Misfit != SockmapMisfitREADER || e.Stuck != 1 {
			t.Errorf("misfit %d, stuck %d, want %d and stuck", e.Misfit, e.Stuck, SockmapMisfitREADER)
		}
		s.wantEvents(localEvent)
		// By TCP it would come before what waits.
		if _, err := unix.SendmsgN(s.client, []byte("def"), nil, nil, unix.MSG_NOSIGNAL); !errors.Is(err, unix.EACCES) {
			t.Errorf("send: %v, want %v", err, unix.EACCES)
		}
		s.wantWays(0, ways{cut: 3, messages: 1})
		s.receives(s.backend, "abc") // as it could have done
	})
}

func newPipe(t testing.TB) (pipe [2]int) {
	t.Helper()
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Close(pipe[0])
		unix.Close(pipe[1])
	})
	return pipe
}

// splices reads by splice(2) and checks what comes.
func (s *shortcut) splices(fd int, want string) {
	s.t.Helper()
	pipe := newPipe(s.t)
	n := 0
	s.waitFor("splice of "+want, func() (bool, error) {
		moved, err := unix.Splice(fd, nil, pipe[1], nil, len(want)-n, unix.SPLICE_F_NONBLOCK)
		n += int(max(moved, 0))
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			err = nil
		}
		return n == len(want), err
	})
	s.receives(pipe[0], want)
}

// close closes a socket before the test does.
func (s *shortcut) close(fd *int) {
	s.t.Helper()
	// Its number stays taken until the test closes it.
	other, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	defer unix.Close(other)
	if err := unix.Dup3(other, *fd, unix.O_CLOEXEC); err != nil {
		s.t.Fatal(err)
	}
	*fd = -1
}

func TestSockmapAfterShutdown(t *testing.T) {
	for _, family := range families {
		t.Run(family.name+", of the sender", func(t *testing.T) {
			s := joined(t, family.name)
			s.send(s.client, "last words")
			s.shutdown(s.client)
			if _, err := unix.SendmsgN(s.client, []byte("more"), nil, nil, unix.MSG_NOSIGNAL); !errors.Is(err, unix.EPIPE) {
				t.Errorf("send after shutdown: %v, want EPIPE", err)
			}
			if w := s.ways(0); w.cut != 10 || w.messages != 1 {
				t.Errorf("sent by the short cut: %+v", w)
			}
			s.receives(s.backend, "last words")
			s.wantEOF(s.backend)
			s.send(s.backend, "an answer")
			s.wantWays(1, ways{cut: 9, messages: 1})
			s.receives(s.client, "an answer")
		})
		t.Run(family.name+", of the receiver", func(t *testing.T) {
			s := joined(t, family.name)
			if err := unix.Shutdown(s.backend, unix.SHUT_RD); err != nil {
				t.Fatal(err)
			}
			s.send(s.client, "abc")
			s.wantWays(0, ways{road: 3, switches: 1})
		})
	}
}

func TestSockmapAfterClose(t *testing.T) {
	for _, family := range families {
		t.Run(family.name+", of the receiver", func(t *testing.T) {
			s := joined(t, family.name)
			s.close(&s.backend)
			s.wantEOF(s.client)
			s.send(s.client, "abc")
			s.wantWays(0, ways{road: 3, switches: 1})
			s.waitFor("the RST", func() (bool, error) {
				_, err := unix.SendmsgN(s.client, []byte("d"), nil, nil, unix.MSG_NOSIGNAL)
				return errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET), nil
			})
			if w := s.ways(0); w.cut != 0 {
				t.Errorf("sent by the short cut: %+v", w)
			}
		})
		t.Run(family.name+", of the sender", func(t *testing.T) {
			s := joined(t, family.name)
			data := strings.Repeat("0123456789", 20000)
			s.send(s.client, data)
			s.close(&s.client)
			if w := s.ways(0); w.cut != uint64(len(data)) {
				t.Errorf("sent by the short cut: %+v", w)
			}
			s.receives(s.backend, data)
			s.wantEOF(s.backend)
		})
	}
}

func (s *shortcut) wantEOF(fd int) {
	s.t.Helper()
	if err := ready(fd, unix.POLLIN); err != nil {
		s.t.Fatal(err)
	}
	if n, err := unix.Read(fd, make([]byte, 1)); n != 0 || err != nil {
		s.t.Errorf("read: %d, %v, want the end", n, err)
	}
}

// start is how a connection begins as a socket of it sees it that has sent and received
// so many bytes.
func (s *shortcut) start(fd, sent, received int) SockmapConnection {
	s.t.Helper()
	at := s.sequence(fd)
	return SockmapConnection{Own: at.sent - uint32(sent), Peer: at.received - uint32(received)}
}

func (s *shortcut) candidate(k SockmapConnection) (c SockmapCandidate, ok bool) {
	s.t.Helper()
	err := s.Candidates.Lookup(&k, &c)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		s.t.Fatal(err)
	}
	return c, err == nil
}

func TestSockmapIgnoresOtherPorts(t *testing.T) {
	s := loadShortcut(t)
	for i, ports := range [][2]uint16{{10002, 20002}, {listenerPort, 20003}, {10003, sourcePort}} {
		dialer, accepted, _, _ := s.connect(testenv.MustNamespace(t, "other"), "IPv4", ports[0], ports[1])
		for who, fd := range map[string]int{"dialer": dialer, "accepted": accepted} {
			if c, ok := s.candidate(s.start(fd, 0, 0)); ok {
				t.Errorf("connection %d: the socket that %s is a candidate: %+v", i, who, c)
			}
		}
	}
	dialer, accepted, _, _ := s.connect(s.ns, "IPv4", clientPort, listenerPort)
	if _, ok := s.candidate(s.start(dialer, 0, 0)); !ok {
		t.Error("a client of the gateway is no candidate")
	}
	if _, ok := s.candidate(s.start(accepted, 0, 0)); ok {
		t.Error("the gateway's own socket is a candidate")
	}
}

// looksMax is LOOKS_MAX of sockmap.bpf.c.
const looksMax = 64

func TestSockmapGivesUpOnACandidate(t *testing.T) {
	for _, asked := range []bool{false, true} {
		t.Run(fmt.Sprintf("callbacks asked for by somebody else: %t", asked), func(t *testing.T) {
			heard := hearACKs(t, asked)
			s := loadShortcut(t)
			dialer, accepted, _, _ := s.connect(s.ns, "IPv4", clientPort, listenerPort)
			k := s.start(dialer, 0, 0)
			for range looksMax - 1 {
				s.pingPong(dialer, accepted)
			}
			if c, ok := s.candidate(k); !ok || c.Looks != looksMax-1 || c.Flow != 0 {
				t.Errorf("candidate: %+v, %t, want it looked at %d times", c, ok, looksMax-1)
			}
			s.pingPong(dialer, accepted)
			if c, ok := s.candidate(k); ok {
				t.Errorf("still a candidate: %+v", c)
			}
			// Other programs hear ACKs as long as ours does, or somebody else has asked.
			before := heard()
			for range looksMax {
				s.pingPong(dialer, accepted)
			}
			want := before
			if asked {
				want += looksMax
			}
			if got := heard(); got != want || before != looksMax {
				t.Errorf("heard of %d ACKs, then of %d more, want %d and %d", before, got-before, looksMax, want-before)
			}
		})
	}
}

// hearACKs counts callbacks about ACKs to the dialer from clientPort; ask: it asks for
// them itself.
func hearACKs(t *testing.T, ask bool) (heard func() uint64) {
	t.Helper()
	testenv.Privileged(t)
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	// Fields of struct bpf_sock_ops, its operations and a flag, linux/bpf.h.
	const op, localPort = 0, 68
	const established, acked = 4, 12
	flag := int32(0)
	if ask {
		flag = 1 << 3
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SockOps, License: "Dual BSD/GPL", AttachType: ebpf.AttachCGroupSockOps,
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R2, asm.R1, localPort, asm.Word),
			asm.JNE.Imm(asm.R2, clientPort, "out"),
			asm.LoadMem(asm.R2, asm.R1, op, asm.Word),
			asm.JEq.Imm(asm.R2, acked, "count"),
			asm.JNE.Imm(asm.R2, established, "out"),
			asm.Mov.Imm(asm.R2, flag),
			asm.FnSockOpsCbFlagsSet.Call(),
			asm.Ja.Label("out"),
			asm.StoreImm(asm.RFP, -4, 0, asm.Word).WithSymbol("count"),
			asm.LoadMapPtr(asm.R1, m.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "out"),
			asm.Mov.Imm(asm.R1, 1),
			asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
			asm.Mov.Imm(asm.R0, 1).WithSymbol("out"),
			asm.Return(),
		}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	cgroup := rootCgroup(t)
	defer unix.Close(cgroup)
	l, err := link.AttachRawLink(link.RawLinkOptions{Target: cgroup, Program: program, Attach: ebpf.AttachCGroupSockOps})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return func() (n uint64) {
		t.Helper()
		if err := m.Lookup(uint32(0), &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
}

func TestSockmapTellsNamespacesApart(t *testing.T) {
	for _, family := range families {
		t.Run(family.name, func(t *testing.T) {
			s := loadShortcut(t)
			type pair struct{ dialer, accepted int }
			var others []pair
			stranger := func() {
				ns := testenv.MustNamespace(t, "other")
				for _, ports := range [][2]uint16{{clientPort, listenerPort}, {sourcePort, backendPort}} {
					dialer, accepted, near, _ := s.connect(ns, family.name, ports[0], ports[1])
					if near.Port() != ports[0] {
						t.Fatalf("its address is %s", near)
					}
					others = append(others, pair{dialer, accepted})
				}
			}
			chat := func() {
				for _, p := range others {
					s.pingPong(p.dialer, p.accepted)
				}
			}
			stranger()
			s.client, s.a, s.ends.client, s.front = s.connect(s.ns, family.name, clientPort, listenerPort)
			s.b, s.backend, s.back, s.ends.backend = s.connect(s.ns, family.name, sourcePort, backendPort)
			stranger()
			chat()
			s.splice()
			chat()
			s.fit()
			chat()
			s.join()
			if got, want := s.inSockets(), [2]uint64{cookie(t, s.client), cookie(t, s.backend)}; got != want {
				t.Errorf("sockets in the map: %v, want %v", got, want)
			}
			chat()
			for _, side := range sides {
				s.wantWays(side, ways{})
			}
			s.pingPong(s.client, s.backend)
			for _, side := range sides {
				s.wantWays(side, ways{cut: 4, messages: 1})
			}
		})
	}
}

// Each agent's programs see the sockets of the others, before or after they do.
func TestSockmapBesideAnotherAgent(t *testing.T) {
	loadShortcut(t)
	s := loadShortcut(t)
	third := loadShortcut(t)
	s.client, s.a, s.ends.client, s.front = s.connect(s.ns, "IPv4", clientPort, listenerPort)
	s.b, s.backend, s.back, s.ends.backend = s.connect(s.ns, "IPv4", sourcePort, backendPort)
	// They are no candidates of the other's, or not any more.
	none := make([]SockmapConnection, 0, 4)
	var k SockmapConnection
	var c SockmapCandidate
	for all := third.Candidates.Iterate(); all.Next(&k, &c); {
		none = append(none, k)
	}
	for _, k := range none {
		if err := third.Candidates.Delete(k); err != nil {
			t.Fatal(err)
		}
	}
	s.splice()
	s.fit()
	s.join()
	s.pingPong(s.client, s.backend)
	for _, side := range sides {
		s.wantWays(side, ways{cut: 4, messages: 1})
	}
}

// sockmapBudgets are as budgets are.
var sockmapBudgets = map[string]uint32{
	"sockmap_watch": 1250,
	"sockmap_join":  300,
	"sockmap_send":  700,
	"sockmap_read":  230,
}

func TestSockmapStaysInBudget(t *testing.T) {
	s := loadShortcut(t)
	programs := reflect.ValueOf(s.cut.SockmapPrograms)
	if programs.NumField() != len(sockmapBudgets) {
		t.Errorf("%d programs, %d budgets", programs.NumField(), len(sockmapBudgets))
	}
	for i := range programs.NumField() {
		info, err := programs.Field(i).Interface().(*ebpf.Program).Info()
		if err != nil {
			t.Fatal(err)
		}
		took, ok := info.VerifiedInstructions()
		if !ok {
			t.Skip("this kernel does not tell how many instructions were verified (since Linux 5.16)")
		}
		t.Logf("%s: %d instructions verified", info.Name, took)
		if took > sockmapBudgets[info.Name] {
			t.Errorf("%s: %d instructions verified, budget %d", info.Name, took, sockmapBudgets[info.Name])
		}
	}
}
