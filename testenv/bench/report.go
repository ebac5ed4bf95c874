// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// sample is one piece of work, done once through one subject.
type sample struct {
	Round       int                `json:"round"`
	Subject     string             `json:"subject"`
	Work        string             `json:"work"`
	Figures     map[string]float64 `json:"figures"` // by name
	Connections int64              `json:"connections"`
	Engines     map[string]int64   `json:"engines,omitempty"` // ended connections
	BusyBefore  float64            `json:"busyBefore"`        // CPU seconds per second just before

	// Of the agent's flows within one host: all bytes, and those by the short cut.
	Bytes         int64 `json:"bytes,omitempty"`
	ShortcutBytes int64 `json:"shortcutBytes,omitempty"`
	// Reasons are how many had which engine_reason in their log line.
	Reasons map[string]int64 `json:"reasons,omitempty"`

	// Failed is why there are no figures.
	Failed string `json:"failed,omitempty"`

	// Spliced is what a HAProxy that was told to says that it has, in bytes.
	Spliced int64 `json:"spliced,omitempty"`
}

// described is a subject's row.
type described struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
}

// results is a run.
type results struct {
	Date      time.Time     `json:"date"`
	Machine   machine       `json:"machine"`
	Quick     bool          `json:"quick,omitempty"` // worth little
	Rounds    int           `json:"rounds"`
	Duration  time.Duration `json:"durationNs"`
	IdleFlows int           `json:"idleFlows"`
	StartBusy float64       `json:"startBusy"` // CPU seconds per second before the first work, on average
	IdleBusy  float64       `json:"idleBusy"`  // the least between measurements: taken off their CPU
	Subjects  []described   `json:"subjects"`
	Samples   []sample      `json:"samples"`
}

// write makes one line of each sample: a file that can be compared with the last one.
func (r *results) write(file string) error {
	head := *r
	head.Samples = nil
	content, err := json.MarshalIndent(head, "", "  ")
	if err != nil {
		return fmt.Errorf("write samples: %w", err)
	}
	text := bytes.NewBuffer(bytes.TrimSuffix(content, []byte("null\n}")))
	for i, one := range r.Samples {
		line, err := json.Marshal(one)
		if err != nil {
			return fmt.Errorf("write samples: %w", err)
		}
		fmt.Fprintf(text, "%s\n    %s", [...]string{"[", ","}[min(i, 1)], line)
	}
	text.WriteString("\n  ]\n}\n")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("write samples: %w", err)
	}
	if err := os.WriteFile(file, text.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write samples: %w", err)
	}
	return nil
}

// readResults reads what write has written.
func readResults(file string) (*results, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := new(results)
	if err := json.Unmarshal(content, r); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return r, nil
}

// baseOf is whom the others are set against: the direct connection, or who comes first
// where there is none, because TLS is terminated.
func baseOf(todo []work, subjects []subject) subject {
	if terminates(todo) {
		return subjects[0]
	}
	return direct{}
}

func terminates(todo []work) bool {
	return slices.ContainsFunc(todo, func(w work) bool { return w.layout.terminates() })
}

// values are a figure's, by round.
func (r *results) values(work, subject, figure string) map[int]float64 {
	v := make(map[int]float64)
	for _, one := range r.Samples {
		if one.Work != work || one.Subject != subject {
			continue
		}
		if value, ok := one.Figures[figure]; ok {
			v[one.Round] = value
		}
	}
	return v
}

