// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/spliceway/spliceway/userspace/api/v1alpha1"
)

func list[T fmt.Stringer](all []T) (texts []string) {
	for _, e := range all {
		texts = append(texts, e.String())
	}
	return texts
}

func (w Warning) String() string { return w.Pos.String() + ": " + w.Text }

// TestThePagesManifests load as they stand.
func TestThePagesManifests(t *testing.T) {
	const dir = "../../examples/manifests"
	for _, tt := range []struct {
		file              string
		objects, warnings []string
	}{
		{"agentendpoint.yaml", []string{"AgentEndpoint default/example-service"}, nil},
		{"cloudendpoint.yaml", []string{"AgentEndpoint default/example-service", "CloudEndpoint default/example-cloud-endpoint"},
			[]string{":19:7: CloudEndpoint default/example-cloud-endpoint: spec.trafficPolicy.policy is deprecated: write inline"}},
		{"gateway-tlsroute.yaml", []string{"Gateway default/example-gateway", "TLSRoute default/example-tlsroute"},
			[]string{":16:13: TLSRoute default/example-tlsroute: gateway.networking.k8s.io/v1alpha2 is deprecated: write gateway.networking.k8s.io/v1"}},
	} {
		s := Load([]string{filepath.Join(dir, tt.file)})
		if len(s.Problems) > 0 {
			t.Errorf("%s: %v", tt.file, s.Problems)
		}
		if diff := cmp.Diff(tt.objects, list(s.Objects)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", tt.file, diff)
		}
		var warnings []string
		for _, w := range tt.warnings {
			warnings = append(warnings, filepath.Join(dir, tt.file)+w)
		}
		if diff := cmp.Diff(warnings, list(s.Warnings)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", tt.file, diff)
		}
	}
}

