// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"
)

const controller = "spliceway.dev/gateway"

// read decodes documents, each with namespace default unless it names another.
func read(t testing.TB, text string) Input {
	t.Helper()
	in := Input{ControllerName: controller, AnyClass: true, ServicesUnknown: true, NoNamespaces: true}
	for _, doc := range strings.Split(text, "\n---\n") {
		var meta metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(doc), &meta); err != nil {
			t.Fatal(err)
		}
		switch meta.Kind {
		case "GatewayClass":
			add(t, &in.Classes, doc)
		case "Gateway":
			add(t, &in.Gateways, doc)
		case "TLSRoute":
			add(t, &in.TLSRoutes, doc)
		case "HTTPRoute":
			add(t, &in.HTTPRoutes, doc)
		case "ReferenceGrant":
			add(t, &in.ReferenceGrants, doc)
		case "BackendTLSPolicy":
			add(t, &in.BackendTLSPolicies, doc)
		case "Service":
			in.ServicesUnknown = false
			add(t, &in.Services, doc)
		case "EndpointSlice":
			add(t, &in.EndpointSlices, doc)
		case "Secret":
			add(t, &in.Secrets, doc)
		case "ConfigMap":
			add(t, &in.ConfigMaps, doc)
		case "Namespace":
			add(t, &in.Namespaces, doc)
		default:
			t.Fatalf("kind %q", meta.Kind)
		}
	}
	return in
}

func add[T any, P interface {
	*T
	metav1.Object
}](t testing.TB, list *[]P, doc string) {
	t.Helper()
	o := P(new(T))
	if err := yaml.UnmarshalStrict([]byte(doc), o); err != nil {
		t.Fatalf("%v in\n%s", err, doc)
	}
	if o.GetNamespace() == "" {
		o.SetNamespace("default")
	}
	o.SetGeneration(7)
	*list = append(*list, o)
}

// gw and route are objects of the tests' usual shape, in flow style.
func gw(name, listeners string) string {
	return fmt.Sprintf("kind: Gateway\nmetadata: {name: %s}\nspec: {gatewayClassName: c, listeners: [%s]}", name, listeners)
}

func route(name, parent, hostnames, backends string) string {
	return fmt.Sprintf("kind: TLSRoute\nmetadata: {name: %s}\nspec: {parentRefs: [%s], hostnames: [%s], rules: [{backendRefs: [%s]}]}", name, parent, hostnames, backends)
}

func docs(list ...string) string { return strings.Join(list, "\n---\n") }

const pass = "protocol: TLS, tls: {mode: Passthrough}"

// lines tells a Result in lines that tests can ask for.
func lines(r *Result) []string {
	var list []string
	for _, o := range r.Routes {
		line := fmt.Sprintf("serve %s %s", o.Route, o.Mode)
		for _, m := range o.Matches {
			line += fmt.Sprintf(" %s", match(m))
		}
		list = append(list, line+backends(o.Backends))
	}
	for _, h := range r.HTTP {
		line := fmt.Sprintf("serve %s/%s HTTP secure=%t", h.Gateway.Name, h.Name, h.Termination != nil)
		for _, m := range h.Matches {
			line += " " + match(m)
		}
		for _, r := range h.Rules {
			line += fmt.Sprintf(" %s:%s%s", r.Route.Name, r.Hostname, r.Path)
			if r.Exact {
				line += "!"
			}
			line += backends(r.Backends)
		}
		list = append(list, line)
	}
	for _, m := range r.Refusals {
		list = append(list, "refuse "+match(m))
	}
	conditions := func(what string, all []metav1.Condition) {
		for _, c := range all {
			if c.ObservedGeneration != 7 || c.Message == "" {
				list = append(list, fmt.Sprintf("%s %s lacks generation or message", what, c.Type))
			}
			list = append(list, fmt.Sprintf("%s %s=%s/%s", what, c.Type, c.Status, c.Reason))
		}
	}
	for n, s := range r.Classes {
		conditions("class "+n.Name, s.Conditions)
	}
	for n, s := range r.Gateways {
		conditions("gateway "+n.Name, s.Conditions)
		for _, a := range s.Addresses {
			list = append(list, fmt.Sprintf("gateway %s address %s %s", n.Name, *a.Type, a.Value))
		}
		for _, l := range s.Listeners {
			what := fmt.Sprintf("listener %s/%s", n.Name, l.Name)
			conditions(what, l.Conditions)
			kinds := []string{}
			for _, k := range l.SupportedKinds {
				kinds = append(kinds, string(k.Kind))
			}
			list = append(list, fmt.Sprintf("%s %v attached %d", what, kinds, l.AttachedRoutes))
		}
	}
	parents := func(n types.NamespacedName, all []gatewayv1.RouteParentStatus) {
		for _, p := range all {
			conditions(fmt.Sprintf("route %s at %s", n.Name, p.ParentRef.Name), p.Conditions)
		}
	}
	for n, s := range r.TLSRoutes {
		parents(n, s.Parents)
	}
	for n, s := range r.HTTPRoutes {
		parents(n, s.Parents)
	}
	for n, s := range r.BackendTLSPolicies {
		for _, a := range s.Ancestors {
			conditions(fmt.Sprintf("policy %s at %s", n.Name, a.AncestorRef.Name), a.Conditions)
		}
	}
	for _, w := range r.Warnings {
		list = append(list, "warning "+w.Kind+" "+w.Name+": "+w.Text)
	}
	return list
}

