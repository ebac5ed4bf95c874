// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math/bits"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/bpf"
)

// What map operations return: compare with errors.Is.
var (
	ErrExists   = ebpf.ErrKeyExist
	ErrNotFound = ebpf.ErrKeyNotExist
)

// PacketLayout is the version of what the pinned maps hold (bpf/include/packet.h).
// State of another layout is not understood.
const PacketLayout = 1

// FlowID numbers the flows of engine packet; it is unique for as long as the
// pinned state lives.
type FlowID uint64

// Side is one of a flow's two ends.
type Side uint8

// The sides.
const (
	Client  = Side(bpf.PacketSideCLIENT)
	Backend = Side(bpf.PacketSideBACKEND)
)

// Other is the side across.
func (s Side) Other() Side { return 1 - s }

// FlowState is enum state of bpf/include/packet.h, which tells the ways from one to
// another.
type FlowState uint32

// The states. FlowFree is that of no flow.
const (
	FlowFree     = FlowState(bpf.PacketStateFREE)
	FlowArmed    = FlowState(bpf.PacketStateARMED)
	FlowFlipping = FlowState(bpf.PacketStateFLIPPING)
	FlowSpliced  = FlowState(bpf.PacketStateSPLICED)
	FlowDeclined = FlowState(bpf.PacketStateDECLINED)
	FlowDone     = FlowState(bpf.PacketStateDONE)
)

// String is the state's name, lower case.
func (s FlowState) String() string {
	names := [...]string{"free", "armed", "flipping", "spliced", "declined", "done"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("state(%d)", uint32(s))
}

// FlowReason is why a flow was not spliced (enum reason).
type FlowReason uint32

// The reasons that the programs give.
const (
	FlowOK           = FlowReason(bpf.PacketReasonOK)
	FlowClientSpoke  = FlowReason(bpf.PacketReasonCLIENT_SPOKE)
	FlowBackendEarly = FlowReason(bpf.PacketReasonBACKEND_EARLY)
	FlowClosing      = FlowReason(bpf.PacketReasonCLOSING)
	FlowNoSocket     = FlowReason(bpf.PacketReasonNO_SOCKET)
	FlowClientQueue  = FlowReason(bpf.PacketReasonCLIENT_QUEUE)
	FlowInFlight     = FlowReason(bpf.PacketReasonIN_FLIGHT)
	FlowBackendQueue = FlowReason(bpf.PacketReasonBACKEND_QUEUE)
	FlowTimestamps   = FlowReason(bpf.PacketReasonTIMESTAMPS)
	FlowSACK         = FlowReason(bpf.PacketReasonSACK)
	FlowAccECN       = FlowReason(bpf.PacketReasonACCECN)
	FlowMSS          = FlowReason(bpf.PacketReasonMSS)
	FlowWindow       = FlowReason(bpf.PacketReasonWINDOW)
	FlowDevice       = FlowReason(bpf.PacketReasonDEVICE)
	FlowUrgent       = FlowReason(bpf.PacketReasonURGENT)
)

// Endpoints are the two connections of a flow, as their packets come in.
type Endpoints struct {
	Client, Listener netip.AddrPort // client to gateway
	Backend, Local   netip.AddrPort // backend to gateway
}

// Flow is what the programs know of a flow, at one moment.
type Flow struct {
	Endpoints
	State FlowState
	// Unread and Written are what a flow is armed with: the bytes in the client's
	// queue, and all bytes that are written to the backend. Zero once spliced.
	Unread, Written uint32
	// Packets that came from each side, on the wire.
	Packets [2]uint64
	// Delivered is the bytes that each side has acknowledged since the flip: of
	// Backend what came from the client.
	Delivered [2]uint64
	// NextAck is the sequence number that each side wants next: that of an RST to
	// it.
	NextAck [2]uint32
	// FIN: each side has sent one; FINAcked: it was acknowledged; RST: sent one that
	// the other side seems to have believed.
	FIN, FINAcked, RST [2]bool
	// First is who sent the first FIN.
	First Side
	// Seen is the last packet of either side but RST, Closed the last RST or the
	// end, Spliced the flip. Of CLOCK_MONOTONIC, 1 ms fine; 0: not yet.
	Seen, Closed, Spliced time.Duration
	// Device is where packets of each side are sent to, by index.
	Device [2]int
	// SameHost: both ends are sockets of this host that may take the short cut.
	SameHost bool
	// Shortcut is what they sent by it, once Take was given it.
	Shortcut Shortcut
}

// Ended tells whether both sides have closed, or one has reset.
func (f *Flow) Ended() bool { return f.FINAcked == [2]bool{true, true} || f.RST != [2]bool{} }

// Tuples tells whose packets a tuple of addresses and ports is. The zero value is of
// no use.
type Tuples struct{ m *ebpf.Map }

// NewTuples wraps the map; it stays the caller's.
func NewTuples(m *ebpf.Map) Tuples { return Tuples{m} }

// Put adds both tuples of a flow, which must be in Flows. If one is there already
// the error is ebpf.ErrKeyExist and nothing has changed; holder is whose it is.
func (t Tuples) Put(id FlowID, e Endpoints) (holder FlowID, err error) {
	for side, k := range e.keys() {
		d := bpf.PacketDirection{Flow: uint64(id), Side: bpf.PacketSide(side)}
		if err = t.m.Update(k, d, ebpf.UpdateNoExist); err == nil {
			continue
		}
		if errors.Is(err, ebpf.ErrKeyExist) {
			var is bpf.PacketDirection
			if t.m.Lookup(k, &is) == nil {
				holder = FlowID(is.Flow)
			}
		}
		if side == int(Backend) {
			_ = t.m.Delete(e.keys()[Client])
		}
		return holder, fmt.Errorf("put tuple: %w", err)
	}
	return 0, nil
}

// Delete takes a flow's tuples out, if they are still its own.
func (t Tuples) Delete(id FlowID, e Endpoints) error {
	var errs []error
	for _, k := range e.keys() {
		var is bpf.PacketDirection
		if err := t.m.Lookup(k, &is); err != nil || FlowID(is.Flow) != id {
			continue
		}
		if err := t.m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("delete tuple: %w", err))
		}
	}
	return errors.Join(errs...)
}

