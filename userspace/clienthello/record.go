// SPDX-License-Identifier: Apache-2.0

package clienthello

import "slices"

// The TLS record layer before any key is there (RFC 8446, section 5.1).
const (
	recordHeader    = 5
	recordHandshake = 22
	recordMax       = 1 << 14

	handshakeHeader      = 4
	handshakeClientHello = 1
)

// deframe returns the handshake message at the start of b, its header included,
// and the length of the records that hold it. The message is a part of b, or of
// p.message if it had to be put together.
//
// The records are walked before a byte is copied: while the hello is incomplete,
// and however small its records are, looking at it takes no memory.
func (p *Parser) deframe(b []byte) (msg []byte, size int, err error) {
	p.Need = 0
	total, size, err := p.measure(b)
	if err != nil {
		return nil, 0, err
	}
	if size == recordHeader+total {
		return b[recordHeader:size], size, nil
	}
	p.message = slices.Grow(p.message[:0], total)
	for rest := b[:size]; len(rest) > 0; {
		end := recordHeader + recordLength(rest)
		p.message = append(p.message, rest[recordHeader:end]...)
		rest = rest[end:]
	}
	return p.message, size, nil
}

// measure finds the length of the message and of the records that hold it. Each
// decision takes the bytes up to one point of the stream and no others, so that
// it is the same however many have arrived after that point.
func (p *Parser) measure(b []byte) (total, size int, err error) {
	switch {
	case len(b) > 0 && b[0] != recordHandshake, len(b) > 1 && b[1] != 3:
		return 0, 0, ErrNotTLS
	case len(b) < 2:
		p.Need = len(b) + 1
		return 0, 0, ErrIncomplete
	}
	limit := p.MaxSize
	if limit <= 0 {
		limit = MaxSize
	}
	var header [handshakeHeader]byte
	total = handshakeHeader // until the header tells
	known := false
	have := 0 // bytes of the message in the records before pos
	for pos := 0; ; {
		rest := b[pos:]
		switch {
		case len(rest) > 0 && rest[0] != recordHandshake:
			return 0, 0, RecordType
		case len(rest) > 1 && rest[1] != 3:
			return 0, 0, RecordVersion
		case len(rest) < recordHeader:
			p.Need = pos + framed(total-have)
			return 0, 0, ErrIncomplete
		}
		length := recordLength(rest)
		if length == 0 || length > recordMax {
			return 0, 0, RecordLength
		}
		fragment := rest[recordHeader:min(len(rest), recordHeader+length)]
		if !known && have+copy(header[have:], fragment) == handshakeHeader {
			if header[0] != handshakeClientHello {
				return 0, 0, HandshakeType
			}
			total += int(header[1])<<16 | int(header[2])<<8 | int(header[3])
			known = true
		}
		switch {
		case total > limit:
			return 0, 0, ErrTooLarge
		case known && have+length > total:
			return 0, 0, TrailingHandshake
		case len(fragment) < length:
			missing := total - have - len(fragment)
			open := min(missing, length-len(fragment)) // what this record will bring
			p.Need = len(b) + open + framed(missing-open)
			return 0, 0, ErrIncomplete
		}
		have += length
		pos += recordHeader + length
		if known && have == total {
			return total, pos, nil
		}
	}
}

// recordLength reads the length field of the record that b starts with.
func recordLength(b []byte) int { return int(b[3])<<8 | int(b[4]) }

// framed is the least number of bytes on the wire that n bytes of a message take.
func framed(n int) int { return n + recordHeader*((n+recordMax-1)/recordMax) }
