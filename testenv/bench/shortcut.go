// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spliceway/spliceway/testenv"
)

// access is what is read of a line of the agent's access log.
type access struct {
	Engine     string `json:"engine"` // empty: no flow that was routed
	Reason     string `json:"engine_reason"`
	BytesIn    int64  `json:"bytes_in"`
	BytesOut   int64  `json:"bytes_out"`
	SockmapIn  int64  `json:"sockmap_bytes_in"`
	SockmapOut int64  `json:"sockmap_bytes_out"`
}

// readLog adds which engines the flows got. It waits until each has its line, but not
// for long: what never ended is the report's to say. A sample of the short cut in which
// no flow took it is none: its figures are thrown away.
func (one *sample) readLog(ctx context.Context, b *bed, agent *spliceway) error {
	// The one that tried the subject is no flow of the work, and is too short for
	// the short cut.
	one.Connections--
	wait, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var lines []access
	_ = testenv.Poll(wait, func() (bool, error) { // a timeout is no error, see above
		lines = accessLines(b.process.Log().Lines(), int64(len(b.hello[b.first])+finishedSize))
		return int64(len(lines)) >= one.Connections, nil
	})
	one.Engines, one.Reasons = make(map[string]int64), make(map[string]int64)
	for _, l := range lines {
		one.Engines[l.Engine]++
		if l.Reason != "" {
			one.Reasons[l.Reason]++
		}
		one.Bytes += l.BytesIn + l.BytesOut
		one.ShortcutBytes += l.SockmapIn + l.SockmapOut
	}
	if agent.engine == shortcut && one.Engines[shortcut] == 0 {
		one.Figures = nil
	}
	return ctx.Err()
}

// accessLines are those of flows by which the client sent more than its greeting.
func accessLines(log []string, greeting int64) []access {
	var lines []access
	for _, text := range log {
		var l access
		if json.Unmarshal([]byte(text), &l) == nil && l.Engine != "" && l.BytesIn > greeting {
			lines = append(lines, l)
		}
	}
	return lines
}

// checkShortcut: what never took the short cut is not called sockmap.
func (r *results) checkShortcut(subjects []subject) error {
	for _, s := range subjects {
		agent, ok := s.(*spliceway)
		if !ok || agent.engine != shortcut {
			continue
		}
		measured := func(one sample) bool { return one.Subject == s.name() }
		took := func(one sample) bool { return measured(one) && one.Engines[shortcut] > 0 }
		if slices.ContainsFunc(r.Samples, measured) && !slices.ContainsFunc(r.Samples, took) {
			return fmt.Errorf("%s: no flow took the short cut, so nothing of it was measured: `spliceway probe` says what this host lacks, or leave it out by -subjects", s.name())
		}
	}
	return nil
}

// shortcutBytes tells how much of each work went by the short cut, and which of its
// measurements were thrown away.
func (r *results) shortcutBytes(out io.Writer, todo []work) {
	name := (&spliceway{engine: shortcut}).name()
	var parts []string
	thrown, reasons := make(map[string]int), make(map[string]int64)
	for _, w := range todo {
		var cut, all int64
		for _, one := range r.Samples {
			if one.Work != w.name || one.Subject != name {
				continue
			}
			cut, all = cut+one.ShortcutBytes, all+one.Bytes
			for why, n := range one.Reasons {
				reasons[why] += n
			}
			if one.Figures == nil {
				thrown[w.name]++
			}
		}
		if all > 0 {
			parts = append(parts, fmt.Sprintf("%s: %s", w.name, share(cut, all)))
		}
	}
	if parts == nil {
		return
	}
	fmt.Fprintf(out, "- %s: bytes that went by the short cut: %s.\n", name, strings.Join(parts, "; "))
	for _, why := range slices.Sorted(maps.Keys(reasons)) {
		fmt.Fprintf(out, "- %s: %d connections have the engine_reason %q in their log line.\n", name, reasons[why], why)
	}
	for _, w := range todo {
		if n := thrown[w.name]; n > 0 {
			fmt.Fprintf(out, "- **%s: %s: %d measurements thrown away: no flow of them took the short cut.**\n", name, w.name, n)
		}
	}
}
