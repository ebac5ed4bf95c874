// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
)

const emulator = "qemu-system-x86_64"

// checkTools tells what to install before anything is downloaded or compiled.
func checkTools() error {
	var missing []string
	for _, t := range []struct{ command, pkg string }{
		{emulator, "qemu-system-x86"}, {"xz", "xz-utils"}, {"apt-get", "apt"}, {"dpkg-deb", "dpkg"},
	} {
		if _, err := exec.LookPath(t.command); err != nil {
			missing = append(missing, t.pkg)
		}
	}
	if missing != nil {
		return fmt.Errorf("missing: apt-get install --no-install-recommends %s", strings.Join(missing, " "))
	}
	return nil
}

// output runs a command in dir and returns its standard output. The error has the
// command line and what it wrote to standard error.
func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}
