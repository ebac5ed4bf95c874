// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// TestHostile objects: a thousand wrong routes, and what a tenant may write into a Gateway,
// have their conditions, and cost those who are right nothing.
func TestHostile(t *testing.T) {
	s := newSite(t)
	one, two := answers(t, "one"), answers(t, "two")
	s.create(service("one", one)...)
	s.create(service("two", two)...)
	s.create(gateway("g"), tlsRoute("good", "g", "one", "a.example.com", "*.wide.example.com"))
	other := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "other"}}
	s.create(other)
	s.run(fmt.Sprintf("kubernetes: {addresses: [%q]}", pool))
	address := s.address("g")
	s.expect(address, "a.example.com", "one")
	pid := s.agent.cmd.Process.Pid

	var asked, lost atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { // all the while
		defer close(done)
		for ctx.Err() == nil {
			asked.Add(1)
			if got, err := ask(context.WithoutCancel(ctx), address, "a.example.com"); got != "one" {
				lost.Add(1)
				t.Errorf("the good route is answered by %q, %v", got, err)
			}
		}
	}()
	foreign, section, pod, group := gatewayv1.Namespace("other"), gatewayv1.SectionName("nothing"), gatewayv1.Kind("Pod"), gatewayv1.Group("")
	mistakes := []struct {
		condition gatewayv1.RouteConditionType
		reason    string
		says      string // in the message
		make      func(r *gatewayv1.TLSRoute)
	}{
		{gatewayv1.RouteConditionResolvedRefs, "BackendNotFound", "Service default/nobody is not there", func(r *gatewayv1.TLSRoute) { r.Spec.Rules[0].BackendRefs[0].Name = "nobody" }},
		{gatewayv1.RouteConditionResolvedRefs, "BackendNotFound", "has no port 1", func(r *gatewayv1.TLSRoute) { *r.Spec.Rules[0].BackendRefs[0].Port = 1 }},
		{gatewayv1.RouteConditionResolvedRefs, "RefNotPermitted", "no ReferenceGrant in its namespace", func(r *gatewayv1.TLSRoute) { r.Spec.Rules[0].BackendRefs[0].Namespace = &foreign }},
		{gatewayv1.RouteConditionResolvedRefs, "InvalidKind", "a Service is expected", func(r *gatewayv1.TLSRoute) {
			r.Spec.Rules[0].BackendRefs[0].Kind, r.Spec.Rules[0].BackendRefs[0].Group = &pod, &group
		}},
		{gatewayv1.RouteConditionAccepted, "NoMatchingParent", "has no listener of the name", func(r *gatewayv1.TLSRoute) { r.Spec.ParentRefs[0].SectionName = &section }},
		{gatewayv1.RouteConditionAccepted, "NotAllowedByListeners", "takes no routes of namespace other", func(r *gatewayv1.TLSRoute) {
			ours := gatewayv1.Namespace(namespace)
			r.Namespace, r.Spec.ParentRefs[0].Namespace = "other", &ours
		}},
	}
	wrong := make([]*gatewayv1.TLSRoute, 1000)
	s.createAll(len(wrong), func(i int) client.Object {
		r := tlsRoute(fmt.Sprintf("wrong%d", i), "g", "one", gatewayv1.Hostname(fmt.Sprintf("wrong%d.example.com", i)))
		r.Namespace = namespace
		mistakes[i%len(mistakes)].make(r)
		wrong[i] = r
		return r
	})
	until(t, "each has its condition", func(ctx context.Context) error {
		for i, r := range wrong {
			m := mistakes[i%len(mistakes)]
			var now gatewayv1.TLSRoute
			if err := s.client.Get(ctx, client.ObjectKeyFromObject(r), &now); err != nil {
				return err
			}
			c, err := conditionOf(&now, m.condition)
			if err != nil || c.Status != metav1.ConditionFalse || c.Reason != m.reason || !strings.Contains(c.Message, m.says) {
				return fmt.Errorf("%s: %+v, %w", r.Name, c, err)
			}
		}
		return nil
	})

	// Names: as many as a route may have, all wildcards, of every depth; and those of others.
	s.createAll(100, func(i int) client.Object {
		var names []gatewayv1.Hostname
		for j := range 16 {
			names = append(names, gatewayv1.Hostname("*."+strings.Repeat("x.", (i*16+j)%100+1)+fmt.Sprintf("h%d.test", i)))
		}
		return tlsRoute(fmt.Sprintf("names%d", i), "g", "two", names...)
	})
	s.create(tlsRoute("thief", "g", "two", "a.example.com", "*.wide.example.com", "b.wide.example.com"))
	s.expect(address, "a.x.h25.test", "two")
	s.expect(address, "b.wide.example.com", "two") // more specific
	s.expect(address, "c.wide.example.com", "one") // the older route has it

	// A Gateway with all the certificates that it can ask for, none of them there.
	greedy := gateway("greedy")
	mode := gatewayv1.TLSModeTerminate
	greedy.Spec.Listeners = nil
	for i := range 64 {
		hostname := gatewayv1.Hostname(fmt.Sprintf("g%d.test", i))
		l := gatewayv1.Listener{Name: gatewayv1.SectionName(fmt.Sprintf("l%d", i)), Port: 443, Protocol: gatewayv1.TLSProtocolType, Hostname: &hostname, TLS: &gatewayv1.ListenerTLSConfig{Mode: &mode}}
		for j := range 64 {
			l.TLS.CertificateRefs = append(l.TLS.CertificateRefs, gatewayv1.SecretObjectReference{Name: gatewayv1.ObjectName(fmt.Sprintf("s%d-%d", i, j))})
		}
		greedy.Spec.Listeners = append(greedy.Spec.Listeners, l)
	}
	s.create(greedy)
	until(t, "the greedy Gateway has its conditions", func(ctx context.Context) error {
		var g gatewayv1.Gateway
		if err := s.client.Get(ctx, client.ObjectKeyFromObject(greedy), &g); err != nil {
			return err
		}
		if len(g.Status.Listeners) != 64 {
			return errors.New("not all listeners have a status")
		}
		over := 0
		for _, l := range g.Status.Listeners {
			for _, c := range l.Conditions {
				if c.Type == string(gatewayv1.ListenerConditionResolvedRefs) && c.Status == metav1.ConditionFalse && strings.Contains(c.Message, "kubernetes.maxReferences") {
					over++
				}
			}
		}
		if over < 40 { // of 4,096 Secrets 1,024 are looked for
			return fmt.Errorf("%d of 64 listeners say that not all of their Secrets are looked for", over)
		}
		return nil
	})
	// One that asks for an address which another one has.
	robber := gateway("robber")
	hostname := gatewayv1.Hostname("a.example.com")
	robber.Spec.Listeners[0].Hostname = &hostname
	robber.Spec.Addresses = []gatewayv1.GatewaySpecAddress{{Value: address}}
	s.create(robber, tlsRoute("robbed", "robber", "two", "a.example.com"))
	until(t, "the robber is told that the address is another's", func(ctx context.Context) error {
		var g gatewayv1.Gateway
		if err := s.client.Get(ctx, client.ObjectKeyFromObject(robber), &g); err != nil {
			return err
		}
		for _, c := range g.Status.Conditions {
			if c.Type == string(gatewayv1.GatewayConditionProgrammed) && c.Reason == string(gatewayv1.GatewayReasonAddressNotUsable) && strings.Contains(c.Message, "Gateway default/g") {
				return nil
			}
		}
		return fmt.Errorf("conditions %+v", g.Status.Conditions)
	})
	s.create(tlsRoute("after", "g", "two", "after.example.com"))
	s.expect(address, "after.example.com", "two")
	stop()
	<-done
	t.Logf("%d connections to the good route meanwhile, %d lost", asked.Load(), lost.Load())
	if s.agent.cmd.Process.Pid != pid || strings.Contains(s.agent.log(), "panic") {
		t.Error("the agent is another one")
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(status)) {
		var kb int
		if _, err := fmt.Sscanf(l, "VmHWM: %d kB", &kb); err == nil && kb > 300<<10 {
			t.Errorf("the agent had %d kB", kb)
		}
		if strings.HasPrefix(l, "VmHWM") || strings.HasPrefix(l, "Threads") {
			t.Logf("the agent: %s", strings.TrimSpace(l))
		}
	}
}
