// SPDX-License-Identifier: Apache-2.0

// Package clienthello reads the TLS ClientHello at the start of a byte stream:
// the server name, the protocols, the versions and the JA4 fingerprint, which is
// what a gateway routes by and writes to its log.
//
// It is not a TLS implementation. It does no I/O, negotiates nothing, checks no
// cryptography and changes no byte. It is stricter than TLS servers are wherever
// two readers could see different names in the same bytes; the [Reason] constants
// are the whole list of what it refuses.
package clienthello

// MaxSize is the length in bytes of the largest ClientHello that is read unless
// [Parser.MaxSize] says otherwise: the handshake message, its 4-byte header
// included, the record headers not.
const MaxSize = 65536

// Hello is what a ClientHello says (RFC 8446, section 4.1.2). It shares no memory
// with the bytes that were parsed.
type Hello struct {
	// ServerName is the host_name of the server_name extension (RFC 6066,
	// section 3) in lower case: 1 to 253 letters, digits, '-', '_' and '.',
	// with no empty label, no dot at the end and not an IP address. Empty if
	// HasSNI is false.
	ServerName string
	// HasSNI tells that the server_name extension is there.
	HasSNI bool
	// ALPN is the list of application protocols (RFC 7301) as offered, in the
	// client's order. Nil if the extension is not there. The protocols are
	// opaque bytes: a log must escape them.
	ALPN []string
	// JA4 is the client's fingerprint by FoxIO's JA4 specification, for TLS
	// over TCP: 36 bytes of ASCII.
	JA4 string
	// MaxVersion is the highest of supported_versions, GREASE left out, or the
	// message's legacy_version if there is no such extension: 0x0304 is TLS 1.3.
	MaxVersion uint16
	// ECH tells that the client encrypts an inner ClientHello, or pretends to
	// (RFC 9849): ServerName is then the outer name, which the client-facing
	// server goes by. The extension's "inner" form does not count.
	ECH bool
	// EarlyData tells that 0-RTT data may follow (RFC 8446, section 4.2.10).
	EarlyData bool
	// Size is how many bytes of the stream the hello takes, from its first
	// record header to the end of the record that ends it.
	Size int
}

// Parser reads hellos. It holds scratch memory, in proportion to the largest hello
// that it has read, and nothing that outlives a call but Need. The zero value is
// ready. A Parser may be used again and again, but not by two goroutines at once.
type Parser struct {
	// MaxSize is the largest message in bytes that is read, its 4-byte header
	// included. Zero or less: the package's MaxSize.
	MaxSize int
	// Need is set by Parse. After ErrIncomplete it is how many bytes there must
	// be, in all, for another call to be worth it: more than there were, and
	// never more than the shortest stream with this start that a client may
	// send. A caller that waits for so many bytes waits neither too often nor
	// for ever. After any other result it is 0.
	Need int

	message    []byte   // a hello put together from several records
	extensions []uint16 // types, in the order of the message, then sorted
	ciphers    []uint16 // sorted, GREASE left out
	text       []byte   // what JA4 hashes
}

// Parse reads the ClientHello at the start of b and fills *h. What follows the
// record that ends the hello is not looked at.
//
// The error is [ErrIncomplete], [ErrNotTLS], [ErrTooLarge] or a [Reason], which
// is an [ErrMalformed]. It leaves *h as it was. All but ErrIncomplete are final:
// more bytes never change them, nor do they change a nil.
//
// Parse keeps no reference to b, and allocates nothing but the strings and the
// slice in *h, and scratch memory when it meets a larger hello than before.
func (p *Parser) Parse(b []byte, h *Hello) error {
	msg, size, err := p.deframe(b)
	if err != nil {
		return err
	}
	var f fields
	if r := p.read(msg, &f); r != 0 {
		return r
	}
	*h = Hello{
		ServerName: lower(f.serverName),
		HasSNI:     f.serverName != nil,
		ALPN:       protocols(f.alpn, f.protocols),
		JA4:        p.ja4(&f),
		MaxVersion: f.maxVersion,
		ECH:        f.ech,
		EarlyData:  f.earlyData,
		Size:       size,
	}
	return nil
}
