// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/spliceway/spliceway/testenv/demo"
)

type demoCmd struct {
	Manifests []string `help:"Show what these files and directories of Kubernetes manifests come to, instead." placeholder:"PATH" sep:"none"`
	JSON      bool     `help:"Print JSON."`
}

func (demoCmd) Help() string {
	return `The demo takes a few seconds and needs root. Its hosts are network namespaces of
their own; it touches no network of this host and leaves nothing behind. Exit
status 0 if every connection went where it should and the client, the backends
and the agent's access log agree on it.

With --manifests the agent serves these, on a server for each host that they name.
Files of a directory that contradict each other are shown one by one.`
}

// Run is the command.
func (c demoCmd) Run(e env) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	executable, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the agent's program: %w", err)
	}
	if len(c.Manifests) > 0 {
		return c.manifests(ctx, e, executable)
	}
	report, err := demo.Run(ctx, executable)
	if err != nil {
		return err
	}
	return c.tell(e, report, func() { printDemo(e.stdout, report) }, report.AgentLog, report.Problems)
}

// tell prints a report, and what was wrong.
func (c demoCmd) tell(e env, report any, print func(), log, problems []string) error {
	if !c.JSON {
		print()
	} else if err := printJSON(e.stdout, report); err != nil {
		return err
	}
	if len(problems) == 0 {
		return nil
	}
	for _, line := range log {
		fmt.Fprintf(e.stderr, "agent: %s\n", line)
	}
	for _, problem := range problems {
		fmt.Fprintf(e.stderr, "spliceway: demo: wrong: %s\n", problem)
	}
	return errReported
}

func printDemo(w io.Writer, r *demo.Report) {
	fmt.Fprint(w, `One gateway in front of three TLS services, each on a host of its own: network namespaces on this machine,
joined by veth. The agent reads the name in each ClientHello, picks the service and hands the bytes through.

`)
	printNetwork(w, r)
	printRouted(w, r)
	fmt.Fprint(w, `✓        the client verified the certificate, and it is the backend's own: nobody in between opened the TLS
bytes    as in the agent's access log, equal to the client's count; the content was checked by SHA-256 at both ends
direct   the same client and backend, with the kernel routing instead of the agent relaying; all times are medians
split    the ClientHello comes in TLS records of one byte each

`)
	printRefused(w, r)
	if len(r.Problems) > 0 {
		return // which they are is said on standard error
	}
	fmt.Fprintf(w, `All of it was right, in %.1f s. Nothing of it is left on this machine.
Next: README.md; "spliceway check FILE" on examples/passthrough.yaml; "spliceway run --config FILE".
`, r.Took/1000)
}

// printNetwork draws the client, the gateway and the services from left to
// right, the gateway's two addresses on the middle row and the one below.
func printNetwork(w io.Writer, r *demo.Report) {
	const client = "  client ───── gateway  "
	first := client + r.Gateway[0] + " ─"
	width := text.StringWidth(first)
	middle := len(r.Services) / 2
	for i, s := range r.Services {
		left, joint := "", "├─"
		switch i {
		case middle:
			left, joint = first, "┼─"
		case middle + 1:
			left = strings.Repeat(" ", text.StringWidth(client)) + r.Gateway[1]
		}
		switch i {
		case 0:
			joint = "┌─"
		case len(r.Services) - 1:
			joint = "└─"
		}
		url := s.URL
		if s.Fallback {
			url += " and every other name"
		}
		fmt.Fprintf(w, "%s%s %-5s %-13s %s\n", text.Pad(left, width, ' '), joint, s.Name, s.Address, url)
	}
	fmt.Fprintln(w)
}

func printRouted(w io.Writer, r *demo.Report) {
	t := demoTable(w, "Name (SNI)", "Client", "Route: backend", "Certificate", "Engine",
		"Bytes, MB\nup / down", "Handshake\nms/direct", "Round trip\nµs/direct")
	t.SetColumnConfigs([]table.ColumnConfig{
		{Number: 6, Align: text.AlignRight}, {Number: 7, Align: text.AlignRight}, {Number: 8, Align: text.AlignRight},
	})
	for _, c := range r.Routed {
		t.AppendRow(table.Row{
			c.SNI, c.Client, c.Route + ": " + c.Backend, seen(c.Certificate), c.Engine,
			fmt.Sprintf("%.1f / %.1f", float64(c.BytesIn)/1e6, float64(c.BytesOut)/1e6),
			fmt.Sprintf("%.1f / %.1f", c.Handshake.Gateway, c.Handshake.Direct),
			fmt.Sprintf("%.0f / %.0f", c.RoundTrip.Gateway*1000, c.RoundTrip.Direct*1000),
		})
	}
	t.Render()
}

// seen is a certificate's subject and the start of its SHA-256.
func seen(c demo.Certificate) string {
	if c.SHA256 == "" {
		return "✗ none"
	}
	mark := "✗"
	if c.EndToEnd {
		mark = "✓"
	}
	return fmt.Sprintf("%s %s %.8s", mark, c.Subject, c.SHA256)
}

func printRefused(w io.Writer, r *demo.Report) {
	t := demoTable(w, "Client sends", "Outcome", "Client sees", "After ms", "Backends reached")
	for _, c := range r.Refused {
		t.AppendRow(table.Row{c.Sends, c.Outcome, c.Sees, fmt.Sprintf("%.1f", c.After), c.Reached})
	}
	t.SetColumnConfigs([]table.ColumnConfig{{Number: 4, Align: text.AlignRight}})
	t.Render()
	fmt.Fprintln(w)
}

// demoTable has its header as written: upper case would spoil the units.
func demoTable(w io.Writer, header ...any) table.Writer {
	t := newTable(w, header...)
	t.Style().Format.Header = text.FormatDefault
	return t
}
