// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/spliceway/spliceway/bpf"
)

func packetObjects(t *testing.T) *bpf.PacketObjects {
	t.Helper()
	var o bpf.PacketObjects
	if err := bpf.LoadPacketObjects(&o, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = o.Close() })
	return &o
}

// endpointsOf are a flow's that differs from others in one port.
func endpointsOf(client uint16) Endpoints {
	return Endpoints{
		Client: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), client), Listener: netip.MustParseAddrPort("10.0.0.2:443"),
		Backend: netip.MustParseAddrPort("10.0.0.3:8443"), Local: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.4"), client+1),
	}
}

func TestTuplesBelongToOneFlow(t *testing.T) {
	tuples := NewTuples(packetObjects(t).Tuples)
	one, other := endpointsOf(1000), endpointsOf(2000)
	if _, err := tuples.Put(1, one); err != nil {
		t.Fatal(err)
	}
	// Half of it is another's: nothing of it is put.
	mixed := other
	mixed.Backend, mixed.Local = one.Backend, one.Local
	if holder, err := tuples.Put(2, mixed); !errors.Is(err, ErrExists) || holder != 1 {
		t.Errorf("got holder %d, %v", holder, err)
	}
	if n, err := tuples.Len(); err != nil || n != 2 {
		t.Errorf("%d tuples, %v, want 2", n, err)
	}
	if err := tuples.Delete(2, one); err != nil { // not its own
		t.Fatal(err)
	}
	if n, _ := tuples.Len(); n != 2 {
		t.Errorf("%d tuples, want 2", n)
	}
	if err := tuples.Delete(1, one); err != nil {
		t.Fatal(err)
	}
	if n, _ := tuples.Len(); n != 0 {
		t.Errorf("%d tuples, want none", n)
	}
}

