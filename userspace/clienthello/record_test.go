// SPDX-License-Identifier: Apache-2.0

package clienthello

import (
	"errors"
	"fmt"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var ignoreSize = cmpopts.IgnoreFields(Hello{}, "Size")

func TestNotTLS(t *testing.T) {
	for name, in := range map[string]string{
		"HTTP":              "GET / HTTP/1.1\r\n\r\n",
		"one wrong byte":    "G",
		"SSH":               "SSH-2.0-OpenSSH_9.2\r\n",
		"SSLv2 hello":       "\x80\x2e\x01\x00\x02",
		"alert":             "\x15\x03\x01\x00\x02\x01\x00",
		"application data":  "\x17\x03\x03\x00\x01\x00",
		"PROXY protocol v2": "\r\n\r\n\x00\r\nQUIT\n",
		"another major":     "\x16\x02",
	} {
		t.Run(name, func(t *testing.T) {
			var p Parser
			if err := p.Parse([]byte(in), new(Hello)); err != ErrNotTLS {
				t.Errorf("Parse: %v, want %v", err, ErrNotTLS)
			}
		})
	}
}

func TestIncompleteSaysHowMuchIsNeeded(t *testing.T) {
	header := func(n int) []byte { return []byte{1, byte(n >> 16), byte(n >> 8), byte(n)} }
	open := func(length int, fragment []byte) []byte { // a record that is not all there
		return cat([]byte{22, 3, 1}, u16(uint16(length)), fragment)
	}
	tests := []struct {
		name string
		in   []byte
		want int
	}{
		{"nothing", nil, 1},
		{"first byte", []byte{22}, 2},
		{"second byte", []byte{22, 3}, 9},
		{"record header less a byte", []byte{22, 3, 1, 1}, 9},
		{"record header", open(200, nil), 9},
		{"record header and 3 bytes", open(200, header(196)[:3]), 9},
		{"message header", open(200, header(196)), 205},
		{"record less a byte", open(200, cat(header(196), make([]byte, 195))), 205},
		{"header of a record of 1 byte", open(1, nil), 6 + 5 + 3},
		{"record of 1 byte", record(22, []byte{1}), 6 + 5 + 3},
		{"record of 1 byte and part of a header", cat(record(22, []byte{1}), []byte{22, 3}), 6 + 5 + 3},
		{"three records of 1 byte", records(header(0)[:3], 1), 18 + 5 + 1},
		{"message header in a record of its own", record(22, header(100)), 9 + 5 + 100},
		{"message header in records of 1 byte", records(header(100), 1), 24 + 5 + 100},
		{"message goes on after the record", open(200, header(300)), 205 + 5 + 104},
		{"next record's header in part", cat(record(22, cat(header(300), make([]byte, 196))), []byte{22}), 205 + 5 + 104},
		{"next record is short", cat(record(22, cat(header(300), make([]byte, 196))), open(4, nil)), 205 + 9 + 5 + 100},
		{"exactly one more full record", record(22, header(recordMax)), 9 + 5 + recordMax},
		{"one full record and a byte", record(22, header(recordMax+1)), 9 + 5 + recordMax + 5 + 1},
		{"largest hello", record(22, header(MaxSize-4)), 9 + 4*5 + MaxSize - 4},
	}
	var p Parser
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := p.Parse(tt.in, new(Hello)); err != ErrIncomplete {
				t.Fatalf("Parse: %v, want %v", err, ErrIncomplete)
			}
			if p.Need != tt.want {
				t.Errorf("Need %d, want %d", p.Need, tt.want)
			}
		})
	}
}

func TestTooLargeAsSoonAsAnnounced(t *testing.T) {
	tests := []struct {
		maxSize, announced int // both with the message header
		want               error
	}{
		{0, MaxSize, ErrIncomplete},
		{0, MaxSize + 1, ErrTooLarge},
		{0, 4 + 1<<24 - 1, ErrTooLarge},
		{-1, MaxSize, ErrIncomplete},
		{1000, 1000, ErrIncomplete},
		{1000, 1001, ErrTooLarge},
		{1 << 17, MaxSize + 1, ErrIncomplete},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%d of %d", tt.announced, tt.maxSize), func(t *testing.T) {
			p := Parser{MaxSize: tt.maxSize}
			n := tt.announced - 4
			header := []byte{1, byte(n >> 16), byte(n >> 8), byte(n)}
			for _, in := range [][]byte{
				cat([]byte{22, 3, 1}, u16(uint16(min(tt.announced, recordMax))), header),
				records(header, 1),
			} {
				if err := p.Parse(in, new(Hello)); err != tt.want {
					t.Errorf("Parse: %v, want %v", err, tt.want)
				}
			}
		})
	}
}

func TestHelloOfLargestSizeInRecordsOfOneByte(t *testing.T) {
	in := records(sized(MaxSize, sni("big.test")), 1)
	var p Parser
	var h Hello
	if err := p.Parse(in, &h); err != nil {
		t.Fatal(err)
	}
	if h.ServerName != "big.test" || h.Size != 6*MaxSize {
		t.Errorf("hello %q of %d bytes, want big.test of %d", h.ServerName, h.Size, 6*MaxSize)
	}
	if err := p.Parse(in[:len(in)-1], &h); err != ErrIncomplete || p.Need != len(in) {
		t.Errorf("one byte less: %v, Need %d, want %v and %d", err, p.Need, ErrIncomplete, len(in))
	}
	if cap(p.message) > 2*MaxSize {
		t.Errorf("%d bytes of scratch for a message of %d", cap(p.message), MaxSize)
	}
}

