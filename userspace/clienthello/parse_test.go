// SPDX-License-Identifier: Apache-2.0

package clienthello

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var ignoreJA4 = cmpopts.IgnoreFields(Hello{}, "JA4")

func TestParse(t *testing.T) {
	grease := func(v uint16) []byte { return ext(v, make([]byte, v>>8&1)) }
	tests := []struct {
		name string
		in   []byte
		want Hello // Size left out: len(in)
	}{
		{"no extension block", records(message{bare: true}.bytes(), recordMax),
			Hello{MaxVersion: 0x0303}},
		{"no extensions", hello(), Hello{MaxVersion: 0x0303}},
		{"no SNI", hello(versions(0x0304)), Hello{MaxVersion: 0x0304}},
		{"SNI alone", hello(sni("a.test")),
			Hello{ServerName: "a.test", HasSNI: true, MaxVersion: 0x0303}},
		{"SNI last", hello(alpn("h2"), versions(0x0304), keyShare(29, 32), ext(0xabcd, make([]byte, 300)), sni("last.test")),
			Hello{ServerName: "last.test", HasSNI: true, ALPN: []string{"h2"}, MaxVersion: 0x0304}},
		{"SNI in the middle", hello(versions(0x0304), sni("mid.test"), alpn("h2")),
			Hello{ServerName: "mid.test", HasSNI: true, ALPN: []string{"h2"}, MaxVersion: 0x0304}},
		{"name in upper case", hello(sni("A.TeSt")),
			Hello{ServerName: "a.test", HasSNI: true, MaxVersion: 0x0303}},
		{"ALPN in order", hello(alpn("h2", "http/1.1", "\x0a\x0a", "acme-tls/1")),
			Hello{ALPN: []string{"h2", "http/1.1", "\x0a\x0a", "acme-tls/1"}, MaxVersion: 0x0303}},
		{"ALPN of 128 protocols", hello(alpn(strings.Split(strings.Repeat("x ", 127)+"x", " ")...)),
			Hello{ALPN: strings.Split(strings.Repeat("x ", 127)+"x", " "), MaxVersion: 0x0303}},
		{"versions in any order with GREASE", hello(versions(0x0302, 0x0304, 0xfafa, 0x0303)),
			Hello{MaxVersion: 0x0304}},
		{"versions of GREASE alone", hello(versions(0xfafa)), Hello{MaxVersion: 0x0303}},
		{"GREASE and ECH", records(message{
			ciphers: vec16(u16(0x3a3a, 0x1301, 0x1302)),
			extensions: [][]byte{
				grease(0x1a1a), sni("public.test"), ech(7), versions(0xdada, 0x0304, 0x0303),
				ext(extGroups, vec16(u16(0x5a5a, 0x11ec, 29))),
				ext(extKeyShare, vec16(u16(0x5a5a), vec16([]byte{0}), u16(0x11ec), vec16(make([]byte, 1216)))),
				alpn("h2"), grease(0x2b2a), grease(0xeaea),
			}}.bytes(), recordMax),
			Hello{ServerName: "public.test", HasSNI: true, ALPN: []string{"h2"}, MaxVersion: 0x0304, ECH: true}},
		{"ECH of the inner form", hello(sni("inner.test"), ext(extECH, []byte{echInner})),
			Hello{ServerName: "inner.test", HasSNI: true, MaxVersion: 0x0303}},
		{"early data and a key", hello(sni("a.test"), versions(0x0304), ext(extEarlyData), ext(extPSKModes, vec8([]byte{1})), preSharedKey()),
			Hello{ServerName: "a.test", HasSNI: true, MaxVersion: 0x0304, EarlyData: true}},
		{"key share empty", hello(ext(extKeyShare, vec16())), Hello{MaxVersion: 0x0303}},
		{"every other known extension", hello(
			ext(extStatusRequest, []byte{1}, vec16(), vec16()), ext(extGroups, vec16(u16(29))),
			ext(extPointFormats, vec8([]byte{0})), ext(extSignatures, vec16(u16(0x0403))),
			ext(extSignatureCert, vec16(u16(0x0403))), ext(extTimestamps), ext(extMasterSecret),
			ext(extCookie, vec16([]byte{1})), ext(extRenegotiation, vec8()), ext(35, []byte("ticket"))),
			Hello{MaxVersion: 0x0303}},
		{"deflate besides null", records(message{compression: vec8([]byte{1, 0})}.bytes(), recordMax),
			Hello{MaxVersion: 0x0303}},
		{"no session ID", records(message{session: vec8()}.bytes(), recordMax), Hello{MaxVersion: 0x0303}},
		{"61 KB", hello(ext(0xabcd, make([]byte, 61_000)), sni("big.test")),
			Hello{ServerName: "big.test", HasSNI: true, MaxVersion: 0x0303}},
		{"65536 bytes", records(sized(MaxSize, sni("big.test")), recordMax),
			Hello{ServerName: "big.test", HasSNI: true, MaxVersion: 0x0303}},
	}
	var p Parser
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.want.Size = len(tt.in)
			followed := cat(tt.in, record(23, []byte("0-RTT data")), []byte("anything"))
			for _, in := range [][]byte{tt.in, followed} {
				var got Hello
				if err := p.Parse(in, &got); err != nil {
					t.Fatalf("Parse: %v", err)
				}
				if diff := cmp.Diff(tt.want, got, ignoreJA4); diff != "" {
					t.Errorf("hello (-want +got):\n%s", diff)
				}
				if p.Need != 0 {
					t.Errorf("Need %d, want 0", p.Need)
				}
			}
		})
	}
}

