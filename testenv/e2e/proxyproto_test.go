// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/spliceway/spliceway/testenv"
)

// opsV2Signature begins a PROXY header of version 2.
const opsV2Signature = "\r\n\r\n\x00\r\nQUIT\n"

// opsV2 builds a PROXY header of version 2 by hand: version and command (0x21 is
// PROXY, 0x20 is LOCAL), family and transport (0x11 is TCP over IPv4, 0x21 over
// IPv6), and what follows.
func opsV2(command, transport byte, rest ...[]byte) []byte {
	var body []byte
	for _, b := range rest {
		body = append(body, b...)
	}
	h := append([]byte(opsV2Signature), command, transport)
	return append(binary.BigEndian.AppendUint16(h, uint16(len(body))), body...)
}

func opsV2Addresses(from, to string) []byte {
	f, t := netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
	b := append(f.Addr().AsSlice(), t.Addr().AsSlice()...)
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, f.Port()), t.Port())
}

// opsReadV2 takes one apart again.
func opsReadV2(b []byte) (from, to netip.AddrPort, tlvs map[byte]string, err error) {
	if len(b) < 16 || string(b[:12]) != opsV2Signature || b[12] != 0x21 || b[13] != 0x11 && b[13] != 0x21 {
		return from, to, nil, fmt.Errorf("not a header for TCP: %x", b)
	}
	size := 4
	if b[13] == 0x21 {
		size = 16
	}
	rest := b[16:]
	if int(binary.BigEndian.Uint16(b[14:])) != len(rest) || len(rest) < 2*size+4 {
		return from, to, nil, fmt.Errorf("length %x of %d bytes", b[14:16], len(rest))
	}
	address := func(ip, port []byte) netip.AddrPort {
		a, _ := netip.AddrFromSlice(ip)
		return netip.AddrPortFrom(a, binary.BigEndian.Uint16(port))
	}
	from, to = address(rest[:size], rest[2*size:]), address(rest[size:2*size], rest[2*size+2:])
	tlvs = make(map[byte]string)
	for rest = rest[2*size+4:]; len(rest) >= 3; {
		n := 3 + int(binary.BigEndian.Uint16(rest[1:]))
		if n > len(rest) {
			return from, to, tlvs, fmt.Errorf("a TLV of %d bytes in %d", n, len(rest))
		}
		tlvs[rest[0]] = string(rest[3:n])
		rest = rest[n:]
	}
	if len(rest) > 0 {
		return from, to, tlvs, fmt.Errorf("%d bytes behind the TLVs", len(rest))
	}
	return from, to, tlvs, nil
}

// opsDial returns what dials and sends first.
func opsDial(host *testenv.Host, to netip.AddrPort, first []byte) func(context.Context) (*net.TCPConn, error) {
	return func(ctx context.Context) (*net.TCPConn, error) {
		c, err := host.Dial(ctx, to)
		if err != nil {
			return nil, err
		}
		if _, err := c.Write(first); err != nil {
			_ = c.Close()
			return nil, err
		}
		return c, nil
	}
}

const (
	opsV1From, opsV1To = "203.0.113.7:4711", "198.51.100.1:443"
	opsV6From, opsV6To = "[2001:db8::7]:4712", "[2001:db8:1::1]:443"
)

const (
	opsV1TCP4 = "PROXY TCP4 203.0.113.7 198.51.100.1 4711 443\r\n"
	opsV1TCP6 = "PROXY TCP6 2001:db8::7 2001:db8:1::1 4712 443\r\n"
)