// Len counts the tuples, by walking them all.
func (t Tuples) Len() (int, error) {
	var k bpf.PacketTuple
	var d bpf.PacketDirection
	n := 0
	all := t.m.Iterate()
	for all.Next(&k, &d) {
		n++
	}
	return n, all.Err()
}

func (e *Endpoints) keys() [2]bpf.PacketTuple {
	return [2]bpf.PacketTuple{tuple(e.Client, e.Listener), tuple(e.Backend, e.Local)}
}

func tuple(src, dst netip.AddrPort) bpf.PacketTuple {
	return bpf.PacketTuple{Src: words(src.Addr()), Dst: words(dst.Addr()), Sport: port(src), Dport: port(dst)}
}

// words is an address as it stands in memory; IPv4 is mapped.
func words(a netip.Addr) (w [4]uint32) {
	b := a.As16()
	for i := range w {
		w[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return w
}

func address(w [4]uint32) netip.Addr {
	var b [16]byte
	for i, v := range w {
		binary.NativeEndian.PutUint32(b[4*i:], v)
	}
	return netip.AddrFrom16(b).Unmap()
}

// port is a port in network byte order.
func port(a netip.AddrPort) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], a.Port())
	return binary.NativeEndian.Uint16(b[:])
}

func hostPort(a netip.Addr, p uint16) netip.AddrPort {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], p)
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(b[:]))
}

// Flows holds the flows. The zero value is of no use.
type Flows struct{ m *ebpf.Map }

// NewFlows wraps the map; it stays the caller's.
func NewFlows(m *ebpf.Map) Flows { return Flows{m} }

// Arming is what the programs must know to splice a flow.
type Arming struct {
	Endpoints
	Unread     uint32 // bytes in the client's queue
	Written    uint32 // bytes that will be written to the backend
	BackendMSS uint32 // what segments the backend takes; 0: not known
	Shortcut   bool   // it may take the short cut, if both ends are on this host
}

