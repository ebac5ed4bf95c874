// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/spliceway/spliceway/userspace/agent"
	"github.com/spliceway/spliceway/userspace/config"
	"github.com/spliceway/spliceway/userspace/plan"
	"github.com/spliceway/spliceway/userspace/policy"
	"github.com/spliceway/spliceway/userspace/route"
	"github.com/spliceway/spliceway/userspace/telemetry"
)

// tell prints what is wrong with objects of manifests: they are not among what follows.
func tell(e env, p *plan.Plan) {
	for _, w := range p.Problems {
		fmt.Fprintln(e.stderr, w)
	}
}

// warn prints what is odd about objects that are served.
func warn(e env, p *plan.Plan) {
	for _, w := range p.Warnings {
		fmt.Fprintf(e.stderr, "warning: %s: %s\n", w.Pos, w.Text)
	}
}

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
	TLS      string   `json:"tls"` // passthrough, terminate, by policy, or none
	Policy   bool     `json:"policy,omitempty"`
	Targets  []string `json:"targets"`
	Source   string   `json:"source"`
	Object   string   `json:"object,omitempty"`
}

// linesOf are an endpoint's, one for each of its URLs.
func linesOf(p *plan.Plan, i int) (lines []routeLine) {
	x := &p.Endpoints[i]
	type places struct {
		scheme  string
		entries []route.Entry
	}
	all := []places{{"tls", x.Places}, {"tls", x.Internal}}
	if x.HTTP != nil {
		all = []places{{"https", x.Places}, {"http", x.HTTP.Plain}}
	}
	for _, of := range all {
		for _, at := range of.entries {
			l := lineOf(p, i)
			l.URL = fmt.Sprintf("%s://%s:%d", of.scheme, at.Name, at.Port)
			if at.Address.IsValid() {
				l.URL += " at " + at.Address.String()
			}
			lines = append(lines, l)
		}
	}
	return lines
}

func lineOf(p *plan.Plan, i int) routeLine {
	e := &p.Config.Endpoints[i]
	l := routeLine{URL: fmt.Sprintf("tls://%s:%d", e.ServerName, e.Port), ALPN: e.ALPN, Endpoint: e.Name, TLS: "passthrough", Source: e.Pos.String(), Object: p.Endpoints[i].From}
	if e.TLSTermination != nil {
		l.TLS = "terminate"
	}
	if x := p.Endpoints[i].Policy; x != nil {
		l.Policy = true
		if len(x.Terminations()) > 0 {
			l.TLS = "by policy"
		}
	}
	if h := p.Endpoints[i].HTTP; h != nil {
		l.URL = p.Endpoints[i].URL
		if e.TLSTermination == nil {
			l.TLS = "none"
		}
		for _, r := range h.Rules {
			path := r.Path
			if !r.Exact {
				path += "/*"
			}
			targets := targetsOf(r.Targets, true)
			if len(targets) == 0 {
				targets = []string{"refused, the rule has no backend"}
			}
			l.Targets = append(l.Targets, r.Hostname+path+" -> "+strings.Join(targets, ", "))
		}
		return l
	}
	l.Targets = targetsOf(e.Upstream.All, l.Object != "")
	return l
}

// targetsOf are targets with their weights: in shares if they are of an object.
func targetsOf(all []config.Target, shares bool) (list []string) {
	total := 0
	for _, t := range all {
		total += t.Weight
	}
	for _, t := range all {
		target := t.URL
		switch {
		case shares && total > 0 && len(all) > 1:
			target += fmt.Sprintf(" (%.3g %%)", 100*float64(t.Weight)/float64(total))
		case !shares && t.Weight != 1:
			target += fmt.Sprintf(" (weight %d)", t.Weight)
		}
		if t.Refuse != "" {
			target += ": refused, " + t.Refuse
		}
		list = append(list, target)
	}
	return list
}

