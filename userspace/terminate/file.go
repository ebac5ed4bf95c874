// SPDX-License-Identifier: Apache-2.0

// Package terminate says how TLS handshakes are to be done where the agent terminates
// TLS, with clients and towards upstreams, who a client is, and why a handshake failed.
// It does none itself, and moves no bytes.
package terminate

import (
	"bytes"
	"fmt"
	"io"
	"os"
)

// maxFile is the largest file that is read, in bytes: large authorities' CRLs are some
// tens of megabytes.
const maxFile = 256 << 20

// readFile is a file's content, if it is of a sane size.
func readFile(path string) ([]byte, error) {
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

// contents are files as they were read last.
type contents map[string][]byte

// read reads the files anew; same: all are as they were.
func (c contents) read(files []string) (next contents, same bool, err error) {
	next, same = make(contents, len(files)), true
	for _, file := range files {
		b, err := readFile(file)
		if err != nil {
			return nil, false, err
		}
		next[file] = b
		same = same && c != nil && bytes.Equal(c[file], b)
	}
	return next, same, nil
}

// readableByOthers is a warning about a file with secrets in it, or "".
func readableByOthers(file string) string {
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm()&0o007 == 0 {
		return ""
	}
	return fmt.Sprintf("%s may be read by every user of this host (mode %04o): chmod o-rwx", file, info.Mode().Perm())
}

// at puts the place in the configuration before an error.
func at(where string, err error) error {
	if where == "" || err == nil {
		return err
	}
	return fmt.Errorf("%s: %w", where, err)
}