// Arm adds a flow in state FlowArmed. A number that is taken is ebpf.ErrKeyExist, no
// room is E2BIG.
func (f Flows) Arm(id FlowID, a Arming) error {
	e := a.Endpoints
	v := bpf.PacketFlow{State: bpf.PacketStateARMED, Base: [2]uint32{a.Unread, a.Written}, BackendMss: a.BackendMSS}
	if a.Shortcut {
		v.Flags = bpf.PacketFlowFlagsFLOW_SHORTCUT
	}
	client, backend := &v.Legs[Client], &v.Legs[Backend]
	client.To, backend.To = tuple(e.Local, e.Backend), tuple(e.Listener, e.Client)
	client.AddressCsum, backend.AddressCsum = addressCsum(e.Client, e.Listener, client.To), addressCsum(e.Backend, e.Local, backend.To)
	if err := f.m.Update(uint64(id), &v, ebpf.UpdateNoExist); err != nil {
		return fmt.Errorf("put flow: %w", err)
	}
	return nil
}

// addressCsum is the change of a one's complement sum when the addresses of a packet
// from src to dst become those of to (RFC 1624). Mapped IPv4 addresses have the same
// first words, which fall out.
func addressCsum(src, dst netip.AddrPort, to bpf.PacketTuple) uint32 {
	var sum uint32
	add := func(n uint32) {
		var carry uint32
		sum, carry = bits.Add32(sum, n, 0)
		sum += carry
	}
	from := tuple(src, dst)
	first := 0
	if src.Addr().Is4() {
		first = 3
	}
	for i := first; i < 4; i++ {
		add(^from.Src[i])
		add(to.Src[i])
		add(^from.Dst[i])
		add(to.Dst[i])
	}
	return sum
}

// Get returns a flow; one that is not there is ebpf.ErrKeyNotExist.
func (f Flows) Get(id FlowID) (Flow, error) {
	var v bpf.PacketFlow
	if err := f.m.Lookup(uint64(id), &v); err != nil {
		return Flow{}, fmt.Errorf("read flow %d: %w", id, err)
	}
	return decodeFlow(&v), nil
}

// Delete takes a flow out. Its tuples must have been gone for longer than a program
// runs: a second is plenty. One that is not there is no error.
func (f Flows) Delete(id FlowID) error {
	if err := f.m.Delete(uint64(id)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete flow %d: %w", id, err)
	}
	return nil
}

// flowBatch is how many flows one system call brings.
const flowBatch = 512

// All walks the flows. Those that come or go meanwhile may be left out or come
// twice. The last element's error ends it.
func (f Flows) All() iter.Seq2[FlowID, Flow] {
	return func(yield func(FlowID, Flow) bool) {
		ids := make([]uint64, flowBatch)
		values := make([]bpf.PacketFlow, flowBatch)
		var at ebpf.MapBatchCursor
		for {
			n, err := f.m.BatchLookup(&at, ids, values, nil)
			if errors.Is(err, unix.ENOSPC) {
				// A bucket larger than the batch (__htab_map_lookup_and_delete_batch).
				ids, values = make([]uint64, 2*len(ids)), make([]bpf.PacketFlow, 2*len(values))
				continue
			}
			for i := range n {
				if !yield(FlowID(ids[i]), decodeFlow(&values[i])) {
					return
				}
			}
			if err != nil { // ErrKeyNotExist: that was all
				return
			}
		}
	}
}

