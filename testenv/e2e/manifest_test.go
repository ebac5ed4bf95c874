// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spliceway/spliceway/testenv"
)

// manifestSite is an agent that serves manifests.
type manifestSite struct {
	*run
	dir string
	ca  *testenv.CA
}

// newManifestSite starts it on a directory with files of manifests.
func newManifestSite(t *testing.T, n *testenv.Network, ca *testenv.CA, settings string, files map[string]string) *manifestSite {
	t.Helper()
	s := &manifestSite{dir: t.TempDir(), ca: ca}
	for name, text := range files {
		s.put(t, name, text)
	}
	s.run = start(t, n, settings+fmt.Sprintf("manifests: [%q]\n", s.dir))
	return s
}

func (s *manifestSite) put(t *testing.T, name, text string) {
	t.Helper()
	if err := testenv.WriteFile(filepath.Join(s.dir, name), []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// agentEndpoint is an object; more is further YAML below spec.
func agentEndpoint(name, url, upstream, more string) string {
	return fmt.Sprintf("---\napiVersion: ngrok.k8s.ngrok.com/v1alpha1\nkind: AgentEndpoint\nmetadata: {name: %s}\nspec:\n  url: %q\n  upstream: {url: %q}\n%s", name, url, upstream, more)
}

func cloudEndpoint(name, url, more string) string {
	return fmt.Sprintf("---\napiVersion: ngrok.k8s.ngrok.com/v1alpha1\nkind: CloudEndpoint\nmetadata: {name: %s}\nspec:\n  url: %q\n%s", name, url, more)
}

// inline is a policy of one rule.
func inline(expression string, actions ...string) string {
	text := "  trafficPolicy:\n    inline:\n      on_tcp_connect:\n"
	return text + policyRule(expression, actions...)
}

func policyRule(expression string, actions ...string) string {
	text := "      - actions: [" + strings.Join(actions, ", ") + "]\n"
	if expression != "" {
		text += fmt.Sprintf("        expressions: [%q]\n", expression)
	}
	return text
}

func forward(url, more string) string {
	return fmt.Sprintf("{type: forward-internal, config: {url: %q%s}}", url, more)
}

func inner(name string) string { return fmt.Sprintf("tls://%s.internal:%d", name, gatewayPort) }

// asked is who answers a client of a name, which verifies a certificate for it.
func (s *manifestSite) asked(t *testing.T, h *testenv.Host, name string) (backend string, client net.Addr, err error) {
	t.Helper()
	raw, err := h.Dial(short(t), s.gateway())
	if err != nil {
		return "", nil, err
	}
	defer func() { _ = raw.Close() }()
	if err := raw.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", nil, err
	}
	c := tls.Client(raw, s.ca.ClientConfig(name))
	if err := c.HandshakeContext(short(t)); err != nil {
		return "", raw.LocalAddr(), err
	}
	reply, err := testenv.Ask(c, testenv.Request{})
	return reply.Backend, raw.LocalAddr(), err
}

func TestTrafficPolicies(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{Clients: 2, Backends: 2})
	ca := testenv.MustCA(t)
	names := []string{"a.cloud.test", "b.cloud.test", "c.cloud.test", "pooled.test", "only.test", "retried.test", "logged.test"}
	a := tlsBackend(t, n.Backends[0], ca, "a", names[0], names[1:]...)
	b := tlsBackend(t, n.Backends[1], ca, "b", names[0], names[1:]...)
	toA, toB := "tls://"+at(n.Backends[0], a).String(), "tls://"+at(n.Backends[1], b).String()
	dead := "tls://" + nobody(t, n.Backends[0]).String()
	client := n.Clients[1].IPv4().String()
	s := newManifestSite(t, n, ca, "", map[string]string{"all.yaml": "" +
		agentEndpoint("a", inner("a"), toA, "") + agentEndpoint("b", inner("b"), toB, "") + agentEndpoint("dead", inner("dead"), dead, "") +
		cloudEndpoint("cloud", sni("*.cloud.test"), inline("", forward("tls://${conn.tls.sni.split('.')[0]}.internal:"+fmt.Sprint(gatewayPort), ""))) +
		agentEndpoint("pool-1", sni("pooled.test"), toA, "") + agentEndpoint("pool-2", sni("pooled.test"), toB, "") +
		agentEndpoint("only", sni("only.test"), toA, inline("", "{type: restrict-ips, config: {deny: ["+client+"]}}")) +
		cloudEndpoint("retried", sni("retried.test"), inline("", forward(inner("dead"), ", on_error: continue"), forward(inner("nowhere"), ", on_error: continue"), forward(inner("b"), ""))) +
		agentEndpoint("logged", sni("logged.test"), toA, inline("conn.tls.sni == 'logged.test'", "{type: log, config: {metadata: {who: \"${conn.client_ip}\", n: 1}}}")) +
		agentEndpoint("loop-1", inner("loop-1"), toA, inline("", forward(inner("loop-2"), ""))) +
		agentEndpoint("loop-2", inner("loop-2"), toA, inline("", forward(inner("loop-1"), ""))) +
		cloudEndpoint("loop", sni("loop.test"), inline("", forward(inner("loop-1"), ""))) +
		agentEndpoint("broken", sni("broken.test"), toA, inline("vars.nothing == 1", "{type: deny}")) +
		cloudEndpoint("end", sni("end.test"), inline("false", "{type: deny}")),
	})
	for _, tt := range []struct {
		name, backend string
		line          map[string]any
	}{
		{"a.cloud.test", "a", map[string]any{"endpoint": "cloudendpoint/default/cloud", "outcome": "routed", "match": "*.cloud.test"}},
		{"b.cloud.test", "b", map[string]any{"endpoint": "cloudendpoint/default/cloud", "outcome": "routed"}},
		{"retried.test", "b", map[string]any{"endpoint": "cloudendpoint/default/retried", "outcome": "routed"}},
		{"only.test", "a", map[string]any{"endpoint": "agentendpoint/default/only", "outcome": "routed"}},
		{"logged.test", "a", map[string]any{"outcome": "routed"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := *s.run
			r.t = t
			backend, client, err := s.asked(t, n.Clients[0], tt.name)
			if err != nil || backend != tt.backend {
				t.Errorf("answered by %q, %v", backend, err)
			}
			l := r.expectLine(client, tt.line)
			if strings.HasSuffix(tt.name, ".cloud.test") && fmt.Sprint(l["forwarded_to"]) != "[agentendpoint/default/"+tt.backend+"]" {
				t.Errorf("forwarded to %v", l["forwarded_to"])
			}
			if tt.name == "logged.test" && fmt.Sprint(l["policy_log"]) != "[map[n:1 who:"+n.Clients[0].IPv4().String()+"]]" {
				t.Errorf("logged %v", l["policy_log"])
			}
		})
	}
	for _, tt := range []struct {
		name, outcome, reason string
		client                *testenv.Host
	}{
		{"only.test", "denied", "agentendpoint/default/only: rule 0: restrict-ips", n.Clients[1]},
		{"c.cloud.test", "policy_failed", "no internal endpoint has this URL", n.Clients[0]},
		{"loop.test", "policy_failed", "endpoints forward in a row", n.Clients[0]},
		{"broken.test", "policy_failed", "no such key", n.Clients[0]},
		{"end.test", "policy_failed", "its policy ends without forwarding", n.Clients[0]},
		{"a.internal", "unknown_name", "", n.Clients[0]},
	} {
		t.Run(tt.name+" "+tt.outcome, func(t *testing.T) {
			r := *s.run
			r.t = t
			backend, client, err := s.asked(t, tt.client, tt.name)
			if err == nil {
				t.Errorf("answered by %q", backend)
			}
			if l := r.expectLine(client, map[string]any{"outcome": tt.outcome}); !strings.Contains(fmt.Sprint(l["reason"]), tt.reason) {
				t.Errorf("the reason is %v, want %s", l["reason"], tt.reason)
			}
		})
	}
	t.Run("pooled", func(t *testing.T) {
		seen := map[string]bool{}
		for range 200 { // all to one of two: once in 2^199
			backend, _, err := s.asked(t, n.Clients[0], "pooled.test")
			if err != nil {
				t.Fatal(err)
			}
			if seen[backend] = true; len(seen) == 2 {
				return
			}
		}
		t.Errorf("all of them went to %v", seen)
	})
}

