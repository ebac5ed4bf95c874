// SPDX-License-Identifier: Apache-2.0

// Package terminate says how TLS handshakes are to be done where the agent terminates
// TLS, with clients and towards upstreams, who a client is, and why a handshake failed.
// It does none itself, and moves no bytes.
package terminate

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"strings"
)

// maxFile is the largest file that is read, in bytes: large authorities' CRLs are some
// tens of megabytes.
const maxFile = 256 << 20

// readFile is a file's content, if it is of a sane size.
func readFile(path string) ([]byte, error) {
	// To open a named pipe would wait for who writes to it.
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read %s: not a file, but of the kind %s", path, info.Mode().Type())
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", path, err)
	case len(b) > maxFile:
		return nil, fmt.Errorf("read %s: larger than %d bytes; is it the right file?", path, maxFile)
	}
	return b, nil
}

// contents are files as they are.
type contents map[string][]byte

func readFiles(files []string) (contents, error) {
	c := make(contents, len(files))
	for _, file := range files {
		b, err := readFile(file)
		if err != nil {
			return nil, err
		}
		c[file] = b
	}
	return c, nil
}

// digests tell whether files have changed, without keeping keys and large lists in memory.
type digests map[string][sha256.Size]byte

func (c contents) digests() digests {
	d := make(digests, len(c))
	for file, b := range c {
		d[file] = sha256.Sum256(b)
	}
	return d
}

// readableByOthers is a warning about a file with secrets in it, or "".
func readableByOthers(file string) string {
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm()&0o007 == 0 {
		return ""
	}
	return fmt.Sprintf("%s may be read by every user of this host (mode %04o): chmod o-rwx", file, info.Mode().Perm())
}

// memory is what CAs that are in no file are called.
func memory(where string) string {
	if where == "" {
		return "CA certificates"
	}
	return where + ": CA certificates"
}

// at puts the place in the configuration before an error.
func at(where string, err error) error {
	if where == "" || err == nil || strings.HasPrefix(err.Error(), memory(where)+": ") {
		return err
	}
	return fmt.Errorf("%s: %w", where, err)
}
