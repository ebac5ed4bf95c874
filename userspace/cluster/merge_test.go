// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/spliceway/spliceway/userspace/api/v1alpha1"
	"github.com/spliceway/spliceway/userspace/manifest"
)

var (
	then = metav1.NewTime(time.Unix(1000, 0))
	now  = metav1.NewTime(time.Unix(2000, 0))
)

func aCondition(kind string, status metav1.ConditionStatus, message string, at metav1.Time) metav1.Condition {
	return metav1.Condition{Type: kind, Status: status, Reason: "R", Message: message, LastTransitionTime: at}
}

func TestMergedGateway(t *testing.T) {
	g := &gatewayv1.Gateway{}
	g.Status.Conditions = []metav1.Condition{
		aCondition("Accepted", metav1.ConditionTrue, "old words", then),
		aCondition("Programmed", metav1.ConditionFalse, "", then),
		aCondition("InsecureFrontendValidationMode", metav1.ConditionTrue, "", then),
		aCondition("example.com/Foreign", metav1.ConditionTrue, "", then),
	}
	g.Status.Listeners = []gatewayv1.ListenerStatus{{Name: "a", Conditions: []metav1.Condition{aCondition("Accepted", metav1.ConditionTrue, "", then)}}, {Name: "gone"}}
	wanted := &gatewayv1.GatewayStatus{
		Conditions: []metav1.Condition{aCondition("Accepted", metav1.ConditionTrue, "new words", metav1.Time{}), aCondition("Programmed", metav1.ConditionTrue, "", metav1.Time{})},
		Listeners:  []gatewayv1.ListenerStatus{{Name: "a", AttachedRoutes: 2, Conditions: []metav1.Condition{aCondition("Accepted", metav1.ConditionTrue, "", metav1.Time{})}}},
	}
	want := &gatewayv1.GatewayStatus{
		Conditions: []metav1.Condition{
			aCondition("Accepted", metav1.ConditionTrue, "new words", then), // it said so before: the time stays
			aCondition("Programmed", metav1.ConditionTrue, "", now),
			aCondition("example.com/Foreign", metav1.ConditionTrue, "", then),
		},
		Listeners: []gatewayv1.ListenerStatus{{Name: "a", AttachedRoutes: 2, Conditions: []metav1.Condition{aCondition("Accepted", metav1.ConditionTrue, "", then)}}},
	}
	got := merged(g, wanted, controller, now)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	g.Status = *got.(*gatewayv1.GatewayStatus)
	if again := merged(g, wanted, controller, metav1.Now()); again != nil {
		t.Errorf("a status that is there already would be written again: %v", again)
	}
}

func TestMergedRoute(t *testing.T) {
	parent := func(by, name string, at metav1.Time) gatewayv1.RouteParentStatus {
		return gatewayv1.RouteParentStatus{ControllerName: gatewayv1.GatewayController(by), ParentRef: gatewayv1.ParentReference{Name: gatewayv1.ObjectName(name)},
			Conditions: []metav1.Condition{aCondition("Accepted", metav1.ConditionTrue, "", at)}}
	}
	r := &gatewayv1.TLSRoute{}
	r.Status.Parents = []gatewayv1.RouteParentStatus{parent(controller, "left", then), parent("example.com/other", "left", then), parent(controller, "stays", then)}
	wanted := &gatewayv1.TLSRouteStatus{RouteStatus: gatewayv1.RouteStatus{Parents: []gatewayv1.RouteParentStatus{parent(controller, "stays", metav1.Time{}), parent(controller, "new", metav1.Time{})}}}
	got := merged(r, wanted, controller, now).(*gatewayv1.TLSRouteStatus)
	want := []gatewayv1.RouteParentStatus{parent("example.com/other", "left", then), parent(controller, "stays", then), parent(controller, "new", now)}
	if diff := cmp.Diff(want, got.Parents); diff != "" {
		t.Errorf("parents (-want +got):\n%s", diff)
	}
	// It names no Gateway of ours any more.
	got = merged(r, nil, controller, now).(*gatewayv1.TLSRouteStatus)
	if diff := cmp.Diff(want[:1], got.Parents); diff != "" {
		t.Errorf("parents of others (-want +got):\n%s", diff)
	}
	if got := merged(&gatewayv1.TLSRoute{}, nil, controller, now); got != nil {
		t.Errorf("a route of others would be written: %v", got)
	}
}