func TestProxyHeaderIn(t *testing.T) {
	n := opsNetwork(t, testenv.NetworkOptions{Clients: 2})
	l := opsListen(t, n, 0)
	r := start(t, n, "endpoints:\n"+opsEndpoint("a", opsURL(opsTarget(n, 0)))+
		"proxyProtocol: {from: [10.1.0.0/24, \"fd00:1:0::/64\"]}\n")
	const up, down = 30_000, 50_000
	whole := func(c *net.TCPConn, b []byte) error {
		_, err := c.Write(b)
		return err
	}
	bytewise := func(c *net.TCPConn, b []byte) error {
		for i := range b { // TCP_NODELAY is net's default
			if _, err := c.Write(b[i : i+1]); err != nil {
				return err
			}
		}
		return nil
	}
	// through checks that a connection which begins with header arrives
	// without it, and that its line has the client that it names.
	through := func(t *testing.T, host *testenv.Host, to netip.AddrPort, header []byte, client string, send func(*net.TCPConn, []byte) error) {
		t.Helper()
		hello := opsHello(t, "a.test")
		f := &testenv.Flow{Client: opsSend(t, host, to, nil)}
		err := send(f.Client, append(bytes.Clone(header), hello...))
		if err == nil {
			f.Backend, err = testenv.Accept(short(t), l)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Backend.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		first := make([]byte, len(hello))
		if _, err := io.ReadFull(f.Backend, first); err != nil || !bytes.Equal(first, hello) {
			t.Fatalf("the backend got %q, %v", first, err)
		}
		if err := testenv.ExchangePair(short(t), f.Client, f.Backend, 1, up, down); err != nil {
			t.Error(err)
		}
		_ = f.Close()
		own := f.Client.LocalAddr().String()
		line := r.line(func(m map[string]any) bool { return m["client"] == own || m["via"] == own })
		want := map[string]any{"client": own, "via": nil, "listener": to.String(), "outcome": "routed", "end": "eof",
			"bytes_in": float64(len(hello) + up), "bytes_out": float64(down)}
		if client != "" {
			want["client"], want["via"] = client, own
		}
		for k, v := range want {
			if line[k] != v {
				t.Errorf("%s is %v, want %v: %v", k, line[k], v, line)
			}
		}
	}
	four, six := opsGateway(n), netip.AddrPortFrom(n.IPv6, gatewayPort)
	noop := []byte{0x04, 0, 3, 'a', 'b', 'c'}

	for _, tc := range []struct {
		name   string
		header []byte
		client string // empty: the socket's
	}{
		{"v1", []byte(opsV1TCP4), opsV1From},
		{"v1 IPv6", []byte(opsV1TCP6), opsV6From},
		{"v1 UNKNOWN", []byte("PROXY UNKNOWN\r\n"), ""},
		{"v1 UNKNOWN with addresses", []byte("PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n"), ""},
		{"v2", opsV2(0x21, 0x11, opsV2Addresses(opsV1From, opsV1To)), opsV1From},
		{"v2 IPv6", opsV2(0x21, 0x21, opsV2Addresses(opsV6From, opsV6To)), opsV6From},
		{"v2 with a TLV", opsV2(0x21, 0x11, opsV2Addresses(opsV1From, opsV1To), noop), opsV1From},
		{"v2 with 3 KB of TLV", opsV2(0x21, 0x11, opsV2Addresses(opsV1From, opsV1To), []byte{0x04, 0x0c, 0}, make([]byte, 0x0c00)), opsV1From},
		{"v2 LOCAL", opsV2(0x20, 0x00), ""},
		{"v2 LOCAL with addresses", opsV2(0x20, 0x11, opsV2Addresses(opsV1From, opsV1To)), ""},
		{"v2 UNSPEC", opsV2(0x21, 0x00), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Run("in one segment with the hello", func(t *testing.T) { through(t, n.Clients[0], six, tc.header, tc.client, whole) })
			t.Run("in segments of one byte", func(t *testing.T) { through(t, n.Clients[0], four, tc.header, tc.client, bytewise) })
		})
	}

	refused := func(t *testing.T, host *testenv.Host, b []byte, outcome string) {
		t.Helper()
		c := opsSend(t, host, four, b)
		if err := testenv.ExpectEOF(c, patience); err != nil {
			t.Error(err)
		}
		if line := r.lineOf(c.LocalAddr()); line["outcome"] != outcome || outcome == "bad_proxy_header" && line["reason"] == nil {
			t.Errorf("access line: %v", line)
		}
	}
	hello := opsHello(t, "a.test")
	for _, tc := range []struct {
		name   string
		header []byte
	}{
		{"no header", nil},
		{"v1 of no protocol", []byte("PROXY TCP5 203.0.113.7 198.51.100.1 4711 443\r\n")},
		{"v1 without addresses", []byte("PROXY TCP4\r\n")},
		{"v1 with a port too large", []byte("PROXY TCP4 203.0.113.7 198.51.100.1 65536 443\r\n")},
		{"v1 with an address of the other family", []byte("PROXY TCP4 2001:db8::7 2001:db8::1 4711 443\r\n")},
		{"v1 in lower case", []byte("proxy tcp4 203.0.113.7 198.51.100.1 4711 443\r\n")},
		{"v1 without an end", []byte("PROXY TCP4 " + strings.Repeat("1", 200))},
		{"v2 of version 3", opsV2(0x31, 0x11, opsV2Addresses(opsV1From, opsV1To))},
		{"v2 of no command", opsV2(0x22, 0x11, opsV2Addresses(opsV1From, opsV1To))},
		{"v2 too short for its addresses", opsV2(0x21, 0x11, []byte{1, 2, 3})},
		{"v2 of UDP", opsV2(0x21, 0x12, opsV2Addresses(opsV1From, opsV1To))},
		{"v2 of a Unix socket", opsV2(0x21, 0x31, make([]byte, 216))},
		{"v2 of 60 KB", opsV2(0x21, 0x11, make([]byte, 60_000))},
	} {
		t.Run("trusted with "+tc.name, func(t *testing.T) {
			refused(t, n.Clients[0], append(bytes.Clone(tc.header), hello...), "bad_proxy_header")
		})
	}
	t.Run("untrusted with v1", func(t *testing.T) {
		refused(t, n.Clients[1], append([]byte(opsV1TCP4), hello...), "not_tls")
	})
	t.Run("untrusted with v2", func(t *testing.T) {
		refused(t, n.Clients[1], append(opsV2(0x21, 0x11, opsV2Addresses(opsV1From, opsV1To)), hello...), "not_tls")
	})
	t.Run("untrusted without a header", func(t *testing.T) { through(t, n.Clients[1], four, nil, "", whole) })
}