// malformedHellos has every reason at least once.
func malformedHellos() map[string]struct {
	in   []byte
	want Reason
} {
	type bad = struct {
		in   []byte
		want Reason
	}
	one := func(m message) []byte { return records(m.bytes(), recordMax) }
	good := message{extensions: [][]byte{sni("a.test")}}.bytes()
	first := record(recordHandshake, good[:20])
	longName := strings.Repeat("a.", 126) + "ab"
	return map[string]bad{
		"record of no bytes":                  {[]byte{22, 3, 1, 0, 0}, RecordLength},
		"record of 16385 bytes":               {[]byte{22, 3, 1, 0x40, 1}, RecordLength},
		"second record of no bytes":           {cat(first, []byte{22, 3, 1, 0, 0}), RecordLength},
		"alert between fragments":             {cat(first, record(21, []byte{1, 0})), RecordType},
		"change_cipher_spec between them":     {cat(first, record(20, []byte{1})), RecordType},
		"application data between them":       {cat(first, record(23, []byte{1})), RecordType},
		"alert's first byte between them":     {cat(first, []byte{21}), RecordType},
		"second record of another version":    {cat(first, []byte{22, 2}), RecordVersion},
		"ServerHello":                         {one(message{kind: 2}), HandshakeType},
		"another message in the same record":  {record(recordHandshake, cat(good, []byte{1, 0, 0, 0})), TrailingHandshake},
		"a byte more in the same record":      {record(recordHandshake, cat(good, []byte{0})), TrailingHandshake},
		"message of no bytes":                 {record(recordHandshake, []byte{1, 0, 0, 0}), Truncated},
		"message ends in the random":          {record(recordHandshake, []byte{1, 0, 0, 3, 3, 3, 0}), Truncated},
		"message ends before the session ID":  {record(recordHandshake, cat([]byte{1, 0, 0, 34, 3, 3}, make([]byte, 32))), Truncated},
		"session ID past the end":             {one(message{session: []byte{32}, ciphers: []byte{}, compression: []byte{}, bare: true}), Truncated},
		"ciphers past the end":                {one(message{ciphers: []byte{0xff, 0xff}}), Truncated},
		"compression past the end":            {one(message{compression: []byte{9}, bare: true}), Truncated},
		"extensions past the end":             {one(message{bare: true, trailing: []byte{0, 9}}), Truncated},
		"half an extensions length":           {one(message{bare: true, trailing: []byte{0}}), Truncated},
		"extension past the end":              {hello([]byte{0, 35, 0, 9}), Truncated},
		"bytes behind the extensions":         {one(message{trailing: []byte{0}}), TrailingBytes},
		"session ID of 33 bytes":              {one(message{session: vec8(make([]byte, 33))}), SessionID},
		"no ciphers":                          {one(message{ciphers: vec16()}), CipherSuites},
		"half a cipher":                       {one(message{ciphers: vec16([]byte{0x13, 1, 0x13})}), CipherSuites},
		"no compression methods":              {one(message{compression: vec8()}), Compression},
		"no null compression":                 {one(message{compression: vec8([]byte{1})}), Compression},
		"two SNI extensions":                  {hello(sni("a.test"), alpn("h2"), sni("a.test")), TwoSNI},
		"two SNI extensions, first empty":     {hello(ext(extServerName), sni("a.test")), Truncated},
		"two ALPN extensions":                 {hello(alpn("h2"), alpn("h2")), TwoExtensions},
		"two of an unknown extension":         {hello(ext(0xabcd), sni("a.test"), ext(0xabcd)), TwoExtensions},
		"two of a GREASE extension":           {hello(ext(0x1a1a), ext(0x1a1a)), TwoExtensions},
		"early data with a body":              {hello(ext(extEarlyData, []byte{0})), ExtensionBody},
		"SCT with a body":                     {hello(ext(extTimestamps, []byte{0})), ExtensionBody},
		"status request short":                {hello(ext(extStatusRequest, []byte{1}, vec16())), ExtensionBody},
		"bytes behind the status request":     {hello(ext(extStatusRequest, []byte{1}, vec16(), vec16(), []byte{0})), ExtensionBody},
		"no versions":                         {hello(versions()), ExtensionBody},
		"half a version":                      {hello(ext(extVersions, vec8([]byte{3}))), ExtensionBody},
		"bytes behind the versions":           {hello(ext(extVersions, vec8(u16(0x0304)), []byte{0})), ExtensionBody},
		"no groups":                           {hello(ext(extGroups, vec16())), ExtensionBody},
		"bytes behind the groups":             {hello(ext(extGroups, vec16(u16(29)), []byte{0})), ExtensionBody},
		"no signature algorithms":             {hello(ext(extSignatures, vec16())), ExtensionBody},
		"half a signature algorithm":          {hello(ext(extSignatureCert, vec16([]byte{4}))), ExtensionBody},
		"no point formats":                    {hello(ext(extPointFormats, vec8())), ExtensionBody},
		"bytes behind the PSK modes":          {hello(ext(extPSKModes, vec8([]byte{1}), []byte{1})), ExtensionBody},
		"cookie of no bytes":                  {hello(ext(extCookie, vec16())), ExtensionBody},
		"key share of no bytes":               {hello(ext(extKeyShare, vec16(u16(29), vec16()))), ExtensionBody},
		"bytes behind the key shares":         {hello(ext(extKeyShare, vec16(), []byte{0})), ExtensionBody},
		"pre-shared key without binders":      {hello(ext(extPreSharedKey, vec16(vec16([]byte{1}), make([]byte, 4)))), ExtensionBody},
		"pre-shared key of no identity":       {hello(ext(extPreSharedKey, vec16(), vec16(vec8(make([]byte, 32))))), ExtensionBody},
		"pre-shared key of an empty identity": {hello(ext(extPreSharedKey, vec16(vec16(), make([]byte, 4)), vec16(vec8(make([]byte, 32))))), ExtensionBody},
		"pre-shared key without an age":       {hello(ext(extPreSharedKey, vec16(vec16([]byte{1}), make([]byte, 3)), vec16(vec8(make([]byte, 32))))), ExtensionBody},
		"pre-shared key of an empty binder":   {hello(ext(extPreSharedKey, vec16(vec16([]byte{1}), make([]byte, 4)), vec16(vec8()))), ExtensionBody},
		"pre-shared key not last":             {hello(preSharedKey(), sni("a.test")), PSKNotLast},
		"ECH of no bytes":                     {hello(ext(extECH)), ECHBody},
		"ECH of an unknown form":              {hello(ext(extECH, []byte{2})), ECHBody},
		"ECH inner with a body":               {hello(ext(extECH, []byte{echInner, 0})), ECHBody},
		"ECH outer cut":                       {hello(ext(extECH, []byte{echOuter}, u16(1, 1), []byte{0}, vec16())), ECHBody},
		"ALPN of no bytes":                    {hello(ext(extALPN)), Truncated},
		"bytes behind the ALPN list":          {hello(ext(extALPN, vec16(vec8([]byte("h2"))), []byte{0})), TrailingBytes},
		"ALPN protocol past the end":          {hello(ext(extALPN, vec16([]byte{3, 'h', '2'}))), Truncated},
		"ALPN list empty":                     {hello(alpn()), ALPNEmpty},
		"ALPN protocol empty":                 {hello(alpn("h2", "")), ALPNEmpty},
		"ALPN of 129 protocols":               {hello(alpn(strings.Split(strings.Repeat("x ", 128)+"x", " ")...)), ALPNCount},
		"SNI of no bytes":                     {hello(ext(extServerName)), Truncated},
		"SNI list empty":                      {hello(ext(extServerName, vec16())), NameEmpty},
		"SNI name past the end":               {hello(ext(extServerName, vec16([]byte{0, 0, 9, 'a'}))), Truncated},
		"SNI with half a name length":         {hello(ext(extServerName, vec16([]byte{0, 0}))), Truncated},
		"bytes behind the SNI list":           {hello(ext(extServerName, vec16([]byte{0}, vec16([]byte("a.test"))), []byte{0})), TrailingBytes},
		"unknown name type alone":             {hello(ext(extServerName, vec16([]byte{1}, vec16([]byte("a.test"))))), NameType},
		"unknown name type first":             {hello(ext(extServerName, vec16([]byte{1}, vec16([]byte("x")), []byte{0}, vec16([]byte("a.test"))))), NameType},
		"two host names":                      {hello(ext(extServerName, vec16([]byte{0}, vec16([]byte("a.test")), []byte{0}, vec16([]byte("b.test"))))), TwoNames},
		"unknown name type second":            {hello(ext(extServerName, vec16([]byte{0}, vec16([]byte("a.test")), []byte{9}, vec16([]byte("x"))))), TwoNames},
		"name of no bytes":                    {hello(sni("")), NameEmpty},
		"name of 254 bytes":                   {hello(sni(longName)), NameLength},
		"name with NUL":                       {hello(sni("a.test\x00.b.test")), NameNUL},
		"name with a space":                   {hello(sni("a .test")), NameByte},
		"name with an empty label":            {hello(sni("a..test")), NameLabel},
		"name with a dot at the end":          {hello(sni("a.test.")), NameDot},
		"name is an IPv4 address":             {hello(sni("192.0.2.1")), NameIP},
		"name is an IPv6 address":             {hello(sni("2001:db8::1")), NameByte},
	}
}

