// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"path"
	"strings"
)

// Types of a file, from include/uapi/linux/stat.h.
const (
	typeDirectory = 0o040000
	typeCharacter = 0o020000
	typeRegular   = 0o100000
	typeSymlink   = 0o120000
)

// archive writes an initramfs: the format "newc" of
// Documentation/driver-api/early-userspace/buffer-format.rst, which holds device
// nodes without anybody having to be root to make them. Parents of what is added
// are made as needed; everything belongs to root.
type archive struct {
	out    io.Writer
	inodes uint32
	made   map[string]bool // directories
	size   int64           // written so far
}

func newArchive(out io.Writer) *archive {
	return &archive{out: out, made: map[string]bool{"/": true, ".": true}}
}

func (a *archive) file(name, from string, mode uint32) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return a.entry(name, typeRegular|mode, 0, 0, info.Size(), f)
}

func (a *archive) entry(name string, mode, major, minor uint32, size int64, content io.Reader) error {
	if err := a.directory(path.Dir(name)); err != nil {
		return err
	}
	return a.write(name, mode, major, minor, size, content)
}

func (a *archive) directory(name string) error {
	if a.made[name] {
		return nil
	}
	a.made[name] = true
	return a.entry(name, typeDirectory|0o755, 0, 0, 0, nil)
}

// close ends the archive.
func (a *archive) close() error { return a.write("TRAILER!!!", 0, 0, 0, 0, nil) }

func (a *archive) write(name string, mode, major, minor uint32, size int64, content io.Reader) error {
	a.inodes++
	// Magic; inode, mode, user, group, links, time, size, device of the file,
	// device that it is, length of the name, unused checksum.
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.inodes, mode, 0, 0, 1, 0, size, 0, 0, major, minor, len(name)+1, 0, name)
	if err := a.padded(strings.NewReader(header), int64(len(header))); err != nil {
		return err
	}
	if content == nil {
		return nil
	}
	return a.padded(content, size)
}

// padded writes size bytes and fills up to a multiple of four.
func (a *archive) padded(content io.Reader, size int64) error {
	if _, err := io.CopyN(a.out, content, size); err != nil {
		return err
	}
	a.size += size
	fill := -a.size & 3
	a.size += fill
	_, err := a.out.Write(make([]byte, fill))
	return err
}