func decodeFlow(v *bpf.PacketFlow) Flow {
	client, backend := &v.Legs[Client].To, &v.Legs[Backend].To
	f := Flow{
		Endpoints: Endpoints{
			Client:   hostPort(address(backend.Dst), backend.Dport),
			Listener: hostPort(address(backend.Src), backend.Sport),
			Backend:  hostPort(address(client.Dst), client.Dport),
			Local:    hostPort(address(client.Src), client.Sport),
		},
		State:  FlowState(v.State),
		Closed: ticks(v.Closed), Spliced: ticks(v.Spliced),
		SameHost: v.Flags&bpf.PacketFlowFlagsFLOW_LOCAL != 0,
	}
	if f.State == FlowArmed || f.State == FlowFlipping || f.State == FlowDeclined {
		f.Unread, f.Written = v.Base[Client], v.Base[Backend]
		return f
	}
	has := func(m bpf.PacketMark) bool { return v.Marks&m != 0 }
	f.FIN = [2]bool{has(bpf.PacketMarkMARK_FIN_CLIENT), has(bpf.PacketMarkMARK_FIN_BACKEND)}
	f.FINAcked = [2]bool{has(bpf.PacketMarkMARK_FIN_ACKED_CLIENT), has(bpf.PacketMarkMARK_FIN_ACKED_BACKEND)}
	// Who was asked back and has not answered did not send it.
	if has(bpf.PacketMarkMARK_RST_EXACT) || !has(bpf.PacketMarkMARK_RST_DOUBTED) {
		f.RST = [2]bool{has(bpf.PacketMarkMARK_RST_CLIENT), has(bpf.PacketMarkMARK_RST_BACKEND)}
	}
	if has(bpf.PacketMarkMARK_FIRST_BACKEND) {
		f.First = Backend
	}
	for side := range Side(2) {
		m := &v.Moved[side]
		f.Packets[side] = m.Packets
		f.Delivered[side] = m.Acked - uint64(v.Base[side])
		if f.FINAcked[side.Other()] && f.Delivered[side] > 0 {
			f.Delivered[side]-- // FIN takes a number (RFC 9293, section 3.4)
		}
		f.NextAck[side] = uint32(m.Acked)
		f.Seen = max(f.Seen, ticks(m.Seen))
		f.Device[side] = int(v.Legs[side].Ifindex)
	}
	return f
}

// ticks is a time of the programs: nanoseconds of CLOCK_MONOTONIC shifted by
// TICK_SHIFT, in 32 bits, which wrap after 52 days; what is meant is the one that
// is nearest to now.
func ticks(t uint32) time.Duration {
	if t == 0 {
		return 0
	}
	now := Monotonic()
	ago := int32(uint32(now>>tickShift) - t)
	return now - time.Duration(ago)<<tickShift
}

const tickShift = 20

// Monotonic is CLOCK_MONOTONIC, by which the programs tell time.
func Monotonic() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail
	return time.Duration(ts.Nano())
}

// Records holds what the agent wants to know of a flow when it ends. The zero value
// is of no use.
type Records struct{ m *ebpf.Map }

// RecordBytes is the room of a record.
const RecordBytes = len(bpf.PacketRecord{}.Bytes) - 2

// NewRecords wraps the map; it stays the caller's.
func NewRecords(m *ebpf.Map) Records { return Records{m} }

// Put adds or replaces a flow's record, at most RecordBytes.
func (r Records) Put(id FlowID, record []byte) error {
	if len(record) > RecordBytes {
		return fmt.Errorf("put record: %d bytes, at most %d", len(record), RecordBytes)
	}
	var v bpf.PacketRecord
	binary.NativeEndian.PutUint16(v.Bytes[:], uint16(len(record)))
	copy(v.Bytes[2:], record)
	if err := r.m.Put(uint64(id), &v); err != nil {
		return fmt.Errorf("put record: %w", err)
	}
	return nil
}

// Get returns a flow's record; none is ebpf.ErrKeyNotExist.
func (r Records) Get(id FlowID) ([]byte, error) {
	var v bpf.PacketRecord
	if err := r.m.Lookup(uint64(id), &v); err != nil {
		return nil, fmt.Errorf("read record %d: %w", id, err)
	}
	n := int(binary.NativeEndian.Uint16(v.Bytes[:]))
	return v.Bytes[2 : 2+min(n, RecordBytes)], nil
}

// Delete takes a record out. One that is not there is no error.
func (r Records) Delete(id FlowID) error {
	if err := r.m.Delete(uint64(id)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete record %d: %w", id, err)
	}
	return nil
}

// Devices holds the devices that have programs. The zero value is of no use.
type Devices struct{ m *ebpf.Map }

