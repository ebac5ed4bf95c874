// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"

	"github.com/spliceway/spliceway/userspace/agent"
)

type runCmd struct {
	configFlag
	Kube       bool   `help:"Serve the objects of a Kubernetes cluster, too, and tell them their status."`
	Kubeconfig string `type:"path" placeholder:"FILE" help:"How to reach the cluster's API server. Default: $$KUBECONFIG, ~/.kube/config, or the pod's own account."`
	Strict     bool   `help:"Refuse the configuration if any object of its manifests is wrong, instead of serving the others."`
}

func (runCmd) Help() string {
	return `The access log (one line per connection) goes to standard output, the agent's
own log to standard error. SIGHUP, or a change of the file, reloads it: all or
nothing, without touching a live connection. SIGTERM stops accepting and waits
for what is open (timeouts.drain); a second SIGTERM ends at once.`
}

// Run is the command.
func (c runCmd) Run(e env) error {
	var kube *agent.Kube
	if c.Kube {
		kube = &agent.Kube{Kubeconfig: c.Kubeconfig}
	} else if c.Kubeconfig != "" {
		return errors.New("--kubeconfig is for --kube: give both, or neither")
	}
	return agent.Run(context.Background(), agent.Options{
		ConfigFile: c.Config, Strict: c.Strict, Kube: kube, Log: e.stderr, Access: e.stdout, Build: buildInfo(),
	})
}
