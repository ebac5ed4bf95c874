// SPDX-License-Identifier: Apache-2.0

package testenv

import "encoding/binary"

// Kinds of TCP options, from IANA's registry.
const (
	KindEnd           = 0
	KindNOP           = 1
	KindMSS           = 2
	KindWindowScale   = 3
	KindSACKPermitted = 4
	KindSACK          = 5
	KindTimestamps    = 8
)

// The options to lay out in any order, as in slices.Concat(NOP, MSS(1460), End).
var (
	NOP           = []byte{KindNOP}
	End           = []byte{KindEnd}
	SACKPermitted = []byte{KindSACKPermitted, 2}
)

// MSS is the largest segment that the sender of a SYN takes, in bytes of payload.
func MSS(size uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{KindMSS, 4}, size)
}

// WindowScale is the shift of the windows that the sender of a SYN announces.
func WindowScale(shift uint8) []byte { return []byte{KindWindowScale, 3, shift} }

// Timestamps is TSval and TSecr.
func Timestamps(value, echo uint32) []byte {
	b := binary.BigEndian.AppendUint32([]byte{KindTimestamps, 10}, value)
	return binary.BigEndian.AppendUint32(b, echo)
}

// SACK is blocks of sequence numbers, each from its left edge to before its
// right edge.
func SACK(blocks ...[2]uint32) []byte {
	b := []byte{KindSACK, byte(2 + 8*len(blocks))}
	for _, block := range blocks {
		b = binary.BigEndian.AppendUint32(b, block[0])
		b = binary.BigEndian.AppendUint32(b, block[1])
	}
	return b
}

// Option returns the data of the first option of a kind. It stops at the end
// of the list and at an option that makes no sense.
func (p Packet) Option(kind uint8) (data []byte, ok bool) {
	for b := p.Options; len(b) > 0 && b[0] != KindEnd; {
		if b[0] == KindNOP {
			b = b[1:]
			continue
		}
		if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
			return nil, false
		}
		if b[0] == kind {
			return b[2:b[1]], true
		}
		b = b[b[1]:]
	}
	return nil, false
}

// Timestamps returns TSval and TSecr.
func (p Packet) Timestamps() (value, echo uint32, ok bool) {
	data, _ := p.Option(KindTimestamps)
	if len(data) != 8 {
		return 0, 0, false
	}
	return binary.BigEndian.Uint32(data), binary.BigEndian.Uint32(data[4:]), true
}

// SACK returns the blocks in their order.
func (p Packet) SACK() [][2]uint32 {
	var blocks [][2]uint32
	for data, _ := p.Option(KindSACK); len(data) >= 8; data = data[8:] {
		blocks = append(blocks, [2]uint32{binary.BigEndian.Uint32(data), binary.BigEndian.Uint32(data[4:])})
	}
	return blocks
}

// MSS returns the size that a SYN announces, 0 if none.
func (p Packet) MSS() uint16 {
	data, _ := p.Option(KindMSS)
	if len(data) != 2 {
		return 0
	}
	return binary.BigEndian.Uint16(data)
}

// WindowScale returns the shift that a SYN announces.
func (p Packet) WindowScale() (shift uint8, ok bool) {
	data, _ := p.Option(KindWindowScale)
	if len(data) != 1 {
		return 0, false
	}
	return data[0], true
}
