// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/google/go-cmp/cmp"

	"github.com/spliceway/spliceway/testenv"
)

// Verdicts of tc programs, linux/pkt_cls.h.
const (
	verdictUnspec   = 0xffffffff
	verdictOK       = 0
	verdictShot     = 2
	verdictRedirect = 7
)

// flowID is the flow of the tests.
const flowID = 7

// The addresses of a test's flow: the client, the gateway's end to it, the gateway's
// end to the backend, the backend.
type ends struct {
	client, front, back, backend netip.AddrPort
}

var (
	ends4 = ends{
		addrPort("198.51.100.77:51034"), netip.MustParseAddrPort("203.0.113.10:443"),
		addrPort("10.1.2.3:40001"), netip.MustParseAddrPort("10.9.8.7:8443"),
	}
	ends6 = ends{
		addrPort("[2001:db8:77:1:2:3:4:5]:51034"), netip.MustParseAddrPort("[2001:db8:1::10]:443"),
		addrPort("[fd00:1::3]:40001"), netip.MustParseAddrPort("[fd00:9:8:7:6:5:4:3]:8443"),
	}
	families = []struct {
		name string
		ends
	}{{"IPv4", ends4}, {"IPv6", ends6}}
)

// engine is the programs, loaded, with maps of their own.
type engine struct {
	PacketObjects
	t      testing.TB
	events *ringbuf.Reader
	counts map[PacketPacketCount]uint64 // as of the last look
}

func load(t testing.TB) *engine {
	t.Helper()
	testenv.Privileged(t)
	spec, err := LoadPacket()
	if err != nil {
		t.Fatal(err)
	}
	e := &engine{t: t, counts: make(map[PacketPacketCount]uint64)}
	// A test has one flow: the buckets of so many would only cost time.
	for _, name := range []string{PacketMapFlows, PacketMapTuples, PacketMapRecords} {
		spec.Maps[name].MaxEntries = 64
	}
	if err := spec.LoadAndAssign(&e.PacketObjects, nil); err != nil {
		t.Fatalf("load: %+v", err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	if e.events, err = ringbuf.NewReader(e.Events); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.events.Close(); err != nil {
			t.Error(err)
		}
	})
	e.events.SetDeadline(time.Unix(1, 0)) // programs run while the test waits: what is not there will not come
	return e
}

// put makes f the test's flow, found by both tuples of its ends.
func (e *engine) put(f PacketFlow, at ends) {
	e.t.Helper()
	must := func(err error) {
		e.t.Helper()
		if err != nil {
			e.t.Fatal(err)
		}
	}
	must(e.Flows.Put(uint64(flowID), f))
	must(e.Tuples.Put(tuple(at.client, at.front), PacketDirection{Flow: flowID, Side: PacketSideCLIENT}))
	must(e.Tuples.Put(tuple(at.backend, at.back), PacketDirection{Flow: flowID, Side: PacketSideBACKEND}))
}

func (e *engine) flow() PacketFlow {
	e.t.Helper()
	var f PacketFlow
	if err := e.Flows.Lookup(uint64(flowID), &f); err != nil {
		e.t.Fatal(err)
	}
	return f
}

// skbContext is struct __sk_buff, of which a test may set a few fields.
type skbContext struct {
	_              [36]byte // len to vlan_proto, less priority
	IngressIfindex uint32
	Ifindex        uint32
	_              [120]byte
	GSOSegs        uint32
	_              [8]byte
	GSOSize        uint32
	_              [12]byte
}

// run gives a frame to a program and returns its verdict and what became of the frame.
func (e *engine) run(program *ebpf.Program, frame []byte, context skbContext) (uint32, []byte) {
	e.t.Helper()
	verdict, out, err := runProgram(program, frame, context)
	if err != nil {
		e.t.Fatal(err)
	}
	return verdict, out
}

func runProgram(program *ebpf.Program, frame []byte, context skbContext) (uint32, []byte, error) {
	options := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+64), Context: context}
	verdict, err := program.Run(&options)
	return verdict, options.DataOut, err
}

// counted returns what was counted since the last look.
func (e *engine) counted() map[PacketPacketCount]uint64 {
	e.t.Helper()
	since := make(map[PacketPacketCount]uint64)
	for which := range PacketPacketCountPACKET_COUNTS {
		var perCPU []uint64
		if err := e.PacketCounts.Lookup(which, &perCPU); err != nil {
			e.t.Fatal(err)
		}
		var n uint64
		for _, c := range perCPU {
			n += c
		}
		if n != e.counts[which] {
			since[which] = n - e.counts[which]
			e.counts[which] = n
		}
	}
	return since
}

// wantCounted checks what was counted since the last look: once each of these, and
// nothing else.
func (e *engine) wantCounted(want ...PacketPacketCount) {
	e.t.Helper()
	wanted := make(map[PacketPacketCount]uint64)
	for _, w := range want {
		wanted[w]++
	}
	if diff := cmp.Diff(wanted, e.counted()); diff != "" {
		e.t.Errorf("counted (-want +got):\n%s", diff)
	}
}

// event is a PacketEvent without what is always the same.
type event struct {
	Kind    PacketEventKind
	Reason  PacketReason
	Ifindex uint32
}

