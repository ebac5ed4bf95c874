// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"net/netip"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// EndpointMetrics is one endpoint's part of the metrics. Its series appear with
// its first connection, so that a hundred thousand silent endpoints cost no scrape
// anything, and go when the endpoint goes (Metrics.Retain): connections that
// outlive it count in the totals only.
type EndpointMetrics struct {
	m       *Metrics
	name    string
	retired atomic.Bool
	used    atomic.Bool
	moved   [2]atomic.Int64 // client to upstream, upstream to client
}

// Endpoint returns the metrics of the endpoint of that name, the same each time.
func (m *Metrics) Endpoint(name string) *EndpointMetrics {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.byEndpoint[name]
	if e == nil {
		e = &EndpointMetrics{m: m, name: name}
		m.byEndpoint[name] = e
	}
	return e
}

// Retain forgets the endpoints that are not in names.
func (m *Metrics) Retain(names map[string]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, e := range m.byEndpoint {
		if names[name] {
			continue
		}
		delete(m.byEndpoint, name)
		e.retired.Store(true)
		of := prometheus.Labels{"endpoint": name}
		m.active.DeletePartialMatch(of)
		m.ended.DeletePartialMatch(of)
		for _, v := range []*prometheus.CounterVec{m.dialFailures, m.ejections, m.checks, m.lookups} {
			v.DeletePartialMatch(of)
		}
		m.down.DeletePartialMatch(of)
	}
}

// Moved are the byte counters, for an engine to add to.
func (e *EndpointMetrics) Moved() [2]*atomic.Int64 {
	return [2]*atomic.Int64{&e.moved[0], &e.moved[1]}
}

// Opened counts a connection in.
func (e *EndpointMetrics) Opened() {
	e.used.Store(true)
	if !e.retired.Load() {
		e.m.active.WithLabelValues(e.name).Inc()
	}
}

// Ended counts it out again.
func (e *EndpointMetrics) Ended(r *Record) {
	e.m.connections.WithLabelValues(r.Outcome.String()).Inc()
	if r.Outcome == OutcomeRouted {
		e.m.duration.Observe(r.Total.Seconds())
	}
	if e.retired.Load() {
		return
	}
	e.m.active.WithLabelValues(e.name).Dec()
	e.m.ended.WithLabelValues(e.name, r.Outcome.String(), r.Engine, r.End.String(), r.ClosedBy.String()).Inc()
}

// The methods below are upstream.Observer's.

// DialFailed counts a failed connect or first look-up.
func (e *EndpointMetrics) DialFailed(_, reason string) {
	if !e.retired.Load() {
		e.m.dialFailures.WithLabelValues(e.name, reason).Inc()
	}
}

// Changed counts an address out or in.
func (e *EndpointMetrics) Changed(target string, _ netip.AddrPort, up bool, _ string) {
	if e.retired.Load() {
		return
	}
	g := e.m.down.WithLabelValues(e.name, target)
	if up {
		g.Dec()
	} else {
		g.Inc()
	}
}

// Ejected counts an ejection.
func (e *EndpointMetrics) Ejected(target string, _ netip.AddrPort) {
	if !e.retired.Load() {
		e.m.ejections.WithLabelValues(e.name, target).Inc()
	}
}

// Checked counts an active check.
func (e *EndpointMetrics) Checked(target string, _ netip.AddrPort, ok bool) {
	if !e.retired.Load() {
		e.m.checks.WithLabelValues(e.name, target, result(ok)).Inc()
	}
}

// Resolved counts a look-up.
func (e *EndpointMetrics) Resolved(target string, ok bool) {
	if !e.retired.Load() {
		e.m.lookups.WithLabelValues(e.name, target, result(ok)).Inc()
	}
}

// bytesCollector reads the counters that engines add to while flows run, so that
// a long transfer shows while it lasts.
type bytesCollector struct{ m *Metrics }

var bytesDesc = prometheus.NewDesc("bytes_total", "Bytes delivered, by direction: in is from client to upstream.", []string{"endpoint", "direction"}, nil)

// Describe is prometheus.Collector's.
func (c *bytesCollector) Describe(ch chan<- *prometheus.Desc) { ch <- bytesDesc }

// Collect is prometheus.Collector's.
func (c *bytesCollector) Collect(ch chan<- prometheus.Metric) {
	c.m.mu.Lock()
	used := make([]*EndpointMetrics, 0, len(c.m.byEndpoint))
	for _, e := range c.m.byEndpoint {
		if e.used.Load() {
			used = append(used, e)
		}
	}
	c.m.mu.Unlock()
	for _, e := range used {
		for i, direction := range [2]string{"in", "out"} {
			ch <- prometheus.MustNewConstMetric(bytesDesc, prometheus.CounterValue, float64(e.moved[i].Load()), e.name, direction)
		}
	}
}
