// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pires/go-proxyproto"
)

func TestBackendIdentifies(t *testing.T) {
	CheckLeaks(t)
	ca := MustCA(t)
	config, err := ca.ServerConfig("a.test", "*.a.test")
	if err != nil {
		t.Fatal(err)
	}
	config.NextProtos = []string{"h2"}
	backend := MustBackend(t, nil, BackendOptions{Name: "a", TLS: config, Address: netip.MustParseAddrPort("127.0.0.1:0")})

	v1 := proxyproto.HeaderProxyFromAddrs(1, tcpAddr("192.0.2.1:1000"), tcpAddr("192.0.2.2:443"))
	v2 := proxyproto.HeaderProxyFromAddrs(2, tcpAddr("[2001:db8::1]:1000"), tcpAddr("[2001:db8::2]:443"))
	if err := v2.SetTLVs([]proxyproto.TLV{{Type: proxyproto.PP2_TYPE_AUTHORITY, Value: []byte("x.a.test")}}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		header *proxyproto.Header
		want   *ProxyHeader
	}{
		"without a PROXY header": {},
		"a PROXY header version 1": {
			header: v1,
			want:   &ProxyHeader{Version: 1, Source: "192.0.2.1:1000", Destination: "192.0.2.2:443"},
		},
		"a PROXY header version 2 with TLVs": {
			header: v2,
			want: &ProxyHeader{
				Version: 2, Source: "[2001:db8::1]:1000", Destination: "[2001:db8::2]:443",
				TLVs: []TLV{{Type: 2, Value: []byte("x.a.test")}},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			raw := dialLocal(t, backend)
			if c.header != nil {
				if _, err := c.header.WriteTo(raw); err != nil {
					t.Fatal(err)
				}
			}
			clientConfig := ca.ClientConfig("x.a.test")
			clientConfig.NextProtos = []string{"h2"}
			conn := tls.Client(raw, clientConfig)
			got, err := Ask(conn, Request{})
			if err != nil {
				t.Fatal(err)
			}
			want := Reply{
				Backend: "a", ServerName: "x.a.test", ALPN: "h2", TLSVersion: tls.VersionTLS13,
				Remote: raw.LocalAddr().String(), Local: raw.RemoteAddr().String(), Proxy: c.want,
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("reply differs (-want +got):\n%s", diff)
			}
			if err := ExpectEOF(conn, time.Second); err != nil {
				t.Error(err)
			}
		})
	}
	if failures := backend.Failures(); failures != nil {
		t.Errorf("backend failures: %v", failures)
	}
}

func TestBackendModes(t *testing.T) {
	CheckLeaks(t)
	backend := MustBackend(t, nil, BackendOptions{Name: "plain"})
	data := bytes.Repeat([]byte("0123456789"), 100_000)
	sum := sha256.Sum256(data)
	t.Run("echo", func(t *testing.T) {
		conn := askPlain(t, backend, Request{Mode: Echo})
		go func() {
			conn.Write(data)
			conn.CloseWrite()
		}()
		if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, data) {
			t.Errorf("got %d bytes, %v, want what was sent", len(got), err)
		}
	})
	t.Run("source", func(t *testing.T) {
		conn := askPlain(t, backend, Request{Mode: Source, Down: 1_234_567})
		if n, err := io.Copy(io.Discard, conn); n != 1_234_567 || err != nil {
			t.Errorf("got %d bytes, %v", n, err)
		}
	})
	t.Run("sink", func(t *testing.T) {
		conn := askPlain(t, backend, Request{Mode: Sink, Hash: true, ID: 7})
		conn.Write(data)
		conn.CloseWrite()
		want := Digest{Bytes: int64(len(data)), SHA256: hex.EncodeToString(sum[:])}
		if got, err := ReadDigest(conn); got != want || err != nil {
			t.Errorf("got %v, %v, want %v", got, err, want)
		}
		session, err := backend.Session(testContext(t), 7)
		if err != nil || session.Received != want || len(session.Hello) == 0 {
			t.Errorf("got session %+v, %v", session, err)
		}
	})
	t.Run("unknown fails", func(t *testing.T) {
		askPlain(t, backend, Request{Mode: "nonsense", ID: 8})
		if session, err := backend.Session(testContext(t), 8); err != nil || session.Err == nil {
			t.Errorf("got session %+v, %v, want an error in it", session, err)
		}
	})
}

