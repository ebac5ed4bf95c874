// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/spliceway/spliceway/testenv"
	"github.com/spliceway/spliceway/userspace/config"
	"github.com/spliceway/spliceway/userspace/manifest"
	"github.com/spliceway/spliceway/userspace/route"
)

// made is the plan of a file's endpoints and of manifests.
func made(t testing.TB, file, manifests string, o Options) *Plan {
	t.Helper()
	cfg, err := config.Parse("spliceway.yaml", []byte(file+"\nmanifests: [m.yaml]\n"))
	if err != nil {
		t.Fatal(err)
	}
	return Make(cfg, manifest.Parse("m.yaml", []byte(manifests)), o)
}

// routes is what a plan serves: URL, endpoint and targets.
func routes(p *Plan) (all []string) {
	for i := range p.Endpoints {
		e, x := &p.Config.Endpoints[i], &p.Endpoints[i]
		var targets []string
		for _, t := range e.Upstream.All {
			s := fmt.Sprintf("%s:%d", t.Host, t.Port)
			if t.TLS {
				s = "tls " + s
			}
			if t.Refuse != "" {
				s += " refused"
			}
			targets = append(targets, s)
		}
		for _, at := range x.Places {
			all = append(all, fmt.Sprintf("%s %s -> %s", at, e.Name, strings.Join(targets, ", ")))
		}
		for _, at := range x.Internal {
			all = append(all, fmt.Sprintf("internal %s %s -> %s", at, e.Name, strings.Join(targets, ", ")))
		}
	}
	return all
}

// statuses are the conditions that are wrong: object, condition, reason.
func statuses(p *Plan) (all []string) {
	for i := range p.Objects {
		for _, c := range p.Objects[i].Conditions() {
			if Bad(c.Condition) {
				all = append(all, fmt.Sprintf("%s: %s: %s", p.Objects[i].Key, c.Type, c.Reason))
			}
		}
	}
	return all
}

func expect(t *testing.T, what string, want, got []string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: -want +got:\n%s", what, diff)
	}
}

const none = "endpoints: []"

func agent(name, spec string) string {
	return "---\napiVersion: ngrok.k8s.ngrok.com/v1alpha1\nkind: AgentEndpoint\nmetadata: {name: " + name + "}\nspec: " + spec + "\n"
}

func cloud(name, spec string) string {
	return "---\napiVersion: ngrok.k8s.ngrok.com/v1alpha1\nkind: CloudEndpoint\nmetadata: {name: " + name + "}\nspec: " + spec + "\n"
}

const denies = "{inline: {on_tcp_connect: [{actions: [{type: deny}]}]}}"

