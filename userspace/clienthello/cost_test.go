// SPDX-License-Identifier: Apache-2.0

package clienthello

import "testing"

func TestParseAllocatesOnlyTheResult(t *testing.T) {
	hellos := recorded(t)
	tests := []struct {
		name string
		in   []byte
		want float64
	}{
		{"name, fingerprint, two for ALPN", hellos["curl"], 4},
		{"post-quantum", hellos["chromium"], 4},
		{"in records of one byte", records(unframe(hellos["curl"]), 1), 4},
		{"name and fingerprint", hellos["go-pq"], 2},
		{"fingerprint alone", hellos["go-nosni"], 1},
		{"incomplete", hellos["curl"][:500], 0},
		{"incomplete in records of one byte", records(unframe(hellos["curl"])[:500], 1), 0},
		{"not TLS", []byte("GET / HTTP/1.1\r\n"), 0},
		{"too large", []byte{22, 3, 1, 1, 0, 1, 0xff, 0xff, 0xff}, 0},
	}
	for name, tt := range malformedHellos() {
		tests = append(tests, struct {
			name string
			in   []byte
			want float64
		}{name, tt.in, 0})
	}
	var p Parser
	var h Hello
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := testing.AllocsPerRun(20, func() { _ = p.Parse(tt.in, &h) })
			if got != tt.want {
				t.Errorf("%v allocations, want %v", got, tt.want)
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	hellos := recorded(b)
	suites := make([]uint16, 32_000)
	for i := range suites {
		suites[i] = uint16(i * 40503) // in no order
	}
	largest := message{ciphers: vec16(u16(suites...)), extensions: [][]byte{sni("a.test")}}.bytes()
	for _, bench := range []struct {
		name string
		in   []byte
		want error
	}{
		{"curl 517 bytes", hellos["curl"], nil},
		{"Go post-quantum 1502 bytes", hellos["go-pq"], nil},
		{"Chromium post-quantum 2017 bytes", hellos["chromium"], nil},
		{"curl in records of one byte", records(unframe(hellos["curl"]), 1), nil},
		{"curl less a byte", hellos["curl"][:516], ErrIncomplete},
		{"two SNI", hello(sni("a.test"), sni("a.test")), TwoSNI},
		{"64 KB of cipher suites", records(largest, recordMax), nil},
		{"61 KB in records of one byte", records(sized(61_000, sni("a.test")), 1), nil},
	} {
		b.Run(bench.name, func(b *testing.B) {
			var p Parser
			var h Hello
			b.ReportAllocs()
			for b.Loop() {
				if err := p.Parse(bench.in, &h); err != bench.want {
					b.Fatal(err)
				}
			}
		})
	}
}
