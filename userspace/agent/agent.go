// SPDX-License-Identifier: Apache-2.0

// Package agent is the composition root: it turns a configuration into listeners,
// pools, routes and engines, runs them, exchanges them on a reload and stops them.
// It decides nothing about a single connection.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"reflect"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/spliceway/spliceway/userspace/admin"
	"github.com/spliceway/spliceway/userspace/cluster"
	"github.com/spliceway/spliceway/userspace/config"
	"github.com/spliceway/spliceway/userspace/control"
	"github.com/spliceway/spliceway/userspace/manifest"
	"github.com/spliceway/spliceway/userspace/plan"
	"github.com/spliceway/spliceway/userspace/proxy"
	"github.com/spliceway/spliceway/userspace/sock"
	"github.com/spliceway/spliceway/userspace/splice"
	"github.com/spliceway/spliceway/userspace/telemetry"
	"github.com/spliceway/spliceway/userspace/web"
)

// Options of Run.
type Options struct {
	// ConfigFile is the path of the agent's file.
	ConfigFile string
	// Strict refuses a configuration if any object of its manifests is wrong.
	Strict bool
	// Kube has the objects of a cluster served; nil: files only.
	Kube *Kube
	// Log takes the agent's own log, Access the access log: one line per
	// connection.
	Log, Access io.Writer
	Build       telemetry.BuildInfo
}

// agent is everything that lives as long as the process.
type agent struct {
	file    string
	logger  *slog.Logger
	level   slog.LevelVar
	metrics *telemetry.Metrics

	poller    *sock.Poller
	engines   engines
	tls       tlsState
	server    *proxy.Server
	web       *web.Server
	listeners *listeners
	access    *telemetry.AccessLog
	sink      *telemetry.AsyncWriter

	config   *config.Config
	current  *generation
	watch    *fileWatch
	strict   bool
	planned  *plan.Plan        // what is served
	cluster  *cluster.Cluster  // nil: there is none
	snapshot *cluster.Snapshot // what plan saw of it last; nil: nothing
	// deaf are Gateways that this host cannot listen for, and what was told of it; refused is
	// what was told of why the cluster's objects are not served.
	deaf      map[manifest.Key]string
	refused   string
	manifests *filesWatch // nil: there are none
	// state is why the agent is not ready, nil when it is.
	state atomic.Pointer[string]
}

// notReady are the reasons that /readyz gives.
var (
	starting = "starting"
	draining = "draining: no new connections are accepted"
)

// forcedEnd is how long connections that are cut may take to write their lines.
const forcedEnd = 5 * time.Second