func TestIncompleteTakesNoScratch(t *testing.T) {
	in := records(sized(60_000), 7)
	var p Parser
	for _, n := range []int{100, 10_000, len(in) - 1} {
		if err := p.Parse(in[:n], new(Hello)); err != ErrIncomplete {
			t.Fatalf("Parse: %v", err)
		}
	}
	if cap(p.message) != 0 {
		t.Errorf("%d bytes of scratch while the hello was incomplete", cap(p.message))
	}
}

// checkPrefixes parses every prefix of in: each is incomplete or has the answer of
// the whole, and Need is a bound that a caller can wait for.
func checkPrefixes(t *testing.T, in []byte) {
	t.Helper()
	var whole, p Parser
	var want Hello
	final := whole.Parse(in, &want)
	settled, need := false, 0
	for n := range len(in) + 1 {
		var got Hello
		err := p.Parse(in[:n], &got)
		if err != ErrIncomplete {
			settled = true
			if err != final || !reflect.DeepEqual(got, want) {
				t.Fatalf("%d of %d bytes: %v %+v, the whole: %v %+v", n, len(in), err, got, final, want)
			}
			if err == nil && (n < need || n < got.Size) {
				t.Fatalf("accepted %d bytes, but Need was %d and Size is %d", n, need, got.Size)
			}
			continue
		}
		switch {
		case settled:
			t.Fatalf("%d of %d bytes: incomplete, but fewer were not", n, len(in))
		case p.Need <= n:
			t.Fatalf("%d bytes need %d", n, p.Need)
		case p.Need < need:
			t.Fatalf("%d bytes need %d, fewer needed %d", n, p.Need, need)
		case final == nil && p.Need > want.Size:
			t.Fatalf("%d bytes need %d, but the hello has %d", n, p.Need, want.Size)
		}
		need = p.Need
	}
	if !settled && final != ErrIncomplete {
		t.Fatalf("no prefix has the answer %v", final)
	}
	if final == ErrIncomplete {
		checkShortest(t, in, whole.Need)
	}
}

// checkShortest ends the message that in is the start of in as few bytes as the
// record layer allows: that is Need.
func checkShortest(t *testing.T, in []byte, need int) {
	t.Helper()
	var msg []byte // what there is of it
	b, missing := in, 0
	for len(b) >= recordHeader {
		end := min(len(b), recordHeader+recordLength(b))
		msg = append(msg, b[recordHeader:end]...)
		missing = recordHeader + recordLength(b) - end
		b = b[end:]
	}
	if len(msg) < handshakeHeader || len(b) == recordHeader-1 {
		return // the message's length is not known; the record's is in part
	}
	left := handshakeHeader + int(msg[1])<<16 + int(msg[2])<<8 + int(msg[3]) - len(msg)
	out := cat(in, make([]byte, missing))
	tail := records(make([]byte, left-missing), recordMax)
	out = append(out, tail[min(len(b), len(tail)):]...)
	if len(out) != need {
		t.Fatalf("%d bytes need %d, but %d are enough", len(in), need, len(out))
	}
	var p Parser
	if err := p.Parse(out[:need-1], new(Hello)); err != ErrIncomplete {
		t.Fatalf("a byte less than Need: %v", err)
	}
	if err := p.Parse(out, new(Hello)); err != nil && !errors.Is(err, ErrMalformed) {
		t.Fatalf("as many bytes as Need: %v", err)
	}
}

func TestPrefixes(t *testing.T) {
	for name, in := range recorded(t) {
		t.Run(name, func(t *testing.T) {
			checkPrefixes(t, in)
			checkPrefixes(t, in[:len(in)-10])
			checkPrefixes(t, records(unframe(in), 3, 100, 1, 40))
		})
	}
	for name, tt := range malformedHellos() {
		t.Run(name, func(t *testing.T) { checkPrefixes(t, tt.in) })
	}
}

// checkSplit frames the message in records of the given sizes and expects the
// answer that it had before.
func checkSplit(t *testing.T, msg []byte, want Hello, wantErr error, sizes ...int) {
	t.Helper()
	in := records(msg, sizes...)
	var p Parser
	var got Hello
	if err := p.Parse(in, &got); err != wantErr {
		t.Fatalf("records of %v bytes: %v, want %v", sizes, err, wantErr)
	}
	if diff := cmp.Diff(want, got, ignoreSize); diff != "" {
		t.Fatalf("records of %v bytes (-want +got):\n%s", sizes, diff)
	}
	if wantErr == nil && got.Size != len(in) {
		t.Fatalf("records of %v bytes: Size %d, want %d", sizes, got.Size, len(in))
	}
}

func TestRecordSplits(t *testing.T) {
	hellos := recorded(t)
	for name, in := range hellos {
		t.Run(name, func(t *testing.T) {
			msg := unframe(in)
			var p Parser
			var want Hello
			if err := p.Parse(in, &want); err != nil {
				t.Fatal(err)
			}
			for _, size := range []int{1, 2, 3, 4, 5, 64, 255, 256, len(msg) - 1} {
				checkSplit(t, msg, want, nil, size)
			}
		})
	}
	t.Run("curl in two at every byte", func(t *testing.T) {
		msg := unframe(hellos["curl"])
		var p Parser
		var want Hello
		if err := p.Parse(hellos["curl"], &want); err != nil {
			t.Fatal(err)
		}
		for at := 1; at < len(msg); at++ {
			checkSplit(t, msg, want, nil, at, recordMax)
		}
	})
	t.Run("61 KB", func(t *testing.T) {
		in := hello(ext(0xabcd, make([]byte, 61_000)), sni("big.test"))
		var p Parser
		var want Hello
		if err := p.Parse(in, &want); err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{1, 7, 1400, recordMax} {
			checkSplit(t, unframe(in), want, nil, size)
		}
	})
}
