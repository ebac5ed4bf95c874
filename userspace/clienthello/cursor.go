// SPDX-License-Identifier: Apache-2.0

package clienthello

// cursor is what is left to read of a field. Its methods take elements off the
// front, in TLS presentation language (RFC 8446, section 3), and say whether
// they were there; after a false it is of no more use.
type cursor []byte

func (c *cursor) bytes(n int) (cursor, bool) {
	if len(*c) < n {
		return nil, false
	}
	b := (*c)[:n:n]
	*c = (*c)[n:]
	return b, true
}

func (c *cursor) uint8() (uint8, bool) {
	b, ok := c.bytes(1)
	if !ok {
		return 0, false
	}
	return b[0], true
}

func (c *cursor) uint16() (uint16, bool) {
	b, ok := c.bytes(2)
	if !ok {
		return 0, false
	}
	return uint16(b[0])<<8 | uint16(b[1]), true
}

// vector8 takes a vector whose length field has one byte.
func (c *cursor) vector8() (cursor, bool) {
	n, ok := c.uint8()
	if !ok {
		return nil, false
	}
	return c.bytes(int(n))
}

// vector16 takes a vector whose length field has two bytes.
func (c *cursor) vector16() (cursor, bool) {
	n, ok := c.uint16()
	if !ok {
		return nil, false
	}
	return c.bytes(int(n))
}
