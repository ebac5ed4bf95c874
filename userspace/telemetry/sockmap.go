// SPDX-License-Identifier: Apache-2.0

package telemetry

import "github.com/prometheus/client_golang/prometheus"

// sockmapMetrics are of flows between two sockets of this host.
type sockmapMetrics struct {
	flows, switches prometheus.Counter
	bytes           [2]prometheus.Counter
	declined        map[string]prometheus.Counter
}

// SockmapReasons are the words for why a flow between two sockets of this host is left
// alone: a closed set.
var SockmapReasons = []string{
	"blocking_socket", "kernel_tls", "socket_in_use", "zerocopy", "rcvlowat", "tcp_inq", "reader", "not_accepted",
}

func newSockmapMetrics(counter func(name, help string) prometheus.Counter, counters func(name, help string, labels ...string) *prometheus.CounterVec) sockmapMetrics {
	m := sockmapMetrics{
		flows:    counter("sockmap_flows_total", "Flows that took the short cut from socket to socket."),
		switches: counter("sockmap_switches_total", "How often sends changed between the short cut and TCP."),
		declined: make(map[string]prometheus.Counter),
	}
	declined := counters("sockmap_declined_total", "Flows between sockets of this host that were left alone, by reason.", "reason")
	for _, why := range SockmapReasons {
		m.declined[why] = declined.WithLabelValues(why)
	}
	bytes := counters("sockmap_bytes_total", "Bytes that went by the short cut; they are in endpoint_bytes_total, too.", "direction")
	for i, direction := range []string{"in", "out"} {
		m.bytes[i] = bytes.WithLabelValues(direction)
	}
	return m
}

// Shortcut counts bytes that went by the short cut, from client to upstream and back,
// and changes between it and TCP.
func (m *Metrics) Shortcut(in, out, switches uint64) {
	m.sockmap.bytes[0].Add(float64(in))
	m.sockmap.bytes[1].Add(float64(out))
	m.sockmap.switches.Add(float64(switches))
}

// TookShortcut counts a flow.
func (m *Metrics) TookShortcut() { m.sockmap.flows.Inc() }

// DeclinedShortcut counts a flow that was not given it, or not any more, for one of
// SockmapReasons.
func (m *Metrics) DeclinedShortcut(reason string) {
	if c := m.sockmap.declined[reason]; c != nil {
		c.Inc()
	}
}
