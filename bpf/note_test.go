// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"testing"
)

const (
	closedByClient  = PacketMarkMARK_FIN_CLIENT | PacketMarkMARK_FIN_ACKED_CLIENT
	closedByBackend = PacketMarkMARK_FIN_BACKEND | PacketMarkMARK_FIN_ACKED_BACKEND
)

var endedEvent = event{Kind: PacketEventKindEVENT_ENDED}

// spliced is an engine with one spliced flow. What the client sends as 1000 the
// backend gets as 11000; what the backend sends as 5000 the client gets as 25000.
type spliced struct {
	*engine
	ends
	client, backend leg
}

func splice(t *testing.T, at ends) spliced {
	t.Helper()
	s := spliced{engine: load(t), ends: at}
	s.client, s.backend = legs(at, 10000, 20000, 1, 2, 7, 3)
	f := flowOf(at, s.client, s.backend)
	f.Moved[PacketSideCLIENT].Acked, f.Moved[PacketSideBACKEND].Acked = 25000, 11000
	f.Base = [2]uint32{25000, 11000}
	s.put(f, at)
	return s
}

// send gives the program a segment of one side and checks that it is translated.
func (s spliced) send(side PacketSide, flags byte, seq, ack uint32, payload string) {
	s.t.Helper()
	p := s.from(side)
	p.flags, p.seq, p.ack, p.payload = flags, seq, ack, []byte(payload)
	s.translates(p, []leg{s.client, s.backend}[side], skbContext{})
}

func (s spliced) fromClient(flags byte, seq, ack uint32, payload string) {
	s.t.Helper()
	s.send(PacketSideCLIENT, flags, seq, ack, payload)
}

func (s spliced) fromBackend(flags byte, seq, ack uint32, payload string) {
	s.t.Helper()
	s.send(PacketSideBACKEND, flags, seq, ack, payload)
}

func (s spliced) wantMarks(want PacketMark) {
	s.t.Helper()
	if got := s.flow().Marks; got != want {
		s.t.Errorf("marks: got %#x, want %#x", got, want)
	}
}

func (s spliced) wantAcked(side PacketSide, want uint64) {
	s.t.Helper()
	if got := s.flow().Moved[side].Acked; got != want {
		s.t.Errorf("acked by side %d: got %#x, want %#x", side, got, want)
	}
}

func TestAcknowledgementsAreCountedBeyond32Bits(t *testing.T) {
	s := splice(t, ends4)
	f := s.flow()
	f.Moved[PacketSideCLIENT].Acked = 0xfffffff0
	s.put(f, s.ends)
	const window = 0xffff<<7 + 1 // the widest that the client can announce, and a probe
	for _, step := range []struct {
		flags    byte
		seq, ack uint32
		want     uint64
	}{
		{flagACK, 1000, 0xfffffff0, 0xfffffff0},
		{flagACK, 1000, 0xffffffff, 0xffffffff},
		{flagACK, 1000, 5, 0x1_00000005},
		{flagACK, 1000, 0xfffffff8, 0x1_00000005}, // an old one
		{flagACK, 1000, 5 + window, 0x1_00000005 + window},
		{flagACK, 1000, 5 + 2*window + 1, 0x1_00000005 + window}, // more than can have been sent
		{flagACK, 1000, 5 + 1<<30, 0x1_00000005 + window},
		{flagPSH, 1000, 6 + window, 0x1_00000005 + window}, // no ACK
		{flagRST | flagACK, 1000, 6 + window, 0x1_00000005 + window},
		{flagACK, 999, 6 + window, 0x1_00000005 + window}, // from outside of the backend's window
		{flagACK, 1000 + 1<<30, 6 + window, 0x1_00000005 + window},
		{flagACK, 1000, 6 + window, 0x1_00000006 + window},
	} {
		s.fromClient(step.flags, step.seq, step.ack, "")
		s.wantAcked(PacketSideCLIENT, step.want)
	}
	s.wantAcked(PacketSideBACKEND, 11000)
}

func TestPacketsAreCountedAsOnTheWire(t *testing.T) {
	s := splice(t, ends4)
	p := s.from(PacketSideCLIENT)
	p.payload = make([]byte, 2000)
	s.translates(p, s.client, skbContext{})
	s.translates(p, s.client, skbContext{GSOSize: 500, GSOSegs: 4})
	s.fromBackend(flagACK, 5000, 11000, "")
	s.fromBackend(flagRST, 5000, 0, "")
	f := s.flow()
	if got, want := [2]uint64{f.Moved[0].Packets, f.Moved[1].Packets}, [2]uint64{5, 2}; got != want {
		t.Errorf("packets of client and backend: got %d, want %d", got, want)
	}
}

