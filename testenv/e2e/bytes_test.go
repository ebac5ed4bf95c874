// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"
)

// past is a deadline that makes what waits return at once.
var past = time.Unix(1, 0)

// pattern is n bytes in which no two places look alike.
func pattern(n int) []byte {
	var seed [32]byte
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(seed).Read(b) // never fails
	return b
}

// expectBytes reads to the FIN and wants exactly these bytes before it.
func expectBytes(c net.Conn, want []byte) error {
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if err != nil {
		return fmt.Errorf("after %d of %d bytes: %w", len(got), len(want), err)
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("other bytes arrived: %d, want %d", len(got), len(want))
	}
	return nil
}
