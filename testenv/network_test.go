// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestNetworkReachesBackends(t *testing.T) {
	CheckLeaks(t)
	network := MustNetwork(t, NetworkOptions{Clients: 2, Backends: 2})
	ca := MustCA(t)
	config, err := ca.ServerConfig("b.test")
	if err != nil {
		t.Fatal(err)
	}
	backend := MustBackend(t, network.Backends[1].Namespace, BackendOptions{Name: "b", TLS: config})
	for _, address := range []netip.Addr{network.Backends[1].IPv4(), network.Backends[1].IPv6()} {
		t.Run(address.String(), func(t *testing.T) {
			ctx := testContext(t)
			conn, err := network.Clients[1].DialTLS(ctx, netip.AddrPortFrom(address, backend.Port()), ca.ClientConfig("b.test"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			reply, err := TransferBoth(ctx, conn, backend, 1, 3<<20, 5<<20)
			if err != nil {
				t.Fatal(err)
			}
			local := conn.LocalAddr().String()
			if reply.ServerName != "b.test" || reply.Remote != local {
				t.Errorf("got name %q from %s, want b.test from %s", reply.ServerName, reply.Remote, local)
			}
		})
	}
	if failures := backend.Failures(); failures != nil {
		t.Errorf("backend failures: %v", failures)
	}
}

func TestNetworkReachesGateway(t *testing.T) {
	network := MustNetwork(t, NetworkOptions{})
	backend := MustBackend(t, network.Gateway, BackendOptions{Name: "gateway"})
	for _, address := range []netip.Addr{network.IPv4, network.IPv6, network.Clients[0].Uplink.IPv4} {
		conn, err := network.Clients[0].Dial(testContext(t), netip.AddrPortFrom(address, backend.Port()))
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
}

func TestHostDialsFromAddedAddress(t *testing.T) {
	network := MustNetwork(t, NetworkOptions{})
	backend := MustBackend(t, network.Backends[0].Namespace, BackendOptions{})
	address := netip.MustParseAddr("10.1.0.77")
	if err := network.Clients[0].AddAddress(address); err != nil {
		t.Fatal(err)
	}
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: address.AsSlice()}}
	conn, err := network.Clients[0].DialWith(testContext(t), dialer, netip.AddrPortFrom(network.Backends[0].IPv4(), backend.Port()))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestNetworkSetsCongestionControl(t *testing.T) {
	network := MustNetwork(t, NetworkOptions{CongestionControl: "reno"})
	var got []byte
	err := network.Clients[0].Do(func() (err error) {
		got, err = os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control")
		return err
	})
	if err != nil || strings.TrimSpace(string(got)) != "reno" {
		t.Errorf("got %q, %v, want reno", got, err)
	}
}

func TestAllowCongestionControlIsUndone(t *testing.T) {
	Privileged(t)
	before, err := os.ReadFile(allowedPath)
	if err != nil {
		t.Skip("not in the machine's first network namespace") // elsewhere the file is not there, or read-only
	}
	undo, err := AllowCongestionControl("cubic")
	if errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrNotExist) {
		t.Skip("not in the machine's first network namespace")
	}
	if err != nil {
		t.Fatal(err)
	}
	network, err := NewNetwork(NetworkOptions{CongestionControl: "cubic"})
	if err != nil {
		t.Error(err)
	} else if err := network.Close(); err != nil {
		t.Error(err)
	}
	if err := undo(); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(allowedPath)
	if err != nil || string(after) != string(before) {
		t.Errorf("got %q, %v, want %q", after, err, before)
	}
}

