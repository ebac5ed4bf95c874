// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"sync/atomic"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// watched is what a watch is of: a kind, or one object of it.
type watched struct {
	group, name         string
	namespace, instance string
}

// watch keeps the objects of a kind, or one object.
type watch struct {
	kind     *kind
	resource schema.GroupVersionResource
	informer cache.SharedIndexInformer
	stop     context.CancelFunc
	done     chan struct{}
	failure  string // what was told last; only the informer's goroutine uses it
	failed   atomic.Bool
}

// start begins a watch.
func (c *Cluster) start(ctx context.Context, k *kind, version, namespace, name string) *watch {
	w := &watch{kind: k, resource: schema.GroupVersionResource{Group: k.group, Version: version, Resource: k.resource}, done: make(chan struct{})}
	var tweak dynamicinformer.TweakListOptionsFunc
	if name != "" {
		tweak = func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("metadata.name", name).String()
		}
	}
	w.informer = dynamicinformer.NewFilteredDynamicInformer(c.objects, w.resource, namespace, 0, cache.Indexers{}, tweak).Informer()
	// These fail only on informers that run already.
	_ = w.informer.SetTransform(func(o any) (any, error) {
		if u, ok := o.(*unstructured.Unstructured); ok {
			return k.read(u), nil
		}
		return o, nil
	})
	_ = w.informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) { c.watchFailed(w, err) })
	_, _ = w.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { c.signal() },
		DeleteFunc: func(any) { c.signal() },
		UpdateFunc: func(before, after any) {
			if b, a := before.(*item), after.(*item); !k.status || differs(b, a) {
				c.signal()
			} else {
				c.writer.lookAgain()
			}
		},
	})
	ctx, w.stop = context.WithCancel(ctx)
	c.running.Go(func() {
		defer close(w.done)
		w.informer.RunWithContext(ctx)
	})
	c.running.Go(func() {
		if cache.WaitForCacheSync(ctx.Done(), w.informer.HasSynced) {
			c.signal()
		}
	})
	return w
}

// differs tells whether more than the status changed. Of that, only the addresses of a
// Gateway matter: they are given away by whoever leads.
func differs(a, b *item) bool {
	if a.GetGeneration() != b.GetGeneration() || a.GetUID() != b.GetUID() || !maps.Equal(a.GetLabels(), b.GetLabels()) || !maps.Equal(a.GetAnnotations(), b.GetAnnotations()) ||
		(a.object == nil) != (b.object == nil) || (a.GetDeletionTimestamp() == nil) != (b.GetDeletionTimestamp() == nil) {
		return true
	}
	if a.object == nil {
		return false
	}
	before, ok := a.object.Value.(*gatewayv1.Gateway)
	return ok && !reflect.DeepEqual(before.Status.Addresses, b.object.Value.(*gatewayv1.Gateway).Status.Addresses)
}

// end stops a watch, and waits until it has.
func (w *watch) end() {
	w.stop()
	<-w.done
}

func (w *watch) items(yield func(*item)) {
	for _, o := range w.informer.GetStore().List() {
		yield(o.(*item))
	}
}

// watchFailed tells of a watch that fails, once until it fails otherwise: the informer
// tries again by itself.
func (c *Cluster) watchFailed(w *watch, err error) {
	w.failed.Store(true)
	if text := err.Error(); w.failure != text {
		w.failure = text
		c.log.Warn("objects of the cluster cannot be watched; trying again", "resource", w.resource.GroupResource().String(), "error", text)
	}
}

// exchange puts a watch of a version in the place of the one there is, once it has what that
// had. Either may be none.
func (c *Cluster) exchange(ctx context.Context, k *kind, key watched, version string, old *watch) {
	var next *watch
	if version != "" {
		c.log.Info("watching the cluster's objects", "resource", k.resource, "group", k.group, "version", version)
		next = c.start(ctx, k, version, metav1.NamespaceAll, "")
	}
	if old != nil && next != nil {
		first, cancel := context.WithTimeout(ctx, discoverEvery)
		defer cancel()
		if !cache.WaitForCacheSync(first.Done(), next.informer.HasSynced) {
			next.end() // it is tried again
			return
		}
	}
	c.mu.Lock()
	delete(c.watches, key)
	if next != nil {
		c.watches[key] = next
	}
	c.mu.Unlock()
	if old != nil {
		old.end()
	}
	c.signal()
}

// served asks the API server which resources it has, and watches those of the kinds that
// are among them.
func (c *Cluster) served(ctx context.Context) error {
	_, lists, err := c.discovery.ServerGroupsAndResources()
	if len(lists) == 0 && err != nil {
		return fmt.Errorf("ask the API server for its resources: %w", err)
	}
	has := make(map[schema.GroupVersionResource]bool)
	for _, list := range lists {
		gv, bad := schema.ParseGroupVersion(list.GroupVersion)
		if bad != nil {
			continue
		}
		for _, r := range list.APIResources {
			has[gv.WithResource(r.Name)] = true
		}
	}
	// Of groups that could not be asked about nothing is known: what is watched goes on.
	unknown := make(map[string]bool)
	if failed := (*discovery.ErrGroupDiscoveryFailed)(nil); errors.As(err, &failed) {
		for gv := range failed.Groups {
			unknown[gv.Group] = true
		}
	}
	blind := false
	for i := range c.kinds {
		k := &c.kinds[i]
		key, version := watched{group: k.group, name: k.name}, ""
		for _, v := range k.versions {
			if has[schema.GroupVersionResource{Group: k.group, Version: v, Resource: k.resource}] {
				version = v
				break
			}
		}
		if k.referenced {
			continue
		}
		c.mu.Lock()
		w := c.watches[key]
		c.mu.Unlock()
		if unknown[k.group] || err != nil && len(unknown) == 0 {
			blind = blind || w == nil
			continue
		}
		if w != nil && w.resource.Version == version || w == nil && version == "" {
			continue
		}
		c.exchange(ctx, k, key, version, w)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known = c.known || !blind
	if blind {
		return fmt.Errorf("ask the API server for its resources: %w", err)
	}
	return nil
}