func TestValuesAndPlaces(t *testing.T) {
	s := Parse("f.yaml", []byte(`apiVersion: v1
kind: List
items:
- apiVersion: ngrok.k8s.ngrok.com/v1alpha1
  kind: AgentEndpoint
  metadata: {name: a, namespace: shop, creationTimestamp: "2026-01-02T03:04:05Z", managedFields: [{manager: x, fieldsV1: {"f:spec": {}}}]}
  spec:
    url: tls://a.test
    metadata: {owner: me}
    upstream: {url: "tls://b:1", proxyProtocolVersion: "2"}
    trafficPolicy:
      inline:
        on_tcp_connect: []
  status: {whatever: 1}
- apiVersion: v1
  kind: Secret
  metadata: {name: s}
  data: {tls.key: c2VjcmV0}
  stringData: {tls.crt: text}
- {apiVersion: v1, kind: Service, metadata: {name: s}, spec: {ports: [{name: a, port: 443, targetPort: https}, {name: b, port: 80, targetPort: 8080}]}}
- {apiVersion: spliceway.dev/v1alpha1, kind: NgrokTrafficPolicy, metadata: {name: p}, spec: {policy: {on_tcp_connect: []}}}
- {apiVersion: apps/v1, kind: Deployment, metadata: {name: d}}
`))
	if len(s.Problems) > 0 || len(s.Objects) != 4 {
		t.Fatalf("%d objects, %v", len(s.Objects), s.Problems)
	}
	a := s.Objects[0].Value.(*v1alpha1.AgentEndpoint)
	if a.Namespace != "shop" || a.Spec.Upstream.ProxyProtocolVersion != "2" || string(a.Spec.Metadata.Raw) != `{"owner":"me"}` || a.CreationTimestamp.Year() != 2026 {
		t.Errorf("endpoint %+v", a)
	}
	for _, tt := range []struct {
		path []any
		want string
	}{
		{[]any{"spec", "upstream", "url"}, "f.yaml:10:21"},
		{[]any{"spec", "trafficPolicy", "inline"}, "f.yaml:13:9"},
		{[]any{"spec", "tlsTermination", "mutualTLS"}, "f.yaml:8:5"},
	} {
		if got := s.Objects[0].At(tt.path...).String(); got != tt.want {
			t.Errorf("%v is at %s, want %s", tt.path, got, tt.want)
		}
	}
	if n := s.Objects[0].Node("spec", "trafficPolicy", "inline"); n == nil || n.Line != 13 || s.Objects[0].Node("spec", "nothing") != nil {
		t.Errorf("node %v", n)
	}
	secret := s.Objects[1].Value.(*corev1.Secret)
	if string(secret.Data["tls.key"]) != "secret" || secret.StringData["tls.crt"] != "text" || secret.Namespace != "default" {
		t.Errorf("secret %v", secret.Namespace)
	}
	if p := s.Objects[2].Value.(*corev1.Service).Spec.Ports; p[0].TargetPort.StrVal != "https" || p[1].TargetPort.IntVal != 8080 {
		t.Errorf("ports %v", p)
	}
	if diff := cmp.Diff([]string{"f.yaml:22:3: Deployment d: objects of apiVersion apps/v1 are not used"}, list(s.Warnings)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestProblems(t *testing.T) {
	agent := func(spec string) string {
		return "apiVersion: ngrok.k8s.ngrok.com/v1alpha1\nkind: AgentEndpoint\nmetadata: {name: a}\nspec: " + spec + "\n"
	}
	gateway := func(spec string) string {
		return "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec: " + spec + "\n"
	}
	listener := func(l string) string { return gateway("{gatewayClassName: c, listeners: [" + l + "]}") }
	route := func(version, spec string) string {
		return "apiVersion: gateway.networking.k8s.io/" + version + "\nkind: TLSRoute\nmetadata: {name: r}\nspec: " + spec + "\n"
	}
	for _, tt := range []struct{ name, text, want string }{
		{"no YAML", "a: [", "f.yaml:1:1: no YAML from here on"},
		{"no mapping", "- 1", "f.yaml:1:1: expected an object"},
		{"no kind", "apiVersion: v1", "kind: kind is needed"},
		{"no version", "kind: Secret", "apiVersion: apiVersion is needed"},
		{"unknown version", "apiVersion: gateway.networking.k8s.io/v2\nkind: Gateway\nmetadata: {name: x}", `f.yaml:1:13: apiVersion: Gateway default/x: version "v2" is not known; expected one of v1, v1beta1`},
		{"no name", "apiVersion: v1\nkind: Secret", "metadata.name: Secret default/: a name is needed"},
		{"bad name", "apiVersion: v1\nkind: Secret\nmetadata: {name: A_b}", `f.yaml:3:18: metadata.name: Secret default/A_b: "A_b" is no name`},
		{"bad namespace", "apiVersion: v1\nkind: Secret\nmetadata: {name: a, namespace: a.b}", `"a.b" is no namespace`},
		{"unknown field", agent("{url: x, upsteam: {url: y}}"), `f.yaml:4:16: spec: AgentEndpoint default/a: unknown field "upsteam", did you mean "upstream"?`},
		{"field given twice", agent("{url: x, url: y}"), "spec.url: AgentEndpoint default/a: key given twice, first on line 4"},
		{"field given twice in a policy", agent("{url: x, trafficPolicy: {inline: {a: 1, a: 2}}}"), "spec.trafficPolicy.inline.a: AgentEndpoint default/a: key given twice"},
		{"wrong type", agent("{url: 1, upstream: []}"), `spec.url: AgentEndpoint default/a: expected a string, found "1": put it in quotes`},
		{"another wrong type", agent("{url: x, upstream: []}"), "spec.upstream: AgentEndpoint default/a: expected a mapping, found a list"},
		{"no upstream", agent("{url: x}"), "spec.upstream: AgentEndpoint default/a: a value is needed"},
		{"bindings", agent("{url: x, upstream: {url: y}, bindings: [public, internal]}"), "spec.bindings: AgentEndpoint default/a: expected 0 to 1 entries, found 2"},
		{"a binding", agent("{url: x, upstream: {url: y}, bindings: [private]}"), "expected one of public, internal, kubernetes"},
		{"PROXY version", agent(`{url: x, upstream: {url: y, proxyProtocolVersion: "3"}}`), "expected one of 1, 2"},
		{"two policies", agent("{url: x, upstream: {url: y}, trafficPolicy: {inline: {}, targetRef: {name: p}}}"), "exactly one of inline and targetRef"},
		{"no policy", agent("{url: x, upstream: {url: y}, trafficPolicy: {}}"), "exactly one of inline and targetRef"},
		{"termination of http", agent("{url: \"http://x\", upstream: {url: y}, tlsTermination: {serverCertificateRef: {name: c}}}"), "expected a tls:// URL"},
		{"merge keys", agent("{<<: {url: x}}"), "merge keys (<<) are not supported"},
		{"no base64", "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {k: '???'}", "data.k: Secret default/s: expected base64"},
		{"bad port", "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 99999999999}]}", "expected a whole number"},
		{"port of a Service", "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 0}]}", "a port from 1 to 65535"},
		{"no listeners", gateway("{gatewayClassName: c}"), "spec.listeners: Gateway default/g: a value is needed"},
		{"no certificate", listener("{name: l, port: 443, protocol: TLS, tls: {}}"), "certificateRefs is needed"},
		{"hostname of TCP", listener("{name: l, port: 443, protocol: TCP, hostname: a.test}"), "has no hostname"},
		{"tls of TCP", listener("{name: l, port: 443, protocol: TCP, tls: {mode: Passthrough}}"), "has no tls"},
		{"HTTPS that passes through", listener("{name: l, port: 443, protocol: HTTPS, tls: {mode: Passthrough}}"), "terminates TLS"},
		{"hostname", listener("{name: l, port: 443, protocol: TLS, hostname: a_b, tls: {mode: Passthrough}}"), `"a_b" is no hostname`},
		{"address as hostname", listener("{name: l, port: 443, protocol: TLS, hostname: 10.0.0.1, tls: {mode: Passthrough}}"), "expected a DNS name, found the IP address"},
		{"listeners of one name", listener("{name: l, port: 1, protocol: TLS}, {name: l, port: 2, protocol: TLS}"), `another listener has the name "l"`},
		{"listeners that are the same", listener("{name: l, port: 1, protocol: TLS}, {name: m, port: 1, protocol: TLS}"), `are those of listener "l"`},
		{"no hostnames", route("v1", "{rules: [{backendRefs: [{name: a, port: 1}]}]}"), "spec.hostnames: TLSRoute default/r: a value is needed"},
		{"no rules", route("v1", "{hostnames: [a.test]}"), "spec.rules: TLSRoute default/r: a value is needed"},
		{"no backends", route("v1alpha2", "{rules: [{}]}"), "spec.rules[0].backendRefs: TLSRoute default/r: a value is needed"},
		{"no port", route("v1alpha2", "{rules: [{backendRefs: [{name: a}]}]}"), "a port is needed for a Service"},
		{"weight", route("v1alpha2", "{rules: [{backendRefs: [{name: a, port: 1, weight: -1}]}]}"), "expected a number from 0 to 1000000, found -1"},
		{"wildcard in the middle", route("v1", "{hostnames: [a.*.test], rules: [{backendRefs: [{name: a, port: 1}]}]}"), "is no hostname"},
		{"grant", "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: x}\nspec: {from: [], to: [{kind: Service}]}", "expected 1 to 16 entries"},
		{"policy without CA", "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: x}\nspec: {targetRefs: [{kind: Service, name: s, group: ''}], validation: {hostname: a.test}}", "exactly one of caCertificateRefs and wellKnownCACertificates"},
		{"the second of its name", agent("{url: x, upstream: {url: y}}") + "---\n" + agent("{url: z, upstream: {url: y}}"), "f.yaml:6:1: AgentEndpoint default/a: AgentEndpoint default/a is the second one; the first is at f.yaml:1:1"},
		{"aliases without end", "a: &a [x, x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c, *c]\ne: &e [*d, *d, *d, *d, *d, *d, *d, *d, *d, *d]\nf: &f [*e, *e, *e, *e, *e, *e, *e, *e, *e, *e]\nkind: Secret\napiVersion: v1\n", "too large once aliases are written out"},
		{"nested too deeply", "a: " + strings.Repeat("[", 200) + strings.Repeat("]", 200), "nested too deeply"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := Parse("f.yaml", []byte(tt.text))
			if len(s.Problems) == 0 || !strings.Contains(s.Problems.Error(), tt.want) {
				t.Errorf("got %v, want %s", s.Problems, tt.want)
			}
		})
	}
}

// TestOneWrongObjectStopsNoOther, and is known by its name.
func TestOneWrongObjectStopsNoOther(t *testing.T) {
	const good = "apiVersion: v1\nkind: Secret\nmetadata: {name: %s}\n---\n"
	s := Parse("f.yaml", []byte(fmt.Sprintf(good, "a")+"apiVersion: v1\nkind: Secret\nmetadata: {name: b}\nx: {}\ny: {}\n---\n"+fmt.Sprintf(good, "c")+"{: [\n"))
	if diff := cmp.Diff([]string{"Secret default/a", "Secret default/c"}, list(s.Objects)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"Secret default/b"}, list(s.Broken)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if len(s.Problems) != 3 || len(s.BrokenFiles) != 1 {
		t.Errorf("problems %v, files %v", s.Problems, s.BrokenFiles)
	}
}

func TestSecretsAreNotTold(t *testing.T) {
	for _, text := range []string{"data: {k: hunter2!}", "data: {k: [hunter2]}", "stringData: {k: {hunter2: x}}", "stringData: {k: 12345678}",
		"immutable: hunter2", "data: hunter2", "stringData: !x hunter2", "type: [hunter2]\nimmutable: 12345678",
		"data: {k: !!int hunter2}", "stringData: {k: \"\\q hunter2\"}", "stringData: {k: hunter2\n", "data: {k: 12345678}"} {
		s := Parse("f.yaml", []byte("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n"+text))
		if len(s.Problems) == 0 || strings.Contains(s.Problems.Error(), "hunter2") || strings.Contains(s.Problems.Error(), "12345678") {
			t.Errorf("%s: %v", text, s.Problems)
		}
	}
}

func TestDirectories(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"b.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: b}", "a.json": `{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}`,
		"c.txt": "x: [", ".d.yaml": "x: [", "sub/e.yaml": "x: [",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pipe := filepath.Join(dir, "pipe.yaml")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	s := Load([]string{dir, filepath.Join(dir, "none")})
	if diff := cmp.Diff([]string{"Secret default/a", "Secret default/b"}, list(s.Objects)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	want := pipe + ":1:1: cannot be read: not a file, but of the kind p---------\n" + dir + "/none:1:1: cannot be read: no such file or directory"
	if s.Problems.Error() != want {
		t.Errorf("problems\n%v\nwant\n%s", s.Problems, want)
	}
}
