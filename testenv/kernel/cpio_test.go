// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The bytes are what "cpio --list --verbose" reads, and what Linux boots from.
func TestArchiveIsNewc(t *testing.T) {
	var out strings.Builder
	a := newArchive(&out)
	if err := a.text("etc/hosts", typeRegular|0o644, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := a.text("etc/group", typeRegular|0o644, ""); err != nil { // its directory is there
		t.Fatal(err)
	}
	if err := a.entry("dev/console", typeCharacter|0o600, 5, 1, 0, nil); err != nil {
		t.Fatal(err)
	}
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	zero := strings.Repeat("0", 8)
	header := func(inode, mode, size, major, minor, nameLength string) string {
		return "070701" + "0000000" + inode + "0000" + mode + zero + zero + "00000001" + zero + "0000000" + size +
			zero + zero + "0000000" + major + "0000000" + minor + "000000" + nameLength + zero
	}
	want := header("1", "41ed", "0", "0", "0", "04") + "etc\x00" + "\x00\x00" +
		header("2", "81a4", "5", "0", "0", "0a") + "etc/hosts\x00" + "hello\x00\x00\x00" +
		header("3", "81a4", "0", "0", "0", "0a") + "etc/group\x00" +
		header("4", "41ed", "0", "0", "0", "04") + "dev\x00" + "\x00\x00" +
		header("5", "2180", "0", "5", "1", "0c") + "dev/console\x00" + "\x00\x00" +
		header("6", "0000", "0", "0", "0", "0b") + "TRAILER!!!\x00" + "\x00\x00\x00"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("archive (-want +got):\n%s", diff)
	}
}
