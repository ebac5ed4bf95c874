// SPDX-License-Identifier: Apache-2.0

// Package cluster has the objects of a Kubernetes API server: it watches them, and writes
// what became of them to their status. What they mean is not its business.
//
// Every agent watches; one of them, the holder of a Lease, writes.
package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/spliceway/spliceway/userspace/manifest"
)

// Options of New.
type Options struct {
	// Kubeconfig is a file; empty: $KUBECONFIG, ~/.kube/config, or the pod's own account.
	Kubeconfig string
	// Controller is what GatewayClasses name, and what marks our part of a route's status.
	Controller string
	// Node is this agent among those that may lead, and in events; Namespace has their Lease,
	// empty: that of the pod or of the kubeconfig.
	Node, Namespace string
	// Ngrok has objects of ngrok's API group watched, too.
	Ngrok bool
	// Pool has the addresses for Gateways that ask for none; nil: there is no pool.
	Pool []netip.Prefix
	// Publish are the addresses in the status of Gateways that have none of their own.
	Publish []netip.Addr
	// State is the file of the last state; empty: none. StateSecrets has Secrets in it.
	State        string
	StateSecrets bool
	// MaxReferences bounds how many Secrets and ConfigMaps are watched because objects name
	// them.
	MaxReferences int
	Logger        *slog.Logger
}

// Cluster is the objects of an API server, kept up to date until Close.
type Cluster struct {
	opts      Options
	log       *slog.Logger
	kinds     []kind
	objects   dynamic.Interface
	discovery discovery.DiscoveryInterface
	writer    *writer
	events    chan Event
	changed   chan struct{}
	reported  chan struct{}   // there may be another state to keep
	context   context.Context // of the watches
	cancel    context.CancelFunc
	running   sync.WaitGroup

	mu      sync.Mutex // guards what follows
	watches map[watched]*watch
	known   bool          // it is known what the API server serves
	told    bool          // and it has told what it has
	saved   *manifest.Set // what load has read
	loaded  bool          // it has read
	// unwatched are named by objects beyond the limit.
	unwatched map[reference]bool

	away atomic.Pointer[string] // why the API server cannot be asked; nil: it can
}

const (
	// discoverEvery is how often it is looked for kinds that were installed meanwhile.
	discoverEvery = 30 * time.Second
	// pingEvery is how often the API server is asked whether it is there.
	pingEvery = 5 * time.Second
	// referencesWait is how long objects that others name are waited for.
	referencesWait = 3 * time.Second
)

// New begins to watch. An error is one of the kubeconfig: that the API server does not
// answer is none.
func New(o Options) (*Cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.Kubeconfig
	loaded := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{})
	cfg, err := loaded.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("how to reach the API server is not known (give --kubeconfig, or run in a pod with a service account): %w", err)
	}
	if o.Namespace == "" {
		if o.Namespace, _, err = loaded.Namespace(); err != nil {
			return nil, fmt.Errorf("read kubeconfig: %w", err)
		}
	}
	// What client-go says goes where all else goes. It has one logger per process.
	klog.SetSlogLogger(o.Logger.With("source", "client-go"))
	// Watches are streams; these are for lists at the start, and for statuses.
	cfg.QPS, cfg.Burst = 400, 800
	cfg.UserAgent = "spliceway"
	c := &Cluster{
		opts: o, log: o.Logger, kinds: kinds(o.Ngrok), changed: make(chan struct{}, 1), reported: make(chan struct{}, 1), events: make(chan Event, waitingEvents),
		watches: make(map[watched]*watch),
	}
	if c.objects, err = dynamic.NewForConfig(cfg); err != nil {
		return nil, fmt.Errorf("make a client of the API server: %w", err)
	}
	short := rest.CopyConfig(cfg)
	short.Timeout = 10 * time.Second
	if c.discovery, err = discovery.NewDiscoveryClientForConfig(short); err != nil {
		return nil, fmt.Errorf("make a client of the API server: %w", err)
	}
	c.writer = newWriter(c)

	ctx, cancel := context.WithCancel(context.Background())
	c.context, c.cancel = ctx, cancel
	if err := c.lead(ctx, short); err != nil {
		c.cancel()
		return nil, err
	}
	c.running.Go(func() { c.discover(ctx) })
	c.running.Go(func() { c.ping(ctx) })
	c.running.Go(func() { c.writer.run(ctx) })
	c.running.Go(func() { c.keepState(ctx) })
	c.running.Go(func() { c.writeEvents(ctx) })
	return c, nil
}

// Close ends all watches, and gives up the lead.
func (c *Cluster) Close() {
	c.cancel()
	c.running.Wait()
}

// Changed is signalled when there may be something new in Objects.
func (c *Cluster) Changed() <-chan struct{} { return c.changed }

func (c *Cluster) signal() { notify(c.changed) }