// NewDevices wraps the map; it stays the caller's.
func NewDevices(m *ebpf.Map) Devices { return Devices{m} }

// Put adds a device: raw has no link-layer header.
func (d Devices) Put(index int, raw, loopback bool) error {
	var v bpf.PacketDevice
	if raw {
		v.Flags |= bpf.PacketDeviceFlagsDEVICE_RAW
	}
	if loopback {
		v.Flags |= bpf.PacketDeviceFlagsDEVICE_LOOPBACK
	}
	if err := d.m.Put(uint32(index), v); err != nil {
		return fmt.Errorf("put device %d: %w", index, err)
	}
	return nil
}

// Delete takes a device out. One that is not there is no error.
func (d Devices) Delete(index int) error {
	if err := d.m.Delete(uint32(index)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete device %d: %w", index, err)
	}
	return nil
}

// Indexes are the devices that are there.
func (d Devices) Indexes() ([]int, error) {
	var indexes []int
	var k uint32
	var v bpf.PacketDevice
	all := d.m.Iterate()
	for all.Next(&k, &v) {
		indexes = append(indexes, int(k))
	}
	return indexes, all.Err()
}

// packetCounts are the labels of enum packet_count, in its order.
var packetCounts = [...]string{
	"translated", "translated_icmp", "passed_armed", "passed_done", "passed_malformed", "passed_fragment", "passed_syn",
	"dropped_guard", "dropped_ttl", "dropped_ce", "dropped_error", "flips", "flips_lost", "events_lost",
}

// The length of the table is that of the enumeration: one of these does not compile
// otherwise.
const (
	_ = uint(len(packetCounts) - int(bpf.PacketPacketCountPACKET_COUNTS))
	_ = uint(int(bpf.PacketPacketCountPACKET_COUNTS) - len(packetCounts))
)

// PacketCounts counts what became of packets. The zero value is of no use.
type PacketCounts struct{ m *ebpf.Map }

// NewPacketCounts wraps the map; it stays the caller's.
func NewPacketCounts(m *ebpf.Map) PacketCounts { return PacketCounts{m} }

// Read returns every count by its label, summed over the CPUs, since the state was
// made. It is not one instant.
func (c PacketCounts) Read() (map[string]uint64, error) {
	counts := make(map[string]uint64, len(packetCounts))
	var perCPU []uint64
	for i, label := range packetCounts {
		if err := c.m.Lookup(uint32(i), &perCPU); err != nil {
			return nil, fmt.Errorf("read packet count %s: %w", label, err)
		}
		for _, n := range perCPU {
			counts[label] += n
		}
	}
	return counts, nil
}

// FlowEventKind is what happened to a flow (enum event_kind).
type FlowEventKind uint32

// The kinds of events.
const (
	FlowEventSpliced  = FlowEventKind(bpf.PacketEventKindEVENT_SPLICED)
	FlowEventDeclined = FlowEventKind(bpf.PacketEventKindEVENT_DECLINED)
	FlowEventEnded    = FlowEventKind(bpf.PacketEventKindEVENT_ENDED)
	FlowEventReplaced = FlowEventKind(bpf.PacketEventKindEVENT_REPLACED)
	FlowEventLocal    = FlowEventKind(bpf.PacketEventKindEVENT_LOCAL)
)

// FlowEvent is one message of the programs.
type FlowEvent struct {
	Flow   FlowID
	Kind   FlowEventKind
	Reason FlowReason
	Device int // with FlowDevice: which has no program
}

// DecodeFlowEvent reads a sample of the ring buffer.
func DecodeFlowEvent(sample []byte) (FlowEvent, error) {
	if len(sample) < 20 {
		return FlowEvent{}, fmt.Errorf("flow event of %d bytes", len(sample))
	}
	n := binary.NativeEndian
	return FlowEvent{
		Flow: FlowID(n.Uint64(sample)), Kind: FlowEventKind(n.Uint32(sample[8:])),
		Reason: FlowReason(n.Uint32(sample[12:])), Device: int(n.Uint32(sample[16:])),
	}, nil
}
