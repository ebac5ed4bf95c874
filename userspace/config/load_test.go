// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReadIsBounded(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f.yaml")
	if err := os.WriteFile(file, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := read(file, 5); err != nil || string(b) != "12345" {
		t.Errorf("of the largest size: got %q, %v", b, err)
	}
	if _, err := read(file, 4); err == nil || !strings.Contains(err.Error(), file+" is larger than 4 bytes") {
		t.Errorf("one byte too large: got %v", err)
	}
	if _, err := Read(file + ".not"); !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(err.Error(), "read configuration: ") {
		t.Errorf("a file that is not there: got %v", err)
	}
	if _, err := Load(file + ".not"); !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(err.Error(), "read configuration: ") {
		t.Errorf("a file that is not there: got %v", err)
	}
}