func TestThePagesManifests(t *testing.T) {
	for file, want := range map[string][]string{
		"agentendpoint": {"example-hostname.ngrok.io:8443 agentendpoint/default/example-service -> tls example-service.example-namespace:8443"},
		"cloudendpoint": {
			"internal example-service.internal:8443 agentendpoint/default/example-service -> tls example-service.example-namespace:8443",
			"example-hostname.ngrok.io:8443 cloudendpoint/default/example-cloud-endpoint -> ",
		},
		"gateway-tlsroute": {"example-hostname.ngrok.io:9000 tlsroute/default/example-tlsroute -> example-service.default:9000"},
	} {
		data, err := os.ReadFile("../../examples/manifests/" + file + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		p := made(t, none, string(data), Options{})
		expect(t, file, want, routes(p))
		if len(p.Problems) > 0 || len(statuses(p)) > 0 {
			t.Errorf("%s: %v, %v", file, p.Problems, statuses(p))
		}
	}
}

func TestEndpoints(t *testing.T) {
	p := made(t, none, ""+
		agent("a", `{url: "tls://A.test", upstream: {url: "tcp://svc:80", proxyProtocolVersion: "2"}, description: d, metadata: '{"owner": "me", "n": 1}'}`)+
		agent("w", `{url: "tls://*.w.test:8443", upstream: {url: "tls://10.0.0.1:1"}, bindings: [public]}`)+
		agent("i", `{url: "tls://i.internal", upstream: {url: "tls://other.ns:1"}, bindings: [internal]}`), Options{})
	expect(t, "routes", []string{
		"a.test:443 agentendpoint/default/a -> svc.default:80",
		"*.w.test:8443 agentendpoint/default/w -> tls 10.0.0.1:1",
		"internal i.internal:443 agentendpoint/default/i -> tls other.ns:1",
	}, routes(p))
	e := p.Config.Endpoints[0]
	if e.Upstream.ProxyProtocol != "v2" || e.Description != "d" || e.Metadata["owner"] != "me" || e.Metadata["n"] != "1" || e.Upstream.Retries != 2 {
		t.Errorf("endpoint %+v", e)
	}
	if len(p.Problems)+len(p.Warnings) > 0 {
		t.Errorf("%v, %v", p.Problems, p.Warnings)
	}
}

func TestProblems(t *testing.T) {
	for _, tt := range []struct{ name, manifests, want, status string }{
		{"no tls://", agent("a", `{url: "https://a.test", upstream: {url: "tcp://b:1"}}`), "m.yaml:5:13: spec.url: AgentEndpoint default/a: https:// is not served", "ConfigurationError"},
		{"a domain", agent("a", `{url: "a.test", upstream: {url: "tcp://b:1"}}`), "without tls:// it is an HTTP endpoint", "ConfigurationError"},
		{"a random name", agent("a", `{url: "tls://", upstream: {url: "tcp://b:1"}}`), "ngrok would choose a name", "ConfigurationError"},
		{"binding", agent("a", `{url: "tls://a.test", bindings: [kubernetes], upstream: {url: "tcp://b:1"}}`), "TLS endpoints are public or internal", "ConfigurationError"},
		{"internal by binding alone", agent("a", `{url: "tls://a.test", bindings: [internal], upstream: {url: "tcp://b:1"}}`), "spec.bindings[0]: AgentEndpoint default/a: tls://a.test is public, because of its name", "ConfigurationError"},
		{"upstream without port", agent("a", `{url: "tls://a.test", upstream: {url: "tcp://b"}}`), "spec.upstream.url: AgentEndpoint default/a: the port is missing", "UpstreamError"},
		{"upstream of HTTP", agent("a", `{url: "tls://a.test", upstream: {url: "http://b:1"}}`), "http:// is not spoken to upstreams", "UpstreamError"},
		{"bad policy", agent("a", `{url: "tls://a.test", upstream: {url: "tcp://b:1"}, trafficPolicy: {inline: {on_tcp_connect: [{actions: [{type: x}]}]}}}`),
			"spec.trafficPolicy.inline.on_tcp_connect[0].actions[0].type: AgentEndpoint default/a: unknown action", "TrafficPolicyError"},
		{"no such policy", agent("a", `{url: "tls://a.test", upstream: {url: "tcp://b:1"}, trafficPolicy: {targetRef: {name: p}}}`), "there is no NgrokTrafficPolicy default/p", "TrafficPolicyError"},
		{"no policy", cloud("c", `{url: "tls://a.test"}`), "a policy is needed", "TrafficPolicyError"},
		{"no Secret", agent("a", `{url: "tls://a.test", upstream: {url: "tcp://b:1"}, tlsTermination: {serverCertificateRef: {name: s}}}`), "there is no Secret default/s", "ConfigurationError"},
		{"an empty Secret", agent("a", `{url: "tls://a.test", upstream: {url: "tcp://b:1"}, tlsTermination: {serverCertificateRef: {name: s}}}`) + "---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\n", "has no tls.crt", "ConfigurationError"},
		{"a broken Secret", agent("a", `{url: "tls://a.test", upstream: {url: "tcp://b:1"}, tlsTermination: {serverCertificateRef: {name: s}}}`) + "---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {tls.crt: x, tls.key: hunter2}\n", "cannot be used", "ConfigurationError"},
		{"one URL twice", agent("a", `{url: "tls://a.test", upstream: {url: "tcp://b:1"}}`) + cloud("c", `{url: "tls://a.test:443", trafficPolicy: `+denies+`}`), "is the URL of endpoint agentendpoint/default/a at m.yaml:2:1; poolingEnabled: true would", "ConfigurationError"},
		{"the file's URL", agent("a", `{url: "tls://file.test", upstream: {url: "tcp://b:1"}}`), "is the URL of endpoint file at spliceway.yaml:1:13", "ConfigurationError"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := made(t, "endpoints: [{name: file, url: \"tls://file.test\", upstream: {url: \"tcp://10.0.0.1:1\"}}]", tt.manifests+agent("good", `{url: "tls://good.test", upstream: {url: "tcp://b:1"}}`), Options{})
			if len(p.Problems) != 1 || !strings.Contains(p.Problems.Error(), tt.want) || strings.Contains(p.Problems.Error(), "hunter2") {
				t.Errorf("got %v, want %s", p.Problems, tt.want)
			}
			bad := statuses(p)
			if len(bad) == 0 || !strings.HasSuffix(bad[len(bad)-1], "Ready: "+tt.status) {
				t.Errorf("statuses %q, want %s", bad, tt.status)
			}
			if all := routes(p); !strings.Contains(all[len(all)-1], "good.test") {
				t.Errorf("routes %q: one wrong object stops another", all)
			}
		})
	}
}