// wantEvents checks what events there were since the last look.
func (e *engine) wantEvents(want ...event) {
	e.t.Helper()
	var got []event
	for {
		record, err := e.events.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			e.t.Fatal(err)
		}
		var ev PacketEvent
		if _, err := binary.Decode(record.RawSample, binary.NativeEndian, &ev); err != nil {
			e.t.Fatal(err)
		}
		if ev.Flow != flowID {
			e.t.Errorf("event of flow %d, want %d", ev.Flow, flowID)
		}
		got = append(got, event{ev.Kind, ev.Reason, ev.Ifindex})
	}
	if diff := cmp.Diff(want, got); diff != "" {
		e.t.Errorf("events (-want +got):\n%s", diff)
	}
}

func (e *engine) wantState(want PacketState) {
	e.t.Helper()
	if got := e.flow().State; got != want {
		e.t.Errorf("state: got %d, want %d", got, want)
	}
}

// wantPassed checks that a program leaves a frame alone.
func (e *engine) wantPassed(program *ebpf.Program, frame []byte) {
	e.t.Helper()
	verdict, out := e.run(program, frame, skbContext{})
	if verdict != verdictUnspec {
		e.t.Errorf("verdict: got %d, want the packet passed", int32(verdict))
	}
	wantBytes(e.t, out, frame)
}

func wantBytes(t testing.TB, got, want []byte) {
	t.Helper()
	if diff := cmp.Diff(hex.Dump(want), hex.Dump(got)); diff != "" {
		t.Errorf("packet (-want +got):\n%s", diff)
	}
}

// tuple of packets from src to dst, as it stands in the map.
func tuple(src, dst netip.AddrPort) PacketTuple {
	words := func(a netip.Addr) (w [4]uint32) {
		bytes := a.As16()
		for i := range w {
			w[i] = binary.NativeEndian.Uint32(bytes[4*i:])
		}
		return w
	}
	port := func(p uint16) uint16 {
		return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, p))
	}
	return PacketTuple{Src: words(src.Addr()), Dst: words(dst.Addr()), Sport: port(src.Port()), Dport: port(dst.Port())}
}

// flowOf returns a flow of these legs. What one adds to SEQ the other takes from ACK.
func flowOf(at ends, client, backend leg) PacketFlow {
	f := PacketFlow{State: PacketStateSPLICED}
	for side, l := range []leg{client, backend} {
		p := &f.Legs[side]
		p.To = tuple(l.src, l.dst)
		p.SeqDelta, p.TsvalDelta = l.seq, l.tsval
		p.WscaleIn, p.WscaleOut = l.scaleIn, l.scaleOut
		p.Ifindex = 1
		if l.clearECN {
			p.Flags |= uint8(legNoECN)
		}
		if at.client.Addr().Is6() {
			p.Flags |= uint8(legIPv6)
		}
	}
	f.Legs[PacketSideCLIENT].AddressCsum = addressChange(at.client, at.front, at.back, at.backend)
	f.Legs[PacketSideBACKEND].AddressCsum = addressChange(at.backend, at.back, at.front, at.client)
	return f
}

// enum leg_flags, which has no BTF of its own.
const (
	legNoECN = 1
	legIPv6  = 2
)

// addressChange is leg.address_csum: a one's complement sum in the machine's order.
func addressChange(oldSrc, oldDst, newSrc, newDst netip.AddrPort) uint32 {
	var sum uint64
	for i, a := range []netip.AddrPort{oldSrc, oldDst, newSrc, newDst} {
		bytes := a.Addr().AsSlice()
		for len(bytes) > 0 {
			word := binary.NativeEndian.Uint32(bytes)
			if i < 2 {
				word = ^word
			}
			sum += uint64(word)
			bytes = bytes[4:]
		}
	}
	for sum > 0xffffffff {
		sum = sum>>32 + sum&0xffffffff
	}
	return uint32(sum)
}

// legs returns both legs between the ends with these differences.
func legs(at ends, clientSeq, backendSeq, clientTS, backendTS uint32, clientScale, backendScale uint8) (client, backend leg) {
	client = leg{src: at.back, dst: at.backend, seq: clientSeq, ack: -backendSeq, tsval: clientTS, tsecr: -backendTS,
		scaleIn: clientScale, scaleOut: backendScale}
	backend = leg{src: at.front, dst: at.client, seq: backendSeq, ack: -clientSeq, tsval: backendTS, tsecr: -clientTS,
		scaleIn: backendScale, scaleOut: clientScale}
	return client, backend
}

// from returns a plain segment of one side, to be made into what the test needs.
func (at ends) from(side PacketSide) segment {
	src, dst := at.client, at.front
	if side == PacketSideBACKEND {
		src, dst = at.backend, at.back
	}
	return segment{
		header: header{src: src.Addr(), dst: dst.Addr(), ttl: 64, id: 0x1234, fragment: 0x4000, proto: protoTCP},
		sport:  src.Port(), dport: dst.Port(), seq: 1000, ack: 2000, flags: flagACK, window: 500,
	}
}

// transition is struct transition, the argument of the syscall programs.
type transition struct {
	Flow          uint64
	From, To, Was PacketState
	Side          PacketSide
	Ifindex       uint32
	Way           PacketWay
}

// syscall runs a syscall program and returns the state that it found.
func (e *engine) syscall(program *ebpf.Program, argument transition) PacketState {
	e.t.Helper()
	var out transition
	if _, err := program.Run(&ebpf.RunOptions{Context: argument, ContextOut: &out}); err != nil {
		e.t.Fatal(err)
	}
	return out.Was
}

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
