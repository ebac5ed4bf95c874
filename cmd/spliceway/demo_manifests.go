// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spliceway/spliceway/testenv/demo"
	"github.com/spliceway/spliceway/userspace/agent"
	"github.com/spliceway/spliceway/userspace/config"
	"github.com/spliceway/spliceway/userspace/plan"
)

// manifests is the demo of manifests.
func (c demoCmd) manifests(ctx context.Context, e env, executable string) error {
	ways, err := c.ways(e)
	if err != nil {
		return err
	}
	report, err := demo.RunManifests(ctx, executable, ways)
	if err != nil {
		return err
	}
	return c.tell(e, report, func() { printManifests(e.stdout, report) }, report.AgentLog, report.Problems)
}

// ways are all manifests together; if they contradict each other, each file by itself.
func (c demoCmd) ways(e env) ([]demo.Way, error) {
	var paths []string
	for _, path := range c.Manifests {
		path, err := filepath.Abs(path)
		if err != nil {
			return nil, err
		}
		paths = append(paths, path)
	}
	all := agent.Plan(&config.Config{Manifests: paths})
	sets := [][]string{paths}
	if len(all.Problems) > 0 {
		files := make(map[string]bool)
		for _, o := range all.Objects {
			files[o.Pos.File] = true
		}
		for _, w := range all.Problems {
			files[w.Pos.File] = true
		}
		sets = nil
		for _, file := range slices.Sorted(maps.Keys(files)) {
			sets = append(sets, []string{file})
		}
	}
	var ways []demo.Way
	for _, set := range sets {
		p := agent.Plan(&config.Config{Manifests: set})
		tell(e, p)
		warn(e, p)
		if way := wayOf(e, set, p); len(way.Visits) > 0 {
			ways = append(ways, way)
		}
	}
	if len(ways) == 0 {
		return nil, errors.New("these manifests serve nothing that a client could reach")
	}
	return ways, nil
}

// wayOf is what a client can visit of a plan, and the hosts that it needs.
func wayOf(e env, set []string, p *plan.Plan) demo.Way {
	way := demo.Way{Manifests: set}
	ports := make(map[string][]uint16)
	for i := range p.Endpoints {
		x, own := &p.Endpoints[i], &p.Config.Endpoints[i]
		if own.TLSTermination != nil {
			fmt.Fprintf(e.stderr, "%s: %s terminates TLS, and is not shown\n", own.Pos, x.From)
			continue
		}
		for _, at := range x.Places {
			name := at.Name
			switch {
			case name == "*":
				name = "any.test"
			case strings.HasPrefix(name, "*."):
				name = "demo" + name[1:]
			}
			way.Visits = append(way.Visits, demo.Visit{Object: x.From, SNI: name, Port: at.Port, Address: at.Address})
		}
		for _, t := range own.Upstream.All {
			if _, err := netip.ParseAddr(t.Host); err != nil && t.Refuse == "" && !slices.Contains(ports[t.Host], t.Port) {
				ports[t.Host] = append(ports[t.Host], t.Port)
			}
		}
	}
	for host, list := range ports {
		way.Upstreams = append(way.Upstreams, demo.Upstream{Host: host, Ports: list})
	}
	slices.SortFunc(way.Upstreams, func(a, b demo.Upstream) int { return strings.Compare(a.Host, b.Host) })
	return way
}

func printManifests(w io.Writer, r *demo.ManifestReport) {
	fmt.Fprint(w, "A client, the agent with these manifests, and a server for each host that they name: network namespaces on this machine.\n\n")
	for _, v := range r.Visited {
		var files []string
		for _, f := range v.Manifests {
			files = append(files, filepath.Base(f))
		}
		fmt.Fprintf(w, "%s: %s\n  %s\n", strings.Join(files, ", "), v.Object, v.URL)
		for _, e := range v.ForwardedTo {
			fmt.Fprintf(w, "    forwarded to %s\n", e)
		}
		fmt.Fprintf(w, "    ->  %s (%s)\n  certificate %s, engine %s, %.1f MB up, %.1f MB down\n\n",
			v.Backend, v.Upstream, seen(v.Certificate), v.Engine, float64(v.BytesIn)/1e6, float64(v.BytesOut)/1e6)
	}
	fmt.Fprint(w, `✓    the client verified the certificate, and it is the server's own: nobody in between opened the TLS
MB   as in the agent's access log; a megabyte went there and came back as it was sent
`)
	if len(r.Problems) == 0 {
		fmt.Fprintf(w, "\nAll of it was right, in %.1f s. Nothing of it is left on this machine.\n", r.Took/1000)
	}
}