func TestExchangePairNoticesFaults(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func([]byte) []byte
		want  string // in the error; empty: none
	}{
		"none":              {spoil: func(b []byte) []byte { return b }},
		"a changed byte":    {spoil: func(b []byte) []byte { b[1000] ^= 1; return b }, want: "byte 1000 is"},
		"a missing byte":    {spoil: func(b []byte) []byte { return b[:len(b)-1] }, want: "stream ended after 99999 of 100000"},
		"a byte too many":   {spoil: func(b []byte) []byte { return append(b, 0) }, want: "arrived, want 100000"},
		"two bytes swapped": {spoil: func(b []byte) []byte { b[10], b[11] = b[11], b[10]; return b }, want: "byte 10 is"},
	} {
		t.Run(name, func(t *testing.T) {
			CheckLeaks(t)
			client, inner := pair(t)
			outer, backend := pair(t)
			go func() { // a relay that holds all of one direction, and spoils it
				data, _ := io.ReadAll(inner)
				outer.Write(c.spoil(data))
				outer.CloseWrite()
			}()
			go func() {
				io.Copy(inner, outer)
				inner.CloseWrite()
			}()
			err := ExchangePair(testContext(t), client, backend, 4, 100_000, 200_000)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q in it", err, c.want)
			}
		})
	}
}

func TestOpenFlow(t *testing.T) {
	CheckLeaks(t)
	listener := listenLocal(t)
	hello := MustHello(t, "a.test", HelloOptions{})
	dial := func(prefix string) func(context.Context) (*net.TCPConn, error) {
		return func(context.Context) (*net.TCPConn, error) {
			conn, err := net.DialTCP("tcp", nil, listener.Addr().(*net.TCPAddr))
			if err == nil {
				_, err = io.WriteString(conn, prefix)
			}
			return conn, err
		}
	}
	t.Run("returns what came before the hello", func(t *testing.T) {
		flow, prefix, err := OpenFlow(testContext(t), dial("PROXY UNKNOWN\r\n"), listener, hello)
		if err != nil {
			t.Fatal(err)
		}
		defer flow.Close()
		if string(prefix) != "PROXY UNKNOWN\r\n" {
			t.Errorf("got prefix %q", prefix)
		}
	})
	t.Run("hands a reset and an end over", func(t *testing.T) {
		flow, _, err := OpenFlow(testContext(t), dial(""), listener, hello)
		if err != nil {
			t.Fatal(err)
		}
		defer flow.Close()
		if err := flow.Backend.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if err := ExpectEOF(flow.Client, time.Second); err != nil {
			t.Error(err)
		}
		if err := Reset(flow.Client); err != nil {
			t.Fatal(err)
		}
		if err := ExpectReset(flow.Backend, time.Second); err != nil {
			t.Error(err)
		}
	})
	t.Run("ends with its context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		other := listenLocal(t)
		if flow, _, err := OpenFlow(ctx, dial(""), other, hello); err == nil {
			flow.Close()
			t.Error("a flow opened where nothing arrives")
		}
	})
}

func askPlain(t *testing.T, backend *Backend, request Request) *net.TCPConn {
	t.Helper()
	conn := dialLocal(t, backend)
	if _, err := conn.Write(MustHello(t, "a.test", HelloOptions{})); err != nil {
		t.Fatal(err)
	}
	if _, err := Ask(conn, request); err != nil {
		t.Fatal(err)
	}
	return conn
}

func dialLocal(t *testing.T, backend *Backend) *net.TCPConn {
	t.Helper()
	address := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), backend.Port())
	conn, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(address))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func pair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	listener := listenLocal(t)
	a, err := net.DialTCP("tcp", nil, listener.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	if b, err = Accept(testContext(t), listener); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return a, b
}

func listenLocal(t *testing.T) *net.TCPListener {
	t.Helper()
	listener, err := net.ListenTCP("tcp", tcpAddr("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener
}

func tcpAddr(s string) *net.TCPAddr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }
