// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/spliceway/spliceway/loader"
	"github.com/spliceway/spliceway/userspace/config"
	"github.com/spliceway/spliceway/userspace/packet"
	"github.com/spliceway/spliceway/userspace/plan"
	"github.com/spliceway/spliceway/userspace/splice"
	"github.com/spliceway/spliceway/userspace/telemetry"
	"github.com/spliceway/spliceway/userspace/upstream"
)

// engines is what moves flows: splice always, packet where it is wanted and to be had.
type engines struct {
	splice *splice.Splicer
	relay  *splice.Splicer // of flows whose TLS is terminated
	packet *packet.Engine  // nil: none
	tried  bool            // packet was asked for before
	kernel *loader.Packet  // packet's
	// noShortcut is why there is none, once it was asked for and could not be had.
	noShortcut error
	// live is packet, for goroutines that are not Run's: a reload may be what opens it.
	live atomic.Pointer[packet.Engine]
	undo func() // takes back what packet changed on the host, while it has no flow
}

// wantsPacket tells whether any endpoint may have engine packet.
func wantsPacket(cfg *config.Config) bool {
	for i := range cfg.Endpoints {
		if engineOf(cfg, &cfg.Endpoints[i]) != "splice" {
			return true
		}
	}
	return false
}

// engineOf is the engine that an endpoint wants. One that terminates TLS has relay,
// which is nothing to the kernel: for it that is splice.
func engineOf(cfg *config.Config, e *config.Endpoint) string {
	if e.TLSTermination != nil {
		return "splice"
	}
	if e.Engine != "" {
		return e.Engine
	}
	return cfg.Engine
}

// openPacket starts engine packet, once. A host that cannot have it has engine splice,
// and a warning; state that is somebody else's is an error: to go on would be to run
// beside whoever has it.
func (a *agent) openPacket(cfg *config.Config) error {
	if a.engines.tried || !wantsPacket(cfg) {
		return nil
	}
	kernel, err := loader.OpenPacket(cfg.BPFFS)
	switch {
	case errors.Is(err, loader.ErrInUse), errors.Is(err, loader.ErrForeign):
		return err
	case err != nil:
		a.noPacket(err)
		return nil
	}
	if err := loader.ReservePorts(cfg.FirstPort, cfg.LastPort); err != nil {
		kernel.Close()
		a.noPacket(err)
		return nil
	}
	e, err := packet.New(packet.Options{Kernel: kernel, Fallback: a.engines.splice, Metrics: a.metrics, Logger: a.logger})
	if err != nil {
		kernel.Close()
		a.noPacket(err)
		return nil
	}
	if err := e.UsePorts(packet.PortRange{First: cfg.FirstPort, Last: cfg.LastPort}); err != nil {
		_ = e.Close()
		return err
	}
	a.metrics.CountPackets(kernel.Counts.Read)
	a.engines.packet, a.engines.tried = e, true
	a.engines.kernel = kernel
	a.engines.live.Store(e)
	if kernel.Fresh {
		a.engines.undo = func() {
			_ = errors.Join(loader.UnloadPacket(cfg.BPFFS), loader.ReleasePorts(cfg.FirstPort, cfg.LastPort))
		}
	}
	return nil
}

// allowsSockmap tells whether what sockmap needs may be attached for an endpoint.
func allowsSockmap(cfg *config.Config, e *config.Endpoint) bool {
	setting := cfg.Sockmap
	if e.Sockmap != "" {
		setting = e.Sockmap
	}
	switch {
	case engineOf(cfg, e) == "splice":
		return false
	case setting == "auto":
		return loader.SockmapKernel() == nil
	}
	return setting == "on"
}

// wantsShortcut tells whether an endpoint's flows take it where they can.
func wantsShortcut(cfg *config.Config, e *config.Endpoint) bool {
	return engineOf(cfg, e) == "auto" && allowsSockmap(cfg, e)
}

