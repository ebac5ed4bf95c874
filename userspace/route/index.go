// SPDX-License-Identifier: Apache-2.0

package route

import (
	"errors"
	"hash/maphash"
	"math"
	"math/bits"
	"strings"
)

// index maps names to choices: a hash table with linear probing, at most half
// full. A lookup in a large table costs what it waits for memory, not what it
// computes, so each slot is one cache line with the name in it. A Go map reads
// three or four lines, one after the other, and takes three times as long.
//
// The zero index is empty. The hash is seeded, so that who chooses the names
// cannot choose the slots.
type index struct {
	seed  maphash.Seed
	slots []slot
	// names is every name, one behind the other. A match is a part of it.
	names string
	// prefix is the length of what stands before every key in names: 2 for
	// the "*." of wildcards, which are looked for without it.
	prefix int
}

// slot has the size of a cache line. It is free if length is 0.
type slot struct {
	choice
	at     uint32 // where the key starts in names
	length uint8  // of the key
	head   [51]byte
}

// choice is all entries of one name.
type choice struct {
	open int32 // the endpoint of the entry without protocols, or none
	list int32 // those with protocols: an index into Table.lists, or none
}

const none = -1

// find returns the key's choice and its name with the prefix.
func (x *index) find(key string) (choice, string, bool) {
	if len(x.slots) == 0 {
		return choice{}, "", false
	}
	s := x.probe(key, x.names)
	if s.length == 0 {
		return choice{}, "", false
	}
	return s.choice, x.names[int(s.at)-x.prefix : int(s.at)+int(s.length)], true
}

// probe returns the key's slot, or the free one where it belongs.
func (x *index) probe(key, names string) *slot {
	hash := maphash.String(x.seed, key)
	first, _ := bits.Mul64(hash, uint64(len(x.slots))) // evenly over the slots
	for i := int(first); ; {
		s := &x.slots[i]
		if s.length == 0 || s.holds(key, names) {
			return s
		}
		if i++; i == len(x.slots) {
			i = 0
		}
	}
}

// holds reads names only for the rest of a key that is longer than the head.
func (s *slot) holds(key, names string) bool {
	if int(s.length) != len(key) {
		return false
	}
	n := min(len(key), len(s.head))
	return string(s.head[:n]) == key[:n] &&
		(n == len(key) || names[int(s.at)+n:int(s.at)+len(key)] == key[n:])
}

// indexBuilder fills an index.
type indexBuilder struct {
	index
	text strings.Builder // index.names to be
}

// newIndexBuilder is for up to n names of size bytes together, each with a
// prefix of the given length.
func newIndexBuilder(n, size, prefix int) *indexBuilder {
	b := &indexBuilder{index: index{
		seed:   maphash.MakeSeed(),
		slots:  make([]slot, 2*n),
		prefix: prefix,
	}}
	b.text.Grow(size)
	return b
}

var errTooLarge = errors.New("more than 4 GiB of names")

// choice returns the choice of the name, for the caller to fill in, and whether
// it is a new one.
func (b *indexBuilder) choice(name string) (c *choice, added bool, err error) {
	key := name[b.prefix:]
	s := b.probe(key, b.text.String())
	if s.length != 0 {
		return &s.choice, false, nil
	}
	if b.text.Len() > math.MaxUint32-len(name) {
		return nil, false, errTooLarge
	}
	*s = slot{
		choice: choice{none, none},
		at:     uint32(b.text.Len() + b.prefix),
		length: uint8(len(key)),
	}
	copy(s.head[:], key)
	b.text.WriteString(name)
	return &s.choice, true, nil
}

func (b *indexBuilder) finish() index {
	b.names = b.text.String()
	return b.index
}