func TestDeviceImpaired(t *testing.T) {
	CheckLeaks(t)
	network := MustNetwork(t, NetworkOptions{})
	client, host := network.Clients[0], network.Backends[0]
	backend := MustBackend(t, host.Namespace, BackendOptions{Name: "b"})
	address := netip.AddrPortFrom(host.IPv4(), backend.Port())

	t.Run("by loss and duplicates delivers every byte", func(t *testing.T) {
		for _, device := range []*Device{client.Device, host.Device} {
			if err := device.Impair(Impairment{Loss: 0.02, Duplicate: 0.02}); err != nil {
				t.Fatal(err)
			}
		}
		before := retransmissions(t, client.Namespace)
		conn := dialPlain(t, client, address)
		if _, err := TransferBoth(testContext(t), conn, backend, 2, 8<<20, 1<<20); err != nil {
			t.Fatal(err)
		}
		if got := retransmissions(t, client.Namespace); got == before {
			t.Error("nothing was retransmitted, want losses")
		}
	})
	for name, c := range map[string]struct {
		impairment  Impairment
		least, most int // of 100 datagrams
	}{
		"by loss of all lets nothing through":   {impairment: Impairment{Loss: 1}},
		"by loss of half lets half through":     {impairment: Impairment{Loss: 0.5}, least: 20, most: 80},
		"by a duplicate of each delivers twice": {impairment: Impairment{Duplicate: 1}, least: 200, most: 200},
		"no more delivers each once":            {least: 100, most: 100},
	} {
		t.Run(name, func(t *testing.T) {
			if err := client.Device.Impair(c.impairment); err != nil {
				t.Fatal(err)
			}
			if got := countDatagrams(t, client, host, 100, c.most); got < c.least || got > c.most {
				t.Errorf("%d of 100 datagrams arrived, want %d to %d", got, c.least, c.most)
			}
			if err := client.Device.Impair(Impairment{}); err != nil {
				t.Fatal(err)
			}
		})
	}
	t.Run("by delay needs netem", func(t *testing.T) {
		err := client.Device.Impair(Impairment{Delay: 50 * time.Millisecond})
		if errors.Is(err, ErrNoNetem) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		dialPlain(t, client, address)
		if took := time.Since(start); took < 50*time.Millisecond {
			t.Errorf("connected in %v, want 50ms at least", took)
		}
	})
	t.Run("by nonsense is refused", func(t *testing.T) {
		for _, impairment := range []Impairment{{Loss: 1.5}, {Duplicate: -1}, {Reorder: 0.1}} {
			if err := client.Device.Impair(impairment); err == nil {
				t.Errorf("%+v was accepted", impairment)
			}
		}
	})
}

func TestDeviceDownIsUnreachable(t *testing.T) {
	network := MustNetwork(t, NetworkOptions{})
	client, host := network.Clients[0], network.Backends[0]
	backend := MustBackend(t, host.Namespace, BackendOptions{})
	address := netip.AddrPortFrom(host.IPv4(), backend.Port())
	if err := client.Device.SetUp(false); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Dial(testContext(t), address); !errors.Is(err, unix.ENETUNREACH) {
		t.Errorf("got %v, want network unreachable", err)
	}
}

func BenchmarkNewNetwork(b *testing.B) {
	Privileged(b)
	for b.Loop() {
		network, err := NewNetwork(NetworkOptions{Backends: 3})
		if err != nil {
			b.Fatal(err)
		}
		if err := network.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// dialPlain connects to a plain backend and sends the hello that it wants.
func dialPlain(t *testing.T, client *Host, address netip.AddrPort) *net.TCPConn {
	t.Helper()
	conn, err := client.Dial(testContext(t), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := conn.Write(MustHello(t, "b.test", HelloOptions{})); err != nil {
		t.Fatal(err)
	}
	return conn
}

// countDatagrams sends datagrams, few enough for a receive buffer, and returns
// how many arrive. Until enough have come it waits longer for the next one.
func countDatagrams(t *testing.T, from, to *Host, send, enough int) int {
	t.Helper()
	var receiver, sender net.PacketConn
	open := func(host *Host, conn *net.PacketConn) {
		err := host.Do(func() (err error) {
			*conn, err = net.ListenPacket("udp", netip.AddrPortFrom(host.IPv4(), 0).String())
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	open(to, &receiver)
	defer receiver.Close()
	open(from, &sender)
	defer sender.Close()
	for range send {
		if _, err := sender.WriteTo([]byte("x"), receiver.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	var buf [16]byte
	for received := 0; ; received++ {
		wait := 500 * time.Millisecond
		if received >= enough {
			wait = 50 * time.Millisecond
		}
		receiver.SetReadDeadline(time.Now().Add(wait))
		if _, _, err := receiver.ReadFrom(buf[:]); errors.Is(err, os.ErrDeadlineExceeded) {
			return received
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// retransmissions is the RetransSegs counter of a namespace, RFC 4022.
func retransmissions(t *testing.T, ns *Namespace) string {
	t.Helper()
	var content []byte
	err := ns.Do(func() (err error) {
		content, err = os.ReadFile("/proc/thread-self/net/snmp")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		switch {
		case fields[0] != "Tcp:":
		case names == nil:
			names = fields
		default:
			for i, name := range names {
				if name == "RetransSegs" {
					return fields[i]
				}
			}
		}
	}
	t.Fatal("no RetransSegs in /proc/net/snmp")
	return ""
}
