// SPDX-License-Identifier: Apache-2.0

package clienthello

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
)

const (
	hexDigits = "0123456789abcdef"
	ja4Size   = 36 // 10, '_', 12, '_', 12
)

// ja4 makes the fingerprint "a_b_c": what the client can do in short, a digest of
// its cipher suites and one of its extensions and signature algorithms. Suites and
// extensions are sorted, because browsers shuffle the latter. GREASE never counts.
// Specification: FoxIO, "JA4: TLS Client Fingerprinting".
func (p *Parser) ja4(f *fields) string {
	p.ciphers = p.ciphers[:0]
	for list := f.ciphers; len(list) > 0; {
		if v, _ := list.uint16(); !isGREASE(v) {
			p.ciphers = append(p.ciphers, v)
		}
	}
	slices.Sort(p.ciphers)

	var buf [ja4Size]byte
	out := append(buf[:0], 't')
	out = append(out, ja4Version(f.maxVersion)...)
	if f.serverName != nil {
		out = append(out, 'd')
	} else {
		out = append(out, 'i')
	}
	out = appendCount(out, len(p.ciphers))
	count := 0
	for _, v := range p.extensions {
		if !isGREASE(v) {
			count++
		}
	}
	out = appendCount(out, count)
	out = appendALPN(out, f.alpn)

	p.text = p.text[:0]
	for _, v := range p.ciphers {
		p.text = appendCode(p.text, v)
	}
	out = appendDigest(append(out, '_'), p.text)

	p.text = p.text[:0]
	for _, v := range p.extensions {
		if !isGREASE(v) && v != extServerName && v != extALPN {
			p.text = appendCode(p.text, v)
		}
	}
	signed := false
	for list := f.signatures; len(list) > 0; {
		v, _ := list.uint16()
		if isGREASE(v) {
			continue
		}
		if !signed {
			p.text, signed = append(p.text, '_'), true
		}
		p.text = appendCode(p.text, v)
	}
	out = appendDigest(append(out, '_'), p.text)
	return string(out)
}

// ja4Version names a version; "00" is one that the specification does not know.
func ja4Version(v uint16) string {
	switch v {
	case 0x0304:
		return "13"
	case 0x0303:
		return "12"
	case 0x0302:
		return "11"
	case 0x0301:
		return "10"
	case 0x0300:
		return "s3"
	case 0x0002:
		return "s2"
	}
	return "00"
}

// appendCount writes n with two digits; more than 99 is 99.
func appendCount(out []byte, n int) []byte {
	n = min(n, 99)
	return append(out, '0'+byte(n/10), '0'+byte(n%10))
}

// appendALPN writes the first and the last character of the first protocol in the
// list, or of its bytes in hexadecimal if either is not a letter or a digit.
func appendALPN(out []byte, list cursor) []byte {
	first, ok := list.vector8()
	if !ok || len(first) == 0 {
		return append(out, '0', '0')
	}
	a, z := first[0], first[len(first)-1]
	if isAlphanumeric(a) && isAlphanumeric(z) {
		return append(out, a, z)
	}
	return append(out, hexDigits[a>>4], hexDigits[z&0xf])
}

func isAlphanumeric(b byte) bool {
	return '0' <= b && b <= '9' || 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z'
}

// appendCode writes v with four hexadecimal digits, after a comma unless it is the
// first of its list.
func appendCode(text []byte, v uint16) []byte {
	if n := len(text); n > 0 && text[n-1] != '_' {
		text = append(text, ',')
	}
	return append(text, hexDigits[v>>12], hexDigits[v>>8&0xf], hexDigits[v>>4&0xf], hexDigits[v&0xf])
}

// appendDigest writes the first 12 hexadecimal digits of text's SHA-256, or zeros
// if there is no text.
func appendDigest(out, text []byte) []byte {
	var sum [sha256.Size]byte
	if len(text) > 0 {
		sum = sha256.Sum256(text)
	}
	return hex.AppendEncode(out, sum[:6])
}