func TestProxyHeaderOut(t *testing.T) {
	n := opsNetwork(t, testenv.NetworkOptions{Clients: 2})
	l := opsListen(t, n, 0)
	target := opsURL(opsTarget(n, 0))
	r := start(t, n, "endpoints:\n"+opsEndpoint("one", target+", proxyProtocol: v1")+opsEndpoint("two", target+", proxyProtocol: v2")+
		"fallback: {noSNI: two}\n"+
		"proxyProtocol: {from: [10.1.1.0/24, \"fd00:1:1::/64\"]}\n")
	const up, down = 30_000, 50_000
	// open opens a flow through endpoint NAME by a connection that begins with
	// first, and returns the header that the backend got, the client's own
	// address and the access line.
	open := func(t *testing.T, host *testenv.Host, to netip.AddrPort, first []byte, name string, o testenv.HelloOptions) (header []byte, own netip.AddrPort, line map[string]any) {
		t.Helper()
		o.Classical = true
		hello := testenv.MustHello(t, name+".test", o)
		f, header, err := testenv.OpenFlow(short(t), opsDial(host, to, first), l, hello)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := testenv.ExchangePair(short(t), f.Client, f.Backend, 1, up, down); err != nil {
			t.Error(err)
		}
		_ = f.Close()
		own = f.Client.LocalAddr().(*net.TCPAddr).AddrPort()
		line = r.line(func(m map[string]any) bool { return m["client"] == own.String() || m["via"] == own.String() })
		if line["outcome"] != "routed" || line["end"] != "eof" || line["bytes_in"] != float64(len(hello)+up) || line["bytes_out"] != float64(down) {
			t.Errorf("access line of %d and %d bytes: %v", len(hello)+up, down, line)
		}
		return header, own, line
	}
	isV2 := func(t *testing.T, header []byte, from, to string, line map[string]any, authority, alpn string) {
		t.Helper()
		gotFrom, gotTo, tlvs, err := opsReadV2(header)
		if err != nil {
			t.Fatal(err)
		}
		if gotFrom.String() != from || gotTo.String() != to {
			t.Errorf("from %s to %s, want %s to %s", gotFrom, gotTo, from, to)
		}
		want := map[byte]string{5: line["id"].(string)}
		if authority != "" {
			want[2] = authority
		}
		if alpn != "" {
			want[1] = alpn
		}
		if d := cmp.Diff(want, tlvs); d != "" {
			t.Errorf("TLVs (-want +got):\n%s", d)
		}
	}
	four, six := opsGateway(n), netip.AddrPortFrom(n.IPv6, gatewayPort)
	direct, proxied := n.Clients[0], n.Clients[1]

	t.Run("v1", func(t *testing.T) {
		header, own, _ := open(t, direct, four, nil, "one", testenv.HelloOptions{})
		if want := fmt.Sprintf("PROXY TCP4 %s %s %d %d\r\n", own.Addr(), four.Addr(), own.Port(), four.Port()); string(header) != want {
			t.Errorf("got %q, want %q", header, want)
		}
	})
	t.Run("v1 IPv6", func(t *testing.T) {
		header, own, _ := open(t, direct, six, nil, "one", testenv.HelloOptions{})
		if want := fmt.Sprintf("PROXY TCP6 %s %s %d %d\r\n", own.Addr(), six.Addr(), own.Port(), six.Port()); string(header) != want {
			t.Errorf("got %q, want %q", header, want)
		}
	})
	t.Run("v2 with name, protocol and ID", func(t *testing.T) {
		header, own, line := open(t, direct, four, nil, "two", testenv.HelloOptions{ALPN: []string{"h2", "http/1.1"}})
		isV2(t, header, own.String(), four.String(), line, "two.test", "h2")
	})
	t.Run("v2 IPv6", func(t *testing.T) {
		header, own, line := open(t, direct, six, nil, "two", testenv.HelloOptions{})
		isV2(t, header, own.String(), six.String(), line, "two.test", "")
	})
	t.Run("v2 without a name", func(t *testing.T) {
		header, own, line := open(t, direct, four, nil, "two", testenv.HelloOptions{NoSNI: true})
		isV2(t, header, own.String(), four.String(), line, "", "")
	})
	t.Run("v2 passes on what v1 said", func(t *testing.T) {
		header, _, line := open(t, proxied, four, []byte(opsV1TCP6), "two", testenv.HelloOptions{})
		isV2(t, header, opsV6From, opsV6To, line, "two.test", "")
	})
	t.Run("v1 passes on what v2 said", func(t *testing.T) {
		header, _, _ := open(t, proxied, six, opsV2(0x21, 0x11, opsV2Addresses(opsV1From, opsV1To)), "one", testenv.HelloOptions{})
		if string(header) != opsV1TCP4 {
			t.Errorf("got %q, want %q", header, opsV1TCP4)
		}
	})
	t.Run("v2 says who sent LOCAL", func(t *testing.T) {
		header, own, line := open(t, proxied, four, opsV2(0x20, 0x00), "two", testenv.HelloOptions{})
		isV2(t, header, own.String(), four.String(), line, "two.test", "")
	})
	t.Run("to a backend of TLS", func(t *testing.T) {
		ca := testenv.MustCA(t)
		conf, err := ca.ServerConfig("two.test")
		if err != nil {
			t.Fatal(err)
		}
		b := testenv.MustBackend(t, n.Backends[0].Namespace, testenv.BackendOptions{Name: "tls", TLS: conf})
		opsReload(r, "endpoints:\n"+opsEndpoint("two", fmt.Sprintf("url: \"tls://%s:%d\", proxyProtocol: v2", n.Backends[0].IPv4(), b.Port())))
		c, err := direct.DialTLS(short(t), four, ca.ClientConfig("two.test"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		reply, err := testenv.TransferBoth(short(t), c, b, 1, up, down)
		if err != nil {
			t.Fatal(err)
		}
		if p := reply.Proxy; p == nil || p.Source != c.LocalAddr().String() || string(p.TLV(2)) != "two.test" {
			t.Errorf("got %+v", p)
		}
	})
}