// Run runs the agent until SIGTERM or SIGINT, then drains it; a second signal, or
// the end of ctx, ends it at once. A configuration that cannot be run is an error
// before anything is started.
func Run(ctx context.Context, opts Options) error {
	data, err := config.Read(opts.ConfigFile)
	if err != nil {
		return err
	}
	cfg, err := config.Parse(opts.ConfigFile, data)
	if err != nil {
		return err
	}
	// A log reader that goes away is no reason to end: writes to it fail, and
	// lines are lost.
	signal.Ignore(syscall.SIGPIPE)
	// Signals count from here on: whoever sees the agent start may end it.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)

	a := &agent{file: opts.ConfigFile, strict: opts.Strict, config: cfg, metrics: telemetry.New(opts.Build)}
	a.state.Store(&starting)
	a.setLevel(cfg.Log.Level)
	log := telemetry.NewAsyncWriter(opts.Log, a.metrics.LogLineDropped)
	defer func() { _ = log.Close() }()
	a.logger = slog.New(handler(cfg.Log.Format, log, &a.level))
	if cfg.Log.Access {
		a.sink = telemetry.NewAsyncWriter(opts.Access, a.metrics.LogLineDropped)
		defer func() { _ = a.sink.Close() }()
		a.access = telemetry.NewAccessLog(slog.New(handler(cfg.Log.Format, a.sink, nil)))
	}
	a.raiseOpenFiles(cfg.Limits.OpenFiles)

	// The engine's loops keep a processor each while there is traffic. With as
	// many again, accepting and dialling never wait for one of them to yield:
	// the kernel shares the cores, not the Go scheduler.
	workers := runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(2 * workers)
	defer runtime.GOMAXPROCS(workers)
	if a.engines.splice, err = splice.NewSplicer(splice.SplicerOptions{Workers: workers}); err != nil {
		return err
	}
	if a.engines.relay, err = splice.NewSplicer(splice.SplicerOptions{Workers: workers, Relay: true}); err != nil {
		_ = a.engines.splice.Close()
		return err
	}
	defer a.engines.close()
	if opts.Kube != nil {
		if err := a.openCluster(ctx, opts.Kube, cfg); err != nil {
			return err
		}
		defer a.cluster.Close()
	}
	began := time.Now()
	planned, err := a.plan(cfg)
	if err != nil {
		return err
	}
	cfg, a.config = planned.Config, planned.Config
	if err := a.openPacket(cfg); err != nil {
		return err
	}
	if a.poller, err = sock.NewPoller(); err != nil {
		return err
	}
	defer func() { _ = a.poller.Close() }()

	defer a.closeTLS()
	gen, err := a.build(planned)
	if err != nil {
		return err
	}
	a.current = gen
	defer func() { a.current.close() }()
	defer a.openWeb()()
	a.web.Update(gen.web)
	a.server = proxy.NewServer(gen.snapshot, proxy.Options{Metrics: a.metrics, Access: a.access, Logger: a.logger, Web: a.web})
	a.listeners = newListeners(a.poller, a.logger, a.server.Serve)
	defer a.listeners.close()
	want, optional := addresses(cfg, gen.places(), ownPorts(planned))
	change, err := a.listeners.open(want, optional, cfg.Timeouts.Hello)
	if err != nil {
		return err
	}
	adminAddress, stopAdmin, err := a.startAdmin(cfg.Admin)
	if err != nil {
		change.undo()
		return err
	}
	defer stopAdmin()
	if a.watch, err = watchFile(a.file, data); err != nil {
		change.undo()
		return err
	}
	defer a.watch.close()

	// For the command line only: without it the agent does all that it is there for.
	if ctl, err := control.Listen(cfg.BPFFS, control.Flows{List: a.engines.list, Kill: a.engines.kill}); err != nil {
		a.logger.Warn("spliceway flows will not reach this agent", "error", err.Error())
	} else {
		defer func() { _ = ctl.Close() }()
	}
	// Before anything is accepted: they have ports, and count for limits.
	if a.engines.packet != nil {
		if n := a.engines.packet.Adopt(a.server.Adopt); n > 0 {
			a.logger.Info("flows of an earlier agent go on", "flows", n)
		}
	}
	a.certificatesApplied(cfg, gen, nil, began)
	a.planApplied(planned, began)
	defer func() {
		if a.manifests != nil {
			a.manifests.close()
		}
	}()
	change.apply()
	a.engines.undo = nil // there will be flows
	a.metrics.ConfigLoaded(len(cfg.Endpoints))
	if a.cluster != nil && a.snapshot == nil {
		a.state.Store(&waiting)
	} else {
		a.state.Store(nil)
	}
	a.clusterApplied(planned)
	a.logger.Info("ready", "version", opts.Build.Version, "endpoints", len(cfg.Endpoints),
		"listeners", a.listeners.String(), "engines", a.engines.String(), "admin", adminAddress)
	a.notify(daemon.SdNotifyReady)

	expiry := time.NewTicker(expiryLook)
	defer expiry.Stop()
	var rest <-chan time.Time // not nil: changes of the cluster are collected until then
	for {
		changed := a.clusterChanged()
		if rest != nil {
			changed = nil
		}
		select {
		case <-changed:
			rest = a.followCluster()
		case <-rest:
			rest = nil
		case <-a.retry():
			rest = a.followCluster()
		case s := <-signals:
			if s == syscall.SIGHUP {
				// Each by itself: neither is to wait for the other to be mended.
				a.reloadCertificates("SIGHUP")
				a.reload("SIGHUP")
				continue
			}
			return a.stop(ctx, s.String(), signals)
		case <-a.filesChanged():
			a.reloadCertificates("file changed")
		case <-expiry.C:
			a.lookAtExpiry()
		case <-a.watch.changed:
			a.reload("file changed")
		case <-a.manifestsChanged():
			a.reload("manifests changed")
		case <-ctx.Done():
			return a.stop(ctx, "context", signals)
		}
	}
}

