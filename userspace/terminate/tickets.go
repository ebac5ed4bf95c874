// SPDX-License-Identifier: Apache-2.0

package terminate

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// TicketOptions of NewTickets.
type TicketOptions struct {
	// KeyFile has one key a line, minKey bytes or more in base64; the first seals
	// tickets, all open them. Lines with # are comments. Empty: random keys.
	KeyFile string
	// Rotation is how long a random key seals; it opens for twice as long again. 0:
	// 12 h.
	Rotation time.Duration
	Now      func() time.Time // nil: time.Now
}

const (
	minKey          = 32 // bytes
	defaultRotation = 12 * time.Hour
	// keptKeys: the one that seals, and two that only open.
	keptKeys = 3
)

// Tickets are the keys of session tickets (RFC 8446, section 4.6.1; RFC 5077), from
// which each server's own are made. Safe for concurrent use.
type Tickets struct {
	o     TicketOptions
	start time.Time     // random keys are counted by rotations since then
	turn  atomic.Int64  // the rotation of the first random key
	count atomic.Uint64 // changes with the keys

	mu   sync.Mutex
	keys []ticketKey // the first seals
	data []byte      // of KeyFile
}

type ticketKey struct {
	secret []byte
	turn   int64 // the rotation it seals in, if it is random
}

// NewTickets reads the key file, or draws a key.
func NewTickets(o TicketOptions) (*Tickets, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rotation <= 0 {
		o.Rotation = defaultRotation
	}
	t := &Tickets{o: o, start: o.Now()}
	if o.KeyFile != "" {
		return t, t.Reload()
	}
	t.rotate(0)
	return t, nil
}

// Files are what Reload reads.
func (t *Tickets) Files() []string {
	if t.o.KeyFile == "" {
		return nil
	}
	return []string{t.o.KeyFile}
}

// Reload reads the key file again. If it is broken, the keys stay.
func (t *Tickets) Reload() error {
	if t.o.KeyFile == "" {
		return nil
	}
	data, err := readFile(t.o.KeyFile)
	if err != nil {
		return fmt.Errorf("session ticket keys: %w", err)
	}
	keys, err := parseKeys(data)
	if err != nil {
		return fmt.Errorf("session ticket keys: %s: %w", t.o.KeyFile, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !bytes.Equal(data, t.data) {
		t.keys, t.data = keys, data
		t.count.Add(1)
	}
	return nil
}

// parseKeys never quotes what it read.
func parseKeys(data []byte) ([]ticketKey, error) {
	var keys []ticketKey
	for i, line := range strings.Split(string(data), "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		key, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(line, "="))
		if err != nil {
			return nil, fmt.Errorf("line %d: expected a key in base64", i+1)
		}
		if len(key) < minKey {
			return nil, fmt.Errorf("line %d: expected a key of %d bytes or more, found %d (make one with: openssl rand -base64 32)", i+1, minKey, len(key))
		}
		keys = append(keys, ticketKey{secret: key})
	}
	if len(keys) == 0 {
		return nil, errors.New("expected a key in base64 on a line, found none (make one with: openssl rand -base64 32)")
	}
	return keys, nil
}

// Warnings are what is odd, though it works.
func (t *Tickets) Warnings() []string {
	if t.o.KeyFile == "" {
		return nil
	}
	if w := readableByOthers(t.o.KeyFile); w != "" {
		return []string{w}
	}
	return nil
}

// version tells one set of keys from the next; random ones are exchanged when their
// time has come.
func (t *Tickets) version(now time.Time) uint64 {
	if t.o.KeyFile == "" {
		// By the monotonic clock: the other one may be set back.
		if turn := int64(now.Sub(t.start) / t.o.Rotation); turn > t.turn.Load() {
			t.rotate(turn)
		}
	}
	return t.count.Load()
}

// rotate draws the key of a rotation, and drops those that have been there for too many,
// though nobody came in some of them.
func (t *Tickets) rotate(turn int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.keys) > 0 && turn <= t.turn.Load() {
		return // somebody else was first
	}
	secret := make([]byte, minKey)
	_, _ = rand.Read(secret) // never fails (crypto/rand)
	keys := []ticketKey{{secret, turn}}
	for _, k := range t.keys {
		if turn-k.turn < keptKeys {
			keys = append(keys, k)
		}
	}
	t.keys = keys
	t.turn.Store(turn)
	t.count.Add(1)
}

// keysFor are the keys of whoever context names, and their version.
func (t *Tickets) keysFor(context []byte) (keys [][32]byte, version uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range t.keys {
		// Fails for more than 255 blocks only.
		derived, _ := hkdf.Key(sha256.New, k.secret, nil, "spliceway session tickets "+string(context), 32)
		keys = append(keys, [32]byte(derived))
	}
	return keys, t.count.Load()
}
