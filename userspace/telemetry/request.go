// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"context"
	"log/slog"
	"time"
)

// RequestRecord is one request of HTTP, for its line in the access log. Zero values are left
// out.
type RequestRecord struct {
	ID       string // the connection's
	Client   string
	Endpoint string // the listener's; empty: none has the host
	Route    string // the object whose rule took it; empty: none did
	Method   string
	Host     string
	Path     string
	Protocol string
	Status   int // 0: there was no answer
	Upstream string
	Reason   string // why the agent answered by itself
	Total    time.Duration
}

// Keys of a request's line, besides those of a connection's.
const (
	KeyRoute    = "route"
	KeyMethod   = "method"
	KeyHost     = "host"
	KeyPath     = "path"
	KeyProtocol = "protocol"
	KeyStatus   = "status"
)

// maxLoggedPath is how much of a path a line shows.
const maxLoggedPath = 1024

// WriteRequest writes r's line.
func (a *AccessLog) WriteRequest(r *RequestRecord) {
	level := slog.LevelInfo
	if r.Status >= 500 {
		level = slog.LevelWarn
	}
	ctx := context.Background()
	if !a.logger.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 12)
	text := func(key, v string) {
		if v != "" {
			attrs = append(attrs, slog.String(key, printable(v)))
		}
	}
	text(KeyID, r.ID)
	text(KeyClient, r.Client)
	text(KeyEndpoint, r.Endpoint)
	text(KeyRoute, r.Route)
	text(KeyMethod, r.Method)
	text(KeyHost, r.Host)
	if len(r.Path) > maxLoggedPath {
		r.Path = r.Path[:maxLoggedPath] + "..."
	}
	text(KeyPath, r.Path)
	text(KeyProtocol, r.Protocol)
	if r.Status != 0 {
		attrs = append(attrs, slog.Int(KeyStatus, r.Status))
	}
	text(KeyUpstream, r.Upstream)
	text(KeyReason, r.Reason)
	attrs = append(attrs, slog.Float64(KeyTotal, float64(r.Total.Microseconds())/1000))
	a.logger.LogAttrs(ctx, level, "request", attrs...)
}
