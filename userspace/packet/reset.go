// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/maps"
)

// resetSender sends RSTs in the name of the gateway's two ends of a flow, through raw
// sockets: the kernel has no TCP sockets for them any more.
type resetSender struct{ fd4, fd6 int }

func openResetSender() (resetSender, error) {
	var r resetSender
	var err error
	if r.fd4, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW); err != nil {
		return r, fmt.Errorf("open raw socket: %w", err)
	}
	r.fd6, err = unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		r.fd6 = -1
	} else if err != nil {
		_ = unix.Close(r.fd4)
		return r, fmt.Errorf("open raw socket: %w", err)
	}
	return r, nil
}

func (r resetSender) close() {
	_ = unix.Close(r.fd4)
	if r.fd6 >= 0 {
		_ = unix.Close(r.fd6)
	}
}

// send resets both legs. The sequence number is the one that the end wants next, as
// far as its packets told: RFC 5961 has it believed at once. If data is on its way,
// and that was not the last word, the end asks, and the kernel answers.
func (r resetSender) send(f *maps.Flow) error {
	return errors.Join(
		r.sendOne(f.Listener, f.Client, f.NextAck[maps.Client]),
		r.sendOne(f.Local, f.Backend, f.NextAck[maps.Backend]),
	)
}

func (r resetSender) sendOne(from, to netip.AddrPort, seq uint32) error {
	p := resetPacket(from, to, seq)
	var err error
	if to.Addr().Is4() {
		err = unix.Sendto(r.fd4, p, unix.MSG_DONTWAIT, &unix.SockaddrInet4{Addr: to.Addr().As4()})
	} else {
		err = unix.Sendto(r.fd6, p, unix.MSG_DONTWAIT, &unix.SockaddrInet6{Addr: to.Addr().As16()})
	}
	if err != nil {
		return fmt.Errorf("reset %s: %w", to, err)
	}
	return nil
}

const (
	tcpHeader = 20
	flagRST   = 0x04
	hops      = 64
)

// resetPacket is an IP packet with a bare RST (RFC 9293, section 3.5.2).
func resetPacket(from, to netip.AddrPort, seq uint32) []byte {
	src, dst := from.Addr().AsSlice(), to.Addr().AsSlice()
	var ip []byte
	if to.Addr().Is4() {
		// The kernel fills in length, identification and checksum (raw(7)).
		ip = make([]byte, 20, 20+tcpHeader)
		ip[0], ip[8], ip[9] = 0x45, hops, unix.IPPROTO_TCP
		binary.BigEndian.PutUint16(ip[2:], 20+tcpHeader)
		copy(ip[12:], src)
		copy(ip[16:], dst)
	} else {
		ip = make([]byte, 40, 40+tcpHeader)
		ip[0], ip[6], ip[7] = 0x60, unix.IPPROTO_TCP, hops
		binary.BigEndian.PutUint16(ip[4:], tcpHeader)
		copy(ip[8:], src)
		copy(ip[24:], dst)
	}
	tcp := make([]byte, tcpHeader)
	binary.BigEndian.PutUint16(tcp, from.Port())
	binary.BigEndian.PutUint16(tcp[2:], to.Port())
	binary.BigEndian.PutUint32(tcp[4:], seq)
	tcp[12], tcp[13] = tcpHeader/4<<4, flagRST
	binary.BigEndian.PutUint16(tcp[16:], checksum(src, dst, []byte{0, unix.IPPROTO_TCP, 0, tcpHeader}, tcp))
	return append(ip, tcp...)
}

// checksum is the Internet checksum of parts of even length (RFC 1071).
func checksum(parts ...[]byte) uint16 {
	var sum uint32
	for _, p := range parts {
		for i := 0; i < len(p); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(p[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
