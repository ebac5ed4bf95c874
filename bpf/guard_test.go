// SPDX-License-Identifier: Apache-2.0

package bpf

import "testing"

// toClient and toBackend are what the kernel's own two sockets send.
func (at ends) kernelSends(to PacketSide) segment {
	p := at.from(to)
	p.src, p.dst, p.sport, p.dport = p.dst, p.src, p.dport, p.sport
	return p
}

func TestGuardDropsWhatTheKernelsSocketsSend(t *testing.T) {
	for _, family := range families {
		s := splice(t, family.ends)
		for state := PacketStateFREE; state <= PacketStateDONE; state++ {
			f := s.flow()
			f.State = state
			s.put(f, s.ends)
			guarded := state == PacketStateSPLICED || state == PacketStateFLIPPING
			for _, to := range []PacketSide{PacketSideCLIENT, PacketSideBACKEND} {
				for _, flags := range []byte{flagACK, flagFIN | flagACK, flagRST, flagSYN | flagACK, 0} {
					p := s.kernelSends(to)
					p.flags = flags
					if !guarded {
						s.wantPassed(s.PacketEgress, p.frame())
						s.wantCounted()
						continue
					}
					if verdict, _ := s.run(s.PacketEgress, p.frame(), skbContext{}); verdict != verdictShot {
						t.Errorf("%s, state %d, flags %#x: verdict: got %d, want %d", family.name, state, flags, int32(verdict), verdictShot)
					}
					s.wantCounted(PacketPacketCountDROPPED_GUARD)

					// What came in by a device is a translated packet on its way out.
					if verdict, _ := s.run(s.PacketEgress, p.frame(), skbContext{IngressIfindex: 1}); verdict != verdictUnspec {
						t.Errorf("%s, state %d, forwarded: verdict: got %d, want it passed", family.name, state, int32(verdict))
					}
					s.wantCounted()
				}
				// What the ends send, translated or not, is not the guard's.
				s.wantPassed(s.PacketEgress, s.from(to).frame())
				p := s.kernelSends(to)
				p.dport++
				s.wantPassed(s.PacketEgress, p.frame())
				s.wantCounted()
			}
			if got := s.flow(); got != f {
				t.Errorf("%s, state %d: flow changed: got %+v, want %+v", family.name, state, got, f)
			}
		}
	}
}

func TestRawGuardDropsToo(t *testing.T) {
	// See TestRawProgramsFindTheHeaderAtTheStart for the addresses.
	at := ends4
	at.front = addrPort("8.0.113.10:443")
	s := splice(t, at)
	p := s.kernelSends(PacketSideCLIENT)
	if verdict, _ := s.run(s.PacketEgressRaw, p.ip(), skbContext{}); verdict != verdictShot {
		t.Errorf("verdict: got %d, want %d", int32(verdict), verdictShot)
	}
	s.wantCounted(PacketPacketCountDROPPED_GUARD)
}

func TestTransitIsCompareAndSwap(t *testing.T) {
	s := splice(t, ends4)
	for _, c := range []struct {
		name                  string
		flow                  uint64
		is, from, to, was, at PacketState
	}{
		{"as expected", flowID, PacketStateARMED, PacketStateARMED, PacketStateDECLINED, PacketStateARMED, PacketStateDECLINED},
		{"another state", flowID, PacketStateSPLICED, PacketStateARMED, PacketStateDECLINED, PacketStateSPLICED, PacketStateSPLICED},
		{"no such flow", flowID + 1, PacketStateARMED, PacketStateARMED, PacketStateDECLINED, PacketStateFREE, PacketStateARMED},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := *s.engine
			e.t = t
			f := e.flow()
			f.State = c.is
			e.put(f, s.ends)
			got := e.syscall(e.PacketTransit, transition{Flow: c.flow, From: c.from, To: c.to, Was: 99})
			if got != c.was {
				t.Errorf("state before: got %d, want %d", got, c.was)
			}
			f.State = c.at
			if got := e.flow(); got != f {
				t.Errorf("flow: got %+v, want %+v", got, f)
			}
		})
	}
}

func TestRerouteChangesOneSidesWay(t *testing.T) {
	s := splice(t, ends4)
	for _, side := range []PacketSide{PacketSideCLIENT, PacketSideBACKEND} {
		f := s.flow()
		got := s.syscall(s.PacketReroute, transition{Flow: flowID, Side: side, Ifindex: 40 + uint32(side), Way: PacketWayWAY_RAW})
		if got != PacketStateSPLICED {
			t.Errorf("state: got %d, want %d", got, PacketStateSPLICED)
		}
		f.Legs[side].Ifindex, f.Legs[side].Way = 40+uint32(side), uint8(PacketWayWAY_RAW)
		if got := s.flow(); got != f {
			t.Errorf("flow: got %+v, want %+v", got, f)
		}
	}
	if got := s.syscall(s.PacketReroute, transition{Flow: flowID + 1, Was: 99}); got != PacketStateFREE {
		t.Errorf("state of no flow: got %d, want %d", got, PacketStateFREE)
	}
}
