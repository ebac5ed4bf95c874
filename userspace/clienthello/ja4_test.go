// SPDX-License-Identifier: Apache-2.0

package clienthello

import (
	"slices"
	"testing"
)

// ja4Hello builds a hello of which only what JA4 looks at is like a real one.
func ja4Hello(ciphers, extensions, signatures []uint16, protocols ...string) []byte {
	m := message{ciphers: vec16(u16(ciphers...))}
	for _, kind := range extensions {
		var e []byte
		switch kind {
		case extServerName:
			e = sni("a.test")
		case extALPN:
			e = alpn(protocols...)
		case extVersions:
			e = versions(0x6a6a, 0x0304, 0x0303)
		case extSignatures:
			e = ext(kind, vec16(u16(signatures...)))
		case extGroups, extSignatureCert:
			e = ext(kind, vec16(u16(29)))
		case extPointFormats, extPSKModes, extRenegotiation:
			e = ext(kind, vec8([]byte{0}))
		case extStatusRequest:
			e = ext(kind, []byte{1}, vec16(), vec16())
		case extKeyShare:
			e = keyShare(29, 32)
		case extECH:
			e = ech(0)
		default:
			e = ext(kind)
		}
		m.extensions = append(m.extensions, e)
	}
	return records(m.bytes(), recordMax)
}

// The values of the specification's example and of Chrome 143 are published; those
// of the variants follow from its text.
func TestJA4(t *testing.T) {
	var (
		browserCiphers = []uint16{0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8,
			0xc013, 0xc014, 0x009c, 0x009d, 0x002f, 0x0035}
		specExtensions = []uint16{0x001b, 0x0000, 0x0033, 0x0010, 0x4469, 0x0017, 0x002d, 0x000d, 0x0005,
			0x0023, 0x0012, 0x002b, 0xff01, 0x000b, 0x000a, 0x0015}
		chromeExtensions = []uint16{0x002d, 0x0033, 0x0010, 0xfe0d, 0x0017, 0x44cd, 0x0000, 0x000b, 0x000a,
			0x002b, 0xff01, 0x0023, 0x0012, 0x0005, 0x000d, 0x001b}
		signatures = []uint16{0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601}
	)
	with := func(list []uint16, at int, v uint16) []uint16 { return slices.Insert(slices.Clone(list), at, v) }
	reversed := func(list []uint16) []uint16 {
		list = slices.Clone(list)
		slices.Reverse(list)
		return list
	}
	without := func(list []uint16, v uint16) []uint16 {
		return slices.DeleteFunc(slices.Clone(list), func(w uint16) bool { return w == v })
	}
	many := make([]uint16, 120)
	for i := range many {
		many[i] = uint16(0x4000 + i)
	}
	tests := []struct {
		name string
		in   []byte
		want string
	}{
		{"example of the specification", ja4Hello(browserCiphers, specExtensions, signatures, "h2", "http/1.1"),
			"t13d1516h2_8daaf6152771_e5627efa2ab1"},
		{"Chrome 143", ja4Hello(browserCiphers, chromeExtensions, signatures, "h2", "http/1.1"),
			"t13d1516h2_8daaf6152771_d8a2da3f94cd"},
		{"no signature algorithms", ja4Hello(browserCiphers, without(specExtensions, 0x000d), nil, "h2"),
			"t13d1515h2_8daaf6152771_bebfbbe173b2"},
		{"signature algorithms of GREASE alone", ja4Hello(browserCiphers, specExtensions, []uint16{0x2a2a}, "h2"),
			"t13d1516h2_8daaf6152771_6d807ffa2a79"},
		{"in another order", ja4Hello(reversed(browserCiphers), reversed(specExtensions), signatures, "h2"),
			"t13d1516h2_8daaf6152771_e5627efa2ab1"},
		{"with GREASE", ja4Hello(with(browserCiphers, 0, 0xbaba), with(with(specExtensions, 0, 0x4a4a), 9, 0xcaca), with(signatures, 3, 0x2a2a), "h2"),
			"t13d1516h2_8daaf6152771_e5627efa2ab1"},
		{"no SNI", ja4Hello(browserCiphers, without(specExtensions, 0), signatures, "h2"),
			"t13i1515h2_8daaf6152771_e5627efa2ab1"},
		{"no ALPN", ja4Hello(browserCiphers, without(specExtensions, 16), signatures),
			"t13d151500_8daaf6152771_e5627efa2ab1"},
		{"signature algorithms in another order", ja4Hello(browserCiphers, specExtensions, reversed(signatures), "h2"),
			"t13d1516h2_8daaf6152771_130f056d635f"},
		{"nothing to hash", records(message{ciphers: vec16(u16(0x0a0a)), bare: true}.bytes(), recordMax),
			"t12i000000_000000000000_000000000000"},
		{"SNI and ALPN alone", ja4Hello([]uint16{0x0a0a}, []uint16{0, 16}, nil, "h2"),
			"t12d0002h2_000000000000_000000000000"},
		{"more than 99", ja4Hello(many, many, nil), "t12i999900_ac67520420c7_ac67520420c7"},
	}
	var p Parser
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var h Hello
			if err := p.Parse(tt.in, &h); err != nil {
				t.Fatal(err)
			}
			if h.JA4 != tt.want {
				t.Errorf("JA4 %s, want %s", h.JA4, tt.want)
			}
		})
	}
}

func TestJA4Version(t *testing.T) {
	for v, want := range map[uint16]string{
		0x0304: "13", 0x0303: "12", 0x0302: "11", 0x0301: "10", 0x0300: "s3", 0x0002: "s2", 0x7f1c: "00", 0: "00",
	} {
		if got := ja4Version(v); got != want {
			t.Errorf("version %#04x is %q, want %q", v, got, want)
		}
	}
}

// The values are those of the specification where it has them.
func TestJA4Protocol(t *testing.T) {
	for protocol, want := range map[string]string{
		"h2": "h2", "http/1.1": "h1", "x": "xx", "Z9": "Z9",
		"\xab":             "ab",
		"\xab\xcd":         "ad",
		"\x30\xab":         "3b",
		"\x30\x31\xab\xcd": "3d",
		"\x30\xab\xcd\x31": "01",
		"-2":               "22",
	} {
		if got := string(appendALPN(nil, vec8([]byte(protocol)))); got != want {
			t.Errorf("protocol %q is %q, want %q", protocol, got, want)
		}
	}
	if got := string(appendALPN(nil, nil)); got != "00" {
		t.Errorf("no protocol is %q, want 00", got)
	}
}
