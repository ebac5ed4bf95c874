// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/spliceway/spliceway/userspace/agent"
	"github.com/spliceway/spliceway/userspace/config"
	"github.com/spliceway/spliceway/userspace/plan"
)

type statusCmd struct {
	configFlag
	JSON bool `help:"Print JSON: each object's status, as a controller would write it."`
}

func (statusCmd) Help() string {
	return `What becomes of each object in the manifests that the agent's file names: its
conditions, in the words of the Gateway API and of ngrok's operator. The files
are read, the running agent is not asked. Exit status 1 if something is wrong.`
}

// objectStatus is an object in JSON.
type objectStatus struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	Source    string `json:"source"`
	Status    any    `json:"status"`
}

// Run is the command.
func (c statusCmd) Run(e env) error {
	cfg, err := config.Load(c.Config)
	if err != nil {
		return err
	}
	p := agent.Plan(cfg)
	if c.JSON {
		all := make([]objectStatus, 0, len(p.Objects))
		for _, o := range p.Objects {
			all = append(all, objectStatus{o.Kind, o.Namespace, o.Name, o.Pos.String(), o.Status})
		}
		err = printJSON(e.stdout, all)
	} else {
		printStatus(e, p)
	}
	warn(e, p)
	tell(e, p)
	if err == nil && len(p.Problems) > 0 {
		err = errReported
	}
	return err
}

func printStatus(e env, p *plan.Plan) {
	t := newTable(e.stdout, "Object", "Condition", "Status", "Reason", "Message")
	for i := range p.Objects {
		o := &p.Objects[i]
		name := o.Key.String()
		for _, c := range o.Conditions() {
			what := c.Type
			if c.About != "" {
				what = c.About + ": " + what
			}
			t.AppendRow(table.Row{name, what, c.Status, c.Reason, shorten(c.Condition)})
			name = ""
		}
	}
	t.Render()
}

// shorten is a condition's message where something is to be said: what is well needs none.
func shorten(c metav1.Condition) string {
	if !plan.Bad(c) {
		return ""
	}
	const width = 100
	var lines []string
	for text := c.Message; text != ""; {
		cut := len(text)
		if cut > width {
			if cut = strings.LastIndexByte(text[:width], ' '); cut <= 0 {
				cut = width
			}
		}
		lines = append(lines, text[:cut])
		text = strings.TrimPrefix(text[cut:], " ")
	}
	return strings.Join(lines, "\n")
}