func TestPolicies(t *testing.T) {
	p := made(t, none, ""+
		"---\napiVersion: ngrok.k8s.ngrok.com/v1alpha1\nkind: NgrokTrafficPolicy\nmetadata: {name: p}\nspec: {policy: {on_tcp_connect: [{actions: [{type: deny}]}]}}\n"+
		"---\napiVersion: ngrok.k8s.ngrok.com/v1alpha1\nkind: NgrokTrafficPolicy\nmetadata: {name: broken}\nspec: {policy: {on_tcp_connect: [{actions: [{type: x}]}]}}\n"+
		agent("a", `{url: "tls://a.test", upstream: {url: "tcp://b:1"}, trafficPolicy: {targetRef: {name: p}}}`)+
		cloud("b", `{url: "tls://b.test", trafficPolicyName: broken}`)+
		cloud("c", `{url: "tls://c.test", trafficPolicy: {inline: {on_tcp_connect: [{expressions: ["true"], actions: [{type: deny}]}]}}}`)+
		cloud("d", `{url: "tls://d.test", trafficPolicy: {inline: {on_tcp_connect: [{actions: [{type: forward-internal, config: {url: "tls://none.internal"}}]}]}}}`), Options{})
	if p.Endpoints[0].Policy == nil {
		t.Error("the policy that is referred to is not there")
	}
	expect(t, "statuses", []string{
		"CloudEndpoint default/b: CloudEndpointCreated: TrafficPolicyError", "CloudEndpoint default/b: TrafficPolicyApplied: TrafficPolicyError", "CloudEndpoint default/b: Ready: TrafficPolicyError",
		"NgrokTrafficPolicy default/broken: Valid: TrafficPolicyError", "NgrokTrafficPolicy default/broken: Ready: TrafficPolicyError",
	}, statuses(p))
	if len(p.Problems) != 1 {
		t.Errorf("one mistake is told %d times: %v", len(p.Problems), p.Problems)
	}
	var warnings []string
	for _, w := range p.Warnings {
		warnings = append(warnings, w.Text)
	}
	text := strings.Join(warnings, "\n")
	for _, want := range []string{"CloudEndpoint default/c: connections may get past its policy", "forward-internal to \"tls://none.internal\": no internal endpoint has this URL", "trafficPolicyName is deprecated"} {
		if !strings.Contains(text, want) {
			t.Errorf("no warning %q in\n%s", want, text)
		}
	}
}

func TestPooling(t *testing.T) {
	p := made(t, none, ""+
		agent("a", `{url: "tls://a.test", upstream: {url: "tcp://b:1"}}`)+agent("b", `{url: "tls://a.test", upstream: {url: "tcp://b:2"}}`)+
		cloud("c", `{url: "tls://a.test", poolingEnabled: true, trafficPolicy: `+denies+`}`), Options{})
	expect(t, "peers", []string{"[0 1 2]", "[]", "[]"}, []string{fmt.Sprint(p.Endpoints[0].Peers), fmt.Sprint(p.Endpoints[1].Peers), fmt.Sprint(p.Endpoints[2].Peers)})
	tables, err := p.Tables()
	if err != nil {
		t.Fatal(err)
	}
	if m, ok := tables.Outer.Lookup(netip.Addr{}, 443, "a.test", nil); !ok || m.Endpoint != 0 {
		t.Errorf("match %+v, %t", m, ok)
	}
}