func TestTimeOfTheLastPacket(t *testing.T) {
	s := splice(t, ends4)
	seen := func() [2]bool {
		f := s.flow()
		got := [2]bool{f.Moved[0].Seen != 0, f.Moved[1].Seen != 0}
		f.Moved[0].Seen, f.Moved[1].Seen = 0, 0
		s.put(f, s.ends)
		return got
	}
	s.fromBackend(flagACK, 5000, 11000, "")
	if got, want := seen(), [2]bool{false, true}; got != want {
		t.Errorf("after a packet of the backend: seen: got %v, want %v", got, want)
	}
	s.fromClient(flagACK, 1000, 25000, "")
	if got, want := seen(), [2]bool{true, false}; got != want {
		t.Errorf("after a packet of the client: seen: got %v, want %v", got, want)
	}
	s.fromClient(flagRST, 1000, 0, "") // who is reset is not alive
	if got := seen(); got != [2]bool{} {
		t.Errorf("after a reset: seen: got %v, want neither", got)
	}
}

func TestFlowEndsWhenBothFINsAreAcknowledged(t *testing.T) {
	for _, family := range families {
		t.Run(family.name+", the client first", func(t *testing.T) {
			s := splice(t, family.ends)
			s.fromClient(flagFIN|flagACK, 1000, 25000, "bye") // FIN is 1003: the backend gets 11003
			s.wantMarks(PacketMarkMARK_FIN_CLIENT)
			s.fromBackend(flagACK, 5000, 11003, "") // not the FIN
			s.wantMarks(PacketMarkMARK_FIN_CLIENT)
			s.fromBackend(flagACK, 5000, 11004, "data")
			s.wantMarks(closedByClient)
			s.fromBackend(flagFIN|flagACK, 5004, 11004, "")
			s.wantMarks(closedByClient | PacketMarkMARK_FIN_BACKEND)
			s.fromClient(flagACK, 1004, 25004, "")
			s.wantEvents()
			if got := s.flow().Closed; got != 0 {
				t.Errorf("closed before its end, at %d", got)
			}
			s.fromClient(flagACK, 1004, 25005, "")
			s.wantMarks(closedByClient | closedByBackend)
			s.wantEvents(endedEvent)
			if s.flow().Closed == 0 {
				t.Error("time of the end: got 0")
			}
			// What is sent once more says nothing new.
			s.fromBackend(flagFIN|flagACK, 5004, 11004, "")
			s.fromClient(flagACK, 1004, 25005, "")
			s.fromClient(flagFIN|flagACK, 1000, 25005, "bye")
			s.wantMarks(closedByClient | closedByBackend)
			s.wantEvents()
			s.wantState(PacketStateSPLICED)
		})
		t.Run(family.name+", the backend first", func(t *testing.T) {
			s := splice(t, family.ends)
			s.fromBackend(flagFIN|flagACK, 5000, 11000, "")
			s.wantMarks(PacketMarkMARK_FIN_BACKEND | PacketMarkMARK_FIRST_BACKEND)
			s.fromClient(flagFIN|flagACK, 1000, 25001, "") // acknowledges and closes at once
			s.wantMarks(closedByBackend | PacketMarkMARK_FIRST_BACKEND | PacketMarkMARK_FIN_CLIENT)
			s.wantEvents()
			s.fromBackend(flagACK, 5001, 11001, "")
			s.wantMarks(closedByBackend | PacketMarkMARK_FIRST_BACKEND | closedByClient)
			s.wantEvents(endedEvent)
		})
		t.Run(family.name+", both at once", func(t *testing.T) {
			s := splice(t, family.ends)
			s.fromClient(flagFIN|flagACK, 1000, 25000, "")
			s.fromBackend(flagFIN|flagACK, 5000, 11000, "")
			s.wantMarks(PacketMarkMARK_FIN_CLIENT | PacketMarkMARK_FIN_BACKEND)
			s.fromClient(flagACK, 1001, 25001, "")
			s.fromBackend(flagACK, 5001, 11001, "")
			s.wantMarks(closedByClient | closedByBackend)
			s.wantEvents(endedEvent)
		})
	}
}

