// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/maps"
)

var (
	prefix4 = netip.MustParsePrefix("203.0.113.0/24")
	prefix6 = netip.MustParsePrefix("2001:db8:1::/64")
)

func openSteering(t *testing.T) *ListenSteering {
	t.Helper()
	s, err := OpenListenSteering()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func add(t *testing.T, s *ListenSteering, prefix netip.Prefix, port uint16, l *net.TCPListener) {
	t.Helper()
	if err := s.Add(prefix, port, fdOf(t, l)); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, s *ListenSteering, prefix netip.Prefix, port uint16) {
	t.Helper()
	if err := s.Remove(prefix, port); err != nil {
		t.Fatal(err)
	}
}

func counters(t *testing.T, s *ListenSteering) map[maps.ListenVerdict]uint64 {
	t.Helper()
	counts, err := s.Counters()
	if err != nil {
		t.Fatal(err)
	}
	return counts
}

// counts checks that since before the program ended lookups exactly as in want.
func counts(t *testing.T, s *ListenSteering, before, want map[maps.ListenVerdict]uint64) {
	t.Helper()
	got := make(map[maps.ListenVerdict]uint64)
	for v, n := range counters(t, s) {
		if n -= before[v]; n != 0 {
			got[v] = n
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("verdicts (-want +got):\n%s", diff)
	}
}

func TestListenSteeringServesAWholePrefix(t *testing.T) {
	for _, family := range []struct {
		name, routed, bound string
		prefix              netip.Prefix
		inside              []string
		outside             string
		otherPort           string
	}{
		{"IPv4", "203.0.112.0/22", "203.0.113.0:443", prefix4,
			[]string{"203.0.113.0:443", "203.0.113.1:443", "203.0.113.77:443", "203.0.113.255:443"},
			"203.0.114.1:443", "203.0.113.1:444"},
		{"IPv6", "2001:db8::/32", "[2001:db8:1::]:443", prefix6,
			[]string{"[2001:db8:1::]:443", "[2001:db8:1::1]:443", "[2001:db8:1::ffff:ffff:ffff:ffff]:443"},
			"[2001:db8:1:1::1]:443", "[2001:db8:1::1]:444"},
	} {
		t.Run(family.name, func(t *testing.T) {
			enterNamespace(t, family.routed)
			l := listen(t, family.bound)
			s := openSteering(t)
			isRefused(t, family.inside[1])

			before := counters(t, s)
			add(t, s, family.prefix, 443, l)
			runtime.GC() // must not take the link, which would detach the program
			for _, addr := range family.inside {
				arrives(t, addr, l)
			}
			isRefused(t, family.outside)
			isRefused(t, family.otherPort)
			counts(t, s, before, map[maps.ListenVerdict]uint64{
				maps.ListenAssigned: uint64(len(family.inside)),
				maps.ListenNoPrefix: 2,
			})

			remove(t, s, family.prefix, 443)
			isRefused(t, family.inside[1])
		})
	}
}

func TestListenSteeringCountsEveryVerdict(t *testing.T) {
	enterNamespace(t, "203.0.113.0/24", "2001:db8::/32")
	first, second := openSteering(t), openSteering(t)
	l := listen(t, "203.0.113.0:443")
	add(t, first, prefix4, 443, l)
	counted := func(s *ListenSteering, want maps.ListenVerdict, do func()) {
		t.Helper()
		before := counters(t, s)
		do()
		counts(t, s, before, map[maps.ListenVerdict]uint64{want: 1})
	}

	counted(first, maps.ListenAssigned, func() { arrives(t, "203.0.113.7:443", l) })
	counted(first, maps.ListenNoPrefix, func() { isRefused(t, "203.0.113.7:444") })
	counted(first, maps.ListenNotTCP, func() {
		c, err := net.Dial("udp", "203.0.113.7:443")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	})

	// The program that was attached first has the choice.
	add(t, second, prefix4, 443, listen(t, "203.0.113.1:443"))
	counted(second, maps.ListenTaken, func() { arrives(t, "203.0.113.7:443", l) })
	remove(t, second, prefix4, 443)

	// A socket of the wrong family, past Add, which would refuse it.
	const slot = 9
	if err := errors.Join(first.sockets.Put(slot, fdOf(t, l)), first.prefixes.Put(prefix6, 443, slot)); err != nil {
		t.Fatal(err)
	}
	counted(first, maps.ListenRefused, func() { isRefused(t, "[2001:db8:1::1]:443") })

	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	counted(first, maps.ListenNoSocket, func() { isRefused(t, "203.0.113.7:443") })
}

func TestListenSteeringLongestPrefixWins(t *testing.T) {
	enterNamespace(t, "203.0.113.0/24")
	s := openSteering(t)
	wide, narrow := listen(t, "203.0.113.0:443"), listen(t, "203.0.113.128:443")
	half := netip.MustParsePrefix("203.0.113.128/25")
	add(t, s, prefix4, 443, wide)
	add(t, s, half, 443, narrow)
	arrives(t, "203.0.113.127:443", wide)
	arrives(t, "203.0.113.129:443", narrow)
	remove(t, s, half, 443)
	arrives(t, "203.0.113.129:443", wide)
}

func TestListenSteeringWinsOverAnExactListener(t *testing.T) {
	enterNamespace(t, "203.0.113.0/24")
	s := openSteering(t)
	exact, l := listen(t, "203.0.113.7:443"), listen(t, "203.0.113.0:443")
	arrives(t, "203.0.113.7:443", exact)
	add(t, s, prefix4, 443, l)
	arrives(t, "203.0.113.7:443", l)
	remove(t, s, prefix4, 443)
	arrives(t, "203.0.113.7:443", exact)
}

func TestListenSteeringAddReplacesTheSocket(t *testing.T) {
	enterNamespace(t, "203.0.113.0/24")
	s := openSteering(t)
	old, young := listen(t, "203.0.113.0:443"), listen(t, "203.0.113.1:443")
	add(t, s, prefix4, 443, old)
	arrives(t, "203.0.113.7:443", old)
	add(t, s, netip.MustParsePrefix("203.0.113.99/24"), 443, young) // the same prefix, host bits set
	arrives(t, "203.0.113.7:443", young)
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	arrives(t, "203.0.113.7:443", young)
}

// Replacing a socket, and replacing a prefix by its halves and back, while
// somebody connects all the time.
func TestListenSteeringChangesWithoutAGap(t *testing.T) {
	enterNamespace(t, "203.0.113.0/24")
	s := openSteering(t)
	a, b := fdOf(t, listen(t, "203.0.113.0:443")), fdOf(t, listen(t, "203.0.113.1:443"))
	low, high := netip.MustParsePrefix("203.0.113.0/25"), netip.MustParsePrefix("203.0.113.128/25")
	if err := s.Add(prefix4, 443, a); err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	var changes sync.WaitGroup
	changes.Go(func() {
		for !stop.Load() {
			err := errors.Join(s.Add(prefix4, 443, b),
				s.Add(low, 443, a), s.Add(high, 443, a), s.Remove(prefix4, 443),
				s.Add(prefix4, 443, a), s.Remove(low, 443), s.Remove(high, 443))
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 500 {
		c, err := dial("203.0.113.7:443")
		if err != nil {
			t.Error(err)
			break
		}
		c.Close()
	}
	stop.Store(true)
	changes.Wait()
	if n := counters(t, s)[maps.ListenNoSocket]; n != 0 {
		t.Errorf("%d lookups found a prefix without a socket", n)
	}
}

// One socket may serve several prefixes and ports.
func TestListenSteeringSharesASocket(t *testing.T) {
	enterNamespace(t, "203.0.113.0/24", "198.51.100.0/24")
	s := openSteering(t)
	l := listen(t, "127.0.0.1:0")
	add(t, s, prefix4, 443, l)
	add(t, s, prefix4, 8443, l)
	add(t, s, netip.MustParsePrefix("198.51.100.0/24"), 443, l)
	for _, addr := range []string{"203.0.113.7:443", "203.0.113.7:8443", "198.51.100.7:443"} {
		arrives(t, addr, l)
	}
}

func TestListenSteeringGivesSlotsBack(t *testing.T) {
	enterNamespace(t, "203.0.113.0/24")
	s := openSteering(t)
	l := listen(t, "203.0.113.0:443")
	s.free = s.free[:2]
	for port := range uint16(5) {
		add(t, s, prefix4, 443+port, l)
		arrives(t, netip.AddrPortFrom(prefix4.Addr().Next(), 443+port).String(), l)
		remove(t, s, prefix4, 443+port)
	}
	add(t, s, prefix4, 1, l)
	add(t, s, prefix4, 2, l)
	if err := s.Add(prefix4, 3, fdOf(t, l)); !errors.Is(err, ErrFull) {
		t.Errorf("a prefix too many: got %v, want ErrFull", err)
	}
}

func TestListenSteeringAddRefuses(t *testing.T) {
	enterNamespace(t)
	s := openSteering(t)
	l := listen(t, "127.0.0.1:0")
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	idle, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(idle)
	for _, tc := range []struct {
		name   string
		prefix netip.Prefix
		port   uint16
		fd     uintptr
	}{
		{"no prefix", netip.Prefix{}, 443, fdOf(t, l)},
		{"no port", prefix4, 0, fdOf(t, l)},
		{"IPv4 written as IPv6", netip.MustParsePrefix("::ffff:203.0.113.0/120"), 443, fdOf(t, listen(t, "[::1]:0"))},
		{"UDP socket", prefix4, 443, fdOf(t, udp.(*net.UDPConn))},
		{"socket that does not listen", prefix4, 443, uintptr(idle)},
		{"socket of the other family", prefix6, 443, fdOf(t, l)},
		{"bad descriptor", prefix4, 443, 1 << 20},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := s.Add(tc.prefix, tc.port, tc.fd); err == nil {
				t.Error("got no error")
			}
			if len(s.slots) != 0 || len(s.free) != int(s.sockets.Len()) {
				t.Errorf("%d slots taken and %d free after an error", len(s.slots), len(s.free))
			}
		})
	}
	if err := s.Remove(prefix4, 443); err == nil {
		t.Error("removing what was not added: got no error")
	}
}

func TestListenSteeringCloseDetaches(t *testing.T) {
	enterNamespace(t, "203.0.113.0/24")
	s := openSteering(t)
	l := listen(t, "203.0.113.0:443")
	add(t, s, prefix4, 443, l)
	info, err := s.link.Info()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	isRefused(t, "203.0.113.7:443")
	if left, err := link.NewFromID(info.ID); err == nil {
		left.Close()
		t.Errorf("link %d is still there", info.ID)
	}
	arrives(t, "203.0.113.0:443", l) // the socket is its owner's

	if err := s.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if err := s.Add(prefix4, 443, fdOf(t, l)); !errors.Is(err, ErrClosed) {
		t.Errorf("Add after Close: got %v, want ErrClosed", err)
	}
	if err := s.Remove(prefix4, 443); !errors.Is(err, ErrClosed) {
		t.Errorf("Remove after Close: got %v, want ErrClosed", err)
	}
	if _, err := s.Counters(); !errors.Is(err, ErrClosed) {
		t.Errorf("Counters after Close: got %v, want ErrClosed", err)
	}
}

func TestListenSteeringWithoutPrivilegesSaysWhatItNeeds(t *testing.T) {
	out := asNobody(t, func() string {
		_, err := OpenListenSteering()
		return fmt.Sprint(err)
	})
	if !strings.Contains(out, "needs CAP_BPF and CAP_NET_ADMIN") {
		t.Errorf("got %q", out)
	}
}
