// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/spliceway/spliceway/loader"
	"github.com/spliceway/spliceway/userspace/config"
	"github.com/spliceway/spliceway/userspace/control"
	"github.com/spliceway/spliceway/userspace/packet"
	"github.com/spliceway/spliceway/userspace/splice"
)

type flowsCmd struct {
	List flowsListCmd `cmd:"" default:"withargs" help:"List the established connections (the default)."`
	Kill flowsKillCmd `cmd:"" help:"End connections with a reset on both sides."`
}

// bpffsFlag says which agent, or which agent's state.
type bpffsFlag struct {
	BPFFS string `name:"bpffs" help:"Where the agent has its state: bpffs of its file (default ${bpffs})." placeholder:"DIR" default:"${bpffs}"`
}

// list asks the agent, or without one reads what it left in the kernel.
func (f bpffsFlag) list(e env) ([]splice.FlowInfo, error) {
	list, err := control.NewClient(f.BPFFS).List(context.Background())
	if !errors.Is(err, control.ErrNoAgent) {
		return list, err
	}
	list, err = packet.ListPinned(f.BPFFS)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("no agent is running here with state at %s, and there is none left of one (--bpffs, or another network namespace?)", f.BPFFS)
	}
	if err == nil {
		fmt.Fprintln(e.stderr, "spliceway: no agent is running: these are the flows that go on in the kernel")
	}
	return list, err
}

type flowsListCmd struct {
	bpffsFlag
	Endpoint string `help:"Only those of an endpoint." placeholder:"NAME"`
	Engine   string `help:"Only those of an engine." placeholder:"NAME"`
	JSON     bool   `help:"Print JSON."`
}

// Run is the command.
func (c flowsListCmd) Run(e env) error {
	list, err := c.list(e)
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(f splice.FlowInfo) bool {
		return c.Endpoint != "" && f.Endpoint != c.Endpoint || c.Engine != "" && f.Engine != c.Engine
	})
	slices.SortFunc(list, func(a, b splice.FlowInfo) int { return cmp.Or(a.Start.Compare(b.Start), strings.Compare(a.ID, b.ID)) })
	if c.JSON {
		if list == nil {
			list = []splice.FlowInfo{} // [], not null
		}
		out := json.NewEncoder(e.stdout)
		out.SetIndent("", "  ")
		return out.Encode(list)
	}
	t := table.NewWriter()
	t.SetStyle(table.StyleLight)
	t.Style().Options = table.OptionsNoBordersAndSeparators
	t.AppendHeader(table.Row{"ID", "Engine", "Endpoint", "Name", "Client → gateway → upstream", "Age", "Idle", "In", "Out", "State"})
	for _, f := range list {
		engine, state := f.Engine, "open"
		if f.EngineReason != "" {
			engine += " (" + f.EngineReason + ")"
		}
		if f.HalfClosed {
			state = "half-closed"
		}
		t.AppendRow(table.Row{f.ID, engine, f.Endpoint, f.SNI,
			fmt.Sprintf("%s → %s, %s → %s", f.Client, f.Listener, f.Local, f.Upstream),
			seconds(f.Age), seconds(f.Idle), amount(f.BytesIn, f.PacketsIn, f.SockmapBytesIn), amount(f.BytesOut, f.PacketsOut, f.SockmapBytesOut), state})
	}
	if len(list) > 0 {
		fmt.Fprintln(e.stdout, t.Render())
	}
	_, err = fmt.Fprintf(e.stdout, "%s\n", count(len(list), "flow"))
	return err
}

func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	if d > time.Minute {
		return d.Round(time.Second).String()
	}
	return d.Round(100 * time.Millisecond).String()
}

// amount is bytes, and packets where they are known, and what of it went from socket to
// socket.
func amount(bytes int64, packets uint64, direct int64) string {
	text := size(bytes)
	if packets > 0 {
		text += fmt.Sprintf(" in %d", packets)
	}
	if direct > 0 {
		text += ", " + size(direct) + " by sockmap"
	}
	return text
}

