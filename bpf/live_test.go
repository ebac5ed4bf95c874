// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv"
)

// The kernel's test run has packets whose checksum nobody has looked at. On devices
// there are also those that a device is yet to complete (CHECKSUM_PARTIAL), which is
// what sockets send.

func TestSplicedOnTheLoopbackDevice(t *testing.T) {
	for _, family := range families {
		t.Run(family.name, func(t *testing.T) {
			g := newGateway(t, family.name, gatewayOptions{})
			attach(t, g.ns, g.PacketIngress, ebpf.AttachTCXIngress, 1)
			attach(t, g.ns, g.PacketEgress, ebpf.AttachTCXEgress, 1)
			g.converse(g.ns, g.ns)
		})
	}
}

// converse has both ends send what they have at once, the backend first, and checks
// that it went by the program, arrived and had checksums that the kernel believed.
func (g *gateway) converse(clientNS, backendNS *testenv.Namespace) {
	g.t.Helper()
	const seed, size = 22, 4 << 20
	r := rand.New(rand.NewPCG(seed, 0))
	up, down := randomBytes(r, size), randomBytes(r, size)
	first := []byte("ServerHello")

	var transfers errgroup.Group
	send := func(fd int, data []byte) error {
		for len(data) > 0 {
			var n int
			err := again(func() (err error) {
				n, err = unix.Write(fd, data)
				return err
			})
			if err != nil {
				return err
			}
			data = data[n:]
		}
		return nil
	}
	receive := func(who string, fd int, want []byte) error {
		got := make([]byte, len(want))
		if _, err := io.ReadFull(descriptor(fd), got); err != nil {
			return fmt.Errorf("%s: read: %w", who, err)
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("%s: got other bytes than were sent", who)
		}
		return nil
	}
	if err := errors.Join(send(g.backend, first), receive("client", g.client, first), receive("backend", g.backend, []byte(hello))); err != nil {
		g.t.Fatal(err)
	}
	g.wantState(PacketStateSPLICED)
	g.wantEvents(splicedEvent)
	transfers.Go(func() error { return send(g.client, up) })
	transfers.Go(func() error { return send(g.backend, down) })
	transfers.Go(func() error { return receive("client", g.client, down) })
	transfers.Go(func() error { return receive("backend", g.backend, up) })
	if err := transfers.Wait(); err != nil {
		g.t.Fatal(err)
	}
	counted := g.counted()
	if counted[PacketPacketCountTRANSLATED] < 2 || counted[PacketPacketCountDROPPED_ERROR] != 0 {
		g.t.Errorf("counted: %v", counted)
	}
	for _, ns := range []*testenv.Namespace{clientNS, backendNS} {
		if n := badChecksums(g.t, ns); n != 0 {
			g.t.Errorf("%s: %d segments with a wrong checksum", ns.Name(), n)
		}
	}
}

// descriptor reads from a blocking socket; it gives up with the socket's own
// SO_RCVTIMEO.
type descriptor int

func (d descriptor) Read(b []byte) (n int, err error) {
	err = again(func() (err error) {
		n, err = unix.Read(int(d), b)
		return err
	})
	if n == 0 && err == nil {
		err = io.EOF
	}
	return max(n, 0), err
}

// badChecksums is how many TCP segments with a wrong checksum came into a namespace.
func badChecksums(t testing.TB, ns *testenv.Namespace) (n int) {
	t.Helper()
	err := ns.Do(func() error {
		snmp, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		var names []string
		for line := range strings.Lines(string(snmp)) {
			fields := strings.Fields(line)
			switch {
			case fields[0] != "Tcp:":
			case names == nil:
				names = fields
			default:
				for i, name := range names {
					if name == "InCsumErrors" {
						n, err = strconv.Atoi(fields[i])
						return err
					}
				}
			}
		}
		return errors.New("no InCsumErrors in /proc/net/snmp")
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// On links, each of which may compute checksums or leave it to the device. A packet
// that came in to be completed later goes out complete where the device cannot, so
// that what the program made of it is what the other end checks.
func TestSplicedBetweenDevices(t *testing.T) {
	for _, family := range families {
		for _, offload := range []struct{ client, uplinks, backend bool }{
			{true, true, true}, {false, false, false}, {true, false, true}, {false, true, false},
		} {
			t.Run(fmt.Sprintf("%s, checksums left to the device by ends %t, by the gateway %t", family.name, offload.client, offload.uplinks), func(t *testing.T) {
				network := testenv.MustNetwork(t, testenv.NetworkOptions{})
				client, backend := network.Clients[0], network.Backends[0]
				g := &gateway{engine: load(t), ns: network.Gateway}
				setOffload(t, client.Device, offload.client)
				setOffload(t, backend.Device, offload.backend)
				setOffload(t, client.Uplink, offload.uplinks)
				setOffload(t, backend.Uplink, offload.uplinks)

				front, to := client.Uplink.IPv4, backend.IPv4()
				if family.name == "IPv6" {
					front, to = client.Uplink.IPv6, backend.IPv6()
				}
				g.client, g.a, g.ends.client, g.front = connection(t, client.Namespace, network.Gateway, front, nil)
				g.b, g.backend, g.back, g.ends.backend = connection(t, network.Gateway, backend.Namespace, to, nil)
				g.sayHello()
				g.arm()
				for _, device := range []*testenv.Device{client.Uplink, backend.Uplink} {
					index := indexOf(t, device)
					if err := g.Devices.Put(uint32(index), PacketDevice{}); err != nil {
						t.Fatal(err)
					}
					attach(t, g.ns, g.PacketIngress, ebpf.AttachTCXIngress, index)
					attach(t, g.ns, g.PacketEgress, ebpf.AttachTCXEgress, index)
				}
				g.converse(client.Namespace, backend.Namespace)
			})
		}
	}
}

func indexOf(t *testing.T, d *testenv.Device) (index int) {
	t.Helper()
	err := d.Namespace.Do(func() error {
		i, err := net.InterfaceByName(d.Name)
		if err == nil {
			index = i.Index
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return index
}

// setOffload says whether packets may leave checksums to a device, as ethtool -K tx
// does.
func setOffload(t *testing.T, d *testenv.Device, on bool) {
	t.Helper()
	const setTxChecksums = 0x17 // ETHTOOL_STXCSUM
	value := struct{ cmd, data uint32 }{cmd: setTxChecksums}
	if on {
		value.data = 1
	}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:], d.Name)
	err := d.Namespace.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
			return fmt.Errorf("set checksum offload of %s: %w", d.Name, errno)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
