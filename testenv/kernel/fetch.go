// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// kernel is an unpacked package.
type kernel struct {
	image     string // path of vmlinuz
	moduleDir string // lib/modules/RELEASE
}

// findKernel returns the newest kernel of a version in the cache, or else the
// newest one that apt has.
func findKernel(ctx context.Context, o options, version string) (*kernel, error) {
	if !o.update {
		entries, err := os.ReadDir(o.cache)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if name := newest(names, version); name != "" {
			return openKernel(filepath.Join(o.cache, name))
		}
	}
	a := apt{dir: filepath.Join(o.cache, "apt")}
	name, err := a.search(ctx, version)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(o.cache, name)
	if _, err := os.Stat(dir); err == nil {
		return openKernel(dir)
	}
	fmt.Printf("%s: downloading %s to %s\n", version, name, o.cache)
	unpacked, err := os.MkdirTemp(o.cache, "unpacking-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(unpacked)
	if err := a.unpack(ctx, name, unpacked); err != nil {
		return nil, err
	}
	// Whole or not at all, so that a run that is interrupted leaves no half kernel.
	if err := os.Rename(unpacked, dir); err != nil {
		return nil, err
	}
	return openKernel(dir)
}

func openKernel(dir string) (*kernel, error) {
	images, err := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if err != nil {
		return nil, err
	}
	if len(images) != 1 {
		return nil, fmt.Errorf("%s has %d kernels, want one: remove it, and it is downloaded again", dir, len(images))
	}
	_, release, _ := strings.Cut(filepath.Base(images[0]), "-")
	for _, root := range []string{"lib", "usr/lib"} {
		modules := filepath.Join(dir, root, "modules", release)
		if _, err := os.Stat(modules); err == nil {
			return &kernel{images[0], modules}, nil
		}
	}
	return nil, fmt.Errorf("%s has no modules: remove it, and it is downloaded again", dir)
}

// release tells a kernel, linux-image-6.12.9+deb12-cloud-amd64, from the package that
// only depends on the newest one, linux-image-6.12-cloud-amd64.
var release = regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]`)

// newest returns the name of the newest package among names that holds a kernel of
// the version; empty: none does. The signed one and the unsigned one are the same
// kernel.
func newest(names []string, version string) string {
	pattern := regexp.MustCompile(`^linux-image-(` + regexp.QuoteMeta(version) + `(?:[.+-].*)?)-cloud-amd64(-unsigned)?$`)
	var matches []string
	for _, n := range names {
		if m := pattern.FindStringSubmatch(n); m != nil && release.MatchString(m[1]) {
			matches = append(matches, n)
		}
	}
	if matches == nil {
		return ""
	}
	return slices.MaxFunc(matches, compareReleases)
}

var runs = regexp.MustCompile(`[0-9]+|[^0-9]+`)

// compareReleases orders names with numbers in them by those numbers: 6.1.0-9 comes
// before 6.1.0-10.
func compareReleases(a, b string) int {
	return slices.CompareFunc(runs.FindAllString(a, -1), runs.FindAllString(b, -1), func(a, b string) int {
		if isNumber(a) && isNumber(b) {
			a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
			return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
		}
		return strings.Compare(a, b)
	})
}

func isNumber(s string) bool { return s[0] >= '0' && s[0] <= '9' }
