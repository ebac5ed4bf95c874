// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/spliceway/spliceway/userspace/manifest"
)

// writer brings the objects' status to what is wanted, as long as this agent leads.
type writer struct {
	c       *Cluster
	leading atomic.Bool
	wake    chan struct{}

	mu      sync.Mutex
	wanted  map[manifest.Key]any // nil: nothing was reported yet
	refused map[manifest.Key]job // what the API server did not take
}

const (
	// writeAgain is how long a status that could not be written is left alone.
	writeAgain = time.Second
	// writers is how many statuses are on their way at once.
	writers = 8
)

func newWriter(c *Cluster) *writer {
	return &writer{c: c, wake: make(chan struct{}, 1), refused: make(map[manifest.Key]job)}
}

// Report says what became of each object: pointers to their status types. Objects that
// are not there are those of which there is nothing to say.
func (c *Cluster) Report(statuses map[manifest.Key]any) {
	c.writer.mu.Lock()
	c.writer.wanted = statuses
	c.writer.mu.Unlock()
	c.writer.lookAgain()
	notify(c.reported)
}

func (w *writer) lookAgain() { notify(w.wake) }

// lead takes or gives up the task. Who begins has the addresses of Gateways to give away.
func (w *writer) lead(leads bool) {
	w.leading.Store(leads)
	if leads {
		w.c.signal()
		w.lookAgain()
	}
}

func (w *writer) run(ctx context.Context) {
	var again <-chan time.Time
	for {
		select {
		case <-w.wake:
		case <-again:
		case <-ctx.Done():
			return
		}
		again = nil
		if w.leading.Load() && !w.write(ctx) {
			again = time.After(writeAgain)
		}
	}
}

// job is a status to be written.
type job struct {
	resource schema.GroupVersionResource
	item     *item
	status   any
	rank     int // its kind's place in kinds
}

// write writes what differs. It returns false if some of it is to be tried again.
func (w *writer) write(ctx context.Context) bool {
	w.mu.Lock()
	wanted := w.wanted
	w.mu.Unlock()
	if wanted == nil || !w.c.complete() {
		return true
	}
	var jobs []job
	now := metav1.Now()
	for _, j := range w.candidates() {
		if j.item.object == nil {
			j.status = refused(j.item, now)
		} else {
			j.status = merged(j.item.object.Value, w.published(wanted[j.item.key]), w.c.opts.Controller, now)
		}
		if j.status != nil && !w.wasRefused(j) {
			jobs = append(jobs, j)
		}
	}

	// Thousands of routes do not keep a Gateway from its address.
	slices.SortStableFunc(jobs, func(a, b job) int { return cmp.Compare(a.rank, b.rank) })
	var failed atomic.Bool
	queue := make(chan job)
	var all sync.WaitGroup
	for range min(writers, len(jobs)) {
		all.Go(func() {
			for j := range queue {
				err := w.one(ctx, j)
				if apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) {
					// It is not taken however often it is tried, until one of both is another.
					w.refuse(j)
					w.c.log.Error("a status is refused by the API server", "object", j.item.key.String(), "error", err.Error())
					continue
				}
				if err != nil && ctx.Err() == nil {
					failed.Store(true)
					// A conflict is settled by the object's next version, which is on its way.
					if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
						w.c.log.Warn("a status cannot be written; trying again", "object", j.item.key.String(), "error", err.Error())
					}
				}
			}
		})
	}
	for _, j := range jobs {
		if ctx.Err() != nil || !w.leading.Load() {
			break
		}
		queue <- j
	}
	close(queue)
	all.Wait()
	return !failed.Load()
}

// refuse notes that a status was not taken.
func (w *writer) refuse(j job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refused[j.item.key] = j
}

// wasRefused tells whether this was not taken before: the same for the same version.
func (w *writer) wasRefused(j job) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	before, ok := w.refused[j.item.key]
	if !ok {
		return false
	}
	if before.item == j.item && sameButTimes(before.status, j.status) {
		return true
	}
	delete(w.refused, j.item.key)
	return false
}

// sameButTimes compares two statuses as they are written, without the times of conditions.
func sameButTimes(a, b any) bool {
	text := func(v any) string {
		data, _ := json.Marshal(v)
		return transitionTimes.ReplaceAllString(string(data), "")
	}
	return text(a) == text(b)
}

var transitionTimes = regexp.MustCompile(`"lastTransitionTime":"[^"]*"`)

// candidates are the objects that have a status, without it.
func (w *writer) candidates() (all []job) {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	for _, x := range w.c.watches {
		if !x.kind.status {
			continue
		}
		rank := slices.IndexFunc(w.c.kinds, func(k kind) bool { return k.group == x.kind.group && k.name == x.kind.name })
		x.items(func(it *item) {
			if it.object != nil || x.kind.of == nil {
				all = append(all, job{resource: x.resource, item: it, rank: rank})
			}
		})
	}
	return all
}

// one writes a status, on condition that the object is the one that was looked at.
func (w *writer) one(ctx context.Context, j job) error {
	patch, err := statusPatch(j.item, j.status)
	if err != nil {
		return fmt.Errorf("encode status: %w", err)
	}
	var objects dynamic.ResourceInterface = w.c.objects.Resource(j.resource)
	if ns := j.item.key.Namespace; ns != "" {
		objects = w.c.objects.Resource(j.resource).Namespace(ns)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err = objects.Patch(ctx, j.item.key.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "spliceway"}, "status")
	return err
}

// ownFields are those of statuses that are ours; the others are of other controllers.
var ownFields = []string{"addresses", "listeners", "conditions", "supportedFeatures", "parents", "ancestors", "assignedURL", "trafficPolicy", "observedGeneration"}

// statusPatch is a JSON merge patch (RFC 7396) that makes a status of an object what it is to
// be. Fields that fall away have to be named: what a patch does not mention stays.
func statusPatch(it *item, status any) ([]byte, error) {
	var old struct{ Status map[string]any }
	if it.object != nil { // of what is wrong only conditions are written
		before, err := json.Marshal(it.object.Value)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(before, &old); err != nil {
			return nil, err
		}
	}
	after, err := json.Marshal(status)
	if err != nil {
		return nil, err
	}
	fields := make(map[string]any)
	if err := json.Unmarshal(after, &fields); err != nil {
		return nil, err
	}
	for field := range old.Status {
		if _, stays := fields[field]; !stays && slices.Contains(ownFields, field) {
			fields[field] = nil
		}
	}
	return json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": it.GetResourceVersion(), "uid": it.GetUID()},
		"status":   fields,
	})
}

// published is a Gateway's status with the addresses to be told where it has none of its own.
func (w *writer) published(status any) any {
	g, ok := status.(*gatewayv1.GatewayStatus)
	if !ok || len(g.Addresses) > 0 || len(w.c.opts.Pool) > 0 || len(w.c.opts.Publish) == 0 {
		return status
	}
	own := *g
	own.Addresses = statusAddresses(w.c.opts.Publish)
	return &own
}

func statusAddresses(list []netip.Addr) (all []gatewayv1.GatewayStatusAddress) {
	ip := gatewayv1.IPAddressType
	for _, a := range list {
		all = append(all, gatewayv1.GatewayStatusAddress{Type: &ip, Value: a.String()})
	}
	return all
}
