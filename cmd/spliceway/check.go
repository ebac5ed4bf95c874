// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spliceway/spliceway/userspace/agent"
	"github.com/spliceway/spliceway/userspace/config"
)

type checkCmd struct {
	Files []string `arg:"" name:"FILE" help:"Files to check."`
}

func (checkCmd) Help() string {
	return `Each mistake is a line FILE:LINE:COLUMN: KEY: what is wrong; all of them are
printed. Certificates, keys and lists that it names are read, too. Nothing is
started, listened on or resolved. Exit status 1 if something is wrong.`
}

// Run is the command.
func (c checkCmd) Run(e env) error {
	failed := false
	for _, file := range c.Files {
		cfg, err := config.Load(file)
		if err != nil {
			failed = true
			fmt.Fprintln(e.stderr, err)
			continue
		}
		warnings, err := agent.CheckFiles(cfg)
		for _, w := range warnings {
			fmt.Fprintln(e.stderr, "warning:", w)
		}
		if err != nil {
			failed = true
			fmt.Fprintln(e.stderr, err)
			continue
		}
		noun := "endpoints"
		if len(cfg.Endpoints) == 1 {
			noun = "endpoint"
		}
		fmt.Fprintf(e.stdout, "%s: ok, %d %s\n", file, len(cfg.Endpoints), noun)
	}
	if failed {
		return errReported
	}
	return nil
}
