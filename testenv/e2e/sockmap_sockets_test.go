// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/maps"
)

const sockmapMuch = 8 << 20

// TestSockmapEpoll: an application with an epoll loop of its own is woken when there is
// something to be done, and hardly ever else.
func TestSockmapEpoll(t *testing.T) {
	all := sockmapStart(t, "")
	for name, edge := range map[string]uint32{"level-triggered": 0, "edge-triggered": unix.EPOLLET} {
		t.Run(name, func(t *testing.T) {
			all.in(t).each(sockmapTwo, func(s sockmapSite, p sockmapPlace) {
				f := s.open(p)
				ends := [2]*rawEnd{f.raw(s.t, clientEnd, edge), f.raw(s.t, backendEnd, edge)}
				s.warm(f)
				for _, e := range ends {
					e.wakes, e.idle = [2]int{}, [2]int{}
				}
				if err := f.moveBoth(sockmapMuch, whole); err != nil {
					s.t.Fatal(err)
				}
				for i, e := range ends {
					s.t.Logf("end %d woke up %v times to read and write, in vain %v times", i, e.wakes, e.idle)
					for what, n := range e.wakes {
						if most := 4 * sockmapMuch / (16 << 10); n > most {
							s.t.Errorf("end %d woke up %d times (%d), want %d at most", i, n, what, most)
						}
					}
				}
				s.end(f, tookShortcut)
			})
		})
	}
}

// TestSockmapWriters: bytes are right however they are written.
func TestSockmapWriters(t *testing.T) {
	all := sockmapStart(t, "")
	writev := func(fd int, b []byte) (int, error) {
		third := len(b) / 3
		return unix.Writev(fd, [][]byte{b[:third], b[third : 2*third], b[2*third:]})
	}
	sendmsg := func(fd int, b []byte) (int, error) { return unix.SendmsgN(fd, b, nil, nil, unix.MSG_NOSIGNAL) }
	more := func(fd int, b []byte) (int, error) {
		flags := unix.MSG_NOSIGNAL
		if len(b)%3 > 0 {
			flags |= unix.MSG_MORE // until the last third of writes
		}
		return unix.SendmsgN(fd, b, nil, nil, flags)
	}
	for name, write := range map[string]func(int, []byte) (int, error){
		"writev": writev, "sendmsg": sendmsg, "MSG_MORE": more, "sendfile": sendfile, "splice": spliceOut,
	} {
		t.Run(name, func(t *testing.T) {
			all.in(t).each(sockmapTwo, func(s sockmapSite, p sockmapPlace) {
				f := s.open(p)
				for end := range f.ends {
					f.raw(s.t, end, unix.EPOLLET)
				}
				s.warm(f)
				for end := range f.ends {
					f.ends[end].(*rawEnd).write = write
				}
				if name == "MSG_MORE" { // what is held back must go out at the end
					for end := range f.ends {
						if err := f.move(end, 3*100_000, sized(99_999)); err != nil {
							s.t.Fatal(err)
						}
					}
				} else if err := f.moveBoth(sockmapMuch, whole); err != nil {
					s.t.Fatal(err)
				}
				for end := range f.ends {
					f.ends[end].(*rawEnd).write = unix.Write
				}
				s.warm(f)
				s.end(f, tookShortcut)
			})
		})
	}
}

// sendfile writes by way of a file in memory.
func sendfile(fd int, b []byte) (int, error) {
	file, err := unix.MemfdCreate("sent", unix.MFD_CLOEXEC)
	if err != nil {
		return 0, err
	}
	defer unix.Close(file)
	if _, err := unix.Write(file, b); err != nil {
		return 0, err
	}
	var from int64
	return unix.Sendfile(fd, file, &from, len(b))
}

// spliceOut writes by way of a pipe. What the socket does not take stays in the pipe,
// and is written again.
func spliceOut(fd int, b []byte) (int, error) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return 0, err
	}
	defer func() { _, _ = unix.Close(pipe[0]), unix.Close(pipe[1]) }()
	n, err := unix.Write(pipe[1], b)
	if err != nil {
		return 0, err
	}
	moved, err := unix.Splice(pipe[0], nil, fd, nil, n, unix.SPLICE_F_NONBLOCK)
	return int(moved), err
}

