// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/spliceway/spliceway/userspace/telemetry"
)

func TestProxyHeaderLength(t *testing.T) {
	v2 := func(length int) string {
		return v2Signature + "\x21\x11" + string([]byte{byte(length >> 8), byte(length)}) + strings.Repeat("x", length)
	}
	tests := []struct {
		name, in     string
		length, need int
		err          bool
	}{
		{"first byte of v1", "P", 0, 2, false},
		{"v1 without its end", "PROXY TCP4 1.2.3.4 1.2.3.5 1 2\r", 0, 32, false},
		{"v1", "PROXY TCP4 1.2.3.4 1.2.3.5 1 2\r\nmore", 32, 0, false},
		{"v1 that is too long", "PROXY " + strings.Repeat("x", maxV1), 0, 0, true},
		{"v1 whose end is too late", "PROXY " + strings.Repeat("x", maxV1-7) + "\r\n", 0, 0, true},
		{"first byte of v2", "\r", 0, v2Header, false},
		{"v2 header alone", v2(12)[:v2Header], 0, v2Header + 12, false},
		{"v2 without its last byte", v2(12)[:v2Header+11], 0, v2Header + 12, false},
		{"v2", v2(12) + "more", v2Header + 12, 0, false},
		{"v2 that is too long", v2(maxV2)[:v2Header], 0, 0, true},
		{"TLS", "\x16\x03\x01", 0, 0, true},
		{"almost v1", "PROXX", 0, 0, true},
		{"almost v2", "\r\n\r\n\x01", 0, 0, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			length, need, err := proxyHeaderLength([]byte(tt.in))
			if length != tt.length || need != tt.need || (err != nil) != tt.err {
				t.Errorf("got %d, %d, %v; want %d, %d, error %v", length, need, err, tt.length, tt.need, tt.err)
			}
		})
	}
}

// FuzzProxyHeader: whatever a trusted network sends, the header is either refused
// or has a length within the bytes; and every prefix waits for more, or is refused
// for a reason that more bytes do not mend.
func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte("PROXY TCP4 1.2.3.4 1.2.3.5 1 2\r\n"))
	f.Add([]byte("PROXY UNKNOWN\r\n"))
	f.Add([]byte(v2Signature + "\x21\x11\x00\x0c\x01\x02\x03\x04\x05\x06\x07\x08\x00\x01\x00\x02"))
	f.Add([]byte(v2Signature + "\x20\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		length, need, err := proxyHeaderLength(b)
		switch {
		case err != nil:
			return
		case need > 0 && need <= len(b):
			t.Fatalf("needs %d bytes and has %d", need, len(b))
		case need == 0 && (length <= 0 || length > len(b)):
			t.Fatalf("length %d of %d bytes", length, len(b))
		case need == 0:
			_, _, _ = decodeProxyHeader(bufio.NewReader(bytes.NewReader(b[:length])))
		}
		for i := range min(len(b), 64) {
			l, n, err := proxyHeaderLength(b[:i])
			if err != nil || n == 0 && l != length {
				t.Fatalf("%d bytes of it: %d, %d, %v", i, l, n, err)
			}
		}
	})
}

