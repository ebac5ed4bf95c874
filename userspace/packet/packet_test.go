// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/hex"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/spliceway/spliceway/maps"
	"github.com/spliceway/spliceway/userspace/splice"
	"github.com/spliceway/spliceway/userspace/telemetry"
)

var (
	here, there = netip.MustParseAddrPort("10.0.0.1:443"), netip.MustParseAddrPort("10.0.0.2:1000")
	elsewhere   = netip.MustParseAddrPort("10.0.0.3:1000")
)

func flowFrom(port uint16, to netip.AddrPort) maps.Endpoints {
	return maps.Endpoints{Client: there, Listener: here, Backend: to, Local: netip.AddrPortFrom(here.Addr(), port)}
}

func TestPortsGoRound(t *testing.T) {
	var p ports
	if p.pick(there) != 0 || p.has(1024) {
		t.Error("there is a port although there is no range")
	}
	p.set(PortRange{65533, 65535}) // the end of all ports is the end of a round, too
	seen := make(map[uint16]int)
	first := p.pick(there)
	for range 6 {
		seen[p.pick(there)]++
	}
	if len(seen) != 3 || seen[65533] != 2 || seen[65534] != 2 || seen[65535] != 2 {
		t.Errorf("picked %v", seen)
	}
	if p.has(65532) || !p.has(65535) {
		t.Error("has is wrong about the range")
	}
	for port := uint16(65533); port != 0; port++ {
		p.use(flowFrom(port, there))
		p.use(flowFrom(port, there)) // adopted and armed: the same flow
	}
	if got := p.pick(there); got != 0 {
		t.Errorf("picked %d, which is in use", got)
	}
	if got := p.pick(elsewhere); got == 0 {
		t.Error("a port that is in use towards one destination is not free towards another")
	}
	p.free(flowFrom(first, there))
	p.free(flowFrom(first, there))
	for range 2 {
		if got := p.pick(there); got != first {
			t.Errorf("picked %d, want %d, the only free one", got, first)
		}
	}
	p.use(flowFrom(80, there)) // from another range, of an agent before
	p.free(flowFrom(80, there))
}

func TestPortsForgetIdleDestinations(t *testing.T) {
	var p ports
	p.set(PortRange{2000, 2255})
	p.use(flowFrom(2000, there))
	for i := range 2 * destinationsKept {
		p.pick(netip.AddrPortFrom(elsewhere.Addr(), uint16(i)))
	}
	if n := len(p.to); n > destinationsKept+1 {
		t.Errorf("%d destinations are kept", n)
	}
	for range 300 {
		if p.pick(there) == 2000 {
			t.Fatal("a destination with a flow was forgotten")
		}
	}
}

func TestResetPacket(t *testing.T) {
	for _, tt := range []struct{ from, to, want string }{
		{"10.0.0.1:443", "10.0.0.2:1000", "450000280000000040060000" + "0a000001" + "0a000002" + "01bb03e8" + "01020304" + "00000000" + "50040000"},
		{"[fd00::1]:443", "[fd00::2]:1000", "6000000000140640" + "fd000000000000000000000000000001" + "fd000000000000000000000000000002" +
			"01bb03e8" + "01020304" + "00000000" + "50040000"},
	} {
		from, to := netip.MustParseAddrPort(tt.from), netip.MustParseAddrPort(tt.to)
		p := resetPacket(from, to, 0x01020304)
		tcp := p[len(p)-tcpHeader:]
		if got := hex.EncodeToString(p[:len(p)-4]); got != tt.want {
			t.Errorf("%s: got\n%s, want\n%s", tt.from, got, tt.want)
		}
		// With its checksum a segment sums up to nothing.
		if sum := checksum(from.Addr().AsSlice(), to.Addr().AsSlice(), []byte{0, 6, 0, tcpHeader}, tcp); sum != 0 {
			t.Errorf("%s: the checksum is off by %#x", tt.from, sum)
		}
	}
}