// notify signals on a channel with room for one: what is signalled already is not again.
func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Degraded says why what is known of the cluster may be old; nil: it is not.
func (c *Cluster) Degraded() error {
	if why := c.away.Load(); why != nil {
		return errors.New(*why)
	}
	return nil
}

func (c *Cluster) discover(ctx context.Context) {
	wait := time.Second
	for {
		if err := c.served(ctx); err != nil {
			c.log.Warn("the cluster's kinds are not known; trying again", "error", err.Error())
			wait = min(2*wait, discoverEvery)
		} else {
			wait = discoverEvery
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

func (c *Cluster) ping(ctx context.Context) {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	failed := 0
	for {
		if _, err := c.discovery.ServerVersion(); err != nil {
			if failed++; failed == 2 {
				why := fmt.Sprintf("degraded: the API server has not answered since %s: %v", time.Now().UTC().Format(time.RFC3339), err)
				c.away.Store(&why)
				c.log.Warn("the API server does not answer: what was last known is served", "error", err.Error())
			}
		} else {
			if failed >= 2 {
				c.log.Info("the API server answers again")
			}
			failed = 0
			c.away.Store(nil)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Wait waits until the API server has told what it has, or ctx ends.
func (c *Cluster) Wait(ctx context.Context) error { return wait(ctx, c.complete) }

func wait(ctx context.Context, until func() bool) error {
	for !until() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// complete tells whether the API server has told once what it has of each kind. From then
// on what the watches have is what counts, whatever becomes of them.
func (c *Cluster) complete() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.told || !c.known {
		return c.told
	}
	for _, w := range c.watches {
		if !w.kind.referenced && !w.informer.HasSynced() {
			return false
		}
	}
	c.told = true
	return true
}

// settled tells whether every one of these watches has had its first list, or has failed.
func settled(watches []*watch) bool {
	return !slices.ContainsFunc(watches, func(w *watch) bool { return !w.informer.HasSynced() && !w.failed.Load() })
}

// Snapshot is what the API server has.
type Snapshot struct {
	*manifest.Set
	// Addresses are of Gateways that ask for none; nil: there is no pool.
	Addresses Addresses
	// Owners have the pool's addresses.
	Owners Owners
	// Saved tells that it is the last state of an agent before this one: the API server
	// has not told all it has yet.
	Saved bool
	// unwatched are Secrets and ConfigMaps of which nothing is known.
	unwatched map[reference]bool
	limit     int
}

// Unwatched tells, with an error, of a Secret or ConfigMap that is not in the set because
// more are named than are watched. nil: it is not there.
func (s *Snapshot) Unwatched(kind string, name types.NamespacedName) error {
	if !s.unwatched[reference{kind, name}] {
		return nil
	}
	return fmt.Errorf("%s %s is not read: objects name more Secrets and ConfigMaps than the %d that an agent watches, and this namespace has had its share (kubernetes.maxReferences)", kind, name, s.limit)
}

// Objects is what there is now; nil: nothing is known yet. It waits a while for objects
// that others begin to name.
func (c *Cluster) Objects(ctx context.Context) *Snapshot {
	if !c.complete() {
		set := c.load()
		if set == nil {
			return nil
		}
		s := &Snapshot{Set: set, Saved: true}
		s.Addresses, s.Owners = c.assign(set.Objects, false)
		return s
	}
	set := c.collect()
	if news := c.refer(references(set.Objects, c.opts.Controller)); len(news) > 0 {
		waiting, cancel := context.WithTimeout(ctx, referencesWait)
		_ = wait(waiting, func() bool { return settled(news) }) // what is not there by then comes with the next change
		cancel()
		set = c.collect()
	}
	c.mu.Lock()
	unwatched := c.unwatched
	c.mu.Unlock()
	s := &Snapshot{Set: set, unwatched: unwatched, limit: c.opts.MaxReferences}
	s.Addresses, s.Owners = c.assign(set.Objects, c.writer.leading.Load())
	return s
}

// collect is the objects of all watches, the older before the newer.
func (c *Cluster) collect() *manifest.Set {
	var items []*item
	c.mu.Lock()
	for _, w := range c.watches {
		w.items(func(it *item) { items = append(items, it) })
	}
	c.mu.Unlock()
	slices.SortFunc(items, func(a, b *item) int {
		at, bt := a.GetCreationTimestamp(), b.GetCreationTimestamp()
		if c := at.Compare(bt.Time); c != 0 {
			return c
		}
		return cmp.Or(cmp.Compare(a.key.Namespace, b.key.Namespace), cmp.Compare(a.key.Name, b.key.Name), cmp.Compare(a.key.Kind, b.key.Kind), cmp.Compare(a.key.Group, b.key.Group))
	})
	set := &manifest.Set{}
	for _, it := range items {
		set.Problems = append(set.Problems, it.problems...)
		set.Warnings = append(set.Warnings, it.warnings...)
		if it.object == nil {
			set.Broken = append(set.Broken, it.key)
			continue
		}
		set.Objects = append(set.Objects, it.object)
	}
	return set
}
