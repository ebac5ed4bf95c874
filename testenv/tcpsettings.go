// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// sendQueue is TCP_SEND_QUEUE of include/uapi/linux/tcp.h.
const sendQueue = 2

// TCPSettings are those of a namespace, for connections to come. The zero
// value leaves all as it is.
type TCPSettings struct {
	NoTimestamps    bool // neither offered nor accepted
	NoSACK          bool
	NoWindowScaling bool

	ECN   bool // offered and accepted; by default it is accepted only
	NoECN bool

	// WindowScale is the shift to announce, by the size that buffers may grow
	// to: 2^(15+WindowScale) bytes. 3 to 14; for less see [SocketOptions].
	WindowScale int
}

// SetTCP changes the namespace's settings, of IPv4 and IPv6 alike. They are
// never restored: they end with the namespace.
func (n *Namespace) SetTCP(s TCPSettings) error {
	if s.WindowScale != 0 && (s.WindowScale < 3 || s.WindowScale > 14) {
		return fmt.Errorf("set TCP of namespace %s: window scale %d is not between 3 and 14", n.name, s.WindowScale)
	}
	for _, setting := range []struct {
		wanted     bool
		key, value string
	}{
		{s.NoTimestamps, "tcp_timestamps", "0"},
		{s.NoSACK, "tcp_sack", "0"},
		{s.NoWindowScaling, "tcp_window_scaling", "0"},
		{s.ECN, "tcp_ecn", "1"},
		{s.NoECN, "tcp_ecn", "0"},
		{s.WindowScale != 0, "tcp_rmem", fmt.Sprintf("4096 131072 %d", 1<<(15+s.WindowScale))},
	} {
		if !setting.wanted {
			continue
		}
		if err := n.SetSysctl("net/ipv4/"+setting.key, setting.value); err != nil {
			return err
		}
	}
	return nil
}

// SocketOptions are those of one socket, set before it connects or listens.
// The zero value leaves all as it is.
type SocketOptions struct {
	// InitialSequence is the sequence number of the SYN; 0 leaves it to the
	// kernel. For sockets that connect: what accepts has the kernel's choice.
	InitialSequence uint32

	// ReceiveBuffer is SO_RCVBUF, in bytes, which the kernel doubles. 16384
	// makes for a window scale of 0.
	ReceiveBuffer int

	// MaxSegment is TCP_MAXSEG, in bytes of payload: the MSS to announce and
	// the most to send.
	MaxSegment int

	// Local is the address to connect from; the zero value is any.
	Local netip.AddrPort
}

// DialSocket connects from inside the namespace by a socket with options.
func (n *Namespace) DialSocket(ctx context.Context, options SocketOptions, remote netip.AddrPort) (*net.TCPConn, error) {
	dialer := net.Dialer{Control: options.control}
	if options.Local.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(options.Local)
	}
	return n.DialWith(ctx, dialer, remote)
}

// ListenSocket is [Namespace.Listen] by a socket with options, which accepted
// connections inherit.
func (n *Namespace) ListenSocket(options SocketOptions, address netip.AddrPort) (*net.TCPListener, error) {
	if options.InitialSequence != 0 || options.Local.IsValid() {
		return nil, fmt.Errorf("listen in namespace %s: a sequence number or local address is for sockets that connect", n.name)
	}
	config := net.ListenConfig{Control: options.control}
	config.SetMultipathTCP(false)
	var listener net.Listener
	err := n.Do(func() (err error) {
		listener, err = config.Listen(context.Background(), "tcp", address.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen in namespace %s: %w", n.name, err)
	}
	return listener.(*net.TCPListener), nil // what "tcp" always yields
}

func (o SocketOptions) control(_, _ string, raw syscall.RawConn) error {
	var err error
	controlErr := raw.Control(func(fd uintptr) { err = o.set(int(fd)) })
	if controlErr != nil {
		return controlErr
	}
	return err
}

func (o SocketOptions) set(fd int) error {
	type option struct{ level, name, value int }
	var options []option
	if o.ReceiveBuffer != 0 {
		options = append(options, option{unix.SOL_SOCKET, unix.SO_RCVBUF, o.ReceiveBuffer})
	}
	if o.MaxSegment != 0 {
		options = append(options, option{unix.IPPROTO_TCP, unix.TCP_MAXSEG, o.MaxSegment})
	}
	if o.InitialSequence != 0 {
		// The kernel's connect keeps a write_seq that is there already
		// (net/ipv4/tcp_ipv4.c, tcp_v4_connect). Out of repair it is a socket
		// like any other.
		options = append(options,
			option{unix.IPPROTO_TCP, unix.TCP_REPAIR, 1},
			option{unix.IPPROTO_TCP, unix.TCP_REPAIR_QUEUE, sendQueue},
			option{unix.IPPROTO_TCP, unix.TCP_QUEUE_SEQ, int(o.InitialSequence)},
			option{unix.IPPROTO_TCP, unix.TCP_REPAIR, 0},
		)
	}
	for _, option := range options {
		if err := unix.SetsockoptInt(fd, option.level, option.name, option.value); err != nil {
			return fmt.Errorf("set socket option %d of level %d to %d: %w", option.name, option.level, option.value, err)
		}
	}
	return nil
}