func tlsSecret(t *testing.T, name string, c tls.Certificate, more string) string {
	t.Helper()
	chain, key := testenv.MustPEM(t, c)
	enc := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("---\napiVersion: v1\nkind: Secret\nmetadata: {name: %s}\ntype: kubernetes.io/tls\ndata: {tls.crt: %s, tls.key: %s%s}\n", name, enc([]byte(chain)), enc([]byte(key)), more)
}

// TestTerminationByManifests: by a policy, by an AgentEndpoint and its Secrets.
func TestTerminationByManifests(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	ca := testenv.MustCA(t)
	server, err := ca.Certificate("policy.test", "object.test")
	if err != nil {
		t.Fatal(err)
	}
	alice, err := ca.Issue(testenv.Leaf{Names: []string{"alice"}, Client: true})
	if err != nil {
		t.Fatal(err)
	}
	chain, key := testenv.MustPEM(t, server)
	plain := "tcp://" + greeter(t, n.Backends[0], "welcome").String()
	secure := "tls://" + at(n.Backends[0], tlsBackend(t, n.Backends[0], ca, "again", "again.test")).String()
	ca64 := base64.StdEncoding.EncodeToString(ca.PEM())
	s := newManifestSite(t, n, ca, "", map[string]string{"all.yaml": "" +
		tlsSecret(t, "server", server, ", ca.crt: "+ca64) +
		agentEndpoint("inner", inner("inner"), plain, "") +
		cloudEndpoint("policy", sni("policy.test"), inline("", fmt.Sprintf(
			"{type: terminate-tls, config: {server_certificate: %q, server_private_key: %q, mutual_tls_certificate_authorities: [%q]}}", chain, key, ca.PEM()))+
			policyRule("conn.tls.client.subject.common_name != 'alice'", "{type: deny}")+
			policyRule("", "{type: log, config: {metadata: {version: \"${conn.tls.version}\", server: \"${conn.tls.server.san.dns_names}\"}}}", forward(inner("inner"), ""))) +
		agentEndpoint("object", sni("object.test"), plain, "  tlsTermination: {serverCertificateRef: {name: server}, mutualTLS: {clientCAsRef: {name: server}}}\n") +
		agentEndpoint("ended", inner("ended"), "tcp://"+nobody(t, n.Backends[0]).String(), "  tlsTermination: {serverCertificateRef: {name: server}}\n") +
		cloudEndpoint("kept", sni("kept.test"), inline("", forward(inner("ended"), ", on_error: continue"), forward(inner("inner"), ""))) +
		agentEndpoint("unverified", sni("again.test"), secure, "  tlsTermination: {serverCertificateRef: {name: server}}\n"),
	})
	greeted := func(t *testing.T, name string, own *tls.Certificate) (string, net.Addr, error) {
		t.Helper()
		config := ca.ClientConfig(name)
		config.MaxVersion = tls.VersionTLS12 // a handshake that fails is heard of at once
		if own != nil {
			config.Certificates = []tls.Certificate{*own}
		}
		raw, err := n.Clients[0].Dial(short(t), s.gateway())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = raw.Close() }()
		_ = raw.SetDeadline(time.Now().Add(patience))
		c := tls.Client(raw, config)
		if err := c.HandshakeContext(short(t)); err != nil {
			return "", raw.LocalAddr(), err
		}
		greeting, err := io.ReadAll(c)
		return string(greeting), raw.LocalAddr(), err
	}
	bob, err := ca.Issue(testenv.Leaf{Names: []string{"bob"}, Client: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name     string
		own      *tls.Certificate
		greeting string
		line     map[string]any
	}{
		{"policy.test", &alice, "welcome", map[string]any{"outcome": "routed", "engine": "relay", "tls_version": "1.2", "client_cert_verified": true}},
		{"policy.test", &bob, "", map[string]any{"outcome": "denied", "client_cert_verified": true}},
		{"policy.test", nil, "", map[string]any{"outcome": "handshake_failed", "handshake_failure": "certificate_required"}},
		{"object.test", &alice, "welcome", map[string]any{"outcome": "routed", "engine": "relay", "client_cert_verified": true}},
		{"object.test", nil, "", map[string]any{"outcome": "handshake_failed"}},
	} {
		greeting, client, err := greeted(t, tt.name, tt.own)
		if greeting != tt.greeting || tt.greeting != "" && err != nil {
			t.Errorf("%s: greeted with %q, %v", tt.name, greeting, err)
		}
		l := s.expectLine(client, tt.line)
		if tt.own == &alice && tt.name == "policy.test" && fmt.Sprint(l["policy_log"]) != "[map[server:[policy.test object.test] version:1.2]]" {
			t.Errorf("the policy logged %v", l["policy_log"])
		}
	}
	// Where TLS has ended on the way to an upstream in vain, nobody else gets what was inside.
	kept := ca.ClientConfig("policy.test")
	lost, err := n.Clients[0].Dial(short(t), s.gateway())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lost.Close() }()
	kept.ServerName, kept.InsecureSkipVerify = "kept.test", true
	_ = tls.Client(lost, kept).HandshakeContext(short(t))
	if l := s.expectLine(lost.LocalAddr(), map[string]any{"outcome": "dial_failed"}); fmt.Sprint(l["forwarded_to"]) != "[agentendpoint/default/ended]" {
		t.Errorf("forwarded to %v", l["forwarded_to"])
	}
	// Its upstream is verified against the system's CAs: this one is of none of them.
	config := ca.ClientConfig("policy.test")
	raw, err := n.Clients[0].Dial(short(t), s.gateway())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	config.ServerName, config.InsecureSkipVerify = "again.test", true
	_ = tls.Client(raw, config).HandshakeContext(short(t))
	_ = raw.CloseWrite()
	s.expectLine(raw.LocalAddr(), map[string]any{"outcome": "dial_failed"})
	for _, secret := range []string{strings.Split(key, "\n")[1], base64.StdEncoding.EncodeToString([]byte(key))[:60]} {
		if strings.Contains(s.Log().String(), secret) {
			t.Error("a key is in the log")
		}
	}
}

