// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync/atomic"
)

// sizes of pieces that are written or read.
func whole() int { return 64 << 10 }

func sized(n int) func() int { return func() int { return n } }

// between gives sizes at random, the same for the same seed. It is for one goroutine.
func between(seed uint64, from, to int) func() int {
	random := rand.New(rand.NewPCG(seed, 0))
	return func() int { return from + random.IntN(to-from+1) }
}

// streams numbers them: no two are the same.
var streams atomic.Uint64

func stream(number uint64) io.Reader {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], number)
	return rand.NewChaCha8(seed)
}

// sendStream writes n bytes of a stream in pieces of the sizes.
func sendStream(w io.Writer, number uint64, n int64, size func() int) (sum [32]byte, err error) {
	from, hash := stream(number), sha256.New()
	var piece []byte
	for sent := int64(0); sent < n; sent += int64(len(piece)) {
		piece = make([]byte, min(int64(size()), n-sent)) // one of its own: the kernel may have it still (MSG_ZEROCOPY)
		_, _ = io.ReadFull(from, piece)                  // never fails
		hash.Write(piece)
		if k, err := w.Write(piece); err != nil {
			return sum, fmt.Errorf("send byte %d of %d: %w", sent+int64(k), n, err)
		}
	}
	return [32]byte(hash.Sum(nil)), nil
}

// receiveStream reads n bytes of a stream in pieces of at most the sizes, and not on.
func receiveStream(r io.Reader, number uint64, n int64, size func() int) (sum [32]byte, err error) {
	from, hash := stream(number), sha256.New()
	var got, want []byte
	for received := int64(0); received < n; {
		most := int(min(int64(size()), n-received))
		if most > len(got) {
			got, want = make([]byte, most), make([]byte, most)
		}
		k, err := r.Read(got[:most])
		hash.Write(got[:k])
		_, _ = io.ReadFull(from, want[:k]) // never fails
		if !bytes.Equal(got[:k], want[:k]) {
			at := 0
			for got[at] == want[at] {
				at++
			}
			return sum, fmt.Errorf("byte %d of %d is another one", received+int64(at), n)
		}
		if received += int64(k); err != nil && received < n {
			return sum, fmt.Errorf("receive byte %d of %d: %w", received, n, err)
		}
	}
	return [32]byte(hash.Sum(nil)), nil
}

// move moves n bytes from an end to the other, in pieces of the sizes, and compares them
// and their SHA-256.
func (f *sockmapFlow) move(from int, n int64, size func() int) error {
	return f.moveSlowly(from, n, size, whole)
}

// moveSlowly is move to a reader that reads in pieces of its own.
func (f *sockmapFlow) moveSlowly(from int, n int64, size, read func() int) error {
	defer f.watch()()
	number := streams.Add(1)
	var sent [32]byte
	wrote := make(chan error, 1)
	go func() {
		var err error
		if sent, err = sendStream(f.ends[from], number, n, size); err != nil {
			f.ends[1-from].abandon() // nothing more comes
		}
		wrote <- err
	}()
	received, err := receiveStream(f.ends[1-from], number, n, read)
	if err != nil {
		f.ends[from].abandon() // nobody reads on
	}
	if err = errors.Join(<-wrote, err); err != nil {
		return fmt.Errorf("from end %d: %w", from, err)
	}
	if sent != received {
		return fmt.Errorf("from end %d: the hash of %d bytes is another one", from, n)
	}
	f.sent[from] += n
	return nil
}