func TestFINAcknowledgedAcrossTheWrap(t *testing.T) {
	s := splice(t, ends4)
	fin := uint32(0xffffffff) // as the backend gets it
	f := s.flow()
	f.Moved[PacketSideBACKEND].Acked = uint64(fin)
	s.put(f, s.ends)
	s.fromClient(flagFIN|flagACK, fin-10000, 25000, "")
	s.fromBackend(flagACK, 5000, fin, "")
	s.wantMarks(PacketMarkMARK_FIN_CLIENT)
	s.fromBackend(flagACK, 5000, fin+1, "")
	s.wantMarks(closedByClient)
}

// A reset is plausible if its sequence number is in the window that the other side
// has announced at most: from what it has acknowledged on (RFC 5961, section 3).
func TestResets(t *testing.T) {
	const scale = 3 // of the windows in the backend's packets
	for _, c := range []struct {
		name  string
		seq   uint32
		ended bool
	}{
		{"as expected", 1000, true},
		{"at the end of the widest window", 1000 + 0xffff<<scale, true},
		{"beyond it", 1000 + 0xffff<<scale + 1, false},
		{"before what was acknowledged", 999, false},
		{"somewhere", 1000 + 1<<31, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := splice(t, ends4)
			s.fromClient(flagRST, c.seq, 0, "")
			if !c.ended {
				s.wantMarks(0)
				s.wantEvents()
				return
			}
			want := PacketMarkMARK_RST_CLIENT
			if c.seq == 1000 {
				want |= PacketMarkMARK_RST_EXACT
			}
			s.wantMarks(want)
			s.wantEvents(endedEvent)
			// It is asked back, unless it was believed.
			s.fromBackend(flagACK, 5000, 11000, "")
			s.wantMarks(want | PacketMarkMARK_RST_DOUBTED)
			s.fromClient(flagRST, c.seq, 0, "")
			s.wantEvents()
			if s.flow().Closed == 0 {
				t.Error("time of the reset: got 0")
			}
		})
	}
	t.Run("of the backend", func(t *testing.T) {
		s := splice(t, ends4)
		s.fromBackend(flagRST|flagACK, 5000, 11000, "")
		s.wantMarks(PacketMarkMARK_RST_BACKEND | PacketMarkMARK_RST_EXACT)
		s.wantEvents(endedEvent)
	})
}

// A FIN that somebody guessed is not one: the receiver drops it, and the flow goes on.
func TestFINOutOfTheWindow(t *testing.T) {
	const scale = 3 // of the windows in the backend's packets
	for _, c := range []struct {
		name    string
		seq     uint32
		payload string
		want    PacketMark
	}{
		{"as expected", 1000, "", PacketMarkMARK_FIN_CLIENT},
		{"behind data that is acknowledged in part", 998, "abc", PacketMarkMARK_FIN_CLIENT},
		{"at the end of the widest window", 1000 + 0xffff<<scale, "", PacketMarkMARK_FIN_CLIENT},
		{"beyond it", 1000 + 0xffff<<scale, "a", 0},
		{"before what was acknowledged", 998, "a", 0},
		{"somewhere", 1000 + 3<<30, "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := splice(t, ends4)
			s.fromClient(flagFIN|flagACK, c.seq, 25000, c.payload)
			s.fromBackend(flagACK, 5000, 11000, "")
			s.wantMarks(c.want)
			s.wantEvents()
		})
	}
}

// A reset may be disbelieved and the flow go on to its FINs: each cause of an end is
// told, and each once.
func TestEachCauseOfAnEndIsToldOnce(t *testing.T) {
	t.Run("resets of both", func(t *testing.T) {
		s := splice(t, ends4)
		s.fromClient(flagRST, 1000, 0, "")
		s.fromBackend(flagRST, 5000, 0, "")
		s.wantMarks(PacketMarkMARK_RST_CLIENT | PacketMarkMARK_RST_BACKEND | PacketMarkMARK_RST_EXACT)
		s.fromClient(flagRST, 1000, 0, "")
		s.fromBackend(flagRST, 5000, 0, "")
		s.wantEvents(endedEvent, endedEvent)
	})
	t.Run("reset after both FINs", func(t *testing.T) {
		s := splice(t, ends4)
		s.fromClient(flagFIN|flagACK, 1000, 25000, "")
		s.fromBackend(flagFIN|flagACK, 5000, 11001, "")
		s.fromClient(flagACK, 1001, 25001, "")
		s.fromBackend(flagRST, 5001, 0, "")
		s.wantMarks(closedByClient | closedByBackend | PacketMarkMARK_RST_BACKEND | PacketMarkMARK_RST_EXACT)
		s.fromBackend(flagRST, 5001, 0, "")
		s.fromClient(flagACK, 1001, 25001, "")
		s.wantEvents(endedEvent, endedEvent)
	})
	t.Run("FIN acknowledged after a reset", func(t *testing.T) {
		s := splice(t, ends4)
		s.fromClient(flagFIN|flagACK, 1000, 25000, "")
		s.fromBackend(flagFIN|flagACK, 5000, 11001, "")
		s.fromBackend(flagRST, 5001, 0, "")
		s.fromClient(flagACK, 1001, 25001, "")
		s.wantMarks(closedByClient | closedByBackend | PacketMarkMARK_RST_BACKEND | PacketMarkMARK_RST_DOUBTED)
		s.fromBackend(flagRST, 5001, 0, "")
		s.fromClient(flagACK, 1001, 25001, "")
		s.wantEvents(endedEvent, endedEvent)
	})
}

