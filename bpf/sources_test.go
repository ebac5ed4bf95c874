// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Needs no compiler: what was compiled is compared with what is there now.
func TestCodeWasGeneratedFromTheseSources(t *testing.T) {
	var sources []string
	for _, pattern := range []string{"*.bpf.c", "include/*.h", "generate.sh"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, files...)
	}
	var now []string
	for _, name := range sources {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		now = append(now, fmt.Sprintf("%x  %s", sha256.Sum256(data), name))
	}
	recorded, err := os.ReadFile("sources.sha256")
	if err != nil {
		t.Fatal(err)
	}
	then := strings.Split(strings.TrimSpace(string(recorded)), "\n")
	slices.Sort(now)
	slices.Sort(then)
	if diff := cmp.Diff(then, now); diff != "" {
		t.Errorf("sources changed since the last \"go generate ./bpf\" (-then +now):\n%s", diff)
	}
}