// TestSockmapZerocopy: a socket with SO_ZEROCOPY hears of each send that its buffer is
// its own again.
func TestSockmapZerocopy(t *testing.T) {
	all := sockmapStart(t, "")
	all.each(sockmapTwo, func(s sockmapSite, p sockmapPlace) {
		f := s.open(p)
		f.set(s.t, backendEnd, unix.SOL_SOCKET, unix.SO_ZEROCOPY, 1)
		e := f.raw(s.t, backendEnd, unix.EPOLLET)
		s.until(f, "nothing is against it", func(c maps.Shortcut) bool { return c.Misfit().String() == "zerocopy" })
		sends := 0
		e.write = func(fd int, b []byte) (int, error) {
			n, err := unix.SendmsgN(fd, b, nil, nil, unix.MSG_ZEROCOPY)
			if err == nil {
				sends++
			}
			return n, err
		}
		if err := f.move(backendEnd, sockmapMuch, whole); err != nil {
			s.t.Fatal(err)
		}
		told := 0
		for told < sends {
			n, err := completions(e)
			if err != nil {
				s.t.Fatalf("%d of %d sends were told of: %v", told, sends, err)
			}
			told += n
		}
		if told != sends {
			s.t.Errorf("%d sends were told of, there were %d", told, sends)
		}
		s.end(f, tookRoad("zerocopy"))
	})
}

// completions waits for one notification and returns how many sends it is about
// (MSG_ZEROCOPY in the kernel's documentation).
func completions(e *rawEnd) (int, error) {
	for {
		oob := make([]byte, 256)
		_, n, _, _, err := unix.Recvmsg(e.fd, nil, oob, unix.MSG_ERRQUEUE)
		if err == unix.EAGAIN {
			if err := e.wait(reading); err != nil {
				return 0, err
			}
			continue
		}
		if err != nil {
			return 0, err
		}
		messages, err := unix.ParseSocketControlMessage(oob[:n])
		if err != nil || len(messages) != 1 || len(messages[0].Data) < 16 {
			return 0, fmt.Errorf("a notification of %d parts: %w", len(messages), err)
		}
		d := messages[0].Data // struct sock_extended_err
		if origin := d[4]; origin != unix.SO_EE_ORIGIN_ZEROCOPY {
			return 0, fmt.Errorf("origin %d", origin)
		}
		return int(binary.NativeEndian.Uint32(d[12:])-binary.NativeEndian.Uint32(d[8:])) + 1, nil
	}
}

// TestSockmapReaders: bytes are right however they are read.
func TestSockmapReaders(t *testing.T) {
	all := sockmapStart(t, "")
	for name, read := range map[string]func(fd int, b []byte) (int, error){
		"MSG_PEEK": func(fd int, b []byte) (int, error) {
			n, _, err := unix.Recvfrom(fd, b, unix.MSG_PEEK)
			if n <= 0 || err != nil {
				return 0, err
			}
			again := make([]byte, n)
			k, _, err := unix.Recvfrom(fd, again, 0)
			if err != nil || k != n || string(again) != string(b[:n]) {
				return 0, fmt.Errorf("%d bytes were peeked at, %d read, and may be others: %w", n, k, err)
			}
			return n, nil
		},
		"readv": func(fd int, b []byte) (int, error) {
			return unix.Readv(fd, [][]byte{b[:len(b)/2], b[len(b)/2:]})
		},
		"recvmsg": func(fd int, b []byte) (int, error) {
			n, _, _, _, err := unix.Recvmsg(fd, b, nil, 0)
			return n, err
		},
		"MSG_WAITALL": func(fd int, b []byte) (int, error) {
			n, _, err := unix.Recvfrom(fd, b, unix.MSG_WAITALL)
			return n, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			all.in(t).each(sockmapTwo, func(s sockmapSite, p sockmapPlace) {
				f := s.open(p)
				for end := range f.ends {
					f.raw(s.t, end, 0).read = read
				}
				s.warm(f)
				if err := f.moveBoth(sockmapMuch, whole); err != nil {
					s.t.Fatal(err)
				}
				s.warm(f)
				s.end(f, tookShortcut)
			})
		})
	}
}

