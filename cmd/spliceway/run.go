// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/spliceway/spliceway/userspace/agent"
)

type runCmd struct {
	configFlag
	Strict bool `help:"Refuse the configuration if any object of its manifests is wrong, instead of serving the others."`
}

func (runCmd) Help() string {
	return `The access log (one line per connection) goes to standard output, the agent's
own log to standard error. SIGHUP, or a change of the file, reloads it: all or
nothing, without touching a live connection. SIGTERM stops accepting and waits
for what is open (timeouts.drain); a second SIGTERM ends at once.`
}

// Run is the command.
func (c runCmd) Run(e env) error {
	return agent.Run(context.Background(), agent.Options{
		ConfigFile: c.Config, Strict: c.Strict, Log: e.stderr, Access: e.stdout, Build: buildInfo(),
	})
}
