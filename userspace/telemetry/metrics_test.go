// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
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
	e.Handshake(SideClient, HandshakeNone, true, time.Millisecond)
	e.Request(200)
	e.Request(0)
	m.CertificatesExpire([]CertificateExpiry{{Endpoint: "a", Certificate: "a.crt", Serial: "1", NotAfter: time.Unix(1, 0)}})
	m.CountPackets(func() (map[string]uint64, error) { return map[string]uint64{"translated": 1}, nil })
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

// closedSets are the rows of the page that tell a label's values.
func closedSets() map[string][]string {
	sets := make(map[string][]string)
	add := func(label, value string) {
		if value != "" {
			sets[label] = append(sets[label], "`"+value+"`")
		}
	}
	for o := range outcomes {
		add("outcome", o.String())
	}
	for e := range ends {
		add("end", e.String())
	}
	for s := range sides {
		add("closed_by", s.String())
	}
	for l := range limits {
		add("limit", l.String())
	}
	for f := range fallbacks {
		add("reason` of `fallbacks_total", f.String())
	}
	return sets
}

func TestDocsListTheValuesOfEveryClosedSet(t *testing.T) {
	page, err := os.ReadFile(metricsPage)
	if err != nil {
		t.Fatal(err)
	}
	for label, values := range closedSets() {
		if row := fmt.Sprintf("\n| `%s` | %s |\n", label, strings.Join(values, ", ")); !strings.Contains(string(page), row) {
			t.Errorf("%s lacks the row%s", metricsPage, row)
		}
	}
}

// TestDocsSeeEverySeries keeps used complete, and with it the page: a metric without
// a series is not gathered.
func TestDocsSeeEverySeries(t *testing.T) {
	m := used()
	gathered := make(map[string]bool)
	for _, f := range gather(t, m) {
		gathered[f.GetName()] = true
	}
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		m.registry.Describe(descs)
	}()
	for d := range descs {
		// A Desc tells its name in String only.
		_, name, _ := strings.Cut(d.String(), `fqName: "`)
		name, _, _ = strings.Cut(name, `"`)
		if strings.HasPrefix(name, prefix) && !gathered[name] {
			t.Errorf("%s has no series in used()", name)
		}
		delete(gathered, name)
	}
	for name := range gathered {
		t.Errorf("%s is gathered and not described", name)
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

func TestAnEndpointsCounts(t *testing.T) {
	m := New(BuildInfo{})
	e := m.Endpoint("a")
	for range 3 {
		e.Opened()
	}
	e.Ended(&Record{Outcome: OutcomeRouted, Engine: "splice", End: EndEOF, ClosedBy: SideClient})
	e.Ended(&Record{Outcome: OutcomeDialFailed})
	e.DialFailed("h:1", "refused")
	e.DialFailed("h:2", "refused")
	e.Changed("h:1", netip.AddrPort{}, false, "")
	e.Changed("h:2", netip.AddrPort{}, false, "")
	e.Changed("h:2", netip.AddrPort{}, true, "")
	e.Ejected("h:1", netip.AddrPort{})
	e.Checked("h:1", netip.AddrPort{}, true)
	e.Checked("h:1", netip.AddrPort{}, false)
	e.Resolved("h:2", true)
	var got []string
	for _, f := range gather(t, m) {
		for _, s := range f.GetMetric() {
			var labels []string
			endpoint := false
			for _, l := range s.GetLabel() {
				labels = append(labels, l.GetValue())
				endpoint = endpoint || l.GetName() == "endpoint"
			}
			if endpoint {
				got = append(got, fmt.Sprintf("%s{%s} %v", strings.TrimPrefix(f.GetName(), prefix), strings.Join(labels, ","), s.GetGauge().GetValue()+s.GetCounter().GetValue()))
			}
		}
	}
	want := []string{ // the labels are in alphabetic order
		"bytes_total{in,a} 0",
		"bytes_total{out,a} 0",
		"dial_failures_total{a,refused} 2",
		"endpoint_connections_active{a} 1",
		"endpoint_connections_total{,,a,,dial_failed} 1",
		"endpoint_connections_total{client,eof,a,splice,routed} 1",
		"upstream_addresses_down{a,h:1} 1",
		"upstream_addresses_down{a,h:2} 0",
		"upstream_checks_total{a,failed,h:1} 1",
		"upstream_checks_total{a,ok,h:1} 1",
		"upstream_ejections_total{a,h:1} 1",
		"upstream_lookups_total{a,ok,h:2} 1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Scrapes and reloads come while connections do; the race detector looks on.
func TestAReloadAmongConnectionsBringsNoSeriesBack(t *testing.T) {
	m := New(BuildInfo{})
	var wg sync.WaitGroup
	for range 4 {
		e := m.Endpoint("a")
		wg.Go(func() {
			for range 200 {
				e.Opened()
				e.Moved()[0].Add(1)
				e.DialFailed("h:1", "refused")
				e.Ended(&Record{Outcome: OutcomeRouted, Engine: "splice", End: EndEOF, ClosedBy: SideClient})
			}
		})
	}
	wg.Go(func() { m.Retain(nil) })
	for range 5 {
		gather(t, m)
	}
	wg.Wait()
	for _, f := range gather(t, m) {
		for _, s := range f.GetMetric() {
			for _, l := range s.GetLabel() {
				if l.GetName() == "endpoint" {
					t.Errorf("%s has a series of an endpoint that has gone", f.GetName())
				}
			}
		}
	}
	if n := testutil.ToFloat64(m.connections[OutcomeRouted]); n != 800 {
		t.Errorf("%v connections in the total, want 800", n)
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

// manyEndpoints returns metrics of n endpoints that have had a connection each.
func manyEndpoints(n int) *Metrics {
	m := New(BuildInfo{})
	for i := range n {
		e := m.Endpoint("endpoint-" + strconv.Itoa(i))
		e.Opened()
		e.Ended(&Record{Outcome: OutcomeRouted, Engine: "splice", End: EndEOF, ClosedBy: SideClient})
	}
	return m
}

func BenchmarkConnection(b *testing.B) {
	e := New(BuildInfo{}).Endpoint("a")
	r := &Record{Outcome: OutcomeRouted, Engine: "splice", End: EndEOF, ClosedBy: SideClient}
	b.ReportAllocs()
	for b.Loop() {
		e.Opened()
		e.Ended(r)
	}
}

func BenchmarkScrape10000Endpoints(b *testing.B) {
	m := manyEndpoints(10_000)
	for b.Loop() {
		if _, err := m.registry.Gather(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRetainHalfOf10000Endpoints(b *testing.B) {
	keep := make(map[string]bool)
	for i := range 5_000 {
		keep["endpoint-"+strconv.Itoa(i)] = true
	}
	for b.Loop() {
		b.StopTimer()
		m := manyEndpoints(10_000)
		b.StartTimer()
		m.Retain(keep)
	}
}