func backends(all []Backend) (line string) {
	for _, b := range all {
		line += fmt.Sprintf(" -> %d*%s%v", b.Weight, b.Host, b.Addresses)
		if b.Invalid != "" {
			line += "INVALID"
		}
		if b.TLS != nil {
			line += "TLS:" + b.TLS.ServerName
		}
	}
	return line
}

func match(m Match) string { return fmt.Sprintf("%v:%d:%s", m.Addresses, m.Port, m.Name) }

// want fails unless each line is there. One that starts with "serve" or "refuse"
// asks for all of these lines, "no " for the absence of one.
func want(t *testing.T, got, lines []string) {
	t.Helper()
	flow := func(l string) bool { return strings.HasPrefix(l, "serve") || strings.HasPrefix(l, "refuse") }
	var gotFlow, wantFlow []string
	for _, l := range got {
		if flow(l) {
			gotFlow = append(gotFlow, l)
		}
		if strings.HasSuffix(l, "lacks generation or message") {
			t.Error(l)
		}
	}
	for _, l := range lines {
		absent, isAbsent := strings.CutPrefix(l, "no ")
		switch {
		case isAbsent && slices.ContainsFunc(got, func(g string) bool { return strings.HasPrefix(g, absent) }):
			t.Errorf("%q is there", absent)
		case flow(l):
			wantFlow = append(wantFlow, l)
		case !isAbsent && !slices.ContainsFunc(got, func(g string) bool { return g == l || strings.HasPrefix(l, "warning") && strings.HasPrefix(g, l) }):
			t.Errorf("%q is not there, but:\n%s", l, strings.Join(got, "\n"))
		}
	}
	if diff := cmp.Diff(wantFlow, gotFlow, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("served (-want +got):\n%s", diff)
	}
}

func TestOrderDoesNotMatter(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		in := random(r)
		first := Compute(in)
		shuffle(r, in.Gateways)
		shuffle(r, in.TLSRoutes)
		if diff := cmp.Diff(first, Compute(in), cmpopts.IgnoreUnexported(Backend{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Fatalf("first, then shuffled:\n%s", diff)
		}
	}
}

func shuffle[T any](r *rand.Rand, list []T) {
	r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
}

func BenchmarkCompute(b *testing.B) {
	in := Input{ControllerName: controller, AnyClass: true}
	from := gatewayv1.NamespacesFromSame
	g := &gatewayv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "g"}}
	mode := gatewayv1.TLSModePassthrough
	g.Spec.Listeners = []gatewayv1.Listener{{Name: "l", Port: 443, Protocol: "TLS", TLS: &gatewayv1.ListenerTLSConfig{Mode: &mode},
		AllowedRoutes: &gatewayv1.AllowedRoutes{Namespaces: &gatewayv1.RouteNamespaces{From: &from}}}}
	in.Gateways = append(in.Gateways, g)
	port, tcp := gatewayv1.PortNumber(443), int32(8443)
	for i := range 10_000 {
		name := fmt.Sprintf("r%d", i)
		meta := metav1.ObjectMeta{Namespace: "default", Name: name}
		r := &gatewayv1.TLSRoute{ObjectMeta: meta}
		r.Spec.ParentRefs = []gatewayv1.ParentReference{{Name: "g"}}
		r.Spec.Hostnames = []gatewayv1.Hostname{gatewayv1.Hostname(name + ".example.com")}
		r.Spec.Rules = []gatewayv1.TLSRouteRule{{BackendRefs: []gatewayv1.BackendRef{{BackendObjectReference: gatewayv1.BackendObjectReference{Name: gatewayv1.ObjectName(name), Port: &port}}}}}
		in.TLSRoutes = append(in.TLSRoutes, r)
		in.Services = append(in.Services, &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 443}}}})
		slice := &discoveryv1.EndpointSlice{ObjectMeta: meta, Ports: []discoveryv1.EndpointPort{{Port: &tcp}}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}}}}
		slice.Labels = map[string]string{discoveryv1.LabelServiceName: name}
		in.EndpointSlices = append(in.EndpointSlices, slice)
	}
	b.ReportAllocs()
	for b.Loop() {
		if got := len(Compute(in).Routes); got != 10_000 {
			b.Fatalf("%d routes", got)
		}
	}
}