func TestMergedPolicyHasNoMoreAncestorsThanAllowed(t *testing.T) {
	p := &gatewayv1.BackendTLSPolicy{}
	for range 10 {
		p.Status.Ancestors = append(p.Status.Ancestors, gatewayv1.PolicyAncestorStatus{ControllerName: "example.com/other"})
	}
	wanted := &gatewayv1.PolicyStatus{}
	for range 10 {
		wanted.Ancestors = append(wanted.Ancestors, gatewayv1.PolicyAncestorStatus{ControllerName: controller})
	}
	if got := merged(p, wanted, controller, now).(*gatewayv1.PolicyStatus); len(got.Ancestors) != maxAncestors {
		t.Errorf("%d ancestors, want %d", len(got.Ancestors), maxAncestors)
	}
}

func TestLongMessagesAreCut(t *testing.T) {
	long := timed(nil, []metav1.Condition{aCondition("Accepted", metav1.ConditionFalse, strings.Repeat("ä", 40000), now)}, now)[0].Message
	if len(long) > 32768 || !strings.HasSuffix(long, "ä...") {
		t.Errorf("%d bytes, ending in %q", len(long), long[len(long)-8:])
	}
}

// What merging leaves as it is, is told at a glance, and nothing else.
func TestSameParents(t *testing.T) {
	now := metav1.Now()
	section, other := gatewayv1.SectionName("s"), gatewayv1.SectionName("o")
	base := func() gatewayv1.RouteParentStatus {
		return gatewayv1.RouteParentStatus{ControllerName: controller, ParentRef: gatewayv1.ParentReference{Name: "g", SectionName: &section},
			Conditions: []metav1.Condition{{Type: "Accepted", Status: "True", Reason: "R", Message: "m", ObservedGeneration: 1}}}
	}
	for _, tt := range []struct {
		name   string
		change func(*gatewayv1.RouteParentStatus)
		same   bool
	}{
		{"nothing", func(*gatewayv1.RouteParentStatus) {}, true},
		{"the time", func(p *gatewayv1.RouteParentStatus) { p.Conditions[0].LastTransitionTime = now }, true},
		{"the message", func(p *gatewayv1.RouteParentStatus) { p.Conditions[0].Message = "n" }, false},
		{"the reason", func(p *gatewayv1.RouteParentStatus) { p.Conditions[0].Reason = "S" }, false},
		{"the generation", func(p *gatewayv1.RouteParentStatus) { p.Conditions[0].ObservedGeneration = 2 }, false},
		{"one more", func(p *gatewayv1.RouteParentStatus) { p.Conditions = append(p.Conditions, p.Conditions[0]) }, false},
		{"the section", func(p *gatewayv1.RouteParentStatus) { p.ParentRef.SectionName = &other }, false},
		{"no section", func(p *gatewayv1.RouteParentStatus) { p.ParentRef.SectionName = nil }, false},
	} {
		has := base()
		tt.change(&has)
		r := &gatewayv1.TLSRoute{}
		r.Status.Parents = []gatewayv1.RouteParentStatus{has}
		got := merged(r, &gatewayv1.TLSRouteStatus{RouteStatus: gatewayv1.RouteStatus{Parents: []gatewayv1.RouteParentStatus{base()}}}, controller, now)
		if (got == nil) != tt.same {
			t.Errorf("%s: written: %v", tt.name, got)
		}
	}
	foreign := base()
	foreign.ControllerName = "other"
	if sameParents([]gatewayv1.RouteParentStatus{foreign}, []gatewayv1.RouteParentStatus{base()}, controller) {
		t.Error("another controller's")
	}
}

