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
	count atomic.Uint64 // changes with the keys
	until atomic.Int64  // Unix nanoseconds; when the next random key is due

	mu   sync.Mutex
	keys [][]byte // the first seals
	data []byte   // of KeyFile
}

// NewTickets reads the key file, or draws a key.
func NewTickets(o TicketOptions) (*Tickets, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rotation <= 0 {
		o.Rotation = defaultRotation
	}
	t := &Tickets{o: o}
	if o.KeyFile != "" {
		return t, t.Reload()
	}
	t.rotate(o.Now())
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
func parseKeys(data []byte) ([][]byte, error) {
	var keys [][]byte
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
		keys = append(keys, key)
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
	if t.o.KeyFile == "" && now.UnixNano() >= t.until.Load() {
		t.rotate(now)
	}
	return t.count.Load()
}

func (t *Tickets) rotate(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	due := time.Unix(0, t.until.Load())
	if len(t.keys) > 0 && now.Before(due) {
		return // somebody else was first
	}
	if now.Sub(due) > keptKeys*t.o.Rotation {
		t.keys = nil // nobody came for so long: all are too old
	}
	key := make([]byte, minKey)
	_, _ = rand.Read(key) // never fails (crypto/rand)
	t.keys = append([][]byte{key}, t.keys[:min(len(t.keys), keptKeys-1)]...)
	t.until.Store(now.Add(t.o.Rotation).UnixNano())
	t.count.Add(1)
}

// keysFor are the keys of whoever context names, and their version.
func (t *Tickets) keysFor(context []byte) (keys [][32]byte, version uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, master := range t.keys {
		// Fails for more than 255 blocks only.
		derived, _ := hkdf.Key(sha256.New, master, nil, "spliceway session tickets "+string(context), 32)
		keys = append(keys, [32]byte(derived))
	}
	return keys, t.count.Load()
}
