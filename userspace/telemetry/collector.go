// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// endpointsCollector reads at scrape time what the endpoints' handles hold, so that
// a long transfer shows while it lasts.
type endpointsCollector struct {
	m *Metrics

	active, ended, bytes             *prometheus.Desc
	dialFailures                     *prometheus.Desc
	handshakes, resumed, requests    *prometheus.Desc
	down, ejections, checks, lookups *prometheus.Desc
}

func newEndpointsCollector(m *Metrics) *endpointsCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, append([]string{"endpoint"}, labels...), nil)
	}
	return &endpointsCollector{
		m:      m,
		active: desc("endpoint_connections_active", "Connections that an endpoint has at the moment."),
		ended: desc("endpoint_connections_total", "Connections of an endpoint that have ended: by outcome; and if they were routed by engine, how they ended, and which side ended them.",
			"outcome", "engine", "end", "closed_by"),
		bytes:        desc("bytes_total", "Bytes delivered, by direction: in is from client to upstream.", "direction"),
		dialFailures: desc("dial_failures_total", "Failed connects and first look-ups of an endpoint's targets, by reason.", "reason"),
		handshakes:   desc("tls_handshakes_total", "TLS handshakes of an endpoint that terminates TLS, with clients and with upstreams, by result: ok, or why they failed.", "side", "result"),
		resumed:      desc("tls_resumed_total", "Of the handshakes with clients, those that resumed a session."),
		requests:     desc("http_requests_total", "Requests of HTTP at a Gateway's listener, by the class of their answer's status (2xx to 5xx), or none if there was no answer.", "status"),
		down:         desc("upstream_addresses_down", "Addresses of a target that are out: unhealthy, or ejected.", "target"),
		ejections:    desc("upstream_ejections_total", "Addresses of a target taken out because connects failed.", "target"),
		checks:       desc("upstream_checks_total", "Active health checks of a target's addresses, by result (ok, failed).", "target", "result"),
		lookups:      desc("upstream_lookups_total", "Look-ups of a target's name, by result (ok, failed).", "target", "result"),
	}
}

// Describe is prometheus.Collector's.
func (c *endpointsCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.active, c.ended, c.bytes, c.dialFailures, c.handshakes, c.resumed, c.requests, c.down, c.ejections, c.checks, c.lookups} {
		ch <- d
	}
}

// Collect is prometheus.Collector's. It holds no lock while it waits for the reader.
func (c *endpointsCollector) Collect(ch chan<- prometheus.Metric) {
	c.m.mu.Lock()
	all := make([]*EndpointMetrics, 0, len(c.m.byEndpoint))
	for _, e := range c.m.byEndpoint {
		all = append(all, e)
	}
	c.m.mu.Unlock()
	var series []prometheus.Metric
	for _, e := range all {
		series = c.endpoint(series[:0], e)
		for _, s := range series {
			ch <- s
		}
	}
}

// endpoint appends e's series to out.
func (c *endpointsCollector) endpoint(out []prometheus.Metric, e *EndpointMetrics) []prometheus.Metric {
	add := func(kind prometheus.ValueType, d *prometheus.Desc, value float64, labels ...string) {
		out = append(out, prometheus.MustNewConstMetric(d, kind, value, append([]string{e.name}, labels...)...))
	}
	counter := func(d *prometheus.Desc, value uint64, labels ...string) {
		if value > 0 {
			add(prometheus.CounterValue, d, float64(value), labels...)
		}
	}
	if e.used.Load() {
		add(prometheus.GaugeValue, c.active, float64(e.active.Load()))
		// From zero on: they grow while the first flow still runs.
		add(prometheus.CounterValue, c.bytes, float64(e.moved[0].Load()), "in")
		add(prometheus.CounterValue, c.bytes, float64(e.moved[1].Load()), "out")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for k, n := range e.ended {
		counter(c.ended, n, k.outcome.String(), k.engine, k.end.String(), k.by.String())
	}
	for reason, n := range e.dialFailures {
		counter(c.dialFailures, n, reason)
	}
	for k, n := range e.handshakes {
		result := resultOK
		if k.failure != HandshakeNone {
			result = k.failure.String()
		}
		counter(c.handshakes, n, k.side.String(), result)
	}
	counter(c.resumed, e.resumed)
	for class, n := range e.requests {
		status := "none"
		if class > 0 {
			status = strconv.Itoa(class) + "xx"
		}
		counter(c.requests, n, status)
	}
	for name, t := range e.targets {
		if t.changed {
			add(prometheus.GaugeValue, c.down, float64(t.down), name)
		}
		counter(c.ejections, t.ejections, name)
		counter(c.checks, t.checks.ok, name, resultOK)
		counter(c.checks, t.checks.failed, name, resultFailed)
		counter(c.lookups, t.lookups.ok, name, resultOK)
		counter(c.lookups, t.lookups.failed, name, resultFailed)
	}
	return out
}

// packetsCollector asks the kernel's programs what they counted.
type packetsCollector struct {
	read atomic.Pointer[func() (map[string]uint64, error)]
}

var packetsDesc = prometheus.NewDesc("packets_total", "What became of packets of flows that the engine packet has or had, since its state was made.", []string{"verdict"}, nil)

// Describe is prometheus.Collector's.
func (c *packetsCollector) Describe(ch chan<- *prometheus.Desc) { ch <- packetsDesc }

// Collect is prometheus.Collector's.
func (c *packetsCollector) Collect(ch chan<- prometheus.Metric) {
	read := c.read.Load()
	if read == nil {
		return
	}
	counts, err := (*read)()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(packetsDesc, err)
		return
	}
	for verdict, n := range counts {
		ch <- prometheus.MustNewConstMetric(packetsDesc, prometheus.CounterValue, float64(n), verdict)
	}
}
