// SPDX-License-Identifier: Apache-2.0

package main

import "strings"

// panel is one piece of work: a bar for each subject.
type panel struct {
	title string
	work  string
	parts []string // figures, stacked where there are several
}

// page is one file.
type page struct {
	file, title string
	columns     int
	panels      []panel
}

const (
	more = " (longer is better)"
	less = " (shorter is better)"
)

// pages are all that is drawn of a run.
func pages(r *run) []page {
	return []page{
		bulk("throughput.svg", "Throughput, Gbit/s"+more, "Gbit/s"),
		bulk("cpu-per-gb.svg", "CPU of the whole system, seconds per GB"+less, "CPU s/GB"),
		roundTrips(),
		connections(),
		memory(r),
		sameHost(r),
	}
}

func bulk(file, title, figure string) page {
	p := page{file: file, title: title, columns: 2}
	for _, streams := range []string{"1", "8", "64"} {
		for _, way := range []string{"down", "up"} {
			name := way + ", " + streams + " streams"
			if streams == "1" {
				name = way + ", 1 stream"
			}
			p.panels = append(p.panels, panel{name, "bulk " + way + ", streams: " + streams, []string{figure}})
		}
	}
	return p
}

func roundTrips() page {
	p := page{file: "round-trips.svg", title: "Round trips of 200 bytes, microseconds" + less, columns: 2}
	for _, connections := range []string{"1", "100"} {
		for _, of := range []string{"p50", "p99", "p999"} {
			name := of + ", " + connections + " connections"
			if connections == "1" {
				name = of + ", 1 connection"
			}
			p.panels = append(p.panels, panel{name, "200-byte round trips, connections: " + connections, []string{of + ", us"}})
		}
	}
	// By percentile, the two side by side.
	p.panels = []panel{p.panels[0], p.panels[3], p.panels[1], p.panels[4], p.panels[2], p.panels[5]}
	return p
}

func connections() page {
	p := page{file: "connections.svg", title: "New TLS connections, 1,000 routes", columns: 2}
	for _, hello := range []string{"small hello", "post-quantum hello"} {
		work := "new TLS connections, " + hello
		p.panels = append(p.panels,
			panel{hello + ": per second" + more, work, []string{"per second"}},
			panel{hello + ": microseconds of CPU each" + less, work, []string{"CPU us each"}})
	}
	return p
}

func memory(r *run) page {
	p := page{file: "memory.svg", title: "Memory of an idle flow, KB" + less, columns: 1}
	for _, work := range r.works(func(name string) bool { return strings.HasPrefix(name, "memory, ") }) {
		p.panels = append(p.panels, panel{
			strings.TrimPrefix(work, "memory, ") + ": the process, its sockets, its BPF maps", work,
			[]string{"of it process", "of it sockets", "of it BPF maps"},
		})
	}
	return p
}

func sameHost(r *run) page {
	const prefix = "loopback: "
	p := page{file: "same-host.svg", title: "Client and backend on the gateway's host" + more, columns: 2}
	for _, work := range r.works(func(name string) bool { return strings.HasPrefix(name, prefix) }) {
		for _, of := range []string{"per second", "Gbit/s"} {
			if r.has(work, of) {
				p.panels = append(p.panels, panel{strings.TrimPrefix(work, prefix) + ": " + of, work, []string{of}})
			}
		}
	}
	return p
}

// has tells whether anybody has such a figure.
func (r *run) has(work, figure string) bool {
	for _, s := range r.Subjects {
		if _, ok := r.figure(work, s.Name, figure); ok {
			return true
		}
	}
	return false
}

// missing are the works of a page that were not measured.
func (p page) missing(r *run) (works []string) {
	for _, one := range p.panels {
		if !r.has(one.work, one.parts[0]) {
			works = append(works, one.work)
		}
	}
	return works
}
