// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/spliceway/spliceway/bpf"
)

func TestListenKeyLaysOutPrefix(t *testing.T) {
	for _, tc := range []struct {
		name, prefix string
		want         bpf.ListenPrefix
	}{
		{"IPv4 /24", "203.0.113.0/24", bpf.ListenPrefix{Prefixlen: 32 + 24, Port: 443, Family: 2, Addr: [16]byte{203, 0, 113}}},
		{"host bits are dropped", "203.0.113.77/24", bpf.ListenPrefix{Prefixlen: 32 + 24, Port: 443, Family: 2, Addr: [16]byte{203, 0, 113}}},
		{"single address", "203.0.113.77/32", bpf.ListenPrefix{Prefixlen: 32 + 32, Port: 443, Family: 2, Addr: [16]byte{203, 0, 113, 77}}},
		{"everything", "0.0.0.0/0", bpf.ListenPrefix{Prefixlen: 32, Port: 443, Family: 2}},
		{"IPv6 /64", "2001:db8:0:1::/64", bpf.ListenPrefix{Prefixlen: 32 + 64, Port: 443, Family: 10, Addr: [16]byte{0x20, 1, 0x0d, 0xb8, 0, 0, 0, 1}}},
		{"within a byte", "2001:db8::/29", bpf.ListenPrefix{Prefixlen: 32 + 29, Port: 443, Family: 10, Addr: [16]byte{0x20, 1, 0x0d, 0xb8}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := listenKey(netip.MustParsePrefix(tc.prefix), 443)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got, cmpopts.IgnoreUnexported(bpf.ListenPrefix{})); diff != "" {
				t.Errorf("key (-want +got):\n%s", diff)
			}
		})
	}
}

func TestListenKeyRefuses(t *testing.T) {
	for name, prefix := range map[string]netip.Prefix{
		"the zero prefix": {},
		"IPv4 in IPv6":    netip.MustParsePrefix("::ffff:203.0.113.0/120"),
	} {
		t.Run(name, func(t *testing.T) {
			if key, err := listenKey(prefix, 443); err == nil {
				t.Errorf("got key %v, want an error", key)
			}
		})
	}
}

// The C enumerators, in lower case, are the labels; none is left out in Go.
func TestListenVerdictsAreNamedAsInC(t *testing.T) {
	spec, err := bpf.LoadListen()
	if err != nil {
		t.Fatal(err)
	}
	var enum *btf.Enum
	if err := spec.Types.TypeByName("verdict", &enum); err != nil {
		t.Fatal(err)
	}
	got, want := make(map[string]uint64), make(map[string]uint64)
	for v := range listenVerdicts {
		got[v.String()] = uint64(v)
	}
	for _, e := range enum.Values {
		if e.Name != "VERDICTS" {
			want[strings.ToLower(e.Name)] = e.Value
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("verdicts (-C +Go):\n%s", diff)
	}
}
