// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"

	"github.com/spliceway/spliceway/userspace/clienthello"
	"github.com/spliceway/spliceway/userspace/config"
	"github.com/spliceway/spliceway/userspace/route"
	"github.com/spliceway/spliceway/userspace/telemetry"
)

// Routes answers where a name goes, as the running agent would.
type Routes struct {
	cfg   *config.Config
	table *route.Table
}

// NewRoutes returns the routes of a configuration.
func NewRoutes(cfg *config.Config) (*Routes, error) {
	t, err := Table(cfg)
	if err != nil {
		return nil, fmt.Errorf("build route table: %w", err)
	}
	return &Routes{cfg: cfg, table: t}, nil
}

// Ports are the ports that have endpoints, in order.
func (r *Routes) Ports() []uint16 { return r.table.Ports() }

// Decision is where a name goes.
type Decision struct {
	Outcome  telemetry.Outcome
	Endpoint *config.Endpoint // nil: refused
	Why      string
}

// Decide routes a ClientHello with the given name ("" for none) and ALPN
// protocols. The error is that of a name that no ClientHello may carry.
func (r *Routes) Decide(port uint16, name string, alpn []string) (Decision, error) {
	if name == "" {
		return r.fallback(telemetry.OutcomeNoSNI, "the client names no server", "noSNI", r.cfg.Fallback.NoSNI), nil
	}
	name, err := clienthello.CanonicalName(name)
	if err != nil {
		return Decision{}, err
	}
	m, ok := r.table.Lookup(port, name, alpn)
	if !ok {
		return r.fallback(telemetry.OutcomeUnknownName, "no endpoint has this name", "unknownName", r.cfg.Fallback.UnknownName), nil
	}
	d := Decision{Outcome: telemetry.OutcomeRouted, Endpoint: &r.cfg.Endpoints[m.Endpoint], Why: "exact name"}
	if m.Kind == route.Wildcard {
		d.Why = "wildcard " + m.Pattern
	}
	if m.ALPN != "" {
		d.Why += ", ALPN " + m.ALPN
	}
	return d, nil
}

func (r *Routes) fallback(o telemetry.Outcome, why, key, endpoint string) Decision {
	for i := range r.cfg.Endpoints {
		if endpoint != "" && r.cfg.Endpoints[i].Name == endpoint {
			return Decision{Outcome: telemetry.OutcomeRouted, Endpoint: &r.cfg.Endpoints[i], Why: "fallback." + key + ": " + why}
		}
	}
	return Decision{Outcome: o, Why: why + ", and there is no fallback." + key}
}