// TestGateways: listeners with addresses of their own, precedence, weights, mixed modes.
func TestGateways(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	ca := testenv.MustCA(t)
	server, err := ca.Certificate("terminated.test", "again.test", "wrong.test")
	if err != nil {
		t.Fatal(err)
	}
	again := tlsBackend(t, n.Backends[0], ca, "again", "inside.test")
	backendTLS := func(service, hostname string) string {
		return fmt.Sprintf("---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: %s}\nspec: {targetRefs: [{group: \"\", kind: Service, name: %[1]s}], validation: {hostname: %s, caCertificateRefs: [{group: \"\", kind: ConfigMap, name: ca}]}}\n", service, hostname)
	}
	names := []string{"a.example.test", "b.example.test", "any.other.test", "weighted.test"}
	one := tlsBackend(t, n.Backends[0], ca, "one", names[0], names[1:]...)
	two := tlsBackend(t, n.Backends[0], ca, "two", names[0], names[1:]...)
	plain := greeter(t, n.Backends[0], "welcome")
	gateway := func(name, address, listeners string) string {
		return fmt.Sprintf("---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: %s}\nspec:\n  gatewayClassName: spliceway\n  addresses: [{type: IPAddress, value: %s}]\n  listeners:\n%s", name, address, listeners)
	}
	listener := func(name, hostname, tls string) string {
		if hostname != "" {
			hostname = fmt.Sprintf(", hostname: %q", hostname)
		}
		return fmt.Sprintf("  - {name: %s, port: %d, protocol: TLS%s, tls: %s}\n", name, gatewayPort, hostname, tls)
	}
	route := func(name, parent, hostnames, backends string) string {
		return fmt.Sprintf("---\napiVersion: gateway.networking.k8s.io/v1\nkind: TLSRoute\nmetadata: {name: %s}\nspec: {parentRefs: [%s], hostnames: [%s], rules: [{backendRefs: [%s]}]}\n", name, parent, hostnames, backends)
	}
	backend := func(name string, port uint16, more string) string {
		return fmt.Sprintf("{name: %s, port: %d%s}", name, port, more)
	}
	const pass = "{mode: Passthrough}"
	s := newManifestSite(t, n, ca, fmt.Sprintf("hosts: {one.default: [%q], two.default: [%[1]q], plain.default: [%[1]q], again.default: [%[1]q], wrong.default: [%[1]q]}\n", n.Backends[0].IPv4()), map[string]string{"all.yaml": "" +
		"---\napiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: spliceway}\nspec: {controllerName: spliceway.dev/gateway-controller}\n" +
		tlsSecret(t, "server", server, "") +
		fmt.Sprintf("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: ca}\ndata: {ca.crt: %q}\n", ca.PEM()) +
		backendTLS("again", "inside.test") + backendTLS("wrong", "outside.test") +
		route("again", "{name: first, sectionName: again}", "again.test", backend("again", again.Port(), "")) +
		route("wrong", "{name: first, sectionName: wrong}", "wrong.test", backend("wrong", again.Port(), "")) +
		gateway("first", "127.0.0.2", listener("wide", "*.example.test", pass)+listener("narrow", "a.example.test", pass)+
			listener("ended", "terminated.test", "{mode: Terminate, certificateRefs: [{name: server}]}")+listener("weights", "weighted.test", pass)+
			listener("again", "again.test", "{mode: Terminate, certificateRefs: [{name: server}]}")+listener("wrong", "wrong.test", "{mode: Terminate, certificateRefs: [{name: server}]}")) +
		strings.Replace(gateway("third", "127.0.0.4", listener("strict", "terminated.test", "{mode: Terminate, certificateRefs: [{name: server}], options: {spliceway.dev/min-version: \"1.3\"}}")),
			"  listeners:", "  tls: {frontend: {default: {validation: {caCertificateRefs: [{group: \"\", kind: ConfigMap, name: ca}]}}}}\n  listeners:", 1) +
		route("strict", "{name: third}", "terminated.test", backend("plain", plain.Port(), "")) +
		gateway("second", "127.0.0.3", listener("all", "", pass)) +
		route("wide", "{name: first, sectionName: wide}", "a.example.test, b.example.test", backend("one", one.Port(), "")) +
		route("ended", "{name: first, sectionName: ended}", "terminated.test", backend("plain", plain.Port(), "")) +
		route("weighted", "{name: first, sectionName: weights}", "weighted.test", backend("one", one.Port(), "")+", {name: x, kind: Nothing, group: example.com, port: 1}") +
		route("all", "{name: second}", "\"*.test\"", backend("two", two.Port(), "")),
	})
	ask := func(address, name string, change ...func(*tls.Config)) (string, error) {
		ctx := short(t)
		var raw net.Conn
		if err := n.Gateway.Do(func() (err error) {
			raw, err = (&net.Dialer{}).DialContext(ctx, "tcp", netip.AddrPortFrom(netip.MustParseAddr(address), gatewayPort).String())
			return err
		}); err != nil {
			return "", err
		}
		defer func() { _ = raw.Close() }()
		_ = raw.SetDeadline(time.Now().Add(patience))
		config := ca.ClientConfig(name)
		for _, f := range change {
			f(config)
		}
		c := tls.Client(raw, config)
		if err := c.HandshakeContext(ctx); err != nil {
			return "", err
		}
		if name == "terminated.test" {
			b, err := io.ReadAll(c)
			return string(b), err
		}
		reply, err := testenv.Ask(c, testenv.Request{})
		return reply.Backend, err
	}
	for _, tt := range []struct{ address, name, backend string }{
		{"127.0.0.2", "b.example.test", "one"},
		{"127.0.0.2", "a.example.test", ""}, // its listener is narrow, whose routes are none
		{"127.0.0.2", "any.other.test", ""},
		{"127.0.0.2", "terminated.test", "welcome"},
		{"127.0.0.2", "again.test", "again"},
		{"127.0.0.2", "wrong.test", ""}, // its backend has another name than the policy asks for
		{"127.0.0.3", "a.example.test", "two"},
		{"127.0.0.3", "any.other.test", "two"},
		{"127.0.0.3", "example.com", ""},
	} {
		got, err := ask(tt.address, tt.name)
		if got != tt.backend || (err == nil) != (tt.backend != "") {
			t.Errorf("%s at %s: answered by %q, %v; want %q", tt.name, tt.address, got, err, tt.backend)
		}
	}
	own, err := ca.Issue(testenv.Leaf{Names: []string{"client"}, Client: true})
	if err != nil {
		t.Fatal(err)
	}
	known := func(c *tls.Config) { c.Certificates = []tls.Certificate{own} }
	old := func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }
	if got, err := ask("127.0.0.4", "terminated.test", known); got != "welcome" || err != nil {
		t.Errorf("a client with a certificate got %q, %v", got, err)
	}
	for what, change := range map[string][]func(*tls.Config){"without a certificate": nil, "of TLS 1.2": {known, old}} {
		if got, err := ask("127.0.0.4", "terminated.test", change...); err == nil {
			t.Errorf("a client %s got %q", what, got)
		}
	}
	// Equal weights, one of them invalid: smooth round robin refuses every second one.
	good := 0
	for range 20 {
		if backend, err := ask("127.0.0.2", "weighted.test"); err == nil && backend == "one" {
			good++
		}
	}
	if good != 10 {
		t.Errorf("%d of 20 connections to a backend and an invalid one were served, want 10", good)
	}
	if _, err := n.Clients[0].Dial(context.Background(), s.gateway()); err == nil {
		t.Error("an address that no Gateway has is listened on")
	}
}

