// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/spliceway/spliceway/userspace/agent"
	"github.com/spliceway/spliceway/userspace/config"
)

type routesCmd struct {
	List routesListCmd `cmd:"" default:"withargs" help:"List the routes of a configuration (the default)."`
	Test routesTestCmd `cmd:"" help:"Tell which endpoint takes a name, and why."`
}

type routesListCmd struct {
	configFlag
	JSON bool `help:"Print JSON."`
}

// routeLine is one endpoint in the list.
type routeLine struct {
	URL      string   `json:"url"`
	ALPN     []string `json:"alpn,omitempty"`
	Endpoint string   `json:"endpoint"`
	TLS      string   `json:"tls"` // passthrough or terminate
	Targets  []string `json:"targets"`
	Source   string   `json:"source"`
}

func lineOf(e *config.Endpoint) routeLine {
	l := routeLine{URL: fmt.Sprintf("tls://%s:%d", e.ServerName, e.Port), ALPN: e.ALPN, Endpoint: e.Name, TLS: "passthrough", Source: e.Pos.String()}
	if e.TLSTermination != nil {
		l.TLS = "terminate"
	}
	for _, t := range e.Upstream.All {
		target := t.URL
		if t.Weight != 1 {
			target += fmt.Sprintf(" (weight %d)", t.Weight)
		}
		l.Targets = append(l.Targets, target)
	}
	return l
}

// Run is the command.
func (c routesListCmd) Run(e env) error {
	cfg, err := config.Load(c.Config)
	if err != nil {
		return err
	}
	lines := make([]routeLine, 0, len(cfg.Endpoints))
	for i := range cfg.Endpoints {
		lines = append(lines, lineOf(&cfg.Endpoints[i]))
	}
	fallbacks := []struct{ Outcome, Endpoint string }{
		{"unknownName", cfg.Fallback.UnknownName}, {"noSNI", cfg.Fallback.NoSNI}, {"notTLS", cfg.Fallback.NotTLS},
	}
	if c.JSON {
		byOutcome := map[string]string{}
		for _, f := range fallbacks {
			if f.Endpoint != "" {
				byOutcome[f.Outcome] = f.Endpoint
			}
		}
		return printJSON(e.stdout, struct {
			Routes   []routeLine       `json:"routes"`
			Fallback map[string]string `json:"fallback"`
		}{lines, byOutcome})
	}
	t := newTable(e.stdout, "URL", "ALPN", "Endpoint", "TLS", "Targets", "Source")
	for _, l := range lines {
		t.AppendRow(table.Row{l.URL, strings.Join(l.ALPN, ","), l.Endpoint, l.TLS, strings.Join(l.Targets, "\n"), l.Source})
	}
	for _, f := range fallbacks {
		if f.Endpoint != "" {
			t.AppendRow(table.Row{"(" + f.Outcome + ")", "", f.Endpoint, "", "", "fallback." + f.Outcome})
		}
	}
	t.Render()
	return nil
}

type routesTestCmd struct {
	configFlag
	SNI  string   `arg:"" name:"SNI" help:"The name that the client asks for; \"\" for a client that names none."`
	ALPN []string `help:"What the client offers, in its order." placeholder:"PROTOCOL,..." sep:","`
	Port uint16   `help:"The port that the client connects to. Default: each port of the configuration." placeholder:"PORT"`
	JSON bool     `help:"Print JSON."`
}

func (routesTestCmd) Help() string {
	return `Exit status 0 if an endpoint takes the name on some port, 1 if it is refused on
all of them. The answer is the one that the running agent gives: exact names
before wildcards, longer wildcards before shorter, then the fallback.`
}

// verdict is the answer for one port.
type verdict struct {
	Port     uint16     `json:"port"`
	Outcome  string     `json:"outcome"`
	Why      string     `json:"why"`
	Endpoint *routeLine `json:"endpoint,omitempty"`
}

// Run is the command.
func (c routesTestCmd) Run(e env) error {
	cfg, err := config.Load(c.Config)
	if err != nil {
		return err
	}
	routes, err := agent.NewRoutes(cfg)
	if err != nil {
		return err
	}
	ports := routes.Ports()
	if c.Port != 0 {
		if !slices.Contains(ports, c.Port) {
			return fmt.Errorf("no endpoint is on port %d; those of the configuration: %s", c.Port, strings.Trim(fmt.Sprint(ports), "[]"))
		}
		ports = []uint16{c.Port}
	}
	var verdicts []verdict
	taken := false
	for _, port := range ports {
		d, err := routes.Decide(port, c.SNI, c.ALPN)
		if err != nil {
			return fmt.Errorf("SNI %q: %w", c.SNI, err)
		}
		v := verdict{Port: port, Outcome: d.Outcome.String(), Why: d.Why}
		if d.Endpoint != nil {
			l := lineOf(d.Endpoint)
			v.Endpoint, taken = &l, true
		}
		verdicts = append(verdicts, v)
	}
	if c.JSON {
		if err := printJSON(e.stdout, verdicts); err != nil {
			return err
		}
	} else {
		for _, v := range verdicts {
			printVerdict(e.stdout, v)
		}
	}
	if !taken {
		return errReported
	}
	return nil
}

func printVerdict(w io.Writer, v verdict) {
	if v.Endpoint == nil {
		fmt.Fprintf(w, "port %d: refused (%s): %s\n", v.Port, v.Outcome, v.Why)
		return
	}
	fmt.Fprintf(w, "port %d: endpoint %s: %s\n", v.Port, v.Endpoint.Endpoint, v.Why)
	fmt.Fprintf(w, "  %s  ->  %s\n  %s\n", v.Endpoint.URL, strings.Join(v.Endpoint.Targets, ", "), v.Endpoint.Source)
}

// newTable is a table in the style of all commands.
func newTable(w io.Writer, header ...any) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	t.SetStyle(table.StyleLight)
	t.AppendHeader(header)
	return t
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