func TestMalformed(t *testing.T) {
	seen := make(map[Reason]bool)
	for name, tt := range malformedHellos() {
		seen[tt.want] = true
		t.Run(name, func(t *testing.T) {
			var p Parser
			got := Hello{ServerName: "before"}
			err := p.Parse(tt.in, &got)
			if err != error(tt.want) || !errors.Is(err, ErrMalformed) {
				t.Errorf("Parse: %v, want %v", err, tt.want)
			}
			if errors.Is(err, ErrIncomplete) || errors.Is(err, ErrNotTLS) || errors.Is(err, ErrTooLarge) {
				t.Errorf("%v is of two kinds", err)
			}
			if diff := cmp.Diff(Hello{ServerName: "before"}, got); diff != "" {
				t.Errorf("a refused hello was written (-want +got):\n%s", diff)
			}
			if p.Need != 0 {
				t.Errorf("Need %d, want 0", p.Need)
			}
		})
	}
	for r := Reason(1); r < reasonEnd; r++ {
		if !seen[r] {
			t.Errorf("no hello is refused for %v", r)
		}
	}
}

func TestReasonHasItsOwnName(t *testing.T) {
	names := make(map[string]Reason)
	for r := Reason(1); r < reasonEnd; r++ {
		name := r.String()
		if other, ok := names[name]; ok || name == "" || name == "unknown" {
			t.Errorf("reason %d is called %q, as is %d", r, name, other)
		}
		names[name] = r
	}
	if got := Reason(0).String() + " " + reasonEnd.String(); got != "unknown unknown" {
		t.Errorf("reasons out of range are called %q", got)
	}
	if got, want := TwoSNI.Error(), "malformed hello: two_sni"; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
}