func TestProxyHeaderForTheBackend(t *testing.T) {
	from, to := netip.MustParseAddrPort("10.1.0.2:4000"), netip.MustParseAddrPort("10.0.0.1:443")
	from6, to6 := netip.MustParseAddrPort("[fd00::2]:4000"), netip.MustParseAddrPort("[fd00::1]:443")
	header := func(v ProxyVersion, from, to netip.AddrPort, id string) []byte {
		c := &conn{from: from, to: to, rec: &telemetry.Record{ID: id, SNI: "a.test", ALPN: []string{"h2", "http/1.1"}}}
		c.target = &Endpoint{ProxyHeader: v}
		return c.proxyHeader()
	}
	if b := header(0, from, to, "id"); b != nil {
		t.Errorf("version 0: got %q", b)
	}
	if got, want := string(header(1, from, to, "id")), "PROXY TCP4 10.1.0.2 10.0.0.1 4000 443\r\n"; got != want {
		t.Errorf("version 1: got %q, want %q", got, want)
	}
	b := header(2, from6, to6, "ab-1")
	if n, need, err := proxyHeaderLength(b); n != len(b) || need != 0 || err != nil {
		t.Errorf("version 2: length %d, %d, %v; want %d", n, need, err, len(b))
	}
	h, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(b)))
	if err != nil {
		t.Fatal(err)
	}
	tlvs, err := h.TLVs()
	if err != nil {
		t.Fatal(err)
	}
	got := map[proxyproto.PP2Type]string{}
	for _, v := range tlvs {
		got[v.Type] = string(v.Value)
	}
	if got[proxyproto.PP2_TYPE_AUTHORITY] != "a.test" || got[proxyproto.PP2_TYPE_ALPN] != "h2" || got[proxyproto.PP2_TYPE_UNIQUE_ID] != "ab-1" {
		t.Errorf("TLVs: %v", got)
	}
	if f, to, err := decodeProxyHeader(bufio.NewReader(bytes.NewReader(b))); f != from6 || to != to6 || err != nil {
		t.Errorf("addresses: %s, %s, %v", f, to, err)
	}
	if f, _, err := decodeProxyHeader(bufio.NewReader(strings.NewReader(v2Signature + "\x20\x00\x00\x00"))); f.IsValid() || err != nil {
		t.Errorf("LOCAL: %s, %v", f, err)
	}
	if f, _, err := decodeProxyHeader(bufio.NewReader(strings.NewReader("PROXY UNKNOWN\r\n"))); f.IsValid() || err != nil {
		t.Errorf("UNKNOWN: %s, %v", f, err)
	}
}

func TestClientsCountBySlash64(t *testing.T) {
	var c clients
	a := netip.MustParseAddr
	if n := c.add(a("10.0.0.1"), 1); n != 1 {
		t.Errorf("got %d", n)
	}
	if n := c.add(a("10.0.0.2"), 1); n != 1 {
		t.Errorf("another IPv4 address is another client: got %d", n)
	}
	c.add(a("fd00:1::1"), 1)
	if n := c.add(a("fd00:1::ffff:1"), 1); n != 2 {
		t.Errorf("the same /64 is the same client: got %d", n)
	}
	if n := c.add(a("fd00:1:0:1::1"), 1); n != 1 {
		t.Errorf("another /64 is another client: got %d", n)
	}
	for _, s := range []string{"10.0.0.1", "10.0.0.2", "fd00:1::1", "fd00:1::1", "fd00:1:0:1::1"} {
		c.add(a(s), -1)
	}
	if len(c.n) != 0 {
		t.Errorf("%d clients left: %v", len(c.n), c.n)
	}
}

func TestAcceptRateFollowsTheConfiguration(t *testing.T) {
	var r acceptRate
	for range 100 {
		if !r.allow(0, 0) {
			t.Fatal("no limit, yet refused")
		}
	}
	allowed := 0
	for range 100 {
		if r.allow(1, 5) {
			allowed++
		}
	}
	if allowed != 5 && allowed != 6 { // a second may have passed
		t.Errorf("%d allowed, want the burst of 5", allowed)
	}
	for end := time.Now().Add(10 * time.Second); !r.allow(1000000, 1000000); {
		if time.Now().After(end) {
			t.Fatal("still refused with the limit raised")
		}
	}
}

func TestHelloBuffersAreBounded(t *testing.T) {
	var h helloBuffers
	const limit = 10 << 10
	a, ok := h.get(1, limit)
	if !ok || len(a) != helloSizes[0] {
		t.Fatalf("got %d bytes, %v", len(a), ok)
	}
	b, ok := h.get(helloSizes[0], limit)
	if !ok {
		t.Fatal("the second fits")
	}
	if _, ok := h.get(1, limit); ok {
		t.Error("the third is over the limit")
	}
	if _, ok := h.get(helloSizes[0]+1, 1<<20); !ok {
		t.Error("refused a larger one below its limit")
	}
	h.put(a)
	h.put(b)
	if _, ok := h.get(1<<30, 1<<30); !ok {
		t.Error("the largest is what one asks for at most")
	}
}

func TestStartsLike(t *testing.T) {
	for in, want := range map[string]bool{"": true, "P": true, "PROXY ": true, "PROXY x": true, "PR0": false} {
		if got := startsLike([]byte(in), v1Signature); got != want {
			t.Errorf("%q: got %v", in, got)
		}
	}
}