// shortcutOptions are what a configuration has for the short cut, if it is wanted.
func shortcutOptions(p *plan.Plan) (o packet.ShortcutOptions, wanted bool) {
	cfg := p.Config
	o.Queue, o.Ports = cfg.Limits.SockmapQueue, packet.PortRange{First: cfg.FirstPort, Last: cfg.LastPort}
	add := func(ports *[]uint16, p uint16) {
		if !slices.Contains(*ports, p) {
			*ports = append(*ports, p)
		}
	}
	for i := range cfg.Endpoints {
		e := &cfg.Endpoints[i]
		wanted = wanted || allowsSockmap(cfg, e)
		onward := p.Endpoints[i].Policy != nil || // it may forward to any
			slices.ContainsFunc(e.Upstream.All, func(t config.Target) bool { return !isLoopback(t.Host) })
		for _, place := range p.Endpoints[i].Places {
			add(&o.Listeners, place.Port)
			if onward {
				add(&o.Onward, place.Port)
			}
		}
	}
	return o, wanted
}

func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback() || host == "localhost"
}

// orderShortcut opens the short cut where an endpoint wants it, and tells it of this
// configuration. A host that cannot have it goes on without.
func (a *agent) orderShortcut(p *plan.Plan) error {
	cfg := p.Config
	e := a.engines.packet
	if e == nil {
		return nil
	}
	o, wanted := shortcutOptions(p)
	switch {
	case !wanted && !e.HasShortcut():
		return a.engines.kernel.UnwatchSockets() // an earlier agent's
	case !wanted:
		o = packet.ShortcutOptions{Queue: o.Queue} // no socket is looked at
		fallthrough
	case e.HasShortcut():
		return e.OrderShortcut(o)
	case a.engines.noShortcut != nil:
		return nil
	}
	kernel, err := a.engines.kernel.OpenSockmap(cfg.Cgroup)
	if err == nil {
		return e.UseShortcut(kernel, o)
	}
	if errors.Is(err, loader.ErrForeign) {
		return err
	}
	a.engines.noShortcut = err
	a.logger.Warn("this host cannot have sockmap: flows between its own processes have engine packet", "error", err.Error())
	return nil
}

func (a *agent) noPacket(err error) {
	a.engines.tried = true
	a.logger.Warn("this host cannot have engine packet: flows have engine splice", "error", err.Error())
}

// engine is an endpoint's, and why it is not a faster one.
func (a *agent) engine(cfg *config.Config, e *config.Endpoint) (splice.Engine, telemetry.Fallback) {
	switch {
	case e.TLSTermination != nil:
		return a.engines.relay, telemetry.FallbackNone
	case engineOf(cfg, e) == "splice":
		return a.engines.splice, telemetry.FallbackConfigured
	case a.engines.packet == nil:
		return a.engines.splice, telemetry.FallbackUnavailable
	}
	return a.engines.packet, telemetry.FallbackNone
}

// dialer is an endpoint's.
func (a *agent) dialer(cfg *config.Config, e *config.Endpoint) upstream.Dialer {
	if a.dialsForPacket(cfg, e) {
		return a.engines.packet.Dialer(a.poller)
	}
	return a.poller
}

func (a *agent) dialsForPacket(cfg *config.Config, e *config.Endpoint) bool {
	return a.engines.packet != nil && engineOf(cfg, e) != "splice"
}

// String names the engines for the log.
func (e *engines) String() string {
	if e.packet != nil {
		return fmt.Sprintf("%s, %s", e.packet.Name(), e.splice.Name())
	}
	return e.splice.Name()
}

// abort ends all flows that would end with the agent.
func (e *engines) abort(end telemetry.End) {
	e.splice.Abort(end)
	e.relay.Abort(end)
}

func (e *engines) close() {
	if e.packet != nil {
		_ = e.packet.Close()
		if e.undo != nil {
			e.undo()
		}
	}
	_ = e.splice.Close()
	_ = e.relay.Close()
}

// list and kill are of the flows of all engines; any goroutine may call them.
func (e *engines) list() []splice.FlowInfo {
	list := append(e.splice.List(), e.relay.List()...)
	if p := e.live.Load(); p != nil {
		list = append(list, p.List()...)
	}
	return list
}

func (e *engines) kill(match func(*splice.FlowInfo) bool) int {
	killed := e.splice.Kill(match) + e.relay.Kill(match)
	if p := e.live.Load(); p != nil {
		killed += p.Kill(match)
	}
	return killed
}