// Run is the command.
func (c routesListCmd) Run(e env) error {
	cfg, err := config.Load(c.Config)
	if err != nil {
		return err
	}
	p := agent.Plan(cfg)
	tell(e, p)
	lines := make([]routeLine, 0, len(p.Config.Endpoints))
	for i := range p.Config.Endpoints {
		lines = append(lines, linesOf(p, i)...)
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
		targets := strings.Join(l.Targets, "\n")
		if l.Policy {
			targets = strings.TrimSuffix("(policy)\n"+targets, "\n")
		}
		t.AppendRow(table.Row{l.URL, strings.Join(l.ALPN, ","), l.Endpoint, l.TLS, targets, l.Source})
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
	SNI      string     `arg:"" name:"SNI" help:"The name that the client asks for; \"\" for a client that names none."`
	ALPN     []string   `help:"What the client offers, in its order." placeholder:"PROTOCOL,..." sep:","`
	Port     uint16     `help:"The port that the client connects to. Default: each port of the configuration." placeholder:"PORT"`
	Address  netip.Addr `help:"The address that the client connects to, where that matters. Default: one that no Gateway has for itself." placeholder:"IP"`
	ClientIP netip.Addr `name:"client-ip" help:"The client's address, for traffic policies (default ${default})." placeholder:"IP" default:"192.0.2.1"`
	JA4      string     `name:"ja4" help:"The client's JA4 fingerprint, for traffic policies." placeholder:"JA4"`
	JSON     bool       `help:"Print JSON."`
}

func (routesTestCmd) Help() string {
	return `Exit status 0 if an endpoint takes the name on some port, 1 if it is refused on
all of them. The answer is the one that the running agent gives: exact names
before wildcards, longer wildcards before shorter, then the fallback. Traffic
policies are walked through, and each decision is printed; what only a TLS
handshake can tell is empty there.`
}

// verdict is the answer for one port.
type verdict struct {
	Port     uint16     `json:"port"`
	Outcome  string     `json:"outcome"`
	Why      string     `json:"why"`
	Endpoint *routeLine `json:"endpoint,omitempty"`
	Steps    []string   `json:"steps,omitempty"`
}

// Run is the command.
func (c routesTestCmd) Run(e env) error {
	cfg, err := config.Load(c.Config)
	if err != nil {
		return err
	}
	p := agent.Plan(cfg)
	tell(e, p)
	routes, err := agent.NewRoutes(p)
	if err != nil {
		return err
	}
	to := c.Address
	if !to.IsValid() {
		to = netip.IPv4Unspecified() // for policies: none in particular
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
		d, err := routes.Decide(c.Address, port, c.SNI, c.ALPN)
		if err != nil {
			return fmt.Errorf("SNI %q: %w", c.SNI, err)
		}
		v := verdict{Port: port, Outcome: d.Outcome.String(), Why: d.Why}
		if d.Endpoint != nil {
			l := lineOf(p, d.Index)
			v.Endpoint = &l
			var end telemetry.Outcome
			v.Steps, end = routes.Follow(d.Index, &policy.Connection{
				Client: netip.AddrPortFrom(c.ClientIP, 49152), Server: netip.AddrPortFrom(to, port), Start: time.Now(),
				SNI: c.SNI, JA4: c.JA4, OfferedALPN: c.ALPN,
			})
			if end != telemetry.OutcomeRouted {
				v.Outcome = end.String()
			} else {
				taken = true
			}
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
	object := ""
	if v.Endpoint.Object != "" {
		object = ", " + v.Endpoint.Object
	}
	if len(v.Steps) == 0 {
		fmt.Fprintf(w, "  %s  ->  %s\n", v.Endpoint.URL, strings.Join(v.Endpoint.Targets, ", "))
	}
	fmt.Fprintf(w, "  %s%s\n", v.Endpoint.Source, object)
	for _, s := range v.Steps {
		fmt.Fprintln(w, "  "+s)
	}
	if v.Outcome != telemetry.OutcomeRouted.String() {
		fmt.Fprintf(w, "  refused (%s)\n", v.Outcome)
	}
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
