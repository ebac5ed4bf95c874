// SPDX-License-Identifier: Apache-2.0

package route

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
)

// million returns a million entries, one in ten of them a wildcard, with names
// of 20 to 32 bytes in random order.
func million() []Entry {
	entries := make([]Entry, 1_000_000)
	rng := rand.New(rand.NewPCG(1, 2))
	for i, n := range rng.Perm(len(entries)) {
		name := fmt.Sprintf("tenant-%06d.edge.example.net", n)
		if i%10 == 0 {
			name = "*." + name
		}
		entries[i] = Entry{Port: 443, Name: name, Endpoint: i}
	}
	return entries
}

// BenchmarkLookup asks a table of a million names for another one each time, so
// that the caches are cold: what the names themselves cost to read is kept out
// by laying them out in the order in which they are asked for.
func BenchmarkLookup(b *testing.B) {
	entries := million()
	table := mustBuild(b, entries)
	rand.New(rand.NewPCG(3, 4)).Shuffle(len(entries), func(i, j int) {
		entries[i], entries[j] = entries[j], entries[i]
	})
	alpn := []string{"h2", "http/1.1"}
	for _, bb := range []struct {
		name string
		want Kind
		sni  func(Entry) (string, bool)
	}{
		{"exact", Exact, func(e Entry) (string, bool) { return strings.Clone(e.Name), e.Name[0] != '*' }},
		{"wildcard", Wildcard, func(e Entry) (string, bool) { return "www" + e.Name[1:], e.Name[0] == '*' }},
		{"miss", 0, func(e Entry) (string, bool) { return "no-" + e.Name, e.Name[0] != '*' }},
		{"miss-deep", 0, func(e Entry) (string, bool) { return "a.b.c.d." + e.Name + ".e", e.Name[0] != '*' }},
	} {
		var names []string
		for _, e := range entries {
			if sni, ok := bb.sni(e); ok {
				names = append(names, sni)
			}
		}
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if i == len(names) {
					i = 0
				}
				if m, _ := table.Lookup(netip.Addr{}, 443, names[i], alpn); m.Kind != bb.want {
					b.Fatalf("Lookup(%q) = %v", names[i], m)
				}
			}
		})
	}
}

func BenchmarkBuild(b *testing.B) {
	entries := million()
	b.ReportAllocs()
	for b.Loop() {
		mustBuild(b, entries)
	}
}