// TestManifestsReload by themselves; what breaks goes on as it was, and what is right
// changes all the same.
func TestManifestsReload(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{Backends: 2})
	ca := testenv.MustCA(t)
	a := tlsBackend(t, n.Backends[0], ca, "a", "x.test", "y.test")
	b := tlsBackend(t, n.Backends[1], ca, "b", "x.test", "y.test")
	toA, toB := "tls://"+at(n.Backends[0], a).String(), "tls://"+at(n.Backends[1], b).String()
	s := newManifestSite(t, n, ca, "", map[string]string{
		"x.yaml": agentEndpoint("x", sni("x.test"), toA, ""), "y.yaml": agentEndpoint("y", sni("y.test"), toA, ""),
	})
	expect := func(name, want string) {
		t.Helper()
		var got string
		var err error
		if pollErr := testenv.Poll(short(t), func() (bool, error) {
			got, _, err = s.asked(t, n.Clients[0], name)
			return got == want, nil
		}); pollErr != nil {
			t.Fatalf("%s is answered by %q, %v; want %q", name, got, err, want)
		}
	}
	expect("x.test", "a")
	s.put(t, "x.yaml", agentEndpoint("x", sni("x.test"), toB, ""))
	expect("x.test", "b")

	// One object is broken in its fields, another in its meaning; the third changes.
	s.put(t, "x.yaml", agentEndpoint("x", sni("x.test"), toA, "  upsteam: {}\n")+agentEndpoint("z", sni("z.test"), "ftp://nowhere", ""))
	if _, err := s.WaitLine(short(t), func(l string) bool {
		return strings.Contains(l, `unknown field \"upsteam\"`) && strings.Contains(l, "object refused")
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.WaitLine(short(t), func(l string) bool { return strings.Contains(l, "ftp:// is not spoken") }); err != nil {
		t.Fatal(err)
	}
	s.put(t, "y.yaml", agentEndpoint("y", sni("y.test"), toB, ""))
	expect("y.test", "b")
	expect("x.test", "b") // as it was when it was right
	s.expectMetric("manifest_problems", 2)

	s.put(t, "y.yaml", "{: [")
	if _, err := s.WaitLine(short(t), func(l string) bool { return strings.Contains(l, "no YAML from here on") }); err != nil {
		t.Fatal(err)
	}
	expect("y.test", "b")
	s.put(t, "x.yaml", agentEndpoint("x", sni("x.test"), toA, ""))
	s.put(t, "y.yaml", "")
	expect("x.test", "a")
	expect("y.test", "")
	s.expectMetric("manifest_problems", 0)

	s.put(t, "new.yaml", agentEndpoint("new", sni("y.test"), toB, ""))
	expect("y.test", "b")
	if err := os.Remove(filepath.Join(s.dir, "new.yaml")); err != nil {
		t.Fatal(err)
	}
	expect("y.test", "")
}
