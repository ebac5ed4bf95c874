// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	eventsv1 "k8s.io/api/events/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// TestNode: what a node cannot serve is told by an event and a metric, when it begins and when
// it is over, and keeps nothing else from being served.
func TestNode(t *testing.T) {
	s := newSite(t)
	one := answers(t, "one")
	s.create(service("one", one)...)
	taken, err := net.Listen("tcp", bridge+":8443")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	g := gateway("second")
	g.Spec.Listeners[0].Port = 8443
	g.Spec.Addresses = []gatewayv1.GatewaySpecAddress{{Value: bridge}}
	s.create(gateway("g"), g, tlsRoute("r", "g", "one", "a.example.com"))
	s.run(fmt.Sprintf("kubernetes: {addresses: [%q]}", pool))
	s.expect(s.address("g"), "a.example.com", "one")
	event := func(reason string) func(context.Context) error {
		return func(ctx context.Context) error {
			var list eventsv1.EventList
			if err := s.client.List(ctx, &list, client.InNamespace(namespace)); err != nil {
				return err
			}
			found := 0
			for _, e := range list.Items {
				if e.Reason == reason && e.Regarding.Kind == "Gateway" && e.Regarding.Name == "second" && e.Regarding.UID == g.UID && e.ReportingController == "spliceway.dev/gateway-controller" && e.ReportingInstance != "" {
					found++
				}
			}
			if found != 1 {
				return fmt.Errorf("%d of %d events are it", found, len(list.Items))
			}
			return nil
		}
	}
	metric := func(want string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, body, err := get(ctx, "/metrics")
			if err == nil && !strings.Contains(body, "spliceway_gateways_not_served "+want+"\n") {
				err = fmt.Errorf("it is not %s", want)
			}
			return err
		}
	}
	until(t, "an event tells of it", event("NotListening"))
	until(t, "the metric tells of it", metric("1"))
	// Others go on, and it is told once.
	s.create(tlsRoute("q", "g", "one", "b.example.com"))
	s.expect(s.address("g"), "b.example.com", "one")
	if err := event("NotListening")(t.Context()); err != nil {
		t.Error(err)
	}
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	s.create(tlsRoute("p", "g", "one", "c.example.com"))
	until(t, "an event tells that it is over", event("Listening"))
	until(t, "the metric tells that it is over", metric("0"))
}