// TestSockmapLeavesAlone: sockets that cannot have the short cut, or whose application
// does what it does not go together with, work as ever.
func TestSockmapLeavesAlone(t *testing.T) {
	all := sockmapStart(t, "")
	leftAlone := func(s sockmapSite, f *sockmapFlow, reason string) {
		s.t.Helper()
		s.until(f, "nothing is against it", func(c maps.Shortcut) bool { return c.Misfit().String() == reason })
		if err := f.moveBoth(sockmapMuch, whole); err != nil {
			s.t.Fatal(err)
		}
		s.end(f, tookRoad(reason))
	}
	for end, name := range endsSides {
		t.Run("blocking "+name, func(t *testing.T) {
			all.in(t).each(sockmapTwo, func(s sockmapSite, p sockmapPlace) {
				f := s.open(p)
				f.blocking(s.t, end)
				leftAlone(s, f, "blocking_socket")
			})
		})
		t.Run("blocking "+name+" with MSG_WAITALL", func(t *testing.T) {
			all.in(t).each(sockmapTwo, func(s sockmapSite, p sockmapPlace) {
				f := s.open(p)
				f.blocking(s.t, end).read = func(fd int, b []byte) (int, error) {
					n, _, err := unix.Recvfrom(fd, b, unix.MSG_WAITALL)
					if err == nil && n != 0 && n != len(b) {
						err = fmt.Errorf("%d bytes of %d", n, len(b))
					}
					return n, err
				}
				leftAlone(s, f, "blocking_socket")
			})
		})
		t.Run("SO_RCVLOWAT of the "+name, func(t *testing.T) {
			all.in(t).each(sockmapTwo, func(s sockmapSite, p sockmapPlace) {
				f := s.open(p)
				f.set(s.t, end, unix.SOL_SOCKET, unix.SO_RCVLOWAT, 50)
				leftAlone(s, f, "rcvlowat")
			})
		})
		t.Run("in a sockmap of the "+name+"'s own", func(t *testing.T) {
			all.in(t).each(sockmapTwo, func(s sockmapSite, p sockmapPlace) {
				f := s.open(p)
				passing(s.t, f, end)
				leftAlone(s, f, "socket_in_use")
			})
		})
		t.Run("splice by the "+name, func(t *testing.T) {
			all.in(t).each(sockmapTwo, func(s sockmapSite, p sockmapPlace) {
				f := s.open(p)
				f.raw(s.t, end, 0).read = spliceIn
				leftAlone(s, f, "reader")
			})
		})
	}
	t.Run("an echo by io.Copy", func(t *testing.T) {
		all.in(t).each(sockmapTwo, func(s sockmapSite, p sockmapPlace) {
			f := s.open(p)
			c := f.tcp(backendEnd)
			echoed := make(chan error, 1)
			var n int64
			go func() {
				var err error
				n, err = io.Copy(c, c) // splice(2)
				echoed <- errors.Join(err, c.CloseWrite())
			}()
			defer f.watch()()
			client := f.tcp(clientEnd)
			for i := range 2000 {
				number := streams.Add(1)
				if _, err := sendStream(client, number, 1000, whole); err != nil {
					s.t.Fatalf("word %d: %v", i, err)
				}
				if _, err := receiveStream(client, number, 1000, whole); err != nil {
					s.t.Fatalf("word %d: %v", i, err)
				}
			}
			if err := client.CloseWrite(); err != nil {
				s.t.Fatal(err)
			}
			if err := <-echoed; err != nil {
				s.t.Fatal(err)
			}
			if k, err := client.Read(make([]byte, 1)); k != 0 || !errors.Is(err, io.EOF) {
				s.t.Fatalf("%d bytes and %v, want the end", k, err)
			}
			f.sent[clientEnd] += n
			f.sent[backendEnd] += n
			s.expect(f, tookRoad("reader"))
		})
	})
}

