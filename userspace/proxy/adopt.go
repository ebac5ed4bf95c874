// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"sync/atomic"

	"github.com/spliceway/spliceway/userspace/splice"
	"github.com/spliceway/spliceway/userspace/telemetry"
)

// Adopt counts a flow in that an earlier agent routed and an engine still has, and
// returns what is to be told of its end, and as it moves. An endpoint that is not
// there any more is counted under its name all the same.
func (s *Server) Adopt(rec *telemetry.Record) (done func(*telemetry.Record, splice.Result), moved [2]*atomic.Int64) {
	snap := s.snapshot.Load()
	h := &held{s: s}
	for _, e := range snap.Endpoints {
		if e.Name == rec.Endpoint {
			h.endpoint = e
			if e.Pool != nil { // else a policy forwarded it, the kernel does not know where to
				h.lease = e.Pool.Adopt(rec.UpstreamHost, rec.Upstream)
			}
		}
	}
	if h.endpoint == nil {
		h.endpoint = &Endpoint{Name: rec.Endpoint, Active: new(atomic.Int64), Metrics: s.metrics.Endpoint(rec.Endpoint)}
	}
	s.open.Add(1)
	s.metrics.Accepted()
	h.endpoint.Active.Add(1)
	h.endpoint.Metrics.Opened()
	if snap.MaxPerClient > 0 {
		h.limited = rec.Client.Addr()
		s.perClient.add(h.limited, 1)
	}
	return h.ended, h.endpoint.Metrics.Moved()
}

// Abandon is called instead of a flow's end when the agent stops and the flow goes on.
func (s *Server) Abandon() { s.leave() }
