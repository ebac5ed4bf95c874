// SPDX-License-Identifier: Apache-2.0

package route

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func mustBuild(t testing.TB, entries []Entry) *Table {
	t.Helper()
	table, err := Build(entries)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestLookup(t *testing.T) {
	table := mustBuild(t, []Entry{
		0:  {Port: 443, Name: "a.test", Endpoint: 0},
		1:  {Port: 443, Name: "*.a.test", Endpoint: 1},
		2:  {Port: 443, Name: "*.b.a.test", Endpoint: 2},
		3:  {Port: 443, Name: "x.b.a.test", Endpoint: 3},
		4:  {Port: 8443, Name: "a.test", Endpoint: 4},
		5:  {Port: 443, Name: "h2.test", ALPN: []string{"h2", "h3"}, Endpoint: 5},
		6:  {Port: 443, Name: "h2.test", ALPN: []string{"http/1.1"}, Endpoint: 6},
		7:  {Port: 443, Name: "h2.test", Endpoint: 7},
		8:  {Port: 443, Name: "only.a.test", ALPN: []string{"h2"}, Endpoint: 8},
		9:  {Port: 443, Name: "*.only.a.test", ALPN: []string{"h2"}, Endpoint: 9},
		10: {Port: 443, Name: "*.com", Endpoint: 10},
	})
	for _, tt := range []struct {
		name string
		port uint16
		sni  string
		alpn []string
		want Match
	}{
		{"exact name", 443, "a.test", nil, Match{0, "a.test", Exact, ""}},
		{"exact name on another port", 8443, "a.test", nil, Match{4, "a.test", Exact, ""}},
		{"wildcard covers one label", 443, "x.a.test", nil, Match{1, "*.a.test", Wildcard, ""}},
		{"wildcard covers several labels", 443, "x.y.z.a.test", nil, Match{1, "*.a.test", Wildcard, ""}},
		{"longer wildcard before shorter", 443, "y.b.a.test", nil, Match{2, "*.b.a.test", Wildcard, ""}},
		{"exact before wildcard", 443, "x.b.a.test", nil, Match{3, "x.b.a.test", Exact, ""}},
		{"wildcard does not cover its own suffix", 443, "b.a.test", nil, Match{1, "*.a.test", Wildcard, ""}},
		{"wildcard of one label", 443, "example.com", nil, Match{10, "*.com", Wildcard, ""}},
		{"suffix without a label in front", 443, "com", nil, Match{}},
		{"suffix of a label only", 443, "xa.test", nil, Match{}},
		{"unknown name", 443, "c.test", nil, Match{}},
		{"unknown port", 444, "a.test", nil, Match{}},
		{"no name", 443, "", nil, Match{}},
		{"trailing dot", 443, "a.test.", nil, Match{}},
		{"wildcard only on the port that has it", 8443, "x.a.test", nil, Match{}},
		{"client's order of protocols decides", 443, "h2.test", []string{"http/1.1", "h2"}, Match{6, "h2.test", Exact, "http/1.1"}},
		{"first protocol that is listed decides", 443, "h2.test", []string{"x", "h3", "http/1.1"}, Match{5, "h2.test", Exact, "h3"}},
		{"no listed protocol takes the open entry", 443, "h2.test", []string{"x"}, Match{7, "h2.test", Exact, ""}},
		{"no protocols take the open entry", 443, "h2.test", nil, Match{7, "h2.test", Exact, ""}},
		{"listed protocol", 443, "only.a.test", []string{"h2"}, Match{8, "only.a.test", Exact, "h2"}},
		{"exact name without the protocol falls through to a wildcard", 443, "only.a.test", []string{"x"}, Match{1, "*.a.test", Wildcard, ""}},
		{"wildcard without the protocol falls through to a shorter one", 443, "y.only.a.test", nil, Match{1, "*.a.test", Wildcard, ""}},
		{"longest name of dots", 443, strings.Repeat(".", maxName), nil, Match{}},
		{"longest name below a wildcard", 443, strings.Repeat(".", maxName-4) + ".com", nil, Match{10, "*.com", Wildcard, ""}},
		{"name too long", 443, strings.Repeat("a.", 200) + "a.test", nil, Match{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := table.Lookup(netip.Addr{}, tt.port, tt.sni, tt.alpn)
			if diff := cmp.Diff(tt.want, got); diff != "" || ok != (tt.want.Kind != 0) {
				t.Errorf("Lookup(%d, %q, %q) = %v, %v (-want +got):\n%s", tt.port, tt.sni, tt.alpn, got, ok, diff)
			}
		})
	}
	if diff := cmp.Diff([]uint16{443, 8443}, table.Ports()); diff != "" {
		t.Errorf("Ports (-want +got):\n%s", diff)
	}
}

func TestSlotIsOneCacheLine(t *testing.T) {
	if size := reflect.TypeFor[slot]().Size(); size != 64 {
		t.Errorf("slot takes %d bytes", size)
	}
}

// TestLookupOfLongNames has names that do not fit into a slot, and differ only
// in the part that does not. There are enough of them for some to meet in a
// slot with the same tag.
func TestLookupOfLongNames(t *testing.T) {
	var entries []Entry
	for _, length := range []int{51, 52, 100, maxName - len("*.")} {
		for i := range 5000 {
			name := fmt.Sprintf("%s%05d", strings.Repeat("x", length-5), i)
			entries = append(entries,
				Entry{Port: 443, Name: name, Endpoint: len(entries)},
				Entry{Port: 443, Name: "*." + name, Endpoint: len(entries) + 1})
		}
	}
	table := mustBuild(t, entries)
	for i := 0; i < len(entries); i += 2 {
		name := entries[i].Name
		want := Match{Endpoint: i, Pattern: name, Kind: Exact}
		if got, _ := table.Lookup(netip.Addr{}, 443, name, nil); got != want {
			t.Fatalf("Lookup(%q) = %v, want %v", name, got, want)
		}
		want = Match{Endpoint: i + 1, Pattern: "*." + name, Kind: Wildcard}
		if got, _ := table.Lookup(netip.Addr{}, 443, "y."+name, nil); got != want {
			t.Fatalf("Lookup(%q) = %v, want %v", "y."+name, got, want)
		}
		if got, ok := table.Lookup(netip.Addr{}, 443, name[:len(name)-1]+"z", nil); ok {
			t.Fatalf("Lookup of %q with another end = %v", name, got)
		}
	}
}

func TestZeroTableMatchesNothing(t *testing.T) {
	var table Table
	if m, ok := table.Lookup(netip.Addr{}, 443, "a.test", nil); ok {
		t.Errorf("Lookup = %v", m)
	}
	if ports := table.Ports(); len(ports) != 0 {
		t.Errorf("Ports = %v", ports)
	}
}

func TestBuildRefuses(t *testing.T) {
	for _, tt := range []struct {
		name    string
		entries []Entry
		want    string
	}{
		{"same name twice", []Entry{{Port: 443, Name: "b"}, {Port: 443, Name: "a"}, {Port: 443, Name: "a", Endpoint: 1}},
			"build route table: entries 1 and 2 both take a:443"},
		{"same wildcard twice", []Entry{{Port: 443, Name: "*.a"}, {Port: 443, Name: "a"}, {Port: 443, Name: "*.a"}},
			"build route table: entries 0 and 2 both take *.a:443"},
		{"any name twice", []Entry{{Port: 443, Name: "*"}, {Port: 443, Name: "*", Endpoint: 1}}, "entries 0 and 1 both take *:443"},
		{"same name of an address twice", []Entry{{Port: 443, Name: "a", Address: netip.MustParseAddr("10.0.0.1")}, {Port: 443, Name: "a"}, {Port: 443, Name: "a", Address: netip.MustParseAddr("::ffff:10.0.0.1")}},
			"entries 0 and 2 both take a:443 at ::ffff:10.0.0.1"},
		{"same protocol twice", []Entry{{Port: 443, Name: "a"}, {Port: 443, Name: "a", ALPN: []string{"h2", "x"}}, {Port: 443, Name: "a", ALPN: []string{"y"}}, {Port: 443, Name: "a", ALPN: []string{"z", "x"}}},
			`build route table: entries 1 and 3 both take a:443 with ALPN ["z" "x"]`},
		{"no name", []Entry{{Port: 443}}, "build route table: entry 0 (:443): name of 1 to 253 bytes needed"},
		{"wildcard of nothing", []Entry{{Port: 443, Name: "*."}}, "build route table: entry 0 (*.:443): name of 1 to 253 bytes needed"},
		{"name too long", []Entry{{Port: 1, Name: strings.Repeat("a", 254)}}, "name of 1 to 253 bytes needed"},
		{"negative endpoint", []Entry{{Port: 443, Name: "a", Endpoint: -2}}, "build route table: entry 0 (a:443): endpoint -2 out of range"},
		{"endpoint too large", []Entry{{Port: 443, Name: "a", Endpoint: math.MaxInt32 + 1}}, "out of range"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Build(tt.entries)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want %s", err, tt.want)
			}
		})
	}
}

