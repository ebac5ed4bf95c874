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
printed. Certificates, keys, lists and manifests that it names are read, too;
"spliceway status" says more of the objects in these. Nothing is started,
listened on or resolved. Exit status 1 if something is wrong.`
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
		p := agent.Plan(cfg)
		warn(e, p)
		warnings, err := agent.CheckFiles(p)
		for _, w := range warnings {
			fmt.Fprintln(e.stderr, "warning:", w)
		}
		if len(p.Problems) > 0 {
			failed = true
			fmt.Fprintln(e.stderr, p.Problems)
		}
		if err != nil {
			failed = true
			fmt.Fprintln(e.stderr, err)
		}
		if err != nil || len(p.Problems) > 0 {
			continue
		}
		noun := "endpoints"
		if len(p.Config.Endpoints) == 1 {
			noun = "endpoint"
		}
		fmt.Fprintf(e.stdout, "%s: ok, %d %s\n", file, len(p.Config.Endpoints), noun)
	}
	if failed {
		return errReported
	}
	return nil
}
