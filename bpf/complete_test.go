// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv"
)

// Many network cards sum up all of a packet (CHECKSUM_COMPLETE). Whoever changes the
// packet must change that sum as well, or the kernel complains about the card. The
// kernel's own way to such a packet is a VXLAN whose outer checksum it had to compute.

const (
	vxlanPort  = 4789
	vxlanID    = 5
	seenBytes  = 512
	notSummed  = -524 // ENOTSUPP of bpf_csum_update
	seenHeader = 16
)

// tunnel is a VXLAN device whose packets are given to the program, sent out of the
// same device again, and looked at there.
type tunnel struct {
	*engine
	ns     *testenv.Namespace
	socket int // sends the outer packets, each with a checksum that nobody has verified
	index  int
	seen   *ebpf.Map
}

func newTunnel(t *testing.T) *tunnel {
	t.Helper()
	u := &tunnel{engine: load(t), ns: testenv.MustNamespace(t, "tunnel")}
	// Nothing is to leave the device but what the test sends.
	if err := u.ns.SetSysctl("net/ipv6/conf/default/disable_ipv6", "1"); err != nil {
		t.Fatal(err)
	}
	err := u.ns.Do(func() (err error) {
		device := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "vxlan0", Flags: net.FlagUp}, VxlanId: vxlanID, Port: vxlanPort,
			SrcAddr: net.IPv4(127, 0, 0, 1), Group: net.IPv4(127, 0, 0, 2)}
		if err := netlink.LinkAdd(device); err != nil {
			return err
		}
		u.index = device.Index
		u.socket, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
		return err
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Skip("this kernel has no VXLAN (CONFIG_VXLAN)")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(u.socket) })
	if err := unix.Bind(u.socket, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 2}}); err != nil {
		t.Fatal(err)
	}
	u.watch()
	attach(t, u.ns, u.PacketIngress, ebpf.AttachTCXIngress, u.index)
	return u
}

// watch attaches a program that keeps the last packet on its way out and its sum,
// and drops it.
func (u *tunnel) watch() {
	u.t.Helper()
	var err error
	u.seen, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: seenHeader + seenBytes, MaxEntries: 1})
	if err != nil {
		u.t.Fatal(err)
	}
	u.t.Cleanup(func() { u.seen.Close() })
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "Dual BSD/GPL", AttachType: ebpf.AttachTCXEgress,
		Instructions: asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1),
			asm.StoreImm(asm.RFP, -4, 0, asm.Word),
			asm.LoadMapPtr(asm.R1, u.seen.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "out"),
			asm.Mov.Reg(asm.R7, asm.R0),
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.Mov.Imm(asm.R2, 0),
			asm.FnCsumUpdate.Call(), // by nothing: tells what it is
			asm.StoreMem(asm.R7, 0, asm.R0, asm.DWord),
			asm.LoadMem(asm.R8, asm.R6, 0, asm.Word), // len
			asm.JEq.Imm(asm.R8, 0, "out"),
			asm.JGT.Imm(asm.R8, seenBytes, "out"),
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.Mov.Imm(asm.R2, 0),
			asm.Mov.Reg(asm.R3, asm.R7),
			asm.Add.Imm(asm.R3, seenHeader),
			asm.Mov.Reg(asm.R4, asm.R8),
			asm.FnSkbLoadBytes.Call(),
			asm.StoreMem(asm.R7, 8, asm.R8, asm.DWord), // says that the rest is there
			asm.Mov.Imm(asm.R0, verdictShot).WithSymbol("out"),
			asm.Return(),
		}})
	if err != nil {
		u.t.Fatal(err)
	}
	u.t.Cleanup(func() { program.Close() })
	attach(u.t.(*testing.T), u.ns, program, ebpf.AttachTCXEgress, u.index)
}