// TestWhereServicesAre: the table of hosts first, then the objects, then DNS.
func TestWhereServicesAre(t *testing.T) {
	const objects = `
---
apiVersion: v1
kind: Service
metadata: {name: sliced, namespace: ns}
spec: {clusterIP: 10.96.0.1, ports: [{name: tls, port: 443, targetPort: 8443}, {name: quic, port: 443, protocol: UDP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: sliced-1, namespace: ns, labels: {kubernetes.io/service-name: sliced}}
addressType: IPv4
endpoints:
- {addresses: [10.1.0.2], conditions: {ready: true}}
- {addresses: [10.1.0.1]}
- {addresses: [10.1.0.3], conditions: {ready: false}}
- {addresses: [10.1.0.4], conditions: {ready: true, terminating: true}}
ports: [{name: tls, port: 8443}, {name: quic, port: 8444, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: clustered, namespace: ns}
spec: {clusterIP: 10.96.0.2, ports: [{port: 443}]}
---
apiVersion: v1
kind: Service
metadata: {name: listed, namespace: ns}
spec: {clusterIP: 10.96.0.3, ports: [{port: 443}]}
`
	upstreams := []string{"sliced.ns:443", "sliced.ns.svc.cluster.local:443", "sliced.ns:444", "clustered.ns:443", "listed.ns:443", "unknown.ns:443", "bare:443", "localhost:443"}
	text := objects
	for i, u := range upstreams {
		text += agent(fmt.Sprint("e", i), fmt.Sprintf(`{url: "tls://e%d.test", upstream: {url: "tcp://%s"}}`, i, u))
	}
	text += `
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: listed-1, namespace: ns, labels: {kubernetes.io/service-name: listed}}
addressType: IPv4
endpoints: [{addresses: [10.1.0.9]}]
ports: [{port: 443}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g, namespace: ns}
spec: {gatewayClassName: spliceway, listeners: [{name: l, port: 8443, protocol: TLS, tls: {mode: Passthrough}}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: r, namespace: ns}
spec: {parentRefs: [{name: g}], hostnames: [r.test], rules: [{backendRefs: [{name: sliced, port: 443}, {name: listed, port: 443}]}]}
`
	p := made(t, "hosts: {listed.ns: [10.9.9.9]}", text, Options{})
	want := []string{
		"10.1.0.1:8443, 10.1.0.2:8443", "10.1.0.1:8443, 10.1.0.2:8443", "sliced.ns:444 refused", "10.96.0.2:443", "listed.ns:443", "unknown.ns:443", "bare.default:443", "localhost:443",
	}
	for i := range want {
		want[i] = fmt.Sprintf("e%d.test:443 agentendpoint/default/e%d -> %s", i, i, want[i])
	}
	want = append(want, "r.test:8443 tlsroute/ns/r -> 10.1.0.1:8443, 10.1.0.2:8443, listed.ns:443")
	expect(t, "routes", want, routes(p))
}

// TestWhatBreaksGoesOn as it was, and what is taken away does not.
func TestWhatBreaksGoesOn(t *testing.T) {
	one := agent("a", `{url: "tls://a.test", upstream: {url: "tcp://b:1"}}`)
	first := made(t, none, one+agent("b", `{url: "tls://b.test", upstream: {url: "tcp://b:1"}}`), Options{})
	before := "a.test:443 agentendpoint/default/a -> b.default:1"
	for _, tt := range []struct {
		name, manifests string
		want            []string
	}{
		{"taken away", "", nil},
		{"broken fields", agent("a", `{url: "tls://a.test", upsteam: {}}`), []string{before}},
		{"broken meaning", agent("a", `{url: "tls://a.test", upstream: {url: "ftp://b:1"}}`), []string{before}},
		{"broken file", "{: [", []string{before, "b.test:443 agentendpoint/default/b -> b.default:1"}},
		{"changed", agent("a", `{url: "tls://a.test", upstream: {url: "tcp://c:1"}}`), []string{"a.test:443 agentendpoint/default/a -> c.default:1"}},
	} {
		second := made(t, none, tt.manifests, Options{Old: first})
		expect(t, tt.name, tt.want, routes(second))
		// And for good: it is not what is broken that is the next one's old.
		if strings.HasPrefix(tt.name, "broken") {
			expect(t, tt.name+" again", tt.want, routes(made(t, none, tt.manifests, Options{Old: second})))
		}
	}
}