// TestSockmapLateChanges: an application that changes its socket when the flow has the
// short cut loses nothing.
func TestSockmapLateChanges(t *testing.T) {
	all := sockmapStart(t, "")
	for end, name := range endsSides {
		t.Run("SO_RCVLOWAT of the "+name, func(t *testing.T) {
			all.in(t).each(sockmapTwo, func(s sockmapSite, p sockmapPlace) {
				f := s.flow(p)
				f.set(s.t, end, unix.SOL_SOCKET, unix.SO_RCVLOWAT, 1000)
				if err := f.moveBoth(sockmapMuch, whole); err != nil {
					s.t.Fatal(err)
				}
				s.end(f, tookShortcut)
			})
		})
		t.Run("blocking "+name, func(t *testing.T) {
			all.in(t).each(sockmapTwo, func(s sockmapSite, p sockmapPlace) {
				f := s.flow(p)
				// recv(2) may say EAGAIN (tcp_bpf_recvmsg), which is why sockets that are
				// in blocking mode before are left alone.
				f.blocking(s.t, end).read = func(fd int, b []byte) (n int, err error) {
					for n, err = unix.Read(fd, b); err == unix.EAGAIN; n, err = unix.Read(fd, b) {
					}
					return n, err
				}
				if err := errors.Join(f.talk(100), f.moveBoth(sockmapMuch, whole)); err != nil {
					s.t.Fatal(err)
				}
				s.end(f, tookShortcut)
			})
		})
	}
}

// TestSockmapLateSplice: an application that reads by splice(2) when the flow has the
// short cut hears everything, or the flow is ended: it does not wait forever. Later
// flows of its address are left alone.
func TestSockmapLateSplice(t *testing.T) {
	for end, name := range endsSides {
		t.Run(name, func(t *testing.T) {
			s := sockmapStart(t, "")
			for i, p := range sockmapTwo {
				f := s.open(p)
				e := f.raw(t, end, 0)
				s.warm(f)
				e.read = spliceIn
				err := f.move(1-end, 100_000, sized(1000))
				if err == nil {
					err = f.finish()
				}
				f.close()
				l := s.line(func(m map[string]any) bool { return m["client"] == f.address.String() && !s.seen[m["id"]] })
				s.seen[l["id"]] = true
				heard := errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.EACCES) // of SK_DROP
				if err != nil && (!heard || l["end"] != "error") {
					t.Errorf("place %d: %v, and its line %v", i, err, l)
				}
				f = s.open(p)
				if err := errors.Join(f.talk(1000), f.moveBoth(1<<20, whole)); err != nil {
					t.Fatal(err)
				}
				s.end(f, tookRoad(nil))
			}
		})
	}
}

// pipes is what spliceIn reads by; kept, as an application would.
var pipes sync.Pool

type pipe struct{ r, w *os.File }

// spliceIn reads by way of a pipe.
func spliceIn(fd int, b []byte) (int, error) {
	var err error
	p, ok := pipes.Get().(*pipe)
	if !ok {
		p = new(pipe)
		if p.r, p.w, err = os.Pipe(); err != nil {
			return 0, err
		}
	}
	defer pipes.Put(p)
	n, err := unix.Splice(fd, nil, int(p.w.Fd()), nil, min(len(b), 32<<10), unix.SPLICE_F_NONBLOCK)
	if err != nil || n == 0 {
		return 0, err
	}
	return io.ReadFull(p.r, b[:n])
}

// passing puts an end into a sockmap whose program lets everything pass.
func passing(t *testing.T, f *sockmapFlow, end int) {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.SockMap, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SkMsg, License: "Dual BSD/GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R0, 1), // SK_PASS
		asm.Return(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = program.Close() })
	if err := link.RawAttachProgram(link.RawAttachProgramOptions{Target: m.FD(), Program: program, Attach: ebpf.AttachSkMsgVerdict}); err != nil {
		t.Fatal(err)
	}
	raw, err := f.tcp(end).SyscallConn()
	if err == nil {
		err = control(raw, func(fd int) error { return m.Put(uint32(0), uint32(fd)) })
	}
	if err != nil {
		t.Fatal(err)
	}
}
