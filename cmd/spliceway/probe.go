// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/spliceway/spliceway/loader"
)

type probeCmd struct {
	JSON bool `help:"Print JSON."`
}

func (probeCmd) Help() string {
	return `Asks the kernel itself, not its version number. "unknown" is what could not be
found out, mostly for want of root. Exit status 1 if the agent cannot run here.`
}

// Run is the command.
func (c probeCmd) Run(e env) error {
	r := loader.Probe()
	if c.JSON {
		if err := printJSON(e.stdout, r); err != nil {
			return err
		}
	} else {
		printReport(e, r)
	}
	if !r.OK() {
		return errReported
	}
	return nil
}

func printReport(e env, r loader.Report) {
	fmt.Fprintf(e.stdout, "Linux %s, %s\n", r.Kernel, r.Machine)
	const widest = 48
	part := func(title string, used bool) {
		t := newTable(e.stdout, "Feature", "Since", "Here", "For", "Detail, or what is lost without")
		t.SetTitle(title)
		t.SetColumnConfigs([]table.ColumnConfig{{Number: 4, WidthMax: widest, WidthMaxEnforcer: text.WrapSoft}, {Number: 5, WidthMax: widest, WidthMaxEnforcer: text.WrapSoft}})
		for _, f := range r.Features {
			if (f.UsedBy != loader.Nothing) != used {
				continue
			}
			detail := f.Detail
			if f.Status != loader.Yes && f.Without != "" {
				detail = f.Without + " (" + f.Detail + ")"
			}
			t.AppendRow(table.Row{f.Name, f.Since, f.Status.String(), f.For, detail})
		}
		t.Render()
	}
	part("What this version uses", true)
	part("What else this kernel can do", false)
	fmt.Fprintln(e.stdout, r.Summary())
}
