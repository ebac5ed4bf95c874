// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"strings"
	"testing"
)

// TestRules are of the schemas and of the Gateway API's CEL.
func TestRules(t *testing.T) {
	object := func(kind, spec string) string {
		group := "gateway.networking.k8s.io/v1"
		if strings.Contains(kind, "Endpoint") || strings.Contains(kind, "Policy") && kind != "BackendTLSPolicy" {
			group = "ngrok.k8s.ngrok.com/v1alpha1"
		}
		return "apiVersion: " + group + "\nkind: " + kind + "\nmetadata: {name: x}\nspec: " + spec
	}
	gateway := func(fields string) string {
		return object("Gateway", "{gatewayClassName: c, listeners: [{name: l, port: 1, protocol: TLS}], "+fields+"}")
	}
	listener := func(fields string) string {
		return object("Gateway", "{gatewayClassName: c, listeners: [{name: l, port: 1, "+fields+"}]}")
	}
	route := func(parents string) string {
		return object("TLSRoute", "{parentRefs: ["+parents+"], hostnames: [a.test], rules: [{backendRefs: [{name: s, port: 1}]}]}")
	}
	backends := func(backends string) string {
		return object("TLSRoute", "{hostnames: [a.test], rules: [{backendRefs: ["+backends+"]}]}")
	}
	policy := func(targets, validation string) string {
		return object("BackendTLSPolicy", "{targetRefs: ["+targets+"], validation: {hostname: a.test, "+validation+"}}")
	}
	const target, system = "{group: '', kind: Service, name: s}", "wellKnownCACertificates: System"
	slice := func(rest string) string {
		return "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: x}\n" + rest
	}
	service := func(ports string) string {
		return "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {ports: [" + ports + "]}"
	}
	for _, tt := range []struct{ name, text, want string }{
		{"no spec", "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: x}", "spec: Gateway default/x: a value is needed"},
		{"protocol of an endpoint", object("AgentEndpoint", "{url: x, upstream: {url: y, protocol: ''}}"), "spec.upstream.protocol: AgentEndpoint default/x: expected one of http1, http2"},
		{"termination without certificate", object("AgentEndpoint", `{url: "tls://x", upstream: {url: y}, tlsTermination: {}}`), "spec.tlsTermination.serverCertificateRef: AgentEndpoint default/x: a value is needed"},
		{"mutual TLS without CAs", object("AgentEndpoint", `{url: "tls://x", upstream: {url: y}, tlsTermination: {serverCertificateRef: {name: s}, mutualTLS: {}}}`), "spec.tlsTermination.mutualTLS.clientCAsRef: "},
		{"mode of mutual TLS", object("AgentEndpoint", `{url: "tls://x", upstream: {url: y}, tlsTermination: {serverCertificateRef: {name: s}, mutualTLS: {clientCAsRef: {name: c}, mode: ask}}}`), "expected one of require, request"},
		{"reference without name", object("AgentEndpoint", "{url: x, upstream: {url: y}, clientCertificateRefs: [{}]}"), "spec.clientCertificateRefs[0].name: "},
		{"policy that is none", object("NgrokTrafficPolicy", "{policy: []}"), "spec.policy: NgrokTrafficPolicy default/x: expected a mapping"},
		{"two policies of a cloud endpoint", object("CloudEndpoint", "{url: x, trafficPolicy: {inline: {}, policy: {}}}"), "there is more than one policy"},
		{"listener's name", object("Gateway", "{gatewayClassName: c, listeners: [{name: A, port: 1, protocol: TLS}]}"), `spec.listeners[0].name: Gateway default/x: "A" is no name`},
		{"listener's port", object("Gateway", "{gatewayClassName: c, listeners: [{name: a, port: 65536, protocol: TLS}]}"), "expected a number from 1 to 65535, found 65536"},
		{"listener's protocol", listener("protocol: a b"), "spec.listeners[0].protocol: "},
		{"no protocol", listener("hostname: a.test"), "spec.listeners[0].protocol: Gateway default/x: a value is needed"},
		{"listener's empty hostname", listener("protocol: TLS, hostname: ''"), "spec.listeners[0].hostname: Gateway default/x: a value is needed"},
		{"listener's mode", listener("protocol: TLS, tls: {mode: Reencrypt}"), "expected one of Terminate, Passthrough"},
		{"certificate without name", listener("protocol: TLS, tls: {certificateRefs: [{}]}"), "spec.listeners[0].tls.certificateRefs[0].name: "},
		{"namespaces", listener("protocol: TLS, allowedRoutes: {namespaces: {from: Some}}"), "spec.listeners[0].allowedRoutes.namespaces.from: Gateway default/x: expected one of All, Selector, Same"},
		{"no selector", listener("protocol: TLS, allowedRoutes: {namespaces: {from: Selector}}"), "spec.listeners[0].allowedRoutes.namespaces.selector: "},
		{"selector", listener("protocol: TLS, allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: a, operator: Is}]}}}"), "is no label selector"},
		{"address that is none", gateway("addresses: [{type: IPAddress, value: a.test}]"), "spec.addresses[0].value: Gateway default/x: expected an IP address"},
		{"address without type", gateway("addresses: [{value: 10.0.0.300}]"), "expected an IP address"},
		{"address that is no hostname", gateway("addresses: [{type: Hostname, value: a_b}]"), "is no hostname"},
		{"address given twice", gateway("addresses: [{value: 10.0.0.1}, {type: IPAddress, value: 10.0.0.1}]"), `IPAddress "10.0.0.1" is there twice`},
		{"frontend ports", gateway("tls: {frontend: {default: {}, perPort: [{port: 1, tls: {}}, {port: 1, tls: {}}]}}"), "another entry is for port 1"},
		{"many listeners", object("Gateway", "{gatewayClassName: c, listeners: ["+strings.Repeat("{name: l, port: 1, protocol: TLS},", 65)+"]}"), "expected 1 to 64 entries, found 65"},
		{"parent's port", route("{name: g, port: 0}"), "expected a number from 1 to 65535"},
		{"parent given twice", route("{name: g}, {name: g, kind: Gateway, group: gateway.networking.k8s.io}"), "another reference is the same"},
		{"parent with and without section", route("{name: g}, {name: g, sectionName: l}"), "all have sectionName or none"},
		{"parent with and without port", route("{name: g, port: 1}, {name: g, sectionName: l}"), "all have port or none"},
		{"parents' sections", route("{name: g, sectionName: l}, {name: g, sectionName: m}"), ""},
		{"many rules", object("TLSRoute", "{hostnames: [a.test], rules: [{backendRefs: [{name: s, port: 1}]}, {backendRefs: [{name: s, port: 1}]}]}"), "spec.rules: TLSRoute default/x: expected 1 entries, found 2"},
		{"many backends", backends(strings.Repeat("{name: s, port: 1},", 17)), "expected 1 to 16 entries, found 17"},
		{"backend's weight", backends("{name: s, port: 1, weight: 1000001}"), "expected a number from 0 to 1000000"},
		{"backend's kind", backends("{name: s, port: 1, kind: a/b}"), "spec.rules[0].backendRefs[0].kind: "},
		{"backend's namespace", backends("{name: s, port: 1, namespace: a.b}"), "spec.rules[0].backendRefs[0].namespace: "},
		{"grant's group", object("ReferenceGrant", "{from: [{kind: TLSRoute, namespace: a}], to: [{group: '', kind: Service}]}"), "spec.from[0].group: ReferenceGrant default/x: a value is needed"},
		{"grant's namespace", object("ReferenceGrant", "{from: [{group: a, kind: TLSRoute, namespace: A}], to: [{group: '', kind: Service}]}"), "spec.from[0].namespace: "},
		{"controller", object("GatewayClass", "{controllerName: a}"), "spec.controllerName: "},
		{"class's namespace", "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: x, namespace: y}\nspec: {controllerName: a.test/b}", ""},
		{"target given twice", policy(target+", "+target, system), "another reference is the same"},
		{"target with and without section", policy(target+", {group: '', kind: Service, name: s, sectionName: p}", system), "all have sectionName or none"},
		{"policy's hostname", object("BackendTLSPolicy", "{targetRefs: ["+target+"], validation: {hostname: '*.test', "+system+"}}"), "spec.validation.hostname: "},
		{"well-known CAs", policy(target, "wellKnownCACertificates: Mozilla"), "spec.validation.wellKnownCACertificates: "},
		{"name without hostname", policy(target, system+", subjectAltNames: [{type: Hostname, uri: 'spiffe://a/b'}]"), "expected a hostname if type is Hostname"},
		{"old policy", strings.Replace(policy(target, system), "/v1\n", "/v1alpha3\n", 1), ""},
		{"Service's name", strings.Replace(service("{port: 1}"), "name: x", "name: a.b", 1), `"a.b" is no name`},
		{"Service's protocol", service("{port: 1, protocol: TLS}"), "expected one of TCP, UDP, SCTP"},
		{"Service's ports without name", service("{port: 1}, {port: 2}"), "a name is needed where there are several ports"},
		{"Service's ports of a name", service("{port: 1, name: a}, {port: 2, name: a}"), `another port has the name "a"`},
		{"Service's target", service("{port: 1, targetPort: 70000}"), "a port from 1 to 65535"},
		{"Service's named target", service("{port: 1, targetPort: a b}"), `"a b" is no port`},
		{"slice without type", slice("endpoints: []"), "addressType: EndpointSlice default/x: expected one of IPv4, IPv6, FQDN"},
		{"slice's address", slice("addressType: IPv4\nendpoints: [{addresses: ['::1']}]"), "endpoints[0].addresses[0]: EndpointSlice default/x: expected an address of type IPv4"},
		{"slice's port", slice("addressType: IPv4\nendpoints: []\nports: [{port: 0}]"), "a port from 1 to 65535"},
		{"slice", slice("addressType: IPv6\nendpoints: [{addresses: ['2001:db8::1']}]\nports: [{port: 1, protocol: TCP}, {}]"), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := Parse("f.yaml", []byte(tt.text))
			if tt.want == "" && (len(s.Problems) > 0 || len(s.Objects) != 1) || !strings.Contains(s.Problems.Error(), tt.want) {
				t.Errorf("got %v, want %s", s.Problems, tt.want)
			}
		})
	}
}
