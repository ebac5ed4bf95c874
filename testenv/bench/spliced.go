// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"time"
)

// splicedBytes asks HAProxy how many bytes it has moved by splice(2): being asked to
// is not doing it. Its socket is in the file system, not in a network namespace.
func splicedBytes(b *bed) (int64, error) {
	c, err := net.DialTimeout("unix", filepath.Join(b.dir, "haproxy.sock"), adminTimeout)
	if err != nil {
		return 0, fmt.Errorf("ask for spliced bytes: %w", err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(adminTimeout)); err != nil {
		return 0, err
	}
	if _, err := c.Write([]byte("show info\n")); err != nil {
		return 0, fmt.Errorf("ask for spliced bytes: %w", err)
	}
	page, err := io.ReadAll(c)
	if err != nil {
		return 0, fmt.Errorf("ask for spliced bytes: %w", err)
	}
	// It is spelled so in releases up to 3.x.
	text := bytes.ReplaceAll(page, []byte("Splicded"), []byte("Spliced"))
	n, err := strconv.ParseInt(value(text, "TotalSplicedBytesOut:", 0), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("ask for spliced bytes: show info: %w", err)
	}
	return n, nil
}
