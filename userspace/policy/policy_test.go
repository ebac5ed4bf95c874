// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/spliceway/spliceway/testenv"
)

func parse(t testing.TB, text string) (*Policy, []Warning, error) {
	t.Helper()
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	return Parse("p.yaml", doc.Content[0], Options{})
}

func mustParse(t testing.TB, text string) *Policy {
	t.Helper()
	p, _, err := parse(t, text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func connection() *Connection {
	return &Connection{
		Client: netip.MustParseAddrPort("10.1.2.3:4000"), Server: netip.MustParseAddrPort("[2001:db8::1]:443"),
		SNI: "a.test", JA4: "t13d", OfferedALPN: []string{"h2", "http/1.1"},
		Endpoint: Endpoint{ID: "agentendpoint/default/a", URL: "tls://a.test:443", Protocol: "tls", Host: "a.test", Port: 443},
	}
}

// run lists what a policy asks for, up to its end.
func run(p *Policy, c *Connection) (steps []string) {
	r := p.Start(c)
	defer r.Release()
	for {
		s := r.Next()
		switch s.Kind {
		case End:
			return append(steps, "end")
		case Close:
			return append(steps, "close by "+s.Action+" of "+s.Rule)
		case Failed:
			return append(steps, "failed: "+s.Err.Error())
		case Forward:
			steps = append(steps, "forward to "+s.URL)
			if !s.OnErrorContinue {
				return steps
			}
			r.Forwarded(errors.New("refused"))
		case Log:
			steps = append(steps, fmt.Sprint("log ", s.Metadata))
		case Terminate:
			steps = append(steps, "terminate")
			c.TLS = &TLS{Version: "1.3", CipherSuite: "TLS_AES_128_GCM_SHA256", ALPN: "h2", ClientCertificate: &x509.Certificate{
				Subject: pkix.Name{CommonName: "alice", Organization: []string{"ops"}}, DNSNames: []string{"alice.test"},
			}}
		}
	}
}

func TestRun(t *testing.T) {
	for _, tt := range []struct {
		name, policy string
		want         []string
	}{
		{"nothing", "{}", []string{"end"}},
		{"deny", "on_tcp_connect: [{actions: [{type: deny}]}]", []string{"close by deny of 0"}},
		{"close", "on_tcp_connect: [{name: shut, actions: [{type: close-connection}]}]", []string{`close by close-connection of "shut"`}},
		{"expressions are all needed", "on_tcp_connect: [{expressions: [\"true\", \"conn.client_port == 1\"], actions: [{type: deny}]}]", []string{"end"}},
		{"rules in order", "on_tcp_connect: [{actions: [{type: log, config: {metadata: {n: 1}}}, {type: log, config: {metadata: {n: 2}}}]}, {actions: [{type: deny}]}]",
			[]string{"log map[n:1]", "log map[n:2]", "close by deny of 1"}},
		{"forward", "on_tcp_connect: [{actions: [{type: forward-internal, config: {url: \"tls://a.internal:8443\"}}]}]", []string{"forward to tls://a.internal:8443"}},
		{"forward by name", "on_tcp_connect: [{actions: [{type: forward-internal, config: {url: \"tls://${conn.tls.sni.split('.')[0]}.internal:${conn.server_port}\"}}]}]",
			[]string{"forward to tls://a.internal:443"}},
		{"forward in vain", "on_tcp_connect: [{actions: [{type: forward-internal, config: {url: \"tls://a.internal\", on_error: continue}}, {type: log, config: {metadata: {e: \"${actions.ngrok.forward_internal.error}\"}}}, {type: deny}]}]",
			[]string{"forward to tls://a.internal", "log map[e:refused]", "close by deny of 0"}},
		{"allowed", "on_tcp_connect: [{actions: [{type: restrict-ips, config: {allow: [10.0.0.0/8], deny: [10.2.0.0/16]}}]}]", []string{"end"}},
		{"not allowed", "on_tcp_connect: [{actions: [{type: restrict-ips, config: {allow: [192.0.2.1, \"2001:db8::/32\"]}}]}]", []string{"close by restrict-ips of 0"}},
		{"allowed and denied", "on_tcp_connect: [{actions: [{type: restrict-ips, config: {allow: [10.0.0.0/8], deny: [10.1.0.0/16]}}]}]", []string{"close by restrict-ips of 0"}},
		{"denied only", "on_tcp_connect: [{actions: [{type: restrict-ips, config: {deny: [10.1.2.3]}}]}]", []string{"close by restrict-ips of 0"}},
		{"in IPv6 clothes", "on_tcp_connect: [{actions: [{type: restrict-ips, config: {deny: [\"::ffff:10.1.2.0/120\"]}}]}]", []string{"close by restrict-ips of 0"}},
		{"an empty list allows nobody", "on_tcp_connect: [{actions: [{type: restrict-ips, config: {allow: []}}]}]", []string{"close by restrict-ips of 0"}},
		{"not enforced", "on_tcp_connect: [{actions: [{type: restrict-ips, config: {enforce: false, deny: [10.0.0.0/8]}}, {type: log, config: {metadata: {a: \"${actions.ngrok.restrict_ips.action} ${actions.ngrok.restrict_ips.matched_cidr}\"}}}]}]",
			[]string{"log map[a:deny 10.0.0.0/8]", "end"}},
		{"a network of an expression", "on_tcp_connect: [{actions: [{type: set-vars, config: {vars: [{net: 10.1.0.0/16}]}}, {type: restrict-ips, config: {deny: [\"${vars.net}\"]}}]}]", []string{"close by restrict-ips of 0"}},
		{"a network that is none", "on_tcp_connect: [{actions: [{type: restrict-ips, config: {deny: [\"${conn.tls.sni}\"]}}]}]", []string{"failed: \"a.test\" is no IP address and no network"}},
		{"variables keep their type", "on_tcp_connect: [{actions: [{type: set-vars, config: {vars: [{n: 3}, {p: \"${conn.client_port}\"}, {l: [x, \"${conn.tls.sni}\"]}]}}]}, {expressions: [\"vars.n + 1 == 4 && vars.p == 4000 && 'a.test' in vars.l\"], actions: [{type: deny}]}]",
			[]string{"close by deny of 1"}},
		{"a variable that is not there", "on_tcp_connect: [{expressions: [\"vars.x == 1\"], actions: [{type: deny}]}]", []string{"failed: vars.x == 1: no such key: x"}},
		{"has", "on_tcp_connect: [{expressions: [\"has(vars.x)\"], actions: [{type: deny}]}]", []string{"end"}},
		{"expressions in ${}", "on_tcp_connect: [{expressions: [\"${conn.tls.sni == 'a.test'}\"], actions: [{type: deny}]}]", []string{"close by deny of 0"}},
		{"before TLS is terminated", "on_tcp_connect: [{expressions: [\"conn.tls.version == '' && conn.tls.client.subject.common_name == ''\"], actions: [{type: deny}]}]", []string{"close by deny of 0"}},
		{"macros", `on_tcp_connect: [{expressions: ["inCidrRange(conn.client_ip, '10.0.0.0/8') && inCidrRanges(conn.client_ip, ['192.0.2.0/24', '10.1.0.0/16']) && conn.client_ip.isPrivateIp() && conn.tls.sni.upper().lower() == 'a.test' && conn.tls.offered_alpn.exists(p, p == 'h2') && rand.int(1, 1) == 1 && rand.double() < 1.0 && hash.sha256('') .startsWith('e3b0') && base64.encode('x') == 'eA==' && json.decode('{\"a\": [1]}').a[0] == 1 && json.encode(['x']) == '[\"x\"]' && ['a', 'b'].join('-') == 'a-b' && endpoint.port == 443 && conn.ts.start < timestamp(time.now)"], actions: [{type: deny}]}]`,
			[]string{"close by deny of 0"}},
		{"braces in an expression", "on_tcp_connect: [{actions: [{type: log, config: {metadata: {m: \"${ {'a': '}'}['a'] }!\", l: \"${conn.tls.offered_alpn}\", s: \"${conn.tls.offered_alpn}.\"}}}]}]",
			[]string{`log map[l:[h2 http/1.1] m:}! s:["h2","http/1.1"].]`, "end"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, run(mustParse(t, tt.policy), connection())); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// pair is a certificate and its key, PEM, as YAML strings.
func pair(t testing.TB) (certificate, key string) {
	t.Helper()
	certificate, key = testenv.MustPair(t, "a.test")
	return strconv.Quote(certificate), strconv.Quote(key)
}

func TestTermination(t *testing.T) {
	certificate, key := pair(t)
	p := mustParse(t, `
on_tcp_connect:
- actions:
  - type: terminate-tls
    config:
      min_version: "1.3"
      server_certificate: `+certificate+`
      server_private_key: `+key+`
      mutual_tls_certificate_authorities: [`+certificate+`]
- expressions: ["conn.tls.client.subject.common_name == 'alice' && 'ops' in conn.tls.client.subject.organization && 'alice.test' in conn.tls.client.san.dns_names && conn.tls.client.subject == 'CN=alice,O=ops'"]
  actions: [{type: log, config: {metadata: {s: "${conn.tls.server.san.dns_names}", v: "${conn.tls.version} ${actions.ngrok.terminate_tls.cipher_suite} ${conn.tls.negotiated_alpn}"}}}]
`)
	want := []string{"terminate", "log map[s:[a.test] v:1.3 TLS_AES_128_GCM_SHA256 h2]", "end"}
	if diff := cmp.Diff(want, run(p, connection())); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	all := p.Terminations()
	if len(all) != 1 || all[0].MinVersion != 0x304 || all[0].MaxVersion != 0x304 || all[0].ClientAuth != RequireAndVerify || len(all[0].CAs) != 1 || len(all[0].Key) == 0 {
		t.Errorf("terminations %+v", all)
	}
}

func TestMistakes(t *testing.T) {
	certificate, key := pair(t)
	other, _ := pair(t)
	one := func(action string) string {
		return "on_tcp_connect:\n- actions:\n  - " + action + "\n"
	}
	condition := func(x string) string {
		return "on_tcp_connect:\n- expressions:\n  - " + fmt.Sprintf("%q", x) + "\n  actions: [{type: deny}]\n"
	}
	for _, tt := range []struct{ name, policy, want string }{
		{"no mapping", "[]", "p.yaml:1:1: expected a mapping"},
		{"unknown phase", "on_tcp_conect: []", `p.yaml:1:1: unknown key "on_tcp_conect", did you mean "on_tcp_connect"?`},
		{"phase of HTTP", "on_http_response: []", "p.yaml:1:1: on_http_response: this is for HTTP"},
		{"legacy phase", "inbound: []", "write on_tcp_connect"},
		{"no actions", "on_tcp_connect:\n- name: x\n", "p.yaml:2:3: on_tcp_connect[0].actions: at least one action is needed"},
		{"unknown key of a rule", "on_tcp_connect:\n- action: []\n  actions: [{type: deny}]\n", `did you mean "actions"?`},
		{"unknown action", one("{type: denny}"), `p.yaml:3:12: on_tcp_connect[0].actions[0].type: unknown action "denny", did you mean "deny"?`},
		{"action of HTTP", one("{type: rate-limit}"), "rate-limit is an action for HTTP endpoints"},
		{"no type", one("{config: {}}"), "type is needed: close-connection, deny"},
		{"key given twice", one("{type: deny, type: deny}"), "key given twice, first on line 3"},
		{"unknown field", one("{type: forward-internal, config: {url: x, on_err: halt}}"), `unknown key "on_err", did you mean "on_error"?`},
		{"bad value", one("{type: forward-internal, config: {url: x, on_error: stop}}"), "expected one of halt, continue"},
		{"no URL", one("{type: forward-internal}"), "url is needed"},
		{"configuration of close-connection", one("{type: close-connection, config: {x: 1}}"), "close-connection has no configuration"},
		{"no networks", one("{type: restrict-ips}"), "allow or deny is needed"},
		{"bad network", one("{type: restrict-ips, config: {allow: [10.0.0.0/33]}}"), `expected an IP address or a network such as 10.0.0.0/8, found "10.0.0.0/33"`},
		{"IP policies", one("{type: restrict-ips, config: {ip_policies: [x], allow: [10.0.0.1]}}"), "ip_policies: IP policies are objects of ngrok's API"},
		{"no metadata", one("{type: log}"), "metadata is needed"},
		{"no variables", one("{type: set-vars}"), "vars is needed"},
		{"a variable's name", one("{type: set-vars, config: {vars: [{1a: x}]}}"), `"1a" is no name for a variable`},
		{"two variables in one", one("{type: set-vars, config: {vars: [{a: x, b: y}]}}"), "expected a mapping of one name"},
		{"no boolean", condition("conn.client_port"), "p.yaml:3:5: on_tcp_connect[0].expressions[0]: expected an expression that is true or false, this is of type int"},
		{"types", condition("conn.client_port == 'x'"), "found no matching overload for '_==_'"},
		{"syntax", condition("conn.client_ip =="), "Syntax error"},
		{"unknown variable", condition("conn.tls.snni == 'a'"), `unknown variable "conn.tls.snni", did you mean "conn.tls.sni"?`},
		{"below a string", condition("conn.tls.sni.name == 'a'"), "does not support field selection"},
		{"unknown function", condition("conn.client_ip.private()"), "undeclared reference to 'private'"},
		{"geography", condition("conn.geo.country_code == 'DE'"), "conn.geo is not to be had: this agent has no geographical data"},
		{"vault", condition("secrets.get('a', 'b') == 'c'"), "secrets"},
		{"request", condition("req.url.path == '/'"), "a TLS endpoint has no requests"},
		{"expression that is too long", condition("true" + strings.Repeat(" && true", 600)), "at most 4096 are taken"},
		{"deep expression", condition(strings.Repeat("(", 500) + "true" + strings.Repeat(")", 500)), "p.yaml:3:5"},
		{"no end of ${", one("{type: log, config: {metadata: {a: \"x${conn.tls.sni\"}}}"), "${ without its }"},
		{"error in ${", one("{type: log, config: {metadata: {a: [\"x${conn.tls.sin}\"]}}}"), `metadata.a[0]: unknown variable "conn.tls.sin"`},
		{"another action of HTTP's phase", "on_http_request: [{actions: [{type: deny}]}]", "deny is for HTTP here"},
		{"version", one("{type: terminate-tls, config: {min_version: \"1.1\"}}"), "expected one of 1.2, 1.3"},
		{"versions", one("{type: terminate-tls, config: {min_version: \"1.3\", max_version: \"1.2\"}}"), "min_version is above max_version"},
		{"half a pair", one("{type: terminate-tls, config: {server_certificate: " + certificate + "}}"), "are needed both"},
		{"no pair", one("{type: terminate-tls, config: {server_certificate: " + other + ", server_private_key: " + key + "}}"), "are no pair"},
		{"no PEM", one("{type: terminate-tls, config: {server_certificate: x, server_private_key: y}}"), "expected PEM"},
		{"no CAs", one("{type: terminate-tls, config: {server_certificate: " + certificate + ", server_private_key: " + key + ", mutual_tls_verification_strategy: require-and-verify}}"), "mutual_tls_certificate_authorities is needed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := parse(t, tt.policy)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "PRIVATE") {
				t.Errorf("the key is told: %v", err)
			}
		})
	}
}

func TestAllMistakesAreToldAtOnce(t *testing.T) {
	_, _, err := parse(t, "on_tcp_connect:\n- actions: [{type: x}]\n- expressions: [\"1\"]\n  actions: [{type: log}, {type: deny, config: {a: 1}}]\n")
	if err == nil || strings.Count(err.Error(), "\n") != 3 {
		t.Errorf("got %v", err)
	}
}

func TestPhaseOfHTTPIsTakenForAWarning(t *testing.T) {
	p, warnings, err := parse(t, "on_http_request:\n- actions:\n  - type: forward-internal\n    config: {url: \"tls://a.internal:8443\"}\n")
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings) != 1 || warnings[0].Pos.Line != 2 || !strings.Contains(warnings[0].Text, "taken as on_tcp_connect") {
		t.Errorf("warnings %v", warnings)
	}
	if urls, dynamic := p.Forwards(); len(urls) != 1 || dynamic || !p.Terminating() {
		t.Errorf("forwards %q, %t", urls, dynamic)
	}
}

func TestTerminating(t *testing.T) {
	for policy, want := range map[string]bool{
		"{}": false,
		"on_tcp_connect: [{actions: [{type: log, config: {metadata: {}}}, {type: deny}]}]":                                        true,
		"on_tcp_connect: [{expressions: [\"true\"], actions: [{type: deny}]}]":                                                    false,
		"on_tcp_connect: [{actions: [{type: restrict-ips, config: {deny: [10.0.0.1]}}]}]":                                         false,
		"on_tcp_connect: [{actions: [{type: forward-internal, config: {url: x, on_error: continue}}]}]":                           false,
		"on_tcp_connect: [{expressions: [\"true\"], actions: [{type: deny}]}, {actions: [{type: close-connection}]}]":             true,
		"on_tcp_connect: [{actions: [{type: forward-internal, config: {url: x, on_error: continue}}, {type: close-connection}]}]": true,
	} {
		if got := mustParse(t, policy).Terminating(); got != want {
			t.Errorf("%s: %t", policy, got)
		}
	}
}

// TestALoopIsBounded: who writes policies may not be who runs the host.
func TestALoopIsBounded(t *testing.T) {
	list := "[" + strings.TrimSuffix(strings.Repeat("1,", 100), ",") + "]"
	x := "true"
	for i := range 6 {
		x = fmt.Sprintf("%s.all(x%d, %s)", list, i, x)
	}
	got := run(mustParse(t, "on_tcp_connect: [{expressions: [\""+x+"\"], actions: [{type: deny}]}]"), connection())
	if len(got) != 1 || !strings.Contains(got[0], "it takes more than") {
		t.Errorf("got %.200q", got)
	}
}

const typical = `
on_tcp_connect:
- expressions: ["!(conn.client_ip in ['192.0.2.1', '192.0.2.2'] || inCidrRange(conn.client_ip, '10.0.0.0/8'))"]
  actions: [{type: deny}]
- actions: [{type: forward-internal, config: {url: "tls://a.internal:8443"}}]
`

// TestATypicalPolicyLeavesLittleBehind: short-lived values of an expression, and nothing
// of what needs none.
func TestATypicalPolicyLeavesLittleBehind(t *testing.T) {
	for name, tt := range map[string]struct {
		policy string
		limit  float64
	}{
		"one expression": {typical, 12},
		"no expression":  {"on_tcp_connect: [{actions: [{type: restrict-ips, config: {allow: [10.0.0.0/8]}}, {type: forward-internal, config: {url: \"tls://a.internal\"}}]}]", 0},
	} {
		p, c := mustParse(t, tt.policy), connection()
		got := testing.AllocsPerRun(1000, func() {
			r := p.Start(c)
			if s := r.Next(); s.Kind != Forward {
				t.Fatal(s)
			}
			r.Release()
		})
		if got > tt.limit {
			t.Errorf("%s: %v allocations", name, got)
		}
	}
}

func BenchmarkTypical(b *testing.B) {
	p, c := mustParse(b, typical), connection()
	b.ReportAllocs()
	for b.Loop() {
		r := p.Start(c)
		if s := r.Next(); s.Kind != Forward {
			b.Fatal(s)
		}
		r.Release()
	}
}

func BenchmarkParse(b *testing.B) {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(typical), &doc); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Parse("p.yaml", doc.Content[0], Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(typical)
	f.Add("on_tcp_connect: [{name: x, expressions: [\"${1 == 1}\"], actions: [{type: log, config: {metadata: {a: [\"${conn.tls.sni}\", {b: 1}]}}}, {type: set-vars, config: {vars: [{x: 1}]}}]}]")
	f.Add("on_http_request: [{actions: [{type: forward-internal, config: {url: \"tls://${conn.tls.sni}\", on_error: continue}}]}]")
	f.Add("on_tcp_connect: [{actions: [{type: restrict-ips, config: {enforce: false, allow: [\"::1\"], deny: [\"${vars.x}\"]}}]}]")
	f.Fuzz(func(t *testing.T, text string) {
		var doc yaml.Node
		if yaml.Unmarshal([]byte(text), &doc) != nil || len(doc.Content) == 0 {
			return
		}
		p, _, err := Parse("p.yaml", doc.Content[0], Options{})
		if err == nil {
			run(p, connection())
		}
	})
}