func TestSYNOnTheTuple(t *testing.T) {
	syn := func(at ends) segment {
		p := at.from(PacketSideCLIENT)
		p.flags, p.seq, p.ack = flagSYN, 77777, 0
		p.options = []byte("\x02\x04\x05\xb4\x04\x02\x08\x0a\x11\x22\x33\x44\x00\x00\x00\x00\x01\x03\x03\x07")
		return p
	}
	t.Run("of a flow that lives", func(t *testing.T) {
		s := splice(t, ends4)
		s.client.lastACK = 25000
		s.translates(syn(s.ends), s.client, skbContext{}) // the backend answers with a challenge
		s.wantCounted(PacketPacketCountTRANSLATED)
		s.wantState(PacketStateSPLICED)
		s.wantEvents()
	})
	for _, c := range []struct {
		name  string
		marks PacketMark
	}{
		{"of a flow with both FINs acknowledged", closedByClient | closedByBackend},
		{"of a flow with both FINs", PacketMarkMARK_FIN_CLIENT | PacketMarkMARK_FIN_BACKEND},
		{"of a flow that the client reset", PacketMarkMARK_RST_CLIENT},
		{"of a flow that the backend reset", PacketMarkMARK_RST_BACKEND},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := splice(t, ends4)
			f := s.flow()
			f.Marks = c.marks
			s.put(f, s.ends)
			s.wantPassed(s.PacketIngress, syn(s.ends).frame())
			s.wantCounted(PacketPacketCountPASSED_SYN)
			s.wantState(PacketStateDONE)
			s.wantEvents(event{Kind: PacketEventKindEVENT_REPLACED})
			s.wantPassed(s.PacketIngress, syn(s.ends).frame())
			s.wantCounted(PacketPacketCountPASSED_DONE)
			s.wantEvents()
		})
	}
	t.Run("of a flow with a reset that the other end asked back for", func(t *testing.T) {
		s := splice(t, ends4)
		f := s.flow()
		f.Marks = PacketMarkMARK_RST_CLIENT | PacketMarkMARK_RST_DOUBTED
		s.put(f, s.ends)
		s.client.lastACK = 25000
		s.translates(syn(s.ends), s.client, skbContext{})
		s.wantState(PacketStateSPLICED)
	})
	t.Run("and ACK of an ended flow", func(t *testing.T) {
		s := splice(t, ends4)
		f := s.flow()
		f.Marks = PacketMarkMARK_RST_CLIENT
		s.put(f, s.ends)
		p := syn(s.ends)
		p.flags |= flagACK
		s.translates(p, s.client, skbContext{})
		s.wantState(PacketStateSPLICED)
	})
}

func TestOtherStatesPass(t *testing.T) {
	for _, family := range families {
		s := splice(t, family.ends)
		for _, c := range []struct {
			state   PacketState
			counted PacketPacketCount
		}{
			{PacketStateARMED, PacketPacketCountPASSED_ARMED},
			{PacketStateDECLINED, PacketPacketCountPASSED_ARMED},
			{PacketStateDONE, PacketPacketCountPASSED_DONE},
		} {
			f := s.flow()
			f.State = c.state
			s.put(f, s.ends)
			p := s.from(PacketSideCLIENT)
			s.wantPassed(s.PacketIngress, p.frame())
			s.wantCounted(c.counted)
			s.wantState(c.state)
			if got := s.flow(); got != f {
				t.Errorf("state %d: flow changed: got %+v, want %+v", c.state, got, f)
			}
		}
	}
}