func size(bytes int64) string {
	for _, unit := range []struct {
		name string
		size int64
	}{{"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}} {
		if bytes >= unit.size {
			return fmt.Sprintf("%.1f %s", float64(bytes)/float64(unit.size), unit.name)
		}
	}
	return fmt.Sprintf("%d B", bytes)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

type flowsKillCmd struct {
	bpffsFlag
	IDs      []string `arg:"" optional:"" name:"id" help:"IDs of flows, as in the list and in the access log."`
	Endpoint string   `help:"All of an endpoint." placeholder:"NAME"`
	All      bool     `help:"All."`
}

// Validate is kong's.
func (c flowsKillCmd) Validate() error {
	if len(c.IDs) == 0 && c.Endpoint == "" && !c.All {
		return errors.New("which flows? IDs, --endpoint NAME or --all")
	}
	return nil
}

// Run is the command.
func (c flowsKillCmd) Run(e env) error {
	list, err := c.list(e)
	if err != nil {
		return err
	}
	var unknown []string
	for _, id := range c.IDs {
		if !slices.ContainsFunc(list, func(f splice.FlowInfo) bool { return f.ID == id }) {
			unknown = append(unknown, id)
		}
	}
	s := control.Selection{IDs: c.IDs, Endpoint: c.Endpoint, All: c.All}
	killed, err := control.NewClient(c.BPFFS).Kill(context.Background(), s)
	if errors.Is(err, control.ErrNoAgent) {
		killed, err = packet.KillPinned(c.BPFFS, s.Has)
	}
	fmt.Fprintf(e.stdout, "%s ended\n", count(killed, "flow"))
	if err != nil {
		return err
	}
	if len(unknown) > 0 {
		return fmt.Errorf("no such flow: %s", strings.Join(unknown, ", "))
	}
	return nil
}

type unloadCmd struct {
	bpffsFlag
	SourcePorts string `help:"The ports to give back: sourcePorts of the agent's file (default ${sourcePorts})." placeholder:"FIRST-LAST" default:"${sourcePorts}"`
	Config      string `help:"Take both from the agent's file instead." placeholder:"FILE" short:"c"`
}

func (unloadCmd) Help() string {
	return `For the network namespace that the agent ran in, once it is stopped: ends the
flows that go on in the kernel, with a reset on both sides, and removes programs,
maps and the reservation of source ports. Of flows that it ends there are no lines
in the access log.`
}

// Run is the command.
func (c unloadCmd) Run(e env) error {
	if c.Config != "" {
		cfg, err := config.Load(c.Config)
		if err != nil {
			return err
		}
		c.BPFFS, c.SourcePorts = cfg.BPFFS, cfg.SourcePorts
	}
	var first, last uint16
	if _, err := fmt.Sscanf(c.SourcePorts, "%d-%d", &first, &last); err != nil || first == 0 || first > last {
		return fmt.Errorf("--source-ports: expected FIRST-LAST, found %q", c.SourcePorts)
	}
	if _, err := os.Stat(c.BPFFS); errors.Is(err, os.ErrNotExist) {
		fmt.Fprintf(e.stdout, "nothing to unload: there is no %s\n", c.BPFFS)
		return nil
	}
	killed, err := packet.KillPinned(c.BPFFS, func(*splice.FlowInfo) bool { return true })
	switch {
	case errors.Is(err, loader.ErrInUse):
		return fmt.Errorf("stop the agent first: %w", err)
	case errors.Is(err, loader.ErrForeign):
		// Another version's flows are not understood; its programs go all the same.
		fmt.Fprintf(e.stderr, "spliceway: flows are not ended in order: %v\n", err)
	case err != nil:
		return err
	}
	if err := loader.UnloadPacket(c.BPFFS); err != nil {
		return err
	}
	if err := loader.ReleasePorts(first, last); err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "unloaded: %s ended, %s is gone, source ports %s are free\n", count(killed, "flow"), c.BPFFS, c.SourcePorts)
	return nil
}
