// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// captureBuffer is the kernel's memory for packets not yet read, in bytes
	// as it counts them.
	captureBuffer = 256 << 20

	// maxPacket is more than any packet, those before segmentation included.
	maxPacket = 64<<10 + 64
)

// packetSocket is an AF_PACKET socket on one device, for packets from the IP
// header on, whether the device has another header or not.
type packetSocket struct {
	device *Device
	fd     int // -1 when closed
	index  int
	buf    []byte
}

// Seen is a packet at a device.
type Seen struct {
	Packet
	Time     time.Time // when the kernel saw it
	Outgoing bool      // it left by the device, whoever made it

	// Unfinished says that the checksum is left to the device, as it is on
	// veth for what the kernel's own sockets send; so it was not checked.
	Unfinished bool
}

func (s Seen) String() string {
	way := "in "
	if s.Outgoing {
		way = "out"
	}
	return s.Time.Format("05.000000 ") + way + " " + s.Packet.String()
}

func newPacketSocket(device *Device) (*packetSocket, error) {
	s := &packetSocket{device: device, fd: -1, buf: make([]byte, maxPacket)}
	link, err := device.Namespace.link.LinkByName(device.Name)
	if err == nil {
		s.index = link.Attrs().Index
		err = device.Namespace.Do(s.open)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open packet socket on %s of namespace %s: %w", device.Name, device.Namespace.name, err), s.close())
	}
	return s, nil
}

func (s *packetSocket) open() (err error) {
	// No protocol yet: it would take packets of every device until it is bound.
	s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(
		unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer),
		unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.SetsockoptInt(s.fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.Bind(s.fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: s.index}),
	)
}

func (s *packetSocket) close() error {
	if s.fd < 0 {
		return nil
	}
	err := unix.Close(s.fd)
	s.fd = -1
	return err
}

// drain returns the TCP and ICMP packets that came since the last call. The
// kernel queues a packet before it lets it pass, so whatever had happened
// before the call is in it. Packets lost for want of memory are an error.
func (s *packetSocket) drain() ([]Seen, error) {
	var list []Seen
	control := make([]byte, 256)
	for {
		n, controlLen, flags, from, err := unix.Recvmsg(s.fd, s.buf, control, 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return list, s.checkDrops()
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil: // ENETDOWN: the device was taken down, once
			return list, fmt.Errorf("read packets of %s: %w", s.device.Name, err)
		case flags&unix.MSG_TRUNC != 0:
			return list, fmt.Errorf("read packets of %s: one is larger than %d bytes", s.device.Name, len(s.buf))
		}
		packet, err := ParsePacket(s.buf[:n])
		if err != nil {
			continue // ARP, UDP, neighbour discovery with extension headers, ...
		}
		seen := Seen{Packet: packet}
		if link, ok := from.(*unix.SockaddrLinklayer); ok {
			seen.Outgoing = link.Pkttype == unix.PACKET_OUTGOING
		}
		if err := seen.readControl(control[:controlLen]); err != nil {
			return list, fmt.Errorf("read packets of %s: %w", s.device.Name, err)
		}
		list = append(list, seen)
	}
}

func (s *Seen) readControl(control []byte) error {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return err
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= int(unsafe.Sizeof(unix.Timespec{})):
			s.Time = time.Unix((*unix.Timespec)(unsafe.Pointer(&m.Data[0])).Unix())
		case m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 4:
			status := binary.NativeEndian.Uint32(m.Data) // tp_status, first in struct tpacket_auxdata
			s.Unfinished = status&unix.TP_STATUS_CSUMNOTREADY != 0
		}
	}
	s.BadChecksum = s.BadChecksum && !s.Unfinished
	return nil
}

func (s *packetSocket) checkDrops() error {
	stats, err := unix.GetsockoptTpacketStats(s.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return fmt.Errorf("read statistics of %s: %w", s.device.Name, err)
	}
	if stats.Drops > 0 {
		return fmt.Errorf("read packets of %s: %d were lost for want of memory: read more often", s.device.Name, stats.Drops)
	}
	return nil
}

// send puts an IP packet on the link, to a link-layer address that devices
// without one ignore.
func (s *packetSocket) send(packet []byte, hardware []byte) error {
	to := &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_IP), Ifindex: s.index, Halen: uint8(len(hardware))}
	if packet[0]>>4 == 6 {
		to.Protocol = networkOrder(unix.ETH_P_IPV6)
	}
	copy(to.Addr[:], hardware)
	if err := unix.Sendto(s.fd, packet, 0, to); err != nil {
		return fmt.Errorf("send packet by %s of namespace %s: %w", s.device.Name, s.device.Namespace.name, err)
	}
	return nil
}

func networkOrder(n uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n))
}