// report is a table for each work: a row for each subject.
func (r *results) report(out io.Writer, todo []work, subjects []subject) {
	reference := baseOf(todo, subjects)
	fmt.Fprintf(out, "%s; %s. Rounds: %d, of %s each.\n\n", r.Date.Format("2 January 2006"), r.Machine, r.Rounds, r.Duration)
	if r.Quick {
		fmt.Fprint(out, "**A quick run: the figures are worth little.**\n\n")
	}
	fmt.Fprintf(out, "Versions: %s.\n", r.versions())
	for _, w := range todo {
		fmt.Fprintf(out, "\n**%s**\n\n| |", w.name)
		for _, f := range w.figures {
			fmt.Fprintf(out, " %s |", f.name)
		}
		fmt.Fprint(out, "\n|---|", strings.Repeat("---|", len(w.figures)), "\n")
		for _, s := range subjects {
			r.row(out, w, s, reference)
		}
	}
	switch {
	case terminates(todo):
		fmt.Fprintf(out, "\n"+tlsLegend, reference.name())
	default:
		fmt.Fprint(out, "\n", legend)
	}
	r.failures(out)
	r.engineShares(out, subjects)
	r.shortcutBytes(out, todo)
	r.splicedShares(out)
	r.noise(out)
}

// failures says what peers did not get through.
func (r *results) failures(out io.Writer) {
	for _, one := range r.Samples {
		if one.Failed != "" {
			first, _, _ := strings.Cut(one.Failed, "\n")
			fmt.Fprintf(out, "- %s: %s, round %d: it failed: %s\n", one.Subject, one.Work, one.Round+1, first)
		}
	}
}

// row is what a subject has of a work: none, if it has nothing.
func (r *results) row(out io.Writer, w work, s, reference subject) {
	var row strings.Builder
	measured := false
	for _, f := range w.figures {
		var base map[int]float64
		if s != reference {
			base = r.values(w.name, reference.name(), f.name)
		}
		own := r.values(w.name, s.name(), f.name)
		measured = measured || len(own) > 0
		fmt.Fprintf(&row, " %s |", f.cell(own, base))
	}
	if measured {
		fmt.Fprintf(out, "| %s |%s\n", s.name(), &row)
	}
}

func (r *results) versions() string {
	var list []string
	for _, s := range r.Subjects {
		if s.Version != "" {
			list = append(list, s.Name+" "+s.Version)
		}
	}
	return strings.Join(list, ", ")
}

const legend = `- A cell is the median of the rounds; behind it, the median of the ratios (x) or differences (+) to *direct* in the same round; in brackets
  the least and the greatest round, of the ratios or differences where there are any.
- CPU is that of the whole system, client and backend included, less the least that the machine has been seen to use between measurements. The gateway's CPU is user and
  system time of its processes alone: what softirqs do for packets, all that the engine packet does, is charged to whom they interrupt.
- Memory: the process is the PSS of all of the gateway's; a socket is what the kernel's slabs hold for one with empty buffers, its inode and its file; a BPF map is
  what the kernel says of it. What is there before the first flow (maps with their memory allocated ahead too) is not in the sum.
- loopback: nothing is measured before each connection has done 50 round trips and 0.3 s of them. Every answer was checked for being the one to its message.
- The reader's queue is what the kernel accounts to its socket, buffers' overhead included. The memory of the machine is what it has less available, in the
  later half of the time: whatever else runs there is in it.
`

const tlsLegend = `- A cell is the median of the rounds; behind it, the median of the ratios (x) to *%s* in the same round; in brackets the least and the
  greatest round, of the ratios where there are any.
- CPU is user and system time of the gateway's processes alone (/proc/PID/stat, all workers), not of client and backend. What softirqs do for packets is charged to
  whom they interrupt, for every gateway alike.
- Everybody: TLS 1.3, TLS_AES_128_GCM_SHA256, the same ECDSA P-256 certificate, a plain TCP backend, two workers or threads, no access log. Of every connection the
  client has checked the version, the suite, the key exchange, and whether a session was resumed. Nobody offers sessions (the client has
  checked it), except for resumed handshakes.
- A handshake is one of a whole connection: TCP and TLS handshake, a dial to the backend, 1 byte to it, 200 bytes from it, its end. Client and backend share the
  machine's processors with the gateway: what comes out per second says less than what a gateway's CPU second does.
- Memory is the PSS of the gateway's processes, less what it was before the first flow; what the kernel holds for the two sockets of a flow is the same for all.
  What a gateway sets aside once, by its first flows, is in it: the fewer flows, the more of it falls to each.
`

