// SPDX-License-Identifier: Apache-2.0

// Package telemetry is what the agent tells of itself: the words for what becomes
// of a connection, the access log's record, and every metric's name and help. It
// decides nothing and serves nothing. Labels come from closed sets and from the
// configuration, never from what a client sent.
package telemetry

import (
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// BuildInfo is what was built.
type BuildInfo struct{ Version, Revision, GoVersion string }

// Metrics is every metric, in a registry of its own.
type Metrics struct {
	registry *prometheus.Registry

	connections   [outcomes]prometheus.Counter
	open          prometheus.Gauge
	hello, dial   prometheus.Histogram
	duration      prometheus.Histogram
	handshake     map[bool]prometheus.Observer // true: with upstreams
	certificates  *certificateMetrics
	limitsRefused [limits]prometheus.Counter
	fallbacks     [fallbacks]prometheus.Counter
	packets       *packetsCollector
	sockmap       sockmapMetrics
	acceptErrors  prometheus.Counter
	loads         *prometheus.CounterVec
	loaded        prometheus.Gauge
	endpoints     prometheus.Gauge
	problems      prometheus.Gauge
	notServed     prometheus.Gauge
	dropped       prometheus.Counter
	openFiles     prometheus.Gauge

	mu         sync.Mutex
	byEndpoint map[string]*EndpointMetrics
}

// prefix of every name but those of the Go runtime and the process.
const prefix = "spliceway_"

// New makes the registry and everything in it.
func New(build BuildInfo) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), byEndpoint: make(map[string]*EndpointMetrics), packets: new(packetsCollector)}
	r := prometheus.WrapRegistererWithPrefix(prefix, m.registry)
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		r.MustRegister(c)
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
		r.MustRegister(g)
		return g
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		r.MustRegister(c)
		return c
	}
	gauges := func(name, help string, labels ...string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
		r.MustRegister(g)
		return g
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
		r.MustRegister(h)
		return h
	}
	m.open = gauge("connections_open", "Connections that are open, in any phase.")
	m.hello = histogram("hello_seconds", "Time from accept to the whole ClientHello.", []float64{.0001, .0005, .001, .005, .01, .05, .1, .5, 1, 3})
	m.dial = histogram("dial_seconds", "Time to connect to an upstream, retries included.", []float64{.0001, .0005, .001, .005, .01, .05, .1, .5, 1, 5})
	handshakes := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "tls_handshake_seconds", Help: "Time that a TLS handshake took, by whom it was with (client, upstream).",
		Buckets: []float64{.0005, .001, .005, .01, .05, .1, .5, 1, 5, 10}}, []string{"side"})
	r.MustRegister(handshakes)
	m.handshake = map[bool]prometheus.Observer{false: handshakes.WithLabelValues(SideClient.String()), true: handshakes.WithLabelValues(SideUpstream.String())}
	m.certificates = newCertificateMetrics(gauges, counters)
	m.duration = histogram("connection_seconds", "Time from accept to the end of a routed connection.", []float64{.01, .1, 1, 10, 60, 600, 3600, 36000})
	m.acceptErrors = counter("accept_errors_total", "Accepts that failed for want of descriptors or memory.")
	m.loads = counters("config_loads_total", "Configurations read, the first one included, by result (ok, refused).", "result")
	m.loaded = gauge("config_last_load_timestamp_seconds", "When the configuration that is in force was loaded, in Unix time.")
	m.endpoints = gauge("endpoints", "Endpoints of the configuration that is in force.")
	m.problems = gauge("manifest_problems", "What is wrong with objects of the manifests in force; the log and spliceway check say what.")
	m.notServed = gauge("gateways_not_served", "Gateways of the cluster that this host does not serve whole, since it cannot listen for them; events of each say why.")
	m.dropped = counter("log_lines_dropped_total", "Access log lines lost because their sink was too slow.")
	m.openFiles = gauge("open_files_limit", "Open files that the process may have.")
	info := gauges("build_info", "What is running; always 1.", "version", "revision", "go_version")
	info.WithLabelValues(build.Version, build.Revision, build.GoVersion).Set(1)
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	r.MustRegister(newEndpointsCollector(m))
	// Closed sets are there from the start: a rate over a series that appears
	// with its first event misses that event.
	connections := counters("connections_total", "Connections that have ended, by outcome.", "outcome")
	for o := range outcomes {
		m.connections[o] = connections.WithLabelValues(o.String())
	}
	refused := counters("limits_refused_total", "Connections refused by a limit.", "limit")
	for l := range limits {
		m.limitsRefused[l] = refused.WithLabelValues(l.String())
	}
	fell := counters("fallbacks_total", "Flows that the engine splice has although packet is faster, by reason.", "reason")
	for f := FallbackNone + 1; f < fallbacks; f++ {
		m.fallbacks[f] = fell.WithLabelValues(f.String())
	}
	r.MustRegister(m.packets)
	m.sockmap = newSockmapMetrics(counter, counters)
	m.loads.WithLabelValues(resultOK)
	m.loads.WithLabelValues(resultRefused)
	return m
}

// Values of the label "result".
const (
	resultOK      = "ok"
	resultFailed  = "failed"
	resultRefused = "refused"
)

// Handler serves the metrics in the Prometheus text format.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// Accepted counts a connection in, Left out again.
func (m *Metrics) Accepted() { m.open.Inc() }

// Left is the end of a connection.
func (m *Metrics) Left() { m.open.Dec() }

// Refused counts a connection that got no endpoint.
func (m *Metrics) Refused(o Outcome) { m.connections[o].Inc() }

// AcceptError counts a failed accept.
func (m *Metrics) AcceptError() { m.acceptErrors.Inc() }

// LimitRefused counts a connection that a limit refused.
func (m *Metrics) LimitRefused(l Limit) { m.limitsRefused[l].Inc() }

// FellBack counts a flow that engine splice has instead of packet.
func (m *Metrics) FellBack(why Fallback) {
	if c := m.fallbacks[why]; c != nil {
		c.Inc()
	}
}

// CountPackets has every scrape ask read for what became of packets in the kernel,
// by a closed set of words.
func (m *Metrics) CountPackets(read func() (map[string]uint64, error)) { m.packets.read.Store(&read) }

// ObserveHello takes the time that a hello took.
func (m *Metrics) ObserveHello(d time.Duration) { m.hello.Observe(d.Seconds()) }

// ObserveDial takes the time that dialling took.
func (m *Metrics) ObserveDial(d time.Duration) { m.dial.Observe(d.Seconds()) }

// LogLineDropped counts a lost access line.
func (m *Metrics) LogLineDropped() { m.dropped.Inc() }

// SetOpenFilesLimit takes the limit in force.
func (m *Metrics) SetOpenFilesLimit(n uint64) { m.openFiles.Set(float64(n)) }

// ConfigLoaded tells of a configuration in force.
func (m *Metrics) ConfigLoaded(endpoints int) {
	m.loads.WithLabelValues(resultOK).Inc()
	m.loaded.SetToCurrentTime()
	m.endpoints.Set(float64(endpoints))
}

// ManifestProblems tells how much is wrong with the objects of the manifests in force.
func (m *Metrics) ManifestProblems(n int) { m.problems.Set(float64(n)) }

// GatewaysNotServed tells how many Gateways this host cannot listen for.
func (m *Metrics) GatewaysNotServed(n int) { m.notServed.Set(float64(n)) }

// ConfigRefused tells of one that was not taken.
func (m *Metrics) ConfigRefused() { m.loads.WithLabelValues(resultRefused).Inc() }
