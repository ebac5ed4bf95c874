// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"
)

// objectsWithKeys returns a Secret named cert and a ConfigMap named ca.
func objectsWithKeys(t *testing.T, secretNamespace string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"a.test"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	private := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	encode := base64.StdEncoding.EncodeToString
	return docs(
		fmt.Sprintf("kind: Secret\nmetadata: {name: cert, namespace: %s}\ntype: kubernetes.io/tls\ndata: {tls.crt: %s, tls.key: %s}", secretNamespace, encode(cert), encode(private)),
		fmt.Sprintf("kind: ConfigMap\nmetadata: {name: ca}\nbinaryData: {ca.crt: %s}", encode(cert)))
}

const page = `kind: Gateway
metadata: {name: g}
spec:
  gatewayClassName: ngrok
  addresses: [{type: Hostname, value: example-hostname.ngrok.io}]
  listeners: [{name: p9000, port: 9000, protocol: TLS}]
---
kind: TLSRoute
metadata: {name: r}
spec:
  parentRefs: [{name: g, sectionName: p9000}]
  rules: [{backendRefs: [{name: s, port: 9000}]}]`

func TestCompute(t *testing.T) {
	term := "protocol: TLS, tls: {mode: Terminate, certificateRefs: [{name: cert}]}"
	listener := "{name: l, port: 443, hostname: '*.test', " + pass + "}"
	plain := route("r", "{name: g}", "a.test", "{name: s, port: 1}")
	served := "serve default/r Passthrough []:443:a.test -> 1*s.default[]"
	service := "kind: Service\nmetadata: {name: s}\nspec: {ports: [{name: tls, port: 1}]}"
	slice := "kind: EndpointSlice\nmetadata: {name: s-1, labels: {kubernetes.io/service-name: s}}\naddressType: IPv4\nports: [{name: tls, port: 8443}]\nendpoints:\n" +
		"- {addresses: [10.0.0.2]}\n- {addresses: [10.0.0.1], conditions: {ready: true, serving: true}}\n" +
		"- {addresses: [10.0.0.3], conditions: {ready: false}}\n- {addresses: [10.0.0.4], conditions: {ready: true, terminating: true}}"
	policy := func(name, validation string) string {
		return fmt.Sprintf("kind: BackendTLSPolicy\nmetadata: {name: %s}\nspec: {targetRefs: [{group: '', kind: Service, name: s}], validation: {hostname: b.test, %s}}", name, validation)
	}
	grant := func(from, to string) string {
		return fmt.Sprintf("kind: ReferenceGrant\nmetadata: {name: rg, namespace: other}\nspec: {from: [{group: gateway.networking.k8s.io, kind: %s, namespace: default}], to: [{group: '', kind: %s}]}", from, to)
	}
	web := func(name, parent, hostnames, rules string) string {
		return fmt.Sprintf("kind: HTTPRoute\nmetadata: {name: %s}\nspec: {parentRefs: [%s], hostnames: [%s], rules: [%s]}", name, parent, hostnames, rules)
	}
	const http, https = "{name: l, port: 80, protocol: HTTP}", "{name: l, port: 443, hostname: '*.test', protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}"
	const all = "{backendRefs: [{name: s, port: 1}]}"
	unsupported := []string{"serve g/l HTTP secure=false []:80:*", "route h at g Accepted=False/UnsupportedValue", "listener g/l [HTTPRoute] attached 0"}
	keys, keysOfOther := objectsWithKeys(t, "default"), objectsWithKeys(t, "other")
	for _, tt := range []struct {
		name, objects string
		want          []string
	}{
		{"passthrough", docs(gw("g", listener), plain), []string{served, "refuse []:443:*.test",
			"gateway g Accepted=True/Accepted", "gateway g Programmed=True/Programmed", "gateway g ResolvedRefs=True/ResolvedRefs", "listener g/l [TLSRoute] attached 1",
			"listener g/l Conflicted=False/NoConflicts", "no listener g/l OverlappingTLSConfig", "route r at g Accepted=True/Accepted", "route r at g ResolvedRefs=True/ResolvedRefs",
			"warning Gateway g: GatewayClass c is not there"}},
		{"the page's Gateway", page, []string{"serve default/r Passthrough []:9000:example-hostname.ngrok.io -> 1*s.default[]",
			"gateway g address Hostname example-hostname.ngrok.io", "warning Gateway g: listener p9000: no tls.mode", "warning Gateway g: listener p9000 and its routes have no hostnames"}},
		{"no hostname anywhere", docs(gw("g", "{name: l, port: 443, "+pass+"}"), route("r", "{name: g}", "", "{name: s, port: 1}")),
			[]string{"serve default/r Passthrough []:443:* -> 1*s.default[]"}},
		{"a class of another controller", docs("kind: GatewayClass\nmetadata: {name: c}\nspec: {controllerName: other/one}", gw("g", listener), plain),
			[]string{"no gateway", "no route", "no class", "no warning"}},
		{"our class", docs("kind: GatewayClass\nmetadata: {name: c}\nspec: {controllerName: "+controller+"}", gw("g", listener), plain),
			[]string{served, "refuse []:443:*.test", "class c Accepted=True/Accepted", "no warning"}},
		{"isolation", docs(gw("g", listener+", {name: m, port: 443, hostname: a.test, "+pass+"}"), route("r", "{name: g, sectionName: l}", "a.test, b.test", "{name: s, port: 1}")),
			[]string{"serve default/r Passthrough []:443:b.test -> 1*s.default[]", "refuse []:443:*.test", "refuse []:443:a.test",
				"listener g/l OverlappingTLSConfig=True/OverlappingHostnames", "listener g/m OverlappingTLSConfig=True/OverlappingHostnames"}},
		{"hostnames are narrowed to the listener's", docs(gw("g", listener), route("r", "{name: g}", "'*.test', a.org", "{name: s, port: 1}")),
			[]string{"serve default/r Passthrough []:443:*.test -> 1*s.default[]"}},
		{"no hostname in common", docs(gw("g", listener), route("r", "{name: g}", "a.org", "{name: s, port: 1}")),
			[]string{"refuse []:443:*.test", "route r at g Accepted=False/NoMatchingListenerHostname", "listener g/l [TLSRoute] attached 0"}},
		{"no such section", docs(gw("g", listener), route("r", "{name: g, sectionName: x}", "a.test", "{name: s, port: 1}")),
			[]string{"refuse []:443:*.test", "route r at g Accepted=False/NoMatchingParent"}},
		{"no such port", docs(gw("g", listener), route("r", "{name: g, port: 1}", "a.test", "{name: s, port: 1}")),
			[]string{"refuse []:443:*.test", "route r at g Accepted=False/NoMatchingParent"}},
		{"an HTTP listener takes no TLSRoute", docs(gw("g", "{name: l, port: 80, protocol: HTTP}"), plain),
			[]string{"serve g/l HTTP secure=false []:80:*", "route r at g Accepted=False/NotAllowedByListeners", "listener g/l [HTTPRoute] attached 0", "listener g/l Programmed=True/Programmed"}},
		{"an HTTPRoute without rules", docs(gw("g", http), web("h", "{name: g}", "", "")),
			[]string{"serve g/l HTTP secure=false []:80:*", "route h at g Accepted=True/Accepted", "listener g/l [HTTPRoute] attached 1"}},
		{"HTTP in its order", docs(gw("g", http), web("h", "{name: g}", "'*.test', a.test", "{backendRefs: [{name: s, port: 1}]}, {matches: [{path: {value: /x/}}, {path: {type: Exact, value: /y}}, {path: {value: /x/z}}]}"),
			web("i", "{name: g}", "a.test", "{backendRefs: [{name: t, port: 1}]}")),
			[]string{"serve g/l HTTP secure=false []:80:* h:a.test/y! h:a.test/x/z h:a.test/x h:a.test -> 1*s.default[] h:*.test/y! h:*.test/x/z h:*.test/x h:*.test -> 1*s.default[]"}},
		{"names of HTTP", docs(gw("g", "{name: l, port: 80, protocol: HTTP, hostname: '*.test'}"), web("h", "{name: g}", "a.test, b.org", all)),
			[]string{"serve g/l HTTP secure=false []:80:*.test h:a.test -> 1*s.default[]"}},
		{"HTTPS", docs(gw("g", https), web("h", "{name: g}", "a.test", all), keys),
			[]string{"serve g/l HTTP secure=true []:443:*.test h:a.test -> 1*s.default[]", "listener g/l Programmed=True/Programmed"}},
		{"HTTPS without its certificate", docs(gw("g", https), web("h", "{name: g}", "a.test", all)),
			[]string{"refuse []:443:*.test", "listener g/l Programmed=False/Invalid", "route h at g Accepted=True/Accepted"}},
		{"HTTPS within TLS", docs(gw("g", https+", {name: m, port: 443, "+pass+"}"), route("r", "{name: g, sectionName: m}", "a.test, a.org", "{name: s, port: 1}"), keys),
			[]string{"serve default/r Passthrough []:443:a.org -> 1*s.default[]", "serve g/l HTTP secure=true []:443:*.test", "refuse []:443:*"}},
		{"two Gateways want one host", docs(gw("h", http), gw("g", http)),
			[]string{"serve g/l HTTP secure=false []:80:*", "listener h/l Conflicted=True/HostnameConflict"}},
		{"a policy for HTTP", docs(gw("g", http), web("h", "{name: g}", "a.test", all), keys, policy("p", "caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]")),
			[]string{"serve g/l HTTP secure=false []:80:* h:a.test -> 1*s.default[]TLS:b.test", "policy p at g Accepted=True/Accepted"}},
		{"a filter", docs(gw("g", http), web("h", "{name: g}", "", "{filters: [{type: URLRewrite}]}")), unsupported},
		{"a backend's filter", docs(gw("g", http), web("h", "{name: g}", "", "{backendRefs: [{name: s, port: 1, filters: [{type: URLRewrite}]}]}")), unsupported},
		{"a header", docs(gw("g", http), web("h", "{name: g}", "", "{matches: [{headers: [{name: a, value: b}]}]}")), unsupported},
		{"a query", docs(gw("g", http), web("h", "{name: g}", "", "{matches: [{queryParams: [{name: a, value: b}]}]}")), unsupported},
		{"a method", docs(gw("g", http), web("h", "{name: g}", "", "{matches: [{method: PUT}]}")), unsupported},
		{"a path by expression", docs(gw("g", http), web("h", "{name: g}", "", "{matches: [{path: {type: RegularExpression, value: /.}}]}")), unsupported},
		{"a path that is none", docs(gw("g", http), web("h", "{name: g}", "", "{matches: [{path: {value: x}}]}")), unsupported},
		{"timeouts", docs(gw("g", http), web("h", "{name: g}", "", "{timeouts: {request: 1s}}")), unsupported},
		{"retries", docs(gw("g", http), web("h", "{name: g}", "", "{retry: {attempts: 1}}")), unsupported},
		{"sessions", docs(gw("g", http), web("h", "{name: g}", "", "{sessionPersistence: {sessionName: a}}")), unsupported},
		{"another namespace", docs(gw("g", listener), "kind: TLSRoute\nmetadata: {name: r, namespace: other}\nspec: {parentRefs: [{name: g, namespace: default}], hostnames: [a.test], rules: [{backendRefs: [{name: s, port: 1}]}]}"),
			[]string{"refuse []:443:*.test", "route r at g Accepted=False/NotAllowedByListeners"}},
		{"a namespace by label", docs(gw("g", "{name: l, port: 443, "+pass+", allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {a: b}}}}}"), "kind: Namespace\nmetadata: {name: default, labels: {a: b}}", plain),
			[]string{served, "refuse []:443:*"}},
		{"a namespace that is not there, by label", docs(gw("g", "{name: l, port: 443, "+pass+", allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {a: b}}}}}"), plain),
			[]string{"refuse []:443:*", "route r at g Accepted=False/NotAllowedByListeners"}},
		{"kinds that are not supported", docs(gw("g", "{name: l, port: 443, "+pass+", allowedRoutes: {kinds: [{kind: TCPRoute}, {kind: TLSRoute}]}}"), plain),
			[]string{served, "refuse []:443:*", "listener g/l ResolvedRefs=False/InvalidRouteKinds", "listener g/l [TLSRoute] attached 1", "gateway g ResolvedRefs=False/ListenersNotResolved"}},
		{"TCP, and TLS beside it", docs(gw("g", listener+", {name: t, port: 443, protocol: TCP}"), plain),
			[]string{served, "refuse []:443:*.test", "listener g/t Accepted=False/UnsupportedProtocol", "listener g/t [] attached 0", "gateway g Accepted=True/ListenersNotValid"}},
		{"one hostname twice", docs(gw("g", listener+", {name: m, port: 443, hostname: '*.test', "+term+"}"), plain),
			[]string{"listener g/l Conflicted=True/HostnameConflict", "listener g/m Accepted=False/HostnameConflict", "gateway g Accepted=False/ListenersNotValid", "gateway g Programmed=False/Invalid"}},
		{"HTTP on the port of TLS", docs(gw("g", listener+", {name: h, port: 443, protocol: HTTP}"), plain),
			[]string{"listener g/l Conflicted=True/ProtocolConflict", "listener g/h Conflicted=True/ProtocolConflict"}},
		{"two Gateways want one name", docs(gw("h", listener), gw("g", listener), plain),
			[]string{served, "refuse []:443:*.test", "listener g/l Conflicted=False/NoConflicts", "listener h/l Conflicted=True/HostnameConflict"}},
		{"backend of another kind", docs(gw("g", listener), route("r", "{name: g}", "a.test", "{name: s, port: 1, kind: Pod}")),
			[]string{"serve default/r Passthrough []:443:a.test -> 1*[]INVALID", "refuse []:443:*.test", "route r at g Accepted=True/Accepted", "route r at g ResolvedRefs=False/InvalidKind"}},
		{"weights", docs(gw("g", listener), route("r", "{name: g}", "'*.test'", "{name: s, port: 1, weight: 3}, {name: u, port: 1, weight: 0}")),
			[]string{"serve default/r Passthrough []:443:*.test -> 3*s.default[]"}},
		{"no grant", docs(gw("g", listener), route("r", "{name: g}", "'*.test'", "{name: s, namespace: other, port: 1}"), grant("Gateway", "Service")),
			[]string{"serve default/r Passthrough []:443:*.test -> 1*[]INVALID", "route r at g ResolvedRefs=False/RefNotPermitted"}},
		{"a grant", docs(gw("g", listener), route("r", "{name: g}", "'*.test'", "{name: s, namespace: other, port: 1}"), grant("TLSRoute", "Service")),
			[]string{"serve default/r Passthrough []:443:*.test -> 1*s.other[]", "route r at g ResolvedRefs=True/ResolvedRefs"}},
		{"endpoints", docs(gw("g", listener), plain, service, slice),
			[]string{"serve default/r Passthrough []:443:a.test -> 1*[10.0.0.1:8443 10.0.0.2:8443]", "refuse []:443:*.test"}},
		{"no endpoints", docs(gw("g", listener), plain, service),
			[]string{"serve default/r Passthrough []:443:a.test -> 1*[]INVALID", "refuse []:443:*.test", "route r at g ResolvedRefs=True/ResolvedRefs"}},
		{"attached twice, counted once", docs(gw("g", listener), route("r", "{name: g}, {name: g, sectionName: l}", "a.test", "{name: s, port: 1}")),
			[]string{served, "refuse []:443:*.test", "listener g/l [TLSRoute] attached 1"}},
		{"the most specific hostname before narrowing", docs(gw("g", "{name: l, port: 443, hostname: a.test, "+pass+"}"), route("b", "{name: g}", "'*.test'", "{name: t, port: 1}"), plain),
			[]string{served, "route b at g Accepted=True/Accepted", "listener g/l [TLSRoute] attached 2"}},
		{"a grant to another namespace", docs(gw("g", listener), route("r", "{name: g}", "'*.test'", "{name: s, namespace: other, port: 1}"), strings.Replace(grant("TLSRoute", "Service"), "namespace: default", "namespace: third", 1)),
			[]string{"serve default/r Passthrough []:443:*.test -> 1*[]INVALID", "route r at g ResolvedRefs=False/RefNotPermitted"}},
		{"no such Service", docs(gw("g", listener), route("r", "{name: g}", "'*.test'", "{name: x, port: 1}"), service),
			[]string{"serve default/r Passthrough []:443:*.test -> 1*[]INVALID", "route r at g ResolvedRefs=False/BackendNotFound"}},
		{"ExternalName", docs(gw("g", listener), route("r", "{name: g}", "'*.test'", "{name: s, port: 1}"), "kind: Service\nmetadata: {name: s}\nspec: {type: ExternalName, externalName: x.test}"),
			[]string{"serve default/r Passthrough []:443:*.test -> 1*[]INVALID", "route r at g ResolvedRefs=False/InvalidKind"}},
		{"terminate", docs(gw("g", "{name: l, port: 443, "+term+"}"), plain, keys),
			[]string{"serve default/r Terminate []:443:a.test -> 1*s.default[]", "refuse []:443:*", "listener g/l Programmed=True/Programmed"}},
		{"mixed modes on one port", docs(gw("g", listener+", {name: m, port: 443, hostname: b.test, "+term+"}"), route("r", "{name: g}", "'*.test'", "{name: s, port: 1}"), keys),
			[]string{"serve default/r Passthrough []:443:*.test -> 1*s.default[]", "serve default/r Terminate []:443:b.test -> 1*s.default[]"}},
		{"no certificate", docs(gw("g", listener+", {name: m, port: 443, hostname: a.test, "+term+"}"), plain),
			[]string{"refuse []:443:*.test", "refuse []:443:a.test", "listener g/m ResolvedRefs=False/InvalidCertificateRef", "listener g/m Programmed=False/Invalid", "listener g/m Accepted=True/Accepted"}},
		{"a certificate of another namespace", docs(gw("g", "{name: l, port: 443, protocol: TLS, tls: {mode: Terminate, certificateRefs: [{name: cert, namespace: other}]}}"), keysOfOther),
			[]string{"refuse []:443:*", "listener g/l ResolvedRefs=False/RefNotPermitted"}},
		{"the same, granted", docs(gw("g", "{name: l, port: 443, protocol: TLS, tls: {mode: Terminate, certificateRefs: [{name: cert, namespace: other}]}}"), keysOfOther, grant("Gateway", "Secret")),
			[]string{"refuse []:443:*", "listener g/l ResolvedRefs=True/ResolvedRefs"}},
		{"an option that is not known", docs(gw("g", "{name: l, port: 443, protocol: TLS, tls: {mode: Terminate, certificateRefs: [{name: cert}], options: {spliceway.dev/x: y}}}"), keys),
			[]string{"listener g/l Accepted=False/UnsupportedValue"}},
		{"clients' CAs that are not there", docs("kind: Gateway\nmetadata: {name: g}\nspec: {gatewayClassName: c, tls: {frontend: {default: {validation: {mode: AllowInsecureFallback, caCertificateRefs: [{group: '', kind: ConfigMap, name: x}]}}}}, listeners: [{name: l, port: 443, "+term+"}]}", plain, keys),
			[]string{"refuse []:443:*", "listener g/l Accepted=False/NoValidCACertificate", "listener g/l ResolvedRefs=False/InvalidCACertificateRef", "gateway g InsecureFrontendValidationMode=True/ConfigurationChanged"}},
		{"BackendTLSPolicy", docs(gw("g", "{name: l, port: 443, hostname: a.test, "+term+"}"), plain, keys, policy("p", "caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]"), policy("q", "wellKnownCACertificates: System")),
			[]string{"serve default/r Terminate []:443:a.test -> 1*s.default[]TLS:b.test", "policy p at g Accepted=True/Accepted", "policy p at g ResolvedRefs=True/ResolvedRefs", "policy q at g Accepted=False/Conflicted"}},
		{"a policy without a valid CA", docs(gw("g", "{name: l, port: 443, hostname: a.test, "+term+"}"), plain, keys, policy("p", "caCertificateRefs: [{group: '', kind: ConfigMap, name: x}]")),
			[]string{"serve default/r Terminate []:443:a.test -> 1*[]INVALID", "policy p at g Accepted=False/NoValidCACertificate", "policy p at g ResolvedRefs=False/InvalidCACertificateRef"}},
		{"a policy and passthrough", docs(gw("g", listener), route("r", "{name: g}", "'*.test'", "{name: s, port: 1}"), policy("p", "wellKnownCACertificates: System")),
			[]string{"serve default/r Passthrough []:443:*.test -> 1*s.default[]", "no policy", "warning BackendTLSPolicy p: "}},
		{"its own address", docs("kind: Gateway\nmetadata: {name: g}\nspec: {gatewayClassName: c, addresses: [{value: 10.0.0.9}], listeners: ["+listener+"]}", plain),
			[]string{"serve default/r Passthrough [10.0.0.9]:443:a.test -> 1*s.default[]", "refuse [10.0.0.9]:443:*.test", "gateway g address IPAddress 10.0.0.9"}},
		{"an address of another type", docs("kind: Gateway\nmetadata: {name: g}\nspec: {gatewayClassName: c, addresses: [{type: NamedAddress, value: x}], listeners: ["+listener+"]}", plain),
			[]string{"gateway g Accepted=False/UnsupportedAddress", "gateway g Programmed=False/Invalid"}},
		{"parameters", docs("kind: Gateway\nmetadata: {name: g}\nspec: {gatewayClassName: c, infrastructure: {parametersRef: {group: x, kind: Y, name: z}}, listeners: ["+listener+"]}", plain),
			[]string{"gateway g Accepted=False/InvalidParameters", "gateway g Programmed=False/Invalid"}},
	} {
		t.Run(tt.name, func(t *testing.T) { want(t, lines(Compute(read(t, tt.objects))), tt.want) })
	}
}

