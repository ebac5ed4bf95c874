// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
)

var update = flag.Bool("update", false, "rewrite the table in docs/metrics.md")

const metricsPage = "../../docs/metrics.md"

// used returns metrics in which every series exists.
func used() *Metrics {
	m := New(BuildInfo{Version: "v", Revision: "r", GoVersion: "go"})
	e := m.Endpoint("a")
	e.Opened()
	e.Ended(&Record{Outcome: OutcomeRouted, Engine: "splice", End: EndEOF, ClosedBy: SideClient})
	e.DialFailed("h:1", "refused")
	e.Changed("h:1", netip.AddrPort{}, false, "")
	e.Ejected("h:1", netip.AddrPort{})
	e.Checked("h:1", netip.AddrPort{}, true)
	e.Resolved("h:1", false)
	return m
}

func gather(t *testing.T, m *Metrics) []*dto.MetricFamily {
	t.Helper()
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(families, func(f *dto.MetricFamily) bool { return !strings.HasPrefix(f.GetName(), prefix) })
}

func TestMetricsAreCleanByPromlint(t *testing.T) {
	problems, err := testutil.GatherAndLint(used().registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestDocsListEveryMetric(t *testing.T) {
	var table strings.Builder
	table.WriteString("| metric | type | labels | what |\n|---|---|---|---|\n")
	for _, f := range gather(t, used()) {
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", f.GetName(), strings.ToLower(f.GetType().String()), strings.Join(labels, ", "), f.GetHelp())
	}
	page, err := os.ReadFile(metricsPage)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- begin: from the registry -->\n", "<!-- end -->"
	before, rest, ok := strings.Cut(string(page), begin)
	old, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no %q and %q", metricsPage, begin, end)
	}
	if *update {
		if err := os.WriteFile(metricsPage, []byte(before+begin+table.String()+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(table.String(), old); diff != "" {
		t.Errorf("the page is not what the registry has: run go test ./userspace/telemetry -run Docs -update\n%s", diff)
	}
}

func TestSeriesOfAnEndpointComeWithItsFirstConnectionAndGoWithIt(t *testing.T) {
	count := func(m *Metrics) (n int) {
		for _, f := range gather(t, m) {
			for _, s := range f.GetMetric() {
				for _, l := range s.GetLabel() {
					if l.GetName() == "endpoint" {
						n++
					}
				}
			}
		}
		return n
	}
	m := New(BuildInfo{})
	e := m.Endpoint("a")
	if n := count(m); n != 0 {
		t.Errorf("before the first connection: %d series", n)
	}
	e.Opened()
	if n := count(m); n != 3 { // active, bytes in and out
		t.Errorf("with a connection: %d series, want 3", n)
	}
	m.Retain(map[string]bool{"b": true})
	// What outlives its endpoint must not bring the series back.
	e.Moved()[0].Add(5)
	e.Ended(&Record{Outcome: OutcomeRouted})
	e.DialFailed("t", "refused")
	e.Opened()
	if n := count(m); n != 0 {
		t.Errorf("after the endpoint has gone: %d series", n)
	}
	if m.Endpoint("a") == e {
		t.Error("an endpoint that comes back has the counters of the one that went")
	}
}

func TestBytesShowWhileTheFlowRuns(t *testing.T) {
	m := New(BuildInfo{})
	e := m.Endpoint("a")
	e.Opened()
	e.Moved()[0].Add(7)
	e.Moved()[1].Add(9)
	want := "# HELP spliceway_bytes_total Bytes delivered, by direction: in is from client to upstream.\n# TYPE spliceway_bytes_total counter\n" +
		"spliceway_bytes_total{direction=\"in\",endpoint=\"a\"} 7\nspliceway_bytes_total{direction=\"out\",endpoint=\"a\"} 9\n"
	if err := testutil.GatherAndCompare(m.registry, bytes.NewBufferString(want), "spliceway_bytes_total"); err != nil {
		t.Error(err)
	}
}