func TestMemo(t *testing.T) {
	fl := splice.Flow{Idle: time.Hour, HalfClose: time.Minute, Record: &telemetry.Record{ID: "x-1", Start: time.Unix(1, 2), SNI: "a.test", Endpoint: "a"}}
	b, ok := appendMemo(nil, &fl, 517)
	if !ok {
		t.Fatal("does not fit")
	}
	got, err := readMemo(b)
	if err != nil {
		t.Fatal(err)
	}
	want := memo{time.Hour, time.Minute, 517, fl.Record}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(memo{}), cmpopts.EquateComparable(netip.AddrPort{})); diff != "" || got.record.Engine != Name {
		t.Error(diff)
	}
	for n := range b {
		if _, err := readMemo(b[:n]); !errors.Is(err, telemetry.ErrMemo) {
			t.Errorf("%d bytes of it: %v", n, err)
		}
	}
	fl.Record.SNI, fl.Record.Endpoint, fl.Record.UpstreamHost = strings.Repeat("n", 250), strings.Repeat("e", 250), strings.Repeat("h", 250)
	if _, ok := appendMemo(nil, &fl, 517); ok {
		t.Error("names of 750 bytes fit")
	}
}

func TestEndOf(t *testing.T) {
	both := [2]bool{true, true}
	for name, tt := range map[string]struct {
		flow maps.Flow
		want splice.Result
	}{
		"client first":        {maps.Flow{FIN: both, FINAcked: both, First: maps.Client}, splice.Result{End: telemetry.EndEOF, ClosedBy: telemetry.SideClient}},
		"backend first":       {maps.Flow{FIN: both, FINAcked: both, First: maps.Backend}, splice.Result{End: telemetry.EndEOF, ClosedBy: telemetry.SideUpstream}},
		"reset after both":    {maps.Flow{FIN: both, FINAcked: both, RST: both}, splice.Result{End: telemetry.EndEOF, ClosedBy: telemetry.SideClient}},
		"reset by client":     {maps.Flow{RST: [2]bool{true, false}}, splice.Result{End: telemetry.EndReset, ClosedBy: telemetry.SideClient}},
		"reset by backend":    {maps.Flow{FIN: both, RST: [2]bool{false, true}}, splice.Result{End: telemetry.EndReset, ClosedBy: telemetry.SideUpstream}},
		"killed by endPinned": {maps.Flow{State: maps.FlowDone, FIN: [2]bool{true, false}}, splice.Result{End: telemetry.EndKilled, ClosedBy: telemetry.SideAgent}},
		"replaced":            {maps.Flow{State: maps.FlowDone, FIN: both, FINAcked: both, First: maps.Backend}, splice.Result{End: telemetry.EndEOF, ClosedBy: telemetry.SideUpstream}},
		"half of both FINs":   {maps.Flow{FIN: both, FINAcked: [2]bool{true, false}}, splice.Result{End: telemetry.EndError, ClosedBy: telemetry.SideAgent}},
	} {
		if got := endOf(&tt.flow); got != tt.want {
			t.Errorf("%s: got %v, want %v", name, got, tt.want)
		}
	}
}

// Every reason that the programs have is one that users can read.
func TestEveryReasonHasAWord(t *testing.T) {
	for r := maps.FlowOK + 1; r <= maps.FlowUrgent; r++ {
		if fallbackOf(r) == telemetry.FallbackInternal {
			t.Errorf("reason %d has no word", r)
		}
	}
}

func TestComplaintsAreNotRepeated(t *testing.T) {
	var out strings.Builder
	l := slog.New(slog.NewTextHandler(&out, nil))
	var c complaints
	for range 3 {
		c.about(l, "text", errors.New("one"))
	}
	c.about(l, "text", errors.New("two"))
	if n := strings.Count(out.String(), "\n"); n != 2 {
		t.Errorf("%d lines, want 2:\n%s", n, &out)
	}
}

func TestMemoryIsGivenBackOnceAfterABurst(t *testing.T) {
	var c calm
	c.look(1)
	if c.since.IsZero() {
		t.Fatal("a flow has come and it is calm")
	}
	c.since = c.since.Add(-2 * calmAfter)
	c.look(1)
	if !c.since.IsZero() {
		t.Error("it is calm and nothing was given back")
	}
	c.look(1)
	if !c.since.IsZero() {
		t.Error("it is given back again and again")
	}
}
