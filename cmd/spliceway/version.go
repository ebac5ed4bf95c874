// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spliceway/spliceway/userspace/telemetry"
)

// version is set by the linker for a release.
var version = "dev"

type versionCmd struct {
	JSON bool `help:"Print JSON."`
}

// Run is the command.
func (c versionCmd) Run(e env) error {
	b := buildInfo()
	if c.JSON {
		return printJSON(e.stdout, map[string]string{"version": b.Version, "revision": b.Revision, "go": b.GoVersion})
	}
	_, err := fmt.Fprintf(e.stdout, "spliceway %s (revision %s, %s)\n", b.Version, b.Revision, b.GoVersion)
	return err
}

func buildInfo() telemetry.BuildInfo {
	b := telemetry.BuildInfo{Version: version, Revision: "unknown", GoVersion: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	modified := false
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value[:min(len(s.Value), 12)]
		case "vcs.modified":
			modified = s.Value == "true"
		}
	}
	if modified {
		b.Revision += "+changes"
	}
	return b
}