// TestASharedPolicyThatBreaksGoesOn for all that name it, and so does a certificate.
func TestASharedPolicyThatBreaksGoesOn(t *testing.T) {
	chain, key := testenv.MustPair(t, "b.test")
	objects := func(action, key string) string {
		return "---\napiVersion: ngrok.k8s.ngrok.com/v1alpha1\nkind: NgrokTrafficPolicy\nmetadata: {name: p}\nspec: {policy: {on_tcp_connect: [{actions: [{type: " + action + "}]}]}}\n" +
			agent("a", `{url: "tls://a.test", upstream: {url: "tcp://b:1"}, trafficPolicy: {targetRef: {name: p}}}`) +
			fmt.Sprintf("---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\ntype: kubernetes.io/tls\nstringData: {tls.crt: %q, tls.key: %q}\n", chain, key) +
			agent("b", `{url: "tls://b.test", upstream: {url: "tcp://b:1"}, tlsTermination: {serverCertificateRef: {name: s}}}`)
	}
	p := made(t, none, objects("deny", key), Options{})
	want := routes(p)
	for range 2 { // what was there before is the next one's before
		p = made(t, none, objects("denny", "hunter2"), Options{Old: p})
		expect(t, "routes", want, routes(p))
		text := p.Problems.Error()
		if len(p.Problems) != 2 || !strings.Contains(text, `unknown action "denny"`) || !strings.Contains(text, "Secret default/s: its certificate and key cannot be used") || strings.Contains(text, "hunter2") {
			t.Errorf("problems %v", p.Problems)
		}
		expect(t, "statuses", []string{"NgrokTrafficPolicy default/p: Valid: TrafficPolicyError", "NgrokTrafficPolicy default/p: Ready: TrafficPolicyError"}, statuses(p))
	}
	if p = made(t, none, objects("close-connection", key), Options{Old: p}); len(p.Problems) > 0 {
		t.Errorf("problems %v", p.Problems)
	}
}

func TestOneNameInTwoGroups(t *testing.T) {
	one := agent("a", `{url: "tls://a.test", upstream: {url: "tcp://b:1"}}`)
	p := made(t, none, one+strings.NewReplacer("ngrok.k8s.ngrok.com", "spliceway.dev", "a.test", "b.test").Replace(one), Options{})
	if len(p.Endpoints) != 1 || !strings.Contains(p.Problems.Error(), "there is another AgentEndpoint of this name, of another API group") {
		t.Errorf("%d endpoints, %v", len(p.Endpoints), p.Problems)
	}
}

func TestGatewaysBesideEndpoints(t *testing.T) {
	text := `
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g}
spec: {gatewayClassName: spliceway, listeners: [{name: l, port: 443, protocol: TLS, hostname: "*.test", tls: {mode: Passthrough}}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: r}
spec: {parentRefs: [{name: g}], hostnames: [a.test, b.test], rules: [{backendRefs: [{name: s, port: 443, weight: 1}, {name: x, kind: Nothing, port: 1, weight: 3}]}]}
` + agent("a", `{url: "tls://a.test", upstream: {url: "tcp://b:1"}}`)
	p := made(t, none, text, Options{})
	expect(t, "routes", []string{
		"a.test:443 agentendpoint/default/a -> b.default:1",
		"b.test:443 tlsroute/default/r -> s.default:443, x.default:0 refused",
	}, routes(p))
	if !strings.Contains(p.Problems.Error(), "TLSRoute default/r: a.test:443 is served by endpoint agentendpoint/default/a at m.yaml:13:1, not by this route") {
		t.Errorf("problems %v", p.Problems)
	}
	tables, err := p.Tables()
	if err != nil {
		t.Fatal(err)
	}
	if m, ok := tables.Outer.Lookup(netip.Addr{}, 443, "c.test", nil); !ok || m.Endpoint != route.Refuse {
		t.Errorf("a name of the listener that no route has: %+v, %t", m, ok)
	}
	refused := p.Config.Endpoints[1].Upstream.All[1]
	if refused.Weight != 3*p.Config.Endpoints[1].Upstream.All[0].Weight || refused.Refuse == "" {
		t.Errorf("targets %+v", p.Config.Endpoints[1].Upstream.All)
	}
}

