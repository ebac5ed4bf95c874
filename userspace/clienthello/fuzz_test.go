// SPDX-License-Identifier: Apache-2.0

package clienthello

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// seeds are the recorded hellos, whole and in small records, the refused ones and
// some that are built. The corpora in testdata/fuzz hold what fuzzing has found.
func seeds(f *testing.F) [][]byte {
	var all [][]byte
	for _, in := range recorded(f) {
		all = append(all, in, records(unframe(in), 50))
	}
	for _, tt := range malformedHellos() {
		all = append(all, tt.in)
	}
	return append(all,
		hello(),
		records(message{bare: true}.bytes(), 1),
		hello(sni("a.test"), ext(extEarlyData), preSharedKey()),
		hello(sni("a.test"), ech(1)),
		[]byte("GET / HTTP/1.1\r\n\r\n"),
	)
}

// strict is what crypto/tls lets pass and this package does not.
var strict = map[error]string{
	ErrNotTLS:         "an alert may come first, and the record's major version is any below 16",
	ErrTooLarge:       "the message header does not count towards 65536 bytes",
	RecordVersion:     "the same, for later records",
	RecordType:        "warning alerts between fragments are dropped",
	TrailingHandshake: "what follows in the record is read as the next message",
	SessionID:         "any length",
	CipherSuites:      "an empty list is refused later, as one with no suite in common",
	Compression:       "refused later",
	ECHBody:           "an empty extension is ignored, and bytes behind the payload are",
	ALPNCount:         "any number",
	NameType:          "entries of unknown types are skipped",
	TwoNames:          "the same",
	NameLength:        "names are opaque but for a dot at the end",
	NameNUL:           "the same",
	NameByte:          "the same",
	NameLabel:         "the same",
	NameIP:            "the same",
}

// FuzzAgainstCryptoTLS: the same name and protocols as Go's own server reads from
// these bytes, or both refuse; strict lists the exceptions.
func FuzzAgainstCryptoTLS(f *testing.F) {
	for _, in := range seeds(f) {
		f.Add(in)
	}
	f.Fuzz(compareWithCryptoTLS)
}

// FuzzExtensionAgainstCryptoTLS is the same for one extension in a good hello: with
// all lengths around it right, fuzzing gets further.
func FuzzExtensionAgainstCryptoTLS(f *testing.F) {
	for _, in := range seeds(f) {
		var p Parser
		if p.Parse(in, new(Hello)) != nil {
			continue
		}
		all := cursor(unframe(in)[handshakeHeader+2+32:])
		all.vector8()  // session ID
		all.vector16() // cipher suites
		all.vector8()  // compression
		all, _ = all.vector16()
		for len(all) > 0 {
			kind, _ := all.uint16()
			body, _ := all.vector16()
			f.Add(kind, []byte(body))
		}
	}
	f.Fuzz(func(t *testing.T, kind uint16, body []byte) {
		if len(body) > recordMax/2 {
			t.Skip("longer than a record")
		}
		compareWithCryptoTLS(t, hello(versions(0x0304), ext(kind, body)))
		compareWithCryptoTLS(t, hello(ext(kind, body), sni("a.test")))
	})
}

func compareWithCryptoTLS(t *testing.T, in []byte) {
	var p Parser
	var h Hello
	err := p.Parse(in, &h)
	info := serverReads(in)
	switch {
	case err == nil && info == nil:
		t.Fatalf("accepted as %q, crypto/tls refuses", h.ServerName)
	case err == nil:
		if got := strings.ToLower(info.ServerName); got != h.ServerName {
			t.Fatalf("name %q, crypto/tls reads %q", h.ServerName, got)
		}
		if diff := cmp.Diff(info.SupportedProtos, h.ALPN, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("protocols (-crypto/tls +here):\n%s", diff)
		}
	case info != nil && strict[err] == "":
		t.Fatalf("%v, crypto/tls reads %q", err, info.ServerName)
	}
}

// FuzzPrefixes: every prefix is incomplete or final, and Need is honest.
func FuzzPrefixes(f *testing.F) {
	for _, in := range seeds(f) {
		f.Add(in)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 2100 {
			t.Skip("too long to try each prefix")
		}
		checkPrefixes(t, in)
	})
}

// FuzzRecordSplits: the records that carry a message do not change what it says.
func FuzzRecordSplits(f *testing.F) {
	for i, in := range seeds(f) {
		f.Add(in, []byte{byte(1 + i%7), byte(i)})
	}
	f.Fuzz(func(t *testing.T, in, sizes []byte) {
		var p Parser
		total, size, err := p.measure(in)
		if err != nil || len(sizes) == 0 {
			t.Skip("no message")
		}
		var want Hello
		wantErr := p.Parse(in, &want)
		msg := unframe(in[:size])
		if len(msg) != total {
			t.Fatalf("the records hold %d bytes, the message has %d", len(msg), total)
		}
		var split []int
		for _, b := range sizes {
			split = append(split, 1+int(b))
		}
		checkSplit(t, msg, want, wantErr, split...)
	})
}

// serverReads is what a crypto/tls server reads from in; nil if it refuses it.
func serverReads(in []byte) *tls.ClientHelloInfo {
	var info *tls.ClientHelloInfo
	seen := errors.New("seen")
	config := &tls.Config{GetConfigForClient: func(i *tls.ClientHelloInfo) (*tls.Config, error) {
		info = i
		return nil, seen
	}}
	// The handshake always fails: at the callback, or before it.
	_ = tls.Server(&stream{Reader: bytes.NewReader(in)}, config).Handshake()
	return info
}

// stream is a connection on which the client has sent its bytes and closed.
type stream struct {
	*bytes.Reader
	net.Conn
}

func (s *stream) Read(b []byte) (int, error)       { return s.Reader.Read(b) }
func (s *stream) Write(b []byte) (int, error)      { return len(b), nil }
func (s *stream) Close() error                     { return nil }
func (s *stream) SetWriteDeadline(time.Time) error { return nil }

// The list of exceptions must not outlive its reasons.
func TestStrictnessIsReal(t *testing.T) {
	msg := message{extensions: [][]byte{sni("a.test")}}.bytes()
	warning := record(21, []byte{1, 100})
	split := func(between []byte) []byte {
		return cat(record(22, msg[:20]), between, record(22, msg[20:]))
	}
	otherMajor := split(nil)
	otherMajor[recordHeader+20+1] = 4
	examples := map[error][]byte{
		ErrNotTLS:     cat(warning, hello(sni("a.test"))),
		ErrTooLarge:   records(sized(MaxSize+1, sni("a.test")), recordMax),
		RecordVersion: otherMajor,
		RecordType:    split(warning),
	}
	for _, tt := range malformedHellos() {
		if examples[tt.want] == nil && serverReads(tt.in) != nil {
			examples[tt.want] = tt.in
		}
	}
	for want, why := range strict {
		var p Parser
		if err := p.Parse(examples[want], new(Hello)); err != want {
			t.Errorf("no example for %v: %v", want, err)
		}
		if serverReads(examples[want]) == nil {
			t.Errorf("crypto/tls refuses the example for %v too (%s)", want, why)
		}
	}
}
