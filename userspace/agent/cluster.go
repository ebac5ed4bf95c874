// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/spliceway/spliceway/userspace/cluster"
	"github.com/spliceway/spliceway/userspace/config"
	"github.com/spliceway/spliceway/userspace/manifest"
	"github.com/spliceway/spliceway/userspace/plan"
)

// Kube has the agent serve the objects of a cluster as well.
type Kube struct {
	// Kubeconfig is a file; empty: $KUBECONFIG, ~/.kube/config, or the pod's own account.
	Kubeconfig string
}

// firstObjects is how long a start waits for the API server before it goes on with what
// is there.
const firstObjects = 10 * time.Second

// waiting is what /readyz says until the cluster's objects are known.
var waiting = "waiting for the API server: nothing is known of the cluster's objects yet"

// openCluster begins to watch, and waits for what there is.
func (a *agent) openCluster(ctx context.Context, k *Kube, cfg *config.Config) (err error) {
	c := &cfg.Kubernetes
	a.cluster, err = cluster.New(cluster.Options{
		Kubeconfig: k.Kubeconfig, Node: nodeName(), Controller: plan.ControllerName, Ngrok: c.Ngrok, Pool: c.Addresses, Publish: c.Publish,
		State: c.State, StateSecrets: c.StateSecrets, MaxReferences: c.MaxReferences, Logger: a.logger,
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, firstObjects)
	defer cancel()
	if err := a.cluster.Wait(ctx); err != nil {
		a.logger.Warn("the API server has not told what it has; going on without", "waited", firstObjects.String())
	}
	return nil
}

// withCluster is what manifests have and what the cluster has. An object that both have is
// the manifests'.
func (a *agent) withCluster(files *manifest.Set, o *plan.Options) *manifest.Set {
	o.Cluster = true
	if a.config.Kubernetes.PreferSameNode {
		o.Node = nodeName()
	}
	a.snapshot = a.cluster.Objects(context.Background())
	now := a.snapshot
	if now == nil {
		now = &cluster.Snapshot{Set: &manifest.Set{}, Addresses: cluster.Addresses{}}
	}
	onHost, owners := o.Usable, now.Owners
	o.Usable = func(gateway types.NamespacedName, at netip.Addr) error {
		if owner, ok := owners[at]; ok && owner != gateway {
			return fmt.Errorf("it is the address of Gateway %s", owner)
		}
		return onHost(gateway, at)
	}
	o.Addresses, o.Unwatched = now.Addresses, now.Unwatched
	has := make(map[manifest.Key]bool, len(files.Objects))
	for _, f := range files.Objects {
		has[f.Key] = true
		if f.Group == manifest.GroupGateway && f.Kind == "Gateway" && o.Addresses != nil {
			// Who writes files says there what address it has; the pool is the cluster's.
			o.Addresses[types.NamespacedName{Namespace: f.Namespace, Name: f.Name}] = nil
		}
	}
	o.Own = has
	all := *files
	all.Objects, all.Warnings = slices.Clone(files.Objects), slices.Clone(files.Warnings)
	for _, c := range now.Objects {
		if has[c.Key] {
			all.Warnings = append(all.Warnings, manifest.Warning{Pos: c.Pos, Text: c.Key.String() + ": not served as it is in the cluster: a manifest has it"})
			continue
		}
		all.Objects = append(all.Objects, c)
	}
	all.Problems = slices.Concat(files.Problems, now.Problems)
	all.Warnings = slices.Concat(all.Warnings, now.Warnings)
	all.Broken = slices.Concat(files.Broken, now.Broken)
	return &all
}

// nodeName is the agent's node, as EndpointSlices have it; empty: it cannot be told.
func nodeName() string {
	if name := os.Getenv("NODE_NAME"); name != "" {
		return name
	}
	name, _ := os.Hostname()
	return strings.ToLower(name)
}

// clusterApplied is called when what the cluster had is what is served.
func (a *agent) clusterApplied(p *plan.Plan) {
	if a.cluster == nil || a.snapshot == nil || a.snapshot.Saved {
		return
	}
	a.state.CompareAndSwap(&waiting, nil)
	a.tellListeners(p)
	statuses := make(map[manifest.Key]any, len(p.Objects))
	for i := range p.Objects {
		statuses[p.Objects[i].Key] = p.Objects[i].Status
	}
	a.cluster.Report(statuses)
}

// clusterChanged is signalled when there may be something new in the cluster.
func (a *agent) clusterChanged() <-chan struct{} {
	if a.cluster == nil {
		return nil
	}
	return a.cluster.Changed()
}

// degraded says why what is served may be old.
func (a *agent) degraded() error {
	if a.cluster == nil {
		return nil
	}
	return a.cluster.Degraded()
}

// followCluster exchanges the configuration for what the cluster has now. Afterwards
// changes are collected for as long as that took, so that a flood of them leaves the agent
// time for everything else.
func (a *agent) followCluster() (rest <-chan time.Time) {
	start := time.Now()
	if err := a.exchange(); err != nil {
		a.metrics.ConfigRefused()
		for _, e := range separate(err) {
			a.logger.Error("the cluster's objects are not served as they are now", "error", e.Error())
		}
		a.tellRefused(err)
	} else {
		a.metrics.ConfigLoaded(len(a.config.Endpoints))
		a.logger.Debug("following the cluster", "endpoints", len(a.config.Endpoints), "took", time.Since(start).String())
	}
	return time.After(min(time.Since(start), time.Second))
}

// Reasons of events.
const (
	notListening = "NotListening"
	listening    = "Listening"
	notServed    = "NotServed"
)

// tellListeners tells of Gateways that this node cannot listen for, and of those that it can
// again: each when it begins.
func (a *agent) tellListeners(p *plan.Plan) {
	failed := make(map[manifest.Key]string)
	for at, err := range a.listeners.failed {
		for _, l := range p.Listeners {
			if l.Place.Port() == at.port && (!l.Place.Addr().IsValid() || at.takes(l.Place.Addr())) {
				failed[l.Gateway] = fmt.Sprintf("node %s does not serve it at %s: %v", nodeName(), at, err)
			}
		}
	}
	for gateway, note := range failed {
		if a.deaf[gateway] != note {
			a.cluster.Tell(cluster.Event{About: gateway, Reason: notListening, Action: "Listen", Note: note})
		}
	}
	for gateway := range a.deaf {
		if failed[gateway] == "" {
			a.cluster.Tell(cluster.Event{About: gateway, Reason: listening, Action: "Listen", Note: "node " + nodeName() + " serves it", Good: true})
		}
	}
	a.deaf, a.refused = failed, ""
	a.metrics.GatewaysNotServed(len(failed))
}

// tellRefused tells, once, that this node serves what was there before.
func (a *agent) tellRefused(err error) {
	if a.refused == err.Error() {
		return
	}
	a.refused = err.Error()
	for _, o := range a.planned.Objects {
		if o.Key.Kind == "GatewayClass" {
			a.cluster.Tell(cluster.Event{About: o.Key, Reason: notServed, Action: "Program", Note: fmt.Sprintf("node %s serves what was there before: %v", nodeName(), err)})
		}
	}
}

// listenAgain is how often it is tried to listen where that failed.
const listenAgain = 30 * time.Second

// retry is when to follow the cluster without a change of it; nil: there is no need to.
func (a *agent) retry() <-chan time.Time {
	if a.cluster == nil || len(a.listeners.failed) == 0 {
		return nil
	}
	return time.After(listenAgain)
}
