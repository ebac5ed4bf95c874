// SPDX-License-Identifier: Apache-2.0

package clienthello

import "slices"

// fields is what one hello says, as parts of the message.
type fields struct {
	serverName []byte // nil: no server_name extension
	alpn       cursor // the list's entries
	protocols  int    // how many
	ciphers    cursor
	signatures cursor // signature_algorithms, in order
	maxVersion uint16
	ech        bool
	earlyData  bool
}

// read takes a whole ClientHello apart (RFC 8446, section 4.1.2) and leaves its
// extension types sorted in p.extensions.
func (p *Parser) read(msg []byte, f *fields) Reason {
	c := cursor(msg[handshakeHeader:])
	version, _ := c.uint16()
	if _, ok := c.bytes(32); !ok { // random
		return Truncated
	}
	session, ok := c.vector8()
	if !ok {
		return Truncated
	}
	if len(session) > 32 {
		return SessionID
	}
	if f.ciphers, ok = c.vector16(); !ok {
		return Truncated
	}
	if len(f.ciphers) == 0 || len(f.ciphers)%2 != 0 {
		return CipherSuites
	}
	compression, ok := c.vector8()
	if !ok {
		return Truncated
	}
	if !slices.Contains(compression, 0) {
		return Compression
	}
	p.extensions = p.extensions[:0]
	if len(c) > 0 { // before TLS 1.3 a hello may end here
		extensions, ok := c.vector16()
		if !ok {
			return Truncated
		}
		if len(c) > 0 {
			return TrailingBytes
		}
		if r := p.readExtensions(extensions, f); r != 0 {
			return r
		}
	}
	if f.maxVersion == 0 {
		f.maxVersion = version
	}
	return 0
}

// readExtensions goes once through the list (RFC 8446, section 4.2).
func (p *Parser) readExtensions(c cursor, f *fields) Reason {
	for len(c) > 0 {
		kind, _ := c.uint16()
		body, ok := c.vector16()
		if !ok {
			return Truncated
		}
		p.extensions = append(p.extensions, kind)
		if kind == extPreSharedKey && len(c) > 0 {
			return PSKNotLast
		}
		if r := f.readExtension(kind, body); r != 0 {
			return r
		}
	}
	// A hostile hello can hold 16,000 extensions, so each is not compared with
	// each; and the fingerprint needs them sorted in any case.
	slices.Sort(p.extensions)
	for i := 1; i < len(p.extensions); i++ {
		if p.extensions[i] == p.extensions[i-1] {
			return TwoExtensions
		}
	}
	return 0
}

// isGREASE tells the values that clients send to keep servers tolerant (RFC 8701,
// section 2): 0x0a0a, 0x1a1a and so on to 0xfafa.
func isGREASE(v uint16) bool { return v&0x0f0f == 0x0a0a && v>>8 == v&0xff }
