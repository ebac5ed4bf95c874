// SPDX-License-Identifier: Apache-2.0

// Package packet is the engine of that name: it arms flows, for the kernel's programs
// to take them out of the agent's two sockets, hears how that went, and accounts for
// flows until they end. The packets themselves it never sees. Whatever cannot be
// spliced, or not now, it gives to another engine, from wherever it stands, without
// losing a byte.
package packet

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spliceway/spliceway/loader"
	"github.com/spliceway/spliceway/maps"
	"github.com/spliceway/spliceway/userspace/splice"
	"github.com/spliceway/spliceway/userspace/telemetry"
)

// Name is the engine's name in configuration, logs and metrics.
const Name = "packet"

// Options of New.
type Options struct {
	// Kernel is the engine's own from now on: Close closes it.
	Kernel *loader.Packet
	// Fallback takes the flows that cannot be spliced. It stays the caller's.
	Fallback splice.Engine
	Metrics  *telemetry.Metrics
	Logger   *slog.Logger
}

// Engine is the engine. Make it with New.
type Engine struct {
	kernel   *loader.Packet
	routes   *loader.Routes
	fallback splice.Engine
	metrics  *telemetry.Metrics
	logger   *slog.Logger
	ports    ports
	segments segments
	resets   resetSender

	next    atomic.Uint64 // flow numbers
	buffers sync.Pool     // for hellos

	mu      sync.Mutex
	pending map[maps.FlowID]*pending
	spliced map[maps.FlowID]*spliced
	closed  bool

	late      lateList
	shortcuts shortcuts
	complain  complaints
	stop      chan struct{}
	running   sync.WaitGroup
	completed sync.WaitGroup // Done callbacks that run
}

var _ splice.Engine = (*Engine)(nil)

// New starts the engine. Flows that an earlier agent left in the kernel go on, and
// are this one's after Adopt.
func New(o Options) (*Engine, error) {
	e := &Engine{
		kernel: o.Kernel, fallback: o.Fallback, metrics: o.Metrics, logger: o.Logger,
		buffers: sync.Pool{New: func() any { return new([helloMax]byte) }},
		pending: make(map[maps.FlowID]*pending), spliced: make(map[maps.FlowID]*spliced),
		stop: make(chan struct{}), shortcuts: shortcuts{join: make(chan struct{}, 1)},
	}
	e.next.Store(uint64(time.Now().UnixNano())) // never again, whoever was before
	var err error
	if e.routes, err = loader.OpenRoutes(); err != nil {
		return nil, fmt.Errorf("start engine packet: %w", err)
	}
	if e.resets, err = openResetSender(); err != nil {
		e.routes.Close()
		return nil, fmt.Errorf("start engine packet: %w", err)
	}
	e.attachAddressed()
	e.running.Go(e.readEvents)
	e.running.Go(e.sweep)
	e.running.Go(e.followRoutes)
	return e, nil
}

// Name is "packet".
func (e *Engine) Name() string { return Name }

// Flows is how many flows the engine holds, spliced or on the way to it.
func (e *Engine) Flows() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.pending) + len(e.spliced)
}

// Abort ends every flow with a reset on both sides.
func (e *Engine) Abort(end telemetry.End) {
	e.mu.Lock()
	all := make([]*spliced, 0, len(e.spliced))
	for _, f := range e.spliced {
		all = append(all, f)
	}
	e.mu.Unlock()
	for _, f := range all {
		e.kill(f, end)
	}
}

// Leave gives up the flows that are spliced, which go on without an agent until the
// next one adopts them; left is called for each, instead of its Done. It returns how
// many there were.
func (e *Engine) Leave(left func()) int {
	e.mu.Lock()
	n := 0
	for id, s := range e.spliced {
		if !s.finished {
			delete(e.spliced, id)
			n++
		}
	}
	e.mu.Unlock()
	for range n {
		left()
	}
	return n
}

// Close ends the engine, not its flows: they go on in the kernel. Start must not be
// called any more.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	close(e.stop)
	e.kernel.Interrupt()
	e.routes.Close()
	e.running.Wait() // they read the maps
	e.kernel.Close()
	e.shortcuts.close()
	e.resets.close()
	e.completed.Wait()
	return nil
}

// readEvents hears what the programs did.
func (e *Engine) readEvents() {
	var buffer loader.EventBuffer
	for {
		event, err := e.kernel.ReadEvent(&buffer)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			e.complain.about(e.logger, "cannot read events of the kernel", err)
			continue
		}
		switch event.Kind {
		case maps.FlowEventSpliced:
			e.settle(event.Flow, telemetry.FallbackNone)
		case maps.FlowEventDeclined:
			if event.Reason == maps.FlowDevice {
				e.attach(event.Device)
			}
			e.settle(event.Flow, fallbackOf(event.Reason))
		case maps.FlowEventEnded, maps.FlowEventReplaced:
			e.look(event.Flow)
		case maps.FlowEventLocal:
			e.wakeJoin()
			e.look(event.Flow) // or a reader was found
		}
	}
}

// attach puts the programs on a device; what is the matter is said once in a while.
func (e *Engine) attach(device int) bool {
	if err := e.kernel.Attach(device); err != nil {
		e.complain.about(e.logger, "flows by this device have engine splice", err)
		return false
	}
	return true
}

// device is where packets to an address go, with the programs on it.
func (e *Engine) device(to, from netip.Addr) telemetry.Fallback {
	index, err := e.routes.Device(to, from)
	if err != nil {
		return telemetry.FallbackNoRoute
	}
	if !e.attach(index) {
		return telemetry.FallbackDevice
	}
	return telemetry.FallbackNone
}

// fallbackOf is the word for a program's reason.
func fallbackOf(r maps.FlowReason) telemetry.Fallback {
	switch r {
	case maps.FlowClientSpoke, maps.FlowClientQueue:
		return telemetry.FallbackClientSpoke
	case maps.FlowBackendEarly:
		return telemetry.FallbackBackendSpoke
	case maps.FlowClosing, maps.FlowNoSocket:
		return telemetry.FallbackClosing
	case maps.FlowInFlight, maps.FlowBackendQueue:
		return telemetry.FallbackInFlight
	case maps.FlowTimestamps:
		return telemetry.FallbackTimestamps
	case maps.FlowSACK:
		return telemetry.FallbackSACK
	case maps.FlowAccECN:
		return telemetry.FallbackAccECN
	case maps.FlowMSS:
		return telemetry.FallbackMSS
	case maps.FlowWindow:
		return telemetry.FallbackWindow
	case maps.FlowDevice:
		return telemetry.FallbackDevice
	case maps.FlowUrgent:
		return telemetry.FallbackUrgent
	}
	return telemetry.FallbackInternal
}

// complaints says the same thing once a minute at most.
type complaints struct {
	mu   sync.Mutex
	last map[string]time.Time
}

func (c *complaints) about(l *slog.Logger, text string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == nil || len(c.last) > 1000 {
		c.last = make(map[string]time.Time)
	}
	key := text + err.Error()
	if now := time.Now(); now.Sub(c.last[key]) > time.Minute {
		c.last[key] = now
		l.Warn(text, "error", err.Error())
	}
}
