// SPDX-License-Identifier: Apache-2.0

package clienthello

import (
	"strings"
	"testing"
)

func TestCheckName(t *testing.T) {
	label63 := strings.Repeat("a", 63)
	tests := []struct {
		name string
		want Reason
	}{
		{"a", 0},
		{"localhost", 0},
		{"a.test", 0},
		{"A.TEST", 0},
		{"xn--bcher-kva.test", 0},
		{"_acme-challenge.a.test", 0},
		{"-a-.test", 0},
		{"1.2.3.4.test", 0},
		{"1.2.3", 0},
		{"1.2.3.4.5", 0},
		{"1.2.3.a", 0},
		{"123", 0},
		{label63 + ".test", 0},
		{strings.Repeat("a.", 126) + "a", 0}, // 253
		{"", NameEmpty},
		{strings.Repeat("a.", 126) + "ab", NameLength},
		{label63 + "a.test", NameLabel},
		{".a.test", NameLabel},
		{"a..test", NameLabel},
		{".", NameLabel},
		{"a.test.", NameDot},
		{"a.test..", NameLabel},
		{"1.2.3.4", NameIP},
		{"255.255.255.255", NameIP},
		{"999.1.1.1", NameIP},
		{"01.2.3.4", NameIP},
		{"1.2.3.4.", NameDot},
		{"::1", NameByte},
		{"[::1]", NameByte},
		{"a.test:443", NameByte},
		{"*.a.test", NameByte},
		{"a/../b", NameByte},
		{"a\n.test", NameByte},
		{"bücher.test", NameByte},
		{"a\xff.test", NameByte},
		{"\x00", NameNUL},
		{"a.test\x00", NameNUL},
	}
	for _, tt := range tests {
		if got := checkName([]byte(tt.name)); got != tt.want {
			t.Errorf("checkName(%q) = %d %v, want %d %v", tt.name, got, got, tt.want, tt.want)
		}
	}
}

func TestCheckNameTakesNoOtherByte(t *testing.T) {
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
	for b := range 256 {
		got := checkName([]byte{'a', byte(b), 'a'}) == 0
		if want := strings.IndexByte(allowed, byte(b)) >= 0; got != want {
			t.Errorf("byte %#02x is good: %v, want %v", b, got, want)
		}
	}
}

func TestCanonicalName(t *testing.T) {
	if got, err := CanonicalName("A.Test"); got != "a.test" || err != nil {
		t.Errorf("CanonicalName(A.Test) = %q, %v, want a.test", got, err)
	}
	if got, err := CanonicalName("a.test."); got != "" || err != error(NameDot) {
		t.Errorf("CanonicalName(a.test.) = %q, %v, want %v", got, err, NameDot)
	}
}
