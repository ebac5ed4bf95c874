// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// apt asks the host's sources of packages, with lists and archives in a directory
// of its own: the host's state is neither needed nor changed, and nothing is
// installed.
type apt struct {
	dir     string
	sources string // a file to use instead of the host's sources; empty: those
}

func (a *apt) run(ctx context.Context, command string, args ...string) (string, error) {
	all := []string{
		"-o", "Dir::State::lists=" + filepath.Join(a.dir, "lists"),
		"-o", "Dir::Cache=" + filepath.Join(a.dir, "cache"),
		"-o", "APT::Sandbox::User=", // the directory is not another user's to write to
		"-o", "Acquire::Languages=none",
	}
	if a.sources != "" {
		all = append(all, "-o", "Dir::Etc::sourcelist="+a.sources, "-o", "Dir::Etc::sourceparts=-")
	}
	return output(ctx, a.dir, command, append(all, args...)...)
}

// search returns the name of the newest package with a kernel of the version.
func (a *apt) search(ctx context.Context, version string) (string, error) {
	name, err := a.updateAndSearch(ctx, version)
	if name != "" {
		return name, nil // that some other source did not answer is no matter
	}
	if err != nil {
		return "", err
	}
	if err := a.addBackports(ctx); err != nil {
		return "", err
	}
	name, err = a.updateAndSearch(ctx, version)
	if name == "" {
		return "", errors.Join(fmt.Errorf("apt has no linux-image-%s*-cloud-amd64 in the host's sources or in backports: "+
			"unpack that package (dpkg-deb -x) to a directory of its name in %s", version, filepath.Dir(a.dir)), err)
	}
	return name, nil
}

// updateAndSearch returns what it found even with an error.
func (a *apt) updateAndSearch(ctx context.Context, version string) (string, error) {
	for _, dir := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(a.dir, dir), 0o755); err != nil {
			return "", err
		}
	}
	_, updateErr := a.run(ctx, "apt-get", "update", "-qq")
	names, err := a.run(ctx, "apt-cache", "pkgnames", "linux-image-"+version)
	return newest(strings.Fields(names), version), errors.Join(updateErr, err)
}

// addBackports has the next search look in the backports that are beside each
// release of Debian in the host's sources.
func (a *apt) addBackports(ctx context.Context) error {
	targets, err := a.run(ctx, "apt-get", "indextargets", "--format", "$(SITE) $(CODENAME)", "Identifier: Packages", "Component: main", "Origin: Debian")
	if err != nil {
		return err
	}
	var list strings.Builder
	for line := range strings.Lines(targets) {
		site, codename, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !strings.Contains(codename, "-") {
			fmt.Fprintf(&list, "deb %s %s-backports main\n", site, codename)
		}
	}
	a.sources = filepath.Join(a.dir, "sources.list")
	return os.WriteFile(a.sources, []byte(list.String()), 0o644)
}

// unpack downloads a package and unpacks it into dir.
func (a *apt) unpack(ctx context.Context, name, dir string) error {
	if _, err := a.run(ctx, "apt-get", "download", "-qq", name); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(a.dir, name+"_*.deb"))
	if err != nil {
		return err
	}
	if len(files) != 1 {
		return fmt.Errorf("download of %s left %d files in %s, want one: remove them", name, len(files), a.dir)
	}
	if _, err := output(ctx, "", "dpkg-deb", "-x", files[0], dir); err != nil {
		return err
	}
	return os.Remove(files[0])
}