// cell is one figure of one subject.
func (f figure) cell(own, base map[int]float64) string {
	if len(own) == 0 {
		return "-"
	}
	var absolute, relative []float64
	for round, v := range own {
		absolute = append(absolute, v)
		to, ok := base[round]
		switch {
		case !ok || f.compare == alone:
		case f.compare == difference:
			relative = append(relative, v-to)
		case to != 0:
			relative = append(relative, v/to)
		}
	}
	a, verb := spreadOf(absolute), fmt.Sprintf("%%.%df", f.digits)
	text := fmt.Sprintf(verb, a.median)
	if len(relative) == 0 {
		return text + a.brackets(verb, len(absolute))
	}
	b, mark, verb := spreadOf(relative), "x", "%.2f"
	if f.compare == difference {
		mark, verb = "", fmt.Sprintf("%%+.%df", f.digits)
	}
	return text + ", " + mark + fmt.Sprintf(verb, b.median) + b.brackets(verb, len(relative))
}

// brackets hold least and greatest, where there is more than one round.
func (s spread) brackets(verb string, rounds int) string {
	if rounds < 2 {
		return ""
	}
	return fmt.Sprintf(" ("+verb+" to "+verb+")", s.low, s.high)
}

// engineShares tells whether the agent moved flows by the engine that its column is
// named for, and in which work it did not.
func (r *results) engineShares(out io.Writer, subjects []subject) {
	for _, s := range subjects {
		agent, ok := s.(*spliceway)
		if !ok {
			continue
		}
		var own, all int64
		var lacking []string
		for _, one := range r.Samples {
			if one.Subject != s.name() {
				continue
			}
			own, all = own+one.Engines[agent.engine], all+one.Connections
			if n := one.Engines[agent.engine]; n < one.Connections && !slices.Contains(lacking, one.Work) {
				lacking = append(lacking, one.Work)
			}
		}
		if all == 0 {
			continue
		}
		fmt.Fprintf(out, "- %s: %s of %d connections ended as ones of engine %s", s.name(), share(own, all), all, agent.engine)
		if lacking != nil {
			fmt.Fprintf(out, "; not all of them in: %s", strings.Join(lacking, "; "))
		}
		fmt.Fprintln(out, ".")
	}
}

// share never rounds up to 100 %.
func share(part, all int64) string {
	if all == 0 {
		return "none"
	}
	return fmt.Sprintf("%.2f %%", math.Floor(float64(part)/float64(all)*1e4)/100)
}

// splicedShares tells how much went by splice(2) where HAProxy was told to.
func (r *results) splicedShares(out io.Writer) {
	for _, s := range r.Subjects {
		if !strings.HasPrefix(s.Name, "HAProxy") || !strings.HasSuffix(s.Name, "splice") {
			continue
		}
		var bytes int64
		for _, one := range r.Samples {
			if one.Subject == s.Name {
				bytes += one.Spliced
			}
		}
		fmt.Fprintf(out, "- %s: it says that it has spliced %.1f GB.\n", s.Name, float64(bytes)/1e9)
	}
}

// noise tells what else was at work, before the run and during it.
func (r *results) noise(out io.Writer) {
	fmt.Fprintf(out, "- Before the first work the machine used %.2f CPU seconds per second, when idle %.2f", r.StartBusy, r.IdleBusy)
	if r.StartBusy > quietBusy {
		fmt.Fprint(out, ": **it was not idle**, and the figures are worth little")
	}
	noisy := 0
	for _, one := range r.Samples {
		if one.BusyBefore > quietBusy {
			noisy++
		}
	}
	fmt.Fprintf(out, "; %d of %d measurements began with something else at work.\n", noisy, len(r.Samples))
}
