// SPDX-License-Identifier: Apache-2.0

package clienthello

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The functions here build hellos as a client would, good and bad.

func cat(parts ...[]byte) []byte { return slices.Concat(parts...) }

func u16(v ...uint16) []byte {
	var b []byte
	for _, v := range v {
		b = append(b, byte(v>>8), byte(v))
	}
	return b
}

func vec8(parts ...[]byte) []byte {
	b := cat(parts...)
	return append([]byte{byte(len(b))}, b...)
}

func vec16(parts ...[]byte) []byte {
	b := cat(parts...)
	return append(u16(uint16(len(b))), b...)
}

func ext(kind uint16, body ...[]byte) []byte { return cat(u16(kind), vec16(body...)) }

func sni(name string) []byte {
	return ext(extServerName, vec16([]byte{hostName}, vec16([]byte(name))))
}

func alpn(protocols ...string) []byte {
	var list []byte
	for _, p := range protocols {
		list = append(list, vec8([]byte(p))...)
	}
	return ext(extALPN, vec16(list))
}

func versions(v ...uint16) []byte { return ext(extVersions, vec8(u16(v...))) }

func keyShare(group uint16, size int) []byte {
	return ext(extKeyShare, vec16(u16(group), vec16(make([]byte, size))))
}

func ech(config byte) []byte {
	return ext(extECH, []byte{echOuter}, u16(1, 1), []byte{config}, vec16(make([]byte, 32)), vec16(make([]byte, 144)))
}

func preSharedKey() []byte {
	return ext(extPreSharedKey, vec16(vec16([]byte("ticket")), []byte{0, 0, 0, 1}), vec16(vec8(make([]byte, 32))))
}

// message is a ClientHello; fields that are nil have ordinary values.
type message struct {
	kind        byte // 0: ClientHello
	random      []byte
	session     []byte // with its length
	ciphers     []byte // with its length
	compression []byte // with its length
	extensions  [][]byte
	bare        bool   // no extension block at all
	trailing    []byte // behind the extensions, in the message
}

func (m message) bytes() []byte {
	or := func(b, def []byte) []byte {
		if b == nil {
			return def
		}
		return b
	}
	body := cat(
		u16(0x0303),
		or(m.random, make([]byte, 32)),
		or(m.session, vec8(make([]byte, 32))),
		or(m.ciphers, vec16(u16(0x1301, 0x1302, 0x1303))),
		or(m.compression, vec8([]byte{0})),
	)
	if !m.bare {
		body = append(body, vec16(m.extensions...)...)
	}
	body = append(body, m.trailing...)
	kind := m.kind
	if kind == 0 {
		kind = handshakeClientHello
	}
	n := len(body)
	return append([]byte{kind, byte(n >> 16), byte(n >> 8), byte(n)}, body...)
}

// hello is one good message with these extensions, in one record or as many as
// it takes.
func hello(extensions ...[]byte) []byte {
	return records(message{extensions: extensions}.bytes(), recordMax)
}

// sized is a good message of n bytes, filled up with an unknown extension.
func sized(n int, extensions ...[]byte) []byte {
	empty := message{extensions: append(extensions, ext(0xabcd))}.bytes()
	return message{extensions: append(extensions, ext(0xabcd, make([]byte, n-len(empty))))}.bytes()
}

func record(kind byte, fragment []byte) []byte {
	return cat([]byte{kind, 3, 1}, vec16(fragment))
}

// records frames msg in records of at most size bytes each; the sizes repeat.
func records(msg []byte, sizes ...int) []byte {
	var out []byte
	for i := 0; len(msg) > 0; i++ {
		n := min(sizes[i%len(sizes)], len(msg))
		out = append(out, record(recordHandshake, msg[:n])...)
		msg = msg[n:]
	}
	return out
}

// unframe joins the fragments of records that are whole.
func unframe(b []byte) []byte {
	var msg []byte
	for len(b) > 0 {
		end := recordHeader + recordLength(b)
		msg = append(msg, b[recordHeader:end]...)
		b = b[end:]
	}
	return msg
}

// recorded reads testdata/hellos.
func recorded(tb testing.TB) map[string][]byte {
	tb.Helper()
	paths, err := filepath.Glob("testdata/hellos/*.bin")
	if err != nil || len(paths) == 0 {
		tb.Fatalf("find recorded hellos: %d files, error %v", len(paths), err)
	}
	hellos := make(map[string][]byte)
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			tb.Fatal(err)
		}
		hellos[strings.TrimSuffix(filepath.Base(path), ".bin")] = b
	}
	return hellos
}