// naive is what Lookup's comment says, word by word.
func naive(all []Entry, address netip.Addr, port uint16, name string, alpn []string) (Match, bool) {
	var own, general []Entry
	for _, e := range all {
		switch {
		case e.Port != port:
		case !e.Address.IsValid():
			general = append(general, e)
		case e.Address == address:
			own = append(own, e)
		}
	}
	entries := general
	if len(own) > 0 {
		entries = own
	}
	for i := 0; ; {
		pattern, kind := name, Exact
		switch {
		case i < 0:
			pattern, kind = "*", Any
		case i > 0:
			pattern, kind = "*."+name[i:], Wildcard
		}
		for _, offered := range alpn {
			for _, e := range entries {
				for _, p := range e.ALPN {
					if e.Port == port && e.Name == pattern && p == offered {
						return Match{e.Endpoint, pattern, kind, p}, true
					}
				}
			}
		}
		for _, e := range entries {
			if e.Port == port && e.Name == pattern && len(e.ALPN) == 0 {
				return Match{e.Endpoint, pattern, kind, ""}, true
			}
		}
		if i < 0 {
			return Match{}, false
		}
		if dot := strings.IndexByte(name[i:], '.'); dot >= 0 {
			i += dot + 1
		} else {
			i = -1
		}
	}
}

