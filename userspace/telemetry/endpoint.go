// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// EndpointMetrics is one endpoint's part of the metrics. It holds its own counts,
// which a scrape reads: a connection looks nothing up, and to forget an endpoint is
// to forget its handle. Its series appear with what they count, so that a hundred
// thousand silent endpoints cost no scrape anything, and go when the endpoint goes
// (Metrics.Retain): connections that outlive it count in the totals only. It is
// safe for concurrent use.
type EndpointMetrics struct {
	m      *Metrics
	name   string
	used   atomic.Bool // a connection has come
	active atomic.Int64
	moved  [2]atomic.Int64 // client to upstream, upstream to client

	mu           sync.Mutex // guards what is below
	ended        map[ending]uint64
	dialFailures map[string]uint64 // by reason
	handshakes   map[handshake]uint64
	resumed      uint64
	requests     [6]uint64 // by the first digit of the status; 0: there was no answer
	targets      map[string]*targetCounts
}

// ending is the labels of a connection that has ended.
type ending struct {
	outcome Outcome
	engine  string
	end     End
	by      Side
}

// handshake is the labels of a TLS handshake.
type handshake struct {
	side    Side // whom with: the client or the upstream
	failure HandshakeFailure
}

// targetCounts is what is known of one target, by its host:port as configured.
type targetCounts struct {
	changed         bool // there has been a change: down means something
	down            int64
	ejections       uint64
	checks, lookups results
}

// results counts by the label "result".
type results struct{ ok, failed uint64 }

func (r *results) add(ok bool) {
	if ok {
		r.ok++
	} else {
		r.failed++
	}
}

// Endpoint returns the metrics of the endpoint of that name, the same each time
// until Retain forgets it.
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

// Retain forgets the endpoints that are not in names. Their handles still work; no
// scrape sees them.
func (m *Metrics) Retain(names map[string]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name := range m.byEndpoint {
		if !names[name] {
			delete(m.byEndpoint, name)
		}
	}
}

// Moved are the byte counters, for an engine to add to.
func (e *EndpointMetrics) Moved() [2]*atomic.Int64 {
	return [2]*atomic.Int64{&e.moved[0], &e.moved[1]}
}

// Opened counts a connection in.
func (e *EndpointMetrics) Opened() {
	e.active.Add(1)
	e.used.Store(true)
}

// Ended counts it out again.
func (e *EndpointMetrics) Ended(r *Record) {
	e.active.Add(-1)
	e.m.connections[r.Outcome].Inc()
	if r.Outcome == OutcomeRouted {
		e.m.duration.Observe(r.Total.Seconds())
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended == nil {
		e.ended = make(map[ending]uint64)
	}
	e.ended[ending{r.Outcome, r.Engine, r.End, r.ClosedBy}]++
}

// Handshake counts a TLS handshake with the client or an upstream that took so long;
// resumed ones are those without certificates.
func (e *EndpointMetrics) Handshake(with Side, f HandshakeFailure, resumed bool, took time.Duration) {
	if f == HandshakeNone {
		e.m.handshake[with == SideUpstream].Observe(took.Seconds())
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.handshakes == nil {
		e.handshakes = make(map[handshake]uint64)
	}
	e.handshakes[handshake{with, f}]++
	if resumed && with == SideClient {
		e.resumed++
	}
}

// Request counts a request of HTTP that was answered with a status; 0: it was not.
func (e *EndpointMetrics) Request(status int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if class := status / 100; class < len(e.requests) {
		e.requests[class]++
	}
}

// The methods below are upstream.Observer's.

// DialFailed counts a failed connect or first look-up.
func (e *EndpointMetrics) DialFailed(_, reason string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.dialFailures == nil {
		e.dialFailures = make(map[string]uint64)
	}
	e.dialFailures[reason]++
}

// Changed counts an address out or in.
func (e *EndpointMetrics) Changed(target string, _ netip.AddrPort, up bool, _ string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.target(target)
	t.changed = true
	if up {
		t.down--
	} else {
		t.down++
	}
}

// Ejected counts an ejection.
func (e *EndpointMetrics) Ejected(target string, _ netip.AddrPort) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.target(target).ejections++
}

// Checked counts an active check.
func (e *EndpointMetrics) Checked(target string, _ netip.AddrPort, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.target(target).checks.add(ok)
}

// Resolved counts a look-up.
func (e *EndpointMetrics) Resolved(target string, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.target(target).lookups.add(ok)
}

// target returns the target's counts; e.mu is held.
func (e *EndpointMetrics) target(name string) *targetCounts {
	t := e.targets[name]
	if t == nil {
		if e.targets == nil {
			e.targets = make(map[string]*targetCounts)
		}
		t = &targetCounts{}
		e.targets[name] = t
	}
	return t
}