func TestServicesUnknown(t *testing.T) {
	in := read(t, docs(gw("g", "{name: l, port: 443, hostname: a.test, "+pass+"}"), route("r", "{name: g}", "", "{name: s, port: 1}, {name: t, port: 2}"),
		"kind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 1}]}",
		"kind: EndpointSlice\nmetadata: {name: s-1, labels: {kubernetes.io/service-name: s}}\nports: [{port: 8443}]\nendpoints: [{addresses: [10.0.0.2]}]"))
	in.ServicesUnknown = true
	want(t, lines(Compute(in)), []string{"serve default/r Passthrough []:443:a.test -> 1*[10.0.0.2:8443] -> 1*t.default[]"})
}

func TestAddresses(t *testing.T) {
	in := read(t, docs(gw("f", "{name: l, port: 443, "+pass+"}"), gw("g", "{name: l, port: 443, "+pass+"}"), gw("h", "{name: l, port: 443, "+pass+"}"),
		"kind: Gateway\nmetadata: {name: i}\nspec: {gatewayClassName: c, addresses: [{value: 10.0.0.9}], listeners: [{name: l, port: 443, "+pass+"}]}"))
	in.Addresses = map[types.NamespacedName][]netip.Addr{{Namespace: "default", Name: "f"}: nil, {Namespace: "default", Name: "g"}: {netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.1")}}
	in.AddressUsable = func(types.NamespacedName, netip.Addr) error { return errors.New("not of this host") }
	want(t, lines(Compute(in)), []string{"refuse []:443:*", "refuse [10.0.0.1 10.0.0.2]:443:*", "gateway f Programmed=True/Programmed", "gateway g Programmed=True/Programmed", "gateway g address IPAddress 10.0.0.1",
		"gateway h Programmed=False/AddressNotAssigned", "gateway i Programmed=False/AddressNotUsable", "listener i/l Programmed=False/Pending"})
}

func FuzzNames(f *testing.F) {
	f.Add("*.a.test", "b.a.test")
	f.Add("*", "*.test")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if checkHostname(pattern) != nil || checkHostname(name) != nil {
			return
		}
		if !isWildcard(name) && contains(pattern, name) != patternTakes(pattern, name) {
			t.Errorf("%q contains %q: %t", pattern, name, contains(pattern, name))
		}
		found := false
		for p := range func(yield func(string) bool) { parents(name, yield) } {
			found = found || p == pattern
		}
		if found != contains(pattern, name) {
			t.Errorf("%q is a parent of %q: %t", pattern, name, found)
		}
		if both, ok := intersect(pattern, name); ok && (!contains(pattern, both) || !contains(name, both)) {
			t.Errorf("%q and %q intersect in %q", pattern, name, both)
		}
	})
}