// through sends a frame through the tunnel and returns what came out, and its sum as
// the kernel has it.
func (u *tunnel) through(frame []byte) (out []byte, sum uint32) {
	u.t.Helper()
	if err := u.seen.Put(uint32(0), make([]byte, seenHeader+seenBytes)); err != nil {
		u.t.Fatal(err)
	}
	outer := header{src: netip.MustParseAddr("127.0.0.2"), dst: netip.MustParseAddr("127.0.0.1"), proto: unix.IPPROTO_UDP}
	datagram := make([]byte, 16)
	binary.BigEndian.PutUint16(datagram, 50000)
	binary.BigEndian.PutUint16(datagram[2:], vxlanPort)
	binary.BigEndian.PutUint16(datagram[4:], uint16(16+len(frame)))
	datagram[8] = 8 // the ID is valid
	binary.BigEndian.PutUint32(datagram[12:], vxlanID<<8)
	datagram = append(datagram, frame...)
	binary.BigEndian.PutUint16(datagram[6:], checksum(append(outer.pseudo(len(datagram)), datagram...)))
	if err := unix.Sendto(u.socket, datagram, 0, &unix.SockaddrInet4{Addr: outer.dst.As4()}); err != nil {
		u.t.Fatal(err)
	}
	var value []byte
	waitFor(u.t, "the packet on its way out", func() (bool, error) {
		err := u.seen.Lookup(uint32(0), &value)
		return err == nil && binary.NativeEndian.Uint64(value[8:]) > 0, err
	})
	summed := int64(binary.NativeEndian.Uint64(value))
	if summed == notSummed {
		u.t.Fatal("the kernel has not summed up this packet (CHECKSUM_COMPLETE): nothing tested")
	}
	return value[seenHeader : seenHeader+binary.NativeEndian.Uint64(value[8:])], uint32(summed)
}

func TestSumOfTheWholePacketStaysRight(t *testing.T) {
	u := newTunnel(t)
	for _, family := range families {
		s := spliced{engine: u.engine, ends: family.ends}
		s.client, s.backend = legs(family.ends, 0x12345678, 0x9abcdef0, 0x11111111, 0x22222222, 7, 2)
		arm := func(clearECN bool) {
			s.client.clearECN, s.backend.clearECN = clearECN, clearECN
			f := flowOf(family.ends, s.client, s.backend)
			for side := range f.Legs {
				f.Legs[side].Ifindex, f.Legs[side].Way = uint32(u.index), uint8(PacketWayWAY_RAW)
			}
			u.put(f, family.ends)
		}
		check := func(t *testing.T, in, want []byte) {
			t.Helper()
			v := *u
			e := *u.engine
			v.engine, e.t = &e, t
			out, sum := v.through(in)
			wantBytes(t, out, want)
			// The kernel's sum is in the machine's order.
			native := fold(sum)
			if got := normal(binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, native))); got != normal(^checksum(out)) {
				t.Errorf("sum of the packet: got %#x, want %#x", got, normal(^checksum(out)))
			}
		}
		for _, c := range []struct {
			name     string
			clearECN bool
			change   func(s *segment)
		}{
			{"pure ACK", false, func(*segment) {}},
			{"payload", false, func(s *segment) { s.payload = []byte("an odd one!") }},
			{"longer payload", false, func(s *segment) { s.payload = make([]byte, 200) }},
			{"usual timestamps", false, func(s *segment) { s.options = []byte("\x01\x01\x08\x0a\x11\x22\x33\x44\x55\x66\x77\x88") }},
			{"odd options", false, func(s *segment) {
				s.options = []byte("\x01\x08\x0a\x11\x22\x33\x44\x55\x66\x77\x88\x05\x0a\x11\x22\x33\x44\x55\x66\x77\x88\x00\x00\x00")
			}},
			{"ECN cleared", true, func(s *segment) { s.tos = 0xb8 | 1; s.flags |= flagECE }},
			{"ECN left", false, func(s *segment) { s.tos = 0xb8 | 1; s.flags |= flagECE }},
		} {
			t.Run(family.name+", "+c.name, func(t *testing.T) {
				arm(c.clearECN)
				p := s.from(PacketSideCLIENT)
				c.change(&p)
				check(t, p.frame(), s.client.translate(p).frame())
			})
		}
		t.Run(family.name+", ICMP error", func(t *testing.T) {
			arm(false)
			sent := s.sentTo(PacketSideBACKEND)
			err := about(routers[family.name], sent, 3, 0, 0, 60)
			check(t, err.frame(), s.toldTo(PacketSideBACKEND, err, sent).frame())
		})
	}
}
