// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

const (
	recordHeader   = 5 // type, version, length: RFC 8446 section 5.1
	maxRecord      = 1 << 14
	handshakeType  = 22    // record type
	clientHello    = 1     // handshake type
	helloHeader    = 4     // type and length of a handshake message: RFC 8446 section 4
	paddingType    = 21    // RFC 7685
	maxExtensions  = 65535 // of the whole block, RFC 8446 section 4.1.2
	extensionFrame = 4     // type and length of one extension
)

// HelloOptions varies a ClientHello. The zero value is what crypto/tls sends
// today: TLS 1.3 and 1.2, post-quantum and classical key shares.
type HelloOptions struct {
	NoSNI     bool     // leave the server_name extension out
	Classical bool     // an X25519 share only: about 250 bytes instead of 1,500
	MaxTLS12  bool     // offer TLS 1.2 only
	ALPN      []string // protocols, in order

	// Size pads the handshake message, with its 4-byte header and without
	// record headers, to this many bytes by an RFC 7685 extension. 0 leaves it
	// as it is. Such a hello is well-formed, but no handshake can be
	// completed with it: the rest of it never saw the padding.
	Size int
}

// Hello returns the TLS records of a ClientHello made by crypto/tls, which
// asks for the name: as few records as the size allows. Each call draws new
// random values.
func Hello(name string, options HelloOptions) ([]byte, error) {
	config := &tls.Config{
		ServerName:         name,
		NextProtos:         options.ALPN,
		InsecureSkipVerify: true, // nothing is ever verified: the handshake ends with its first message
	}
	if options.NoSNI {
		config.ServerName = ""
	}
	if options.Classical {
		config.CurvePreferences = []tls.CurveID{tls.X25519}
	}
	if options.MaxTLS12 {
		config.MaxVersion = tls.VersionTLS12
	}
	var written recorder
	if err := tls.Client(&written, config).Handshake(); !errors.Is(err, errRecorded) {
		return nil, fmt.Errorf("make hello for %q: %w", name, err)
	}
	if options.Size == 0 {
		return written.Bytes(), nil
	}
	message, err := handshakeMessage(written.Bytes())
	if err != nil {
		return nil, fmt.Errorf("make hello for %q: %w", name, err)
	}
	if message, err = padHello(message, options.Size); err != nil {
		return nil, fmt.Errorf("pad hello for %q: %w", name, err)
	}
	return records(message, written.Bytes()[1:3], maxRecord), nil
}

// SplitRecords returns the same handshake message in records that carry at
// most n bytes each, n from 1 to 16384. RFC 8446 section 5.1 allows any split.
func SplitRecords(hello []byte, n int) ([]byte, error) {
	if n < 1 || n > maxRecord {
		return nil, fmt.Errorf("split hello: %d bytes a record, want 1 to %d", n, maxRecord)
	}
	message, err := handshakeMessage(hello)
	if err != nil {
		return nil, fmt.Errorf("split hello: %w", err)
	}
	return records(message, hello[1:3], n), nil
}

// readHello reads the records of one ClientHello and nothing behind them.
func readHello(r io.Reader) ([]byte, error) {
	var hello []byte
	for want := 1; want > 0; {
		header := make([]byte, recordHeader)
		if _, err := io.ReadFull(r, header); err != nil {
			return hello, fmt.Errorf("read record header: %w", err)
		}
		if header[0] != handshakeType {
			return hello, fmt.Errorf("record type %d, want %d", header[0], handshakeType)
		}
		body := make([]byte, binary.BigEndian.Uint16(header[3:]))
		if _, err := io.ReadFull(r, body); err != nil {
			return hello, fmt.Errorf("read record: %w", err)
		}
		hello = append(append(hello, header...), body...)
		want = missing(payload(hello))
	}
	return hello, nil
}

// missing is how many bytes a handshake message still lacks, as far as can be
// known.
func missing(message []byte) int {
	if len(message) < helloHeader {
		return helloHeader - len(message)
	}
	return helloHeader + int(uint24(message[1:])) - len(message)
}

// payload is the records' content without their headers. A record that is cut
// short ends it.
func payload(records []byte) []byte {
	var content []byte
	for len(records) >= recordHeader {
		length := int(binary.BigEndian.Uint16(records[3:]))
		records = records[recordHeader:]
		length = min(length, len(records))
		content = append(content, records[:length]...)
		records = records[length:]
	}
	return content
}

func handshakeMessage(hello []byte) ([]byte, error) {
	message := payload(hello)
	if len(message) < helloHeader || message[0] != clientHello || missing(message) != 0 {
		return nil, errors.New("not one whole ClientHello")
	}
	return message, nil
}

func records(message, version []byte, size int) []byte {
	var out []byte
	for len(message) > 0 {
		n := min(size, len(message))
		out = append(out, handshakeType, version[0], version[1])
		out = binary.BigEndian.AppendUint16(out, uint16(n))
		out = append(out, message[:n]...)
		message = message[n:]
	}
	return out
}

// padHello appends a padding extension. In what crypto/tls writes, the
// extensions end the message, and none of a first hello must be the last.
func padHello(message []byte, size int) ([]byte, error) {
	add := size - len(message)
	at := extensionsLength(message)
	before := int(binary.BigEndian.Uint16(message[at:]))
	if add < extensionFrame || before+add > maxExtensions {
		return nil, fmt.Errorf("size %d, want %d to %d", size, len(message)+extensionFrame, len(message)+maxExtensions-before)
	}
	padded := bytes.Clone(message)
	binary.BigEndian.PutUint16(padded[at:], uint16(before+add))
	body := size - helloHeader
	padded[1], padded[2], padded[3] = byte(body>>16), byte(body>>8), byte(body)
	padded = binary.BigEndian.AppendUint16(padded, paddingType)
	padded = binary.BigEndian.AppendUint16(padded, uint16(add-extensionFrame))
	return append(padded, make([]byte, add-extensionFrame)...), nil
}

// extensionsLength is where the length of the extensions stands: behind the
// version, the random, the session ID, the cipher suites and the compression
// methods (RFC 8446 section 4.1.2).
func extensionsLength(message []byte) int {
	at := helloHeader + 2 + 32
	at += 1 + int(message[at])
	at += 2 + int(binary.BigEndian.Uint16(message[at:]))
	return at + 1 + int(message[at])
}

func uint24(b []byte) uint32 { return uint32(b[0])<<16 | uint32(b[1])<<8 | uint32(b[2]) }

// errRecorded ends a handshake that wants to read.
var errRecorded = errors.New("recorded")

// recorder is a connection that keeps what is written and has nothing to read.
// The methods that a handshake does not call are those of a nil net.Conn.
type recorder struct {
	bytes.Buffer
	net.Conn
}

func (r *recorder) Write(b []byte) (int, error) { return r.Buffer.Write(b) }
func (r *recorder) Read([]byte) (int, error)    { return 0, errRecorded }
func (r *recorder) Close() error                { return nil }
