// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spliceway/spliceway/testenv/kernel/guest"
)

// tests is what goes into the initramfs besides modules.
type tests struct {
	init     string // path of the init binary
	packages []testPackage
}

type testPackage struct {
	guest.Package
	binary, dir string // here, not in the guest
}

// buildTests compiles what runs in the guest. All of it is static: there is no C
// library.
func buildTests(ctx context.Context, o options, work string) (*tests, error) {
	t := &tests{init: filepath.Join(work, "init")}
	if err := goBuild(ctx, "build", "-trimpath", "-o", t.init, "./testenv/kernel/init"); err != nil {
		return nil, err
	}
	for i, name := range o.packages {
		list, err := output(ctx, "", "go", "list", "-f", "{{.Dir}}\n{{len .TestGoFiles}} {{len .XTestGoFiles}}", name)
		if err != nil {
			return nil, err
		}
		dir, counts, _ := strings.Cut(strings.TrimSpace(list), "\n")
		if counts == "0 0" || strings.Contains(counts, "\n") {
			return nil, fmt.Errorf("%s is not one package with tests: name each package by itself (-packages)", name)
		}
		p := testPackage{
			Package: guest.Package{
				Name: name, Binary: "/tests/" + filepath.Base(dir) + strconv.Itoa(i) + ".test", Dir: path.Join("/src", filepath.ToSlash(name)),
				Args: []string{"-test.v=test2json", "-test.paniconexit0", "-test.timeout=" + o.testTimeout.String(), "-test.run=" + o.run},
			},
			binary: filepath.Join(work, strconv.Itoa(i)+".test"), dir: dir,
		}
		if err := goBuild(ctx, "test", "-c", "-o", p.binary, name); err != nil {
			return nil, err
		}
		t.packages = append(t.packages, p)
	}
	return t, nil
}

// goBuild leaves debug information out, which the guest would hold in memory.
func goBuild(ctx context.Context, verb string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{verb, "-ldflags=-s -w"}, args...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return nil
}

// files calls add for the files that the tests may read: all that is in the
// package's directory and in those below it that are no packages themselves.
func (p testPackage) files(add func(guestName, file string) error) error {
	return filepath.WalkDir(p.dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(p.dir, file)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name == "." {
				return nil
			}
			sources, err := filepath.Glob(filepath.Join(file, "*.go"))
			if err == nil && sources != nil {
				return filepath.SkipDir
			}
			return err
		}
		if !d.Type().IsRegular() || strings.HasSuffix(name, ".go") {
			return nil
		}
		return add(path.Join(p.Dir, filepath.ToSlash(name)), file)
	})
}