func TestFlowsAreWalked(t *testing.T) {
	flows := NewFlows(packetObjects(t).Flows)
	want := make(map[FlowID]Endpoints)
	for id := range FlowID(3 * flowBatch) {
		e := endpointsOf(uint16(1000 + 2*id))
		if err := flows.Arm(id+1, Arming{Endpoints: e, Unread: 1, Written: 2, BackendMSS: 3}); err != nil {
			t.Fatal(err)
		}
		want[id+1] = e
	}
	if err := flows.Arm(1, Arming{Endpoints: endpointsOf(1), Unread: 1, Written: 2, BackendMSS: 3}); !errors.Is(err, ErrExists) {
		t.Errorf("a number given twice: %v", err)
	}
	got := make(map[FlowID]Endpoints)
	for id, f := range flows.All() {
		got[id] = f.Endpoints
		if f.State != FlowArmed || f.Unread != 1 || f.Written != 2 {
			t.Fatalf("flow %d: %+v", id, f)
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("%d flows, want %d", len(got), len(want))
	}
	for range flows.All() { // may be left at any time
		break
	}
	if err := errors.Join(flows.Delete(1), flows.Delete(1)); err != nil {
		t.Error(err)
	}
	if _, err := flows.Get(1); !errors.Is(err, ErrNotFound) {
		t.Errorf("a deleted flow: %v", err)
	}
}

func TestFlowSaysWhatTheProgramsCounted(t *testing.T) {
	o := packetObjects(t)
	flows := NewFlows(o.Flows)
	e := Endpoints{
		Client: netip.MustParseAddrPort("[2001:db8::1]:1000"), Listener: netip.MustParseAddrPort("[2001:db8::2]:443"),
		Backend: netip.MustParseAddrPort("[2001:db8::3]:8443"), Local: netip.MustParseAddrPort("[2001:db8::4]:40000"),
	}
	if err := flows.Arm(1, Arming{Endpoints: e, Unread: 1, Written: 2}); err != nil {
		t.Fatal(err)
	}
	var v bpf.PacketFlow
	if err := o.Flows.Lookup(uint64(1), &v); err != nil {
		t.Fatal(err)
	}
	now := Monotonic()
	v.State = bpf.PacketStateSPLICED
	v.Base = [2]uint32{0xfffffff0, 100}
	v.Spliced, v.Closed = uint32((now-time.Minute)>>tickShift), uint32(now>>tickShift)
	v.Marks = bpf.PacketMarkMARK_FIN_BACKEND | bpf.PacketMarkMARK_FIN_ACKED_BACKEND | bpf.PacketMarkMARK_FIRST_BACKEND | bpf.PacketMarkMARK_RST_CLIENT
	v.Moved[Client].Acked, v.Moved[Client].Packets = 0x1_0000_0010, 7 // over the wrap, FIN and all
	v.Moved[Backend].Acked, v.Moved[Backend].Seen = 150, uint32((now-time.Second)>>tickShift)
	v.Legs[Client].Ifindex, v.Legs[Backend].Ifindex = 3, 4
	if err := o.Flows.Put(uint64(1), &v); err != nil {
		t.Fatal(err)
	}
	got, err := flows.Get(1)
	if err != nil {
		t.Fatal(err)
	}
	for name, d := range map[string]struct{ got, want time.Duration }{
		"spliced": {got.Spliced, now - time.Minute}, "closed": {got.Closed, now}, "seen": {got.Seen, now - time.Second},
	} {
		if off := (d.got - d.want).Abs(); off > 3*time.Millisecond {
			t.Errorf("%s is off by %s", name, off)
		}
	}
	got.Spliced, got.Closed, got.Seen = 0, 0, 0
	want := Flow{
		Endpoints: e, State: FlowSpliced, Packets: [2]uint64{7, 0}, Delivered: [2]uint64{31, 50}, NextAck: [2]uint32{16, 150},
		FIN: [2]bool{false, true}, FINAcked: [2]bool{false, true}, RST: [2]bool{true, false}, First: Backend, Device: [2]int{3, 4},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if !got.Ended() {
		t.Error("a flow with an RST has not ended")
	}
}

// The sum that the programs add to a checksum is that of the addresses' change.
func TestAddressCsum(t *testing.T) {
	sum := func(words ...[]byte) (s uint32) {
		for _, w := range words {
			for i := 0; i < len(w); i += 2 {
				s += uint32(binary.NativeEndian.Uint16(w[i:]))
			}
		}
		for s > 0xffff {
			s = s&0xffff + s>>16
		}
		return s
	}
	for _, e := range []Endpoints{endpointsOf(5), {
		Client: netip.MustParseAddrPort("[2001:db8:ffff::1]:1000"), Listener: netip.MustParseAddrPort("[2001:db8::2]:443"),
		Backend: netip.MustParseAddrPort("[fe80:1:2:3:4:5:6:7]:8443"), Local: netip.MustParseAddrPort("[2001:db8::4]:40000"),
	}} {
		change := addressCsum(e.Client, e.Listener, tuple(e.Local, e.Backend))
		before := sum(e.Client.Addr().AsSlice(), e.Listener.Addr().AsSlice())
		after := sum(e.Local.Addr().AsSlice(), e.Backend.Addr().AsSlice())
		if got := sum(binary.NativeEndian.AppendUint32(nil, change), binary.NativeEndian.AppendUint16(nil, uint16(before))); got != after {
			t.Errorf("%s: %#x and the change make %#x, want %#x", e.Client, before, got, after)
		}
	}
}

func TestRecordsKeepTheirLength(t *testing.T) {
	records := NewRecords(packetObjects(t).Records)
	for _, n := range []int{0, 1, RecordBytes} {
		want := bytes.Repeat([]byte{7}, n)
		if err := records.Put(1, want); err != nil {
			t.Fatal(err)
		}
		if got, err := records.Get(1); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: got %d, %v", n, len(got), err)
		}
	}
	if err := records.Put(1, make([]byte, RecordBytes+1)); err == nil {
		t.Error("a record that is too long was taken")
	}
	if err := errors.Join(records.Delete(1), records.Delete(1)); err != nil {
		t.Error(err)
	}
	if _, err := records.Get(1); !errors.Is(err, ebpf.ErrKeyNotExist) {
		t.Errorf("a deleted record: %v", err)
	}
}

func TestDevicesAndCounts(t *testing.T) {
	o := packetObjects(t)
	devices := NewDevices(o.Devices)
	if err := errors.Join(devices.Put(3, true, false), devices.Put(1, false, true), devices.Put(9, false, false), devices.Delete(9), devices.Delete(9)); err != nil {
		t.Fatal(err)
	}
	got, err := devices.Indexes()
	slices.Sort(got)
	if err != nil || !slices.Equal(got, []int{1, 3}) {
		t.Errorf("got %v, %v", got, err)
	}
	counts, err := NewPacketCounts(o.PacketCounts).Read()
	if err != nil || len(counts) != len(packetCounts) || counts["translated"] != 0 {
		t.Errorf("got %v, %v", counts, err)
	}
}

func TestDecodeFlowEvent(t *testing.T) {
	b := binary.NativeEndian.AppendUint64(nil, 7)
	for _, v := range []uint32{uint32(FlowEventDeclined), uint32(FlowDevice), 3, 0} {
		b = binary.NativeEndian.AppendUint32(b, v)
	}
	if got, err := DecodeFlowEvent(b); err != nil || got != (FlowEvent{7, FlowEventDeclined, FlowDevice, 3}) {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := DecodeFlowEvent(b[:19]); err == nil {
		t.Error("a short event was read")
	}
}