func TestLookupAgreesWithNaiveModel(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	name := func() string {
		labels := make([]string, 1+rng.IntN(4))
		for i := range labels {
			labels[i] = string(rune('a' + rng.IntN(2)))
		}
		return strings.Join(labels, ".")
	}
	protocols := func() []string {
		var list []string
		for _, i := range rng.Perm(4)[:rng.IntN(3)] {
			list = append(list, fmt.Sprint("p", i))
		}
		return list
	}
	address := func(n int) netip.Addr {
		if i := rng.IntN(n); i > 0 {
			return netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
		}
		return netip.Addr{}
	}
	matches, refusals := map[Kind]int{}, 0
	for range 300 {
		var entries []Entry
		for range rng.IntN(20) {
			e := Entry{Port: uint16(1 + rng.IntN(2)), Name: name(), ALPN: protocols(), Endpoint: rng.IntN(10) - 1, Address: address(3)}
			switch rng.IntN(6) {
			case 0, 1:
				e.Name = "*." + e.Name
			case 2:
				e.Name = "*"
			}
			if _, err := Build(append(entries, e)); err == nil {
				entries = append(entries, e)
			}
		}
		table := mustBuild(t, entries)
		for range 200 {
			at, port, sni, alpn := address(4), uint16(1+rng.IntN(2)), name(), protocols()
			want, _ := naive(entries, at, port, sni, alpn)
			got, ok := table.Lookup(at, port, sni, alpn)
			if got != want || ok != (got.Kind != 0) {
				t.Fatalf("Lookup(%s, %d, %q, %q) = %v, want %v, entries %v", at, port, sni, alpn, got, want, entries)
			}
			matches[got.Kind]++
			if ok && got.Endpoint == Refuse {
				refusals++
			}
		}
	}
	if matches[Exact] < 1000 || matches[Any] < 1000 || refusals < 500 || matches[Wildcard] < 1000 || matches[0] < 1000 {
		t.Errorf("lopsided sample: %v", matches)
	}
}

func TestLookupAllocatesNothing(t *testing.T) {
	table := mustBuild(t, []Entry{
		{Port: 443, Name: "a.test", ALPN: []string{"h2"}},
		{Port: 443, Name: "*.b.test", Endpoint: 1},
	})
	alpn := []string{"x", "h2"}
	for _, name := range []string{"a.test", "x.y.b.test", "x.c.test"} {
		if n := testing.AllocsPerRun(100, func() { table.Lookup(netip.Addr{}, 443, name, alpn) }); n != 0 {
			t.Errorf("Lookup(%q) allocates %v times", name, n)
		}
	}
}

func TestMillionNamesFitInMemory(t *testing.T) {
	const limit = 400 << 20
	before := heap()
	table := mustBuild(t, million())
	got := heap() - before
	t.Logf("%d MiB", got>>20)
	if got > limit {
		t.Errorf("table takes %d bytes, want at most %d", got, limit)
	}
	runtime.KeepAlive(table)
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
