// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
)

// relay is the engine of flows whose TLS the agent ends.
const relay = "relay"

// terminateSubjects are nginx, which the ratios are to, HAProxy and the agent. What is not
// installed is left out, and it is said so, unless it was asked for.
func terminateSubjects(o options) ([]subject, error) {
	if o.subjects != "" {
		return nil, errors.New("-subjects is not for -terminate: its subjects are those of -nginx, -haproxy and -spliceway that are there")
	}
	var chosen []subject
	for _, p := range []struct {
		product
		title, named string
	}{{nginx, "nginx", o.nginx}, {haproxy, "HAProxy", o.haproxy}} {
		paths, err := installed(p.program, p.named)
		if err != nil {
			return nil, err
		}
		if paths == nil {
			fmt.Fprintf(os.Stderr, "%s is not in PATH: it is left out (-%[1]s names it)\n", p.program)
			continue
		}
		chosen = append(chosen, &peer{product: p.product, title: p.title, path: paths[0]})
	}
	return append(chosen, &spliceway{path: o.agent, engine: relay}), nil
}
