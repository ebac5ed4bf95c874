// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/spliceway/spliceway/userspace/manifest"
)

// Event tells people what is so of an object on this agent's node, which its status, one for
// all nodes, cannot.
type Event struct {
	About  manifest.Key
	Reason string // one word, as NotListening
	Action string // what was tried, one word
	Note   string
	Good   bool // it is no warning
}

const (
	// waitingEvents is how many may wait to be written; more are dropped.
	waitingEvents = 256
	// maxNote is of the API (events.k8s.io/v1).
	maxNote = 1024
)

var eventsResource = schema.GroupVersionResource{Group: eventsv1.GroupName, Version: "v1", Resource: "events"}

// Tell writes an event, sooner or later, if the API server takes it. One about an object that
// it does not have is dropped.
func (c *Cluster) Tell(e Event) {
	select {
	case c.events <- e:
	default:
		c.log.Warn("an event is dropped: too many wait", "object", e.About.String(), "reason", e.Reason, "note", e.Note)
	}
}

// writeEvents writes what Tell is given, until ctx ends.
func (c *Cluster) writeEvents(ctx context.Context) {
	for {
		select {
		case e := <-c.events:
			if err := c.writeEvent(ctx, e); err != nil && ctx.Err() == nil {
				c.log.Warn("an event cannot be written", "object", e.About.String(), "reason", e.Reason, "note", e.Note, "error", err.Error())
			}
		case <-ctx.Done():
			return
		}
	}
}

func (c *Cluster) writeEvent(ctx context.Context, e Event) error {
	it, version := c.find(e.About)
	if it == nil {
		return nil
	}
	namespace := e.About.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault // where events about what has no namespace are
	}
	now := time.Now()
	note := e.Note
	if len(note) > maxNote {
		note = strings.ToValidUTF8(note[:maxNote-3], "") + "..."
	}
	kind := corev1.EventTypeWarning
	if e.Good {
		kind = corev1.EventTypeNormal
	}
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&eventsv1.Event{
		TypeMeta:            metav1.TypeMeta{APIVersion: eventsv1.SchemeGroupVersion.String(), Kind: "Event"},
		ObjectMeta:          metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("%.200s.%x", e.About.Name, now.UnixNano())},
		EventTime:           metav1.NewMicroTime(now),
		ReportingController: c.opts.Controller, ReportingInstance: c.opts.Node, Action: e.Action, Reason: e.Reason, Type: kind, Note: note,
		Regarding: corev1.ObjectReference{APIVersion: schema.GroupVersion{Group: e.About.Group, Version: version}.String(), Kind: e.About.Kind,
			Namespace: e.About.Namespace, Name: e.About.Name, UID: it.GetUID(), ResourceVersion: it.GetResourceVersion()},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err = c.objects.Resource(eventsResource).Namespace(namespace).Create(ctx, &unstructured.Unstructured{Object: object}, metav1.CreateOptions{})
	return err
}

// find is an object that is watched, and its version; nil: there is none.
func (c *Cluster) find(key manifest.Key) (it *item, version string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.watches {
		if w.kind.group != key.Group || w.kind.name != key.Kind {
			continue
		}
		name := key.Name
		if key.Namespace != "" {
			name = key.Namespace + "/" + key.Name
		}
		if o, ok, err := w.informer.GetStore().GetByKey(name); err == nil && ok {
			return o.(*item), w.resource.Version
		}
	}
	return nil, ""
}