func TestResultOutlivesInputAndParser(t *testing.T) {
	in := hello(sni("first.test"), alpn("h2", "http/1.1"))
	var p Parser
	var got Hello
	if err := p.Parse(in, &got); err != nil {
		t.Fatal(err)
	}
	want := Hello{ServerName: "first.test", HasSNI: true, ALPN: []string{"h2", "http/1.1"}, MaxVersion: 0x0303, Size: len(in)}
	clear(in)
	var other Hello
	if err := p.Parse(hello(sni("other.test"), alpn("xx", "yyyyyyyy")), &other); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, ignoreJA4); diff != "" {
		t.Errorf("first hello changed (-want +got):\n%s", diff)
	}
}

func TestIsGREASE(t *testing.T) {
	var got []uint16
	for v := range 1 << 16 {
		if isGREASE(uint16(v)) {
			got = append(got, uint16(v))
		}
	}
	want := []uint16{0x0a0a, 0x1a1a, 0x2a2a, 0x3a3a, 0x4a4a, 0x5a5a, 0x6a6a, 0x7a7a,
		0x8a8a, 0x9a9a, 0xaaaa, 0xbaba, 0xcaca, 0xdada, 0xeaea, 0xfafa}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("GREASE values (-want +got):\n%s", diff)
	}
}