// An object that its schema lets through, and that is wrong all the same, is told so.
func TestRefused(t *testing.T) {
	kinds := kinds(false)
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == "AgentEndpoint" })
	read := func(status string) *item {
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON([]byte(`{"apiVersion":"spliceway.dev/v1alpha1","kind":"AgentEndpoint","metadata":{"namespace":"default","name":"e","generation":3},"spec":{"url":"tls://a.example.com","upstream":{"url":"tcp://10.0.0.1:80"},"bindings":7},"status":` + status + `}`)); err != nil {
			t.Fatal(err)
		}
		return kinds[i].read(u)
	}
	now := metav1.Now()
	it := read("{}")
	if it.object != nil {
		t.Fatal("it is not refused")
	}
	status, ok := refused(it, now).(refusal)
	if !ok || len(status.Conditions) != 1 || status.Conditions[0].Status != "False" || !strings.Contains(status.Conditions[0].Message, "bindings") || status.ObservedGeneration != 3 {
		t.Fatalf("status %+v", status)
	}
	data, err := json.Marshal(status)
	if err != nil {
		t.Fatal(err)
	}
	if again := refused(read(string(data)), metav1.NewTime(now.Add(time.Hour))); again != nil {
		t.Errorf("it is written again: %+v", again)
	}
	if patch, err := statusPatch(it, status); err != nil || !strings.Contains(string(patch), `"reason":"InvalidObject"`) {
		t.Errorf("patch %s, %v", patch, err)
	}
}

// Conditions and fields of ngrok's own operator stay.
func TestOthersPartsOfEndpoints(t *testing.T) {
	e := &v1alpha1.AgentEndpoint{}
	e.Status.DomainRef = &v1alpha1.NamespacedRef{Name: "d"}
	e.Status.AssignedURL = "tls://old"
	e.Status.Conditions = []metav1.Condition{aCondition("Ready", "False", "m", then), aCondition("DomainReady", "True", "m", then)}
	got := merged(e, &v1alpha1.AgentEndpointStatus{Conditions: []metav1.Condition{aCondition("Ready", "True", "m", metav1.Time{})}}, controller, now)
	status, ok := got.(*v1alpha1.AgentEndpointStatus)
	if !ok || len(status.Conditions) != 2 || status.Conditions[0].Status != "True" || status.Conditions[1].Type != "DomainReady" {
		t.Fatalf("%+v", got)
	}
	patch, err := statusPatch(&item{Object: e, object: objectsOf(e)[0]}, status)
	if err != nil || strings.Contains(string(patch), "domainRef") || !strings.Contains(string(patch), `"assignedURL":null`) {
		t.Errorf("%s, %v", patch, err)
	}
}

// What was refused is not tried again, until the object or its status is another.
func TestRefusedStatuses(t *testing.T) {
	w := newWriter(nil)
	it := &item{key: manifest.Key{Name: "x"}}
	status := func(reason string, at metav1.Time) any {
		return refusal{Conditions: []metav1.Condition{{Type: "Ready", Reason: reason, LastTransitionTime: at}}}
	}
	if w.wasRefused(job{item: it, status: status("a", now)}) {
		t.Error("never tried")
	}
	w.refuse(job{item: it, status: status("a", now)})
	for range 2 {
		if !w.wasRefused(job{item: it, status: status("a", then)}) {
			t.Error("it is tried again")
		}
	}
	if w.wasRefused(job{item: it, status: status("b", now)}) {
		t.Error("another status is not tried")
	}
	w.refuse(job{item: it, status: status("a", now)})
	if w.wasRefused(job{item: &item{key: it.key}, status: status("a", now)}) {
		t.Error("another version is not tried")
	}
}