// TestStatusIsJSON that has no key of a Secret in it.
func TestStatusIsJSON(t *testing.T) {
	chain, key := testenv.MustPair(t, "a.test")
	p := made(t, none, fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {tls.crt: %q, tls.key: %q}\n", chain, key)+
		agent("a", `{url: "tls://a.test", upstream: {url: "tcp://b:1"}, tlsTermination: {serverCertificateRef: {name: s}, mutualTLS: {clientCAsRef: {name: s}}}}`), Options{})
	b, err := json.Marshal(p.Objects)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b)+p.Problems.Error(), strings.Split(key, "\n")[1]) {
		t.Errorf("the key is in %s", b)
	}
	if !strings.Contains(p.Problems.Error(), "mutualTLS.clientCAsRef.name: AgentEndpoint default/a: the Secret default/s (m.yaml:1:1) has no ca.crt") {
		t.Errorf("problems %v", p.Problems)
	}
}

// manyObjects is n endpoints with a policy each.
func manyObjects(n int) []byte {
	var b strings.Builder
	for i := range n {
		b.WriteString(agent(fmt.Sprint("e", i), fmt.Sprintf(`
  url: tls://host-%d.example.com
  upstream: {url: "tls://service-%d.default:8443"}
  trafficPolicy:
    inline:
      on_tcp_connect:
      - expressions: ["conn.client_ip in ['192.0.2.%d'] || inCidrRange(conn.client_ip, '10.%d.0.0/16')"]
        actions: [{type: deny}]
      - actions: [{type: log, config: {metadata: {tenant: "%d"}}}]`, i, i, i%250, i%250, i)))
	}
	return []byte(b.String())
}

// BenchmarkMake10000 reads and plans as many endpoints, each with a policy.
func BenchmarkMake10000(b *testing.B) {
	data := manyObjects(10_000)
	cfg, err := config.Parse("spliceway.yaml", []byte("manifests: [m.yaml]"))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		p := Make(cfg, manifest.Parse("m.yaml", data), Options{})
		if len(p.Endpoints) != 10_000 || len(p.Problems) > 0 {
			b.Fatal(p.Problems)
		}
		if _, err := p.Tables(); err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzMake: whatever the manifests, what comes out can be served.
func FuzzMake(f *testing.F) {
	for _, file := range []string{"agentendpoint", "cloudendpoint", "gateway-tlsroute"} {
		data, err := os.ReadFile("../../examples/manifests/" + file + ".yaml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(agent("a", `{url: "tls://a.test", upstream: {url: "tcp://b:1"}}`) + cloud("c", `{url: "tls://a.test", poolingEnabled: true, trafficPolicy: `+denies+`}`)))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := config.Parse("spliceway.yaml", []byte("manifests: [m.yaml]"))
		if err != nil {
			t.Fatal(err)
		}
		p := Make(cfg, manifest.Parse("m.yaml", data), Options{})
		if _, err := p.Tables(); err != nil {
			t.Fatal(err)
		}
		for i := range p.Config.Endpoints {
			if e := &p.Config.Endpoints[i]; len(e.Upstream.All) == 0 && p.Endpoints[i].Policy == nil {
				t.Errorf("%s has neither an upstream nor a policy", e.Name)
			}
		}
		if _, err := json.Marshal(p.Objects); err != nil {
			t.Error(err)
		}
	})
}

// TestForwardTo: the most specific internal endpoint, of pooled ones the first.
func TestForwardTo(t *testing.T) {
	at := func(name, url string) string {
		return agent(name, fmt.Sprintf(`{url: %q, upstream: {url: "tcp://b:1"}}`, url))
	}
	p := made(t, none, at("exact", "tls://a.b.internal")+at("near", "tls://*.b.internal")+at("wide", "tls://*.internal")+
		at("wide-2", "tls://*.internal")+at("port", "tls://a.b.internal:8443")+at("public", "tls://a.test"), Options{})
	for url, want := range map[string]string{
		"tls://a.b.internal":      "exact",
		"tls://A.b.internal:443":  "exact",
		"tls://a.b.internal:8443": "port",
		"tls://c.b.internal":      "near",
		"tls://d.c.b.internal":    "near",
		"tls://*.b.internal":      "near",
		"tls://*.c.internal":      "wide",
		"tls://b.internal":        "wide",
		"tls://c.b.internal:8443": "",
		"tls://internal":          "",
		"tls://a.test":            "",
		"no URL":                  "",
	} {
		got := ""
		if i := p.ForwardTo(url); i >= 0 {
			got = strings.TrimPrefix(p.Config.Endpoints[i].Name, "agentendpoint/default/")
		}
		if got != want {
			t.Errorf("%s: forwarded to %q, want %q", url, got, want)
		}
	}
}