// stop drains: no new connections, the old ones may end by themselves for
// Timeouts.Drain, then they are cut.
func (a *agent) stop(ctx context.Context, why string, signals <-chan os.Signal) error {
	a.state.Store(&draining)
	a.notify(daemon.SdNotifyStopping)
	a.logger.Info("draining", "reason", why, "open", a.server.Open(), "timeout", a.config.Timeouts.Drain.String())
	a.listeners.close()
	a.web.Drain()

	ctx, cut := context.WithCancelCause(ctx)
	defer cut(nil)
	defer a.leaveFlows(ctx)()
	over := time.AfterFunc(a.config.Timeouts.Drain, func() { cut(errors.New("timeouts.drain is over")) })
	defer over.Stop()
	go func() {
		for {
			select {
			case s := <-signals:
				if s != syscall.SIGHUP {
					cut(fmt.Errorf("second signal: %s", s))
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	if err := a.server.Wait(ctx); err != nil {
		a.logger.Warn("cutting connections", "open", a.server.Open(), "reason", context.Cause(ctx).Error())
		a.server.Interrupt()
		a.engines.abort(telemetry.EndDrain)
		a.web.Close()
		ctx, cancel := context.WithTimeout(context.Background(), forcedEnd)
		defer cancel()
		// Who had just dialled comes to the engine after the first Abort.
		again := time.NewTicker(50 * time.Millisecond)
		defer again.Stop()
		go func() {
			for {
				select {
				case <-again.C:
					a.engines.abort(telemetry.EndDrain)
				case <-ctx.Done():
					return
				}
			}
		}()
		if err := a.server.Wait(ctx); err != nil {
			return fmt.Errorf("stop: %d connections did not end within %s", a.server.Open(), forcedEnd)
		}
	}
	a.logger.Info("stopped")
	return nil
}

// leaveFlows gives up the flows that the kernel moves, which do not end with the
// agent, and those that it gets while others drain. stop ends that.
func (a *agent) leaveFlows(ctx context.Context) (stop func()) {
	if a.engines.packet == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var n int
	done := make(chan struct{})
	go func() {
		defer close(done)
		again := time.NewTicker(50 * time.Millisecond)
		defer again.Stop()
		for {
			n += a.engines.packet.Leave(a.server.Abandon)
			select {
			case <-again.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		cancel()
		<-done
		if n > 0 {
			a.logger.Info("flows go on in the kernel until the next start, or spliceway unload", "flows", n, "bpffs", a.config.BPFFS)
		}
	}
}

// reload exchanges the configuration, all or nothing: whatever is wrong with the
// new one, the old one goes on.
func (a *agent) reload(why string) {
	a.notify(daemon.SdNotifyReloading)
	defer a.notify(daemon.SdNotifyReady)
	start := time.Now()
	if err := a.exchange(); err != nil {
		a.metrics.ConfigRefused()
		var list config.Errors
		if errors.As(err, &list) {
			for _, e := range list {
				a.logger.Error("configuration refused", "reason", why, "at", e.Pos.String(), "error", e.Text())
			}
			return
		}
		for _, e := range separate(err) {
			a.logger.Error("configuration refused", "reason", why, "error", e.Error())
		}
		return
	}
	a.metrics.ConfigLoaded(len(a.config.Endpoints))
	a.logger.Info("configuration loaded", "reason", why, "endpoints", len(a.config.Endpoints),
		"listeners", a.listeners.String(), "took", time.Since(start).String())
}

func (a *agent) exchange() error {
	data, err := config.Read(a.file)
	if err != nil {
		return err
	}
	a.watch.seen(data)
	cfg, err := config.Parse(a.file, data)
	if err != nil {
		return err
	}
	start := time.Now()
	planned, err := a.plan(cfg)
	if err != nil {
		return err
	}
	cfg = planned.Config
	if err := a.openPacket(cfg); err != nil {
		return err
	}
	next, err := a.build(planned)
	if err != nil {
		return err
	}
	want, optional := addresses(cfg, next.places(), ownPorts(planned))
	change, err := a.listeners.open(want, optional, cfg.Timeouts.Hello)
	if err != nil {
		next.closeExcept(a.current)
		return err
	}
	a.warnUnchangeable(cfg)
	a.setLevel(cfg.Log.Level)
	a.web.Update(next.web) // first: whoever comes by the next snapshot finds its listener
	a.server.Update(next.snapshot)
	change.apply()
	old := a.current
	a.current, a.config = next, cfg
	a.certificatesApplied(cfg, next, old, start)
	a.planApplied(planned, start)
	a.clusterApplied(planned)
	old.closeExcept(next)
	a.metrics.Retain(next.names())
	return nil
}

// warnUnchangeable names what the new file changes in vain.
func (a *agent) warnUnchangeable(cfg *config.Config) {
	for _, c := range []struct {
		key     string
		changed bool
	}{
		{"admin", cfg.Admin != a.config.Admin},
		{"kubernetes", a.cluster != nil && !reflect.DeepEqual(cfg.Kubernetes, a.config.Kubernetes)},
		{"bpffs", cfg.BPFFS != a.config.BPFFS},
		{"cgroup", cfg.Cgroup != a.config.Cgroup},
		{"sourcePorts", cfg.SourcePorts != a.config.SourcePorts},
		{"acme", a.current.authority != nil && cfg.ACME != a.current.authority.options},
		{"log.format", cfg.Log.Format != a.config.Log.Format},
		{"log.access", cfg.Log.Access != a.config.Log.Access},
		{"limits.openFiles", cfg.Limits.OpenFiles != a.config.Limits.OpenFiles},
	} {
		if c.changed {
			a.logger.Warn("this change takes effect at the next start", "key", c.key)
		}
	}
}

// startAdmin serves metrics and health, and tells where: "off" for nowhere. stop
// ends it.
func (a *agent) startAdmin(cfg config.Admin) (address string, stop func(), err error) {
	const off = "off"
	if cfg.Address == off {
		return off, func() {}, nil
	}
	l, err := net.Listen("tcp", cfg.Address)
	if err != nil {
		if at, bad := netip.ParseAddrPort(cfg.Address); bad == nil {
			err = explainListen(err, at)
		}
		if cfg.AddressSet {
			return "", nil, fmt.Errorf("listen for admin: %w", err)
		}
		a.logger.Warn("running without metrics and health: the default address cannot be had; set admin.address",
			"address", cfg.Address, "error", err.Error())
		return off, func() {}, nil
	}
	srv := admin.New(admin.Options{Metrics: a.metrics.Handler(), Ready: a.ready, Degraded: a.degraded, Pprof: cfg.Pprof, Logger: a.logger})
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Serve(l); err != nil {
			a.logger.Error("admin server ended", "error", err.Error())
		}
	}()
	return cfg.Address, func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = srv.Shutdown(ctx)
		<-done
	}, nil
}

func (a *agent) ready() error {
	if why := a.state.Load(); why != nil {
		return errors.New(*why)
	}
	return nil
}

// notify tells systemd, where it is there (sd_notify).
func (a *agent) notify(state string) {
	if state == daemon.SdNotifyReloading {
		// Type=notify-reload wants to know since when (sd_notify(3)).
		state += fmt.Sprintf("\nMONOTONIC_USEC=%d", monotonicMicroseconds())
	}
	if _, err := daemon.SdNotify(false, state); err != nil {
		a.logger.Warn("cannot notify systemd", "error", err.Error())
	}
}

func (a *agent) setLevel(name string) {
	// The configuration has checked the name.
	var l slog.Level
	_ = l.UnmarshalText([]byte(name))
	a.level.Set(l)
}

func handler(format string, w io.Writer, level slog.Leveler) slog.Handler {
	o := &slog.HandlerOptions{Level: level}
	if format == "text" {
		return slog.NewTextHandler(w, o)
	}
	return slog.NewJSONHandler(w, o)
}
