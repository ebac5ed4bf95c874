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
// computes. So a slot is one cache line with the name in it, and one byte for
// each slot, all of them together, tells most names that are not there without
// a look at any slot. A Go map reads three or four lines, one after the other,
// and takes more than twice as long.
//
// The zero index is empty. The hash is seeded, so that who chooses the names
// cannot choose the slots.
type index struct {
	seed maphash.Seed
	// tags has a byte for each slot: 0 if it is free, else its key's tag.
	tags  []uint8
	slots []slot
	// names is every name, one behind the other. A match is a part of it.
	names string
	// prefix is the length of what stands before every key in names: 2 for
	// the "*." of wildcards, which are looked for without it.
	prefix int
}

// slot has the size of a cache line.
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

// Instead of an endpoint.
const (
	none    = -1
	refused = -2
)

// find returns the key's choice and its name with the prefix.
func (x *index) find(key string) (choice, string, bool) {
	if len(x.tags) == 0 {
		return choice{}, "", false
	}
	i, tag := x.probe(key, x.names)
	if x.tags[i] != tag {
		return choice{}, "", false
	}
	s := &x.slots[i]
	return s.choice, x.names[int(s.at)-x.prefix : int(s.at)+int(s.length)], true
}

// probe returns the key's tag and the number of its slot. Of a key that is not
// there it is the free slot where it belongs, the tag of which is another.
func (x *index) probe(key, names string) (int, uint8) {
	hash := maphash.String(x.seed, key)
	tag := uint8(hash) | 1
	first, _ := bits.Mul64(hash, uint64(len(x.tags))) // evenly over the slots
	for i := int(first); ; {
		if t := x.tags[i]; t == 0 || t == tag && x.slots[i].holds(key, names) {
			return i, tag
		}
		if i++; i == len(x.tags) {
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
		tags:   make([]uint8, 2*n),
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
	i, tag := b.probe(key, b.text.String())
	s := &b.slots[i]
	if b.tags[i] == tag {
		return &s.choice, false, nil
	}
	if b.text.Len() > math.MaxUint32-len(name) {
		return nil, false, errTooLarge
	}
	b.tags[i] = tag
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
