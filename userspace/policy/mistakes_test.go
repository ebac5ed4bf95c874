// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"math/big"
	"net/netip"
	"strings"
	"testing"
	"time"

	"crypto/x509"
	"crypto/x509/pkix"

	"github.com/google/go-cmp/cmp"
)

// logging is a policy that logs what an expression or a string comes to.
func logging(what string) string {
	return fmt.Sprintf("on_tcp_connect: [{actions: [{type: log, config: {metadata: {v: %q}}}]}]", what)
}

// logged is that.
func logged(t *testing.T, what string, c *Connection) any {
	t.Helper()
	r := mustParse(t, logging(what)).Start(c)
	defer r.Release()
	s := r.Next()
	if s.Kind != Log {
		t.Fatalf("%s: %v", what, s)
	}
	return s.Metadata["v"]
}

// TestZonesAreNoPartOfAnAddress: a network that is denied would let link-local clients in.
func TestZonesAreNoPartOfAnAddress(t *testing.T) {
	c := connection()
	c.Client = netip.MustParseAddrPort("[fe80::1%eth0]:4000")
	for _, policy := range []string{
		"on_tcp_connect: [{actions: [{type: restrict-ips, config: {deny: [\"fe80::/10\"]}}]}]",
		"on_tcp_connect: [{actions: [{type: restrict-ips, config: {deny: [\"${'fe80::/10'}\"]}}]}]",
		"on_tcp_connect: [{expressions: [\"inCidrRange(conn.client_ip, 'fe80::/10') && inCidrRange('fe80::1%a', 'fe80::1') && conn.client_ip == 'fe80::1' && 'fe80::1%eth0'.isPrivateIp()\"], actions: [{type: deny}]}]",
	} {
		if got := run(mustParse(t, policy), c); !strings.HasPrefix(got[0], "close") {
			t.Errorf("%s: %q", policy, got)
		}
	}
}

// TestAClientInIPv6Clothes is what it is without them.
func TestAClientInIPv6Clothes(t *testing.T) {
	c := connection()
	c.Client = netip.MustParseAddrPort("[::ffff:10.1.2.3]:4000")
	for policy, want := range map[string]string{
		"on_tcp_connect: [{actions: [{type: restrict-ips, config: {deny: [10.0.0.0/8]}}]}]":                          "close by restrict-ips of 0",
		"on_tcp_connect: [{actions: [{type: restrict-ips, config: {allow: [\"::/0\"]}}]}]":                           "close by restrict-ips of 0",
		"on_tcp_connect: [{expressions: [\"conn.client_ip == '10.1.2.3'\"], actions: [{type: deny}]}]":               "close by deny of 0",
		"on_tcp_connect: [{expressions: [\"inCidrRange('::ffff:10.0.0.1', '10.0.0.1')\"], actions: [{type: deny}]}]": "close by deny of 0",
	} {
		if got := run(mustParse(t, policy), c); got[0] != want {
			t.Errorf("%s: %q", policy, got)
		}
	}
}

// TestHalfANetworkOfIPv4 is none: ::ffff:10.0.0.0/8 would be ::/8, and deny nobody.
func TestHalfANetworkOfIPv4(t *testing.T) {
	_, _, err := parse(t, "on_tcp_connect: [{actions: [{type: restrict-ips, config: {deny: [\"::ffff:10.0.0.0/8\"]}}]}]")
	if err == nil || !strings.Contains(err.Error(), "from /96 to /128") {
		t.Errorf("got %v", err)
	}
	got := run(mustParse(t, "on_tcp_connect: [{expressions: [\"inCidrRange(conn.client_ip, '::ffff:10.0.0.0/8')\"], actions: [{type: deny}]}]"), connection())
	if !strings.HasPrefix(got[0], "failed") {
		t.Errorf("got %q", got)
	}
}

// TestVariablesOfVariables neither contain themselves nor change afterwards.
func TestVariablesOfVariables(t *testing.T) {
	got := run(mustParse(t, `
on_tcp_connect:
- actions:
  - {type: set-vars, config: {vars: [{a: 1}, {a: "${vars}"}, {b: {all: ["${vars}"]}}]}}
  - {type: log, config: {metadata: {v: "${vars}"}}}
  - {type: set-vars, config: {vars: [{a: 2}]}}
  - {type: log, config: {metadata: {v: "${vars.b}", before: "${actions.ngrok.log.metadata.v.a}"}}}
`), connection())
	want := []string{
		"log map[v:map[a:map[a:1] b:map[all:[map[a:map[a:1]]]]]]",
		"log map[before:map[a:1] v:map[all:[map[a:map[a:1]]]]]", "end",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestWhatAnActionLoggedStaysAsItIs: it is the caller's, who writes it down later.
func TestWhatAnActionLoggedStaysAsItIs(t *testing.T) {
	r := mustParse(t, `
on_tcp_connect:
- actions:
  - {type: set-vars, config: {vars: [{a: 1}]}}
  - {type: log, config: {metadata: {v: "${vars}"}}}
  - {type: set-vars, config: {vars: [{a: 2}]}}
`).Start(connection())
	metadata := r.Next().Metadata
	r.Next()
	r.Release()
	if diff := cmp.Diff(map[string]any{"v": map[string]any{"a": int64(1)}}, metadata); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestVariablesKeepTheirType, also those that JSON does not have.
func TestVariablesKeepTheirType(t *testing.T) {
	for _, x := range []string{
		"vars.at < timestamp(time.now)", "vars.long > duration('1s')", "vars.map[1] == 'x'", "vars.bytes == b'x'", "vars.list[0] == conn.ts.start", "vars.none == null",
	} {
		got := run(mustParse(t, `
on_tcp_connect:
- actions:
  - type: set-vars
    config: {vars: [{at: "${conn.ts.start}"}, {long: "${duration('2s')}"}, {map: "${ {1: 'x'} }"}, {bytes: "${b'x'}"}, {list: ["${vars.at}"]}, {none: null}]}
- expressions: ["`+x+`"]
  actions: [{type: deny}]
`), connection())
		if got[0] != "close by deny of 1" {
			t.Errorf("%s: %q", x, got)
		}
	}
}

func TestWhatIsWritten(t *testing.T) {
	c := connection()
	c.Start = time.Date(2026, 3, 1, 23, 30, 0, 0, time.FixedZone("", -5*3600))
	for what, want := range map[string]any{
		"${conn.ts.start}": "2026-03-02T04:30:00Z", "at ${conn.ts.start}": "at 2026-03-02T04:30:00Z", "${conn.ts.start.getHours()}": int64(4),
		"${0.0 / 0.0}": "NaN", "${[1.0 / 0.0]}": []any{"+Inf"}, "${[1.0 / 0.0]}!": `["+Inf"]!`, "${ {1: 'x', true: 2} }": map[string]any{"1": "x", "true": int64(2)},
		"${r'\\'}": `\`, "${'''it's a }'''}": "it's a }", `${"\"}"}`: `"}`, `${br'\'}.`: `\.`, `${""}.`: ".", `${'$'}{x}`: "${x}", "$ {}": "$ {}", "${'${'}": "${",
		"${null}": nil, "${null}.": "null.", "${duration('90s')}": "1m30s", "${b'x'}": []byte("x"), "${type(1)}.": "int.",
	} {
		if diff := cmp.Diff(want, logged(t, what, c)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", what, diff)
		}
	}
}

func TestRandomNumbersAreNotMadeAtLoad(t *testing.T) {
	p, seen := mustParse(t, logging("${rand.int(1, 1000000000)}")), map[any]bool{}
	for range 5 {
		r := p.Start(connection())
		seen[r.Next().Metadata["v"]] = true
		r.Release()
	}
	if len(seen) < 2 {
		t.Errorf("got %v each time", seen)
	}
}

// TestGrowthIsBounded: variables of variables double with every action.
func TestGrowthIsBounded(t *testing.T) {
	for _, double := range []string{`"${vars.x}${vars.x}"`, `"${vars.x + vars.x}"`, `["${vars.x}", "${vars.x}"]`, `"${[vars.x, vars.x]}"`, `{a: "${vars.x}", b: "${vars.x}"}`} {
		first := "x"
		if strings.Contains(double, "+ vars") || strings.Contains(double, "}${") {
			first = strings.Repeat("x", 100)
		}
		got := run(mustParse(t, "on_tcp_connect:\n- actions:\n  - {type: set-vars, config: {vars: [{x: "+first+"}"+strings.Repeat(", {x: "+double+"}", 90)+"]}}\n"), connection())
		if len(got) != 1 || !strings.Contains(got[0], "writes more than 64 KiB") && !strings.Contains(got[0], "levels deep") {
			t.Errorf("%s: %.200q", double, got)
		}
	}
}

// TestAliasesAreCounted: they make a short text large.
func TestAliasesAreCounted(t *testing.T) {
	text := "on_tcp_connect:\n- actions:\n  - type: log\n    config:\n      metadata:\n        a0: &a0 [x, x]\n"
	for i := range 25 {
		text += fmt.Sprintf("        a%d: &a%d [*a%d, *a%d]\n", i+1, i+1, i, i)
	}
	for name, text := range map[string]string{
		"many": text, "rules": "on_tcp_connect: [&r {actions: [{type: deny}]}" + strings.Repeat(", *r", 5000) + "]",
		"mistakes": "on_tcp_connect: [&r {actions: [" + strings.Repeat("{}, ", 50) + "{}]}" + strings.Repeat(", *r", 900) + "]", "endless": "on_tcp_connect: [{actions: [{type: log, config: {metadata: {a: &a [*a, *a]}}}]}]",
	} {
		if _, _, err := parse(t, text); err == nil || len(err.Error()) > 100_000 {
			t.Errorf("%s: %.200s", name, fmt.Sprint(err))
		}
	}
}

// TestLoopsOfAllExpressionsTogether are bounded, and not only each of them.
func TestLoopsOfAllExpressionsTogether(t *testing.T) {
	x := "lists.range(1000).all(a, lists.range(30).all(b, b >= 0))" // some milliseconds
	start := time.Now()
	got := run(mustParse(t, "on_tcp_connect:\n"+strings.Repeat("- {expressions: [\""+x+"\"], actions: [{type: log, config: {metadata: {}}}]}\n", 500)), connection())
	if !strings.Contains(got[len(got)-1], "it takes more than") {
		t.Errorf("after %s: %q", time.Since(start), got[len(got)-1])
	}
}

// TestErrorsThatArePassedOver: the actions say that the policy goes on.
func TestErrorsThatArePassedOver(t *testing.T) {
	got := run(mustParse(t, `
on_tcp_connect:
- actions:
  - {type: forward-internal, config: {url: "tls://${vars.x}.internal", on_error: continue}}
  - {type: restrict-ips, config: {enforce: false, deny: ["${conn.tls.sni}"]}}
  - type: log
    config:
      metadata:
        forward: ${actions.ngrok.forward_internal.error}
        restrict: ${actions.ngrok.restrict_ips.action} ${actions.ngrok.restrict_ips.error.code} ${actions.ngrok.restrict_ips.error.message}
  - {type: restrict-ips, config: {enforce: false, deny: [192.0.2.1]}}
  - {type: log, config: {metadata: {restrict: "${actions.ngrok.restrict_ips.action}${actions.ngrok.restrict_ips.error.code}"}}}
`), connection())
	want := []string{`log map[forward:vars.x: no such key: x restrict:deny policy_failed "a.test" is no IP address and no network]`, "log map[restrict:allow]", "end"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestNothingMore: a policy that has ended does not go on.
func TestNothingMore(t *testing.T) {
	for _, action := range []string{"{type: deny}", "{type: close-connection}", "{type: forward-internal, config: {url: x}}", "{type: log, config: {metadata: {a: \"${vars.x}\"}}}"} {
		r := mustParse(t, "on_tcp_connect:\n- actions: ["+action+", {type: deny}]\n- actions: [{type: deny}]\n").Start(connection())
		first, second := r.Next(), r.Next()
		if first.Kind == End || second.Kind != End {
			t.Errorf("%s: %v, %v", action, first, second)
		}
		r.Release()
	}
}

// TestRunsThatAreUsedAgain know nothing of those before.
func TestRunsThatAreUsedAgain(t *testing.T) {
	r := mustParse(t, "on_tcp_connect: [{actions: [{type: set-vars, config: {vars: [{x: 1}]}}, {type: restrict-ips, config: {enforce: false, deny: [10.0.0.0/8]}}, {type: log, config: {metadata: {a: 1}}}]}]").Start(connection())
	r.Next()
	r.Release()
	got := run(mustParse(t, logging("${has(vars.x)} ${actions.ngrok.restrict_ips.action} ${size(actions.ngrok.log.metadata)}")), connection())
	if want := "log map[v:false  0]"; got[0] != want {
		t.Errorf("got %q, want %q", got[0], want)
	}
}

// TestHostileCertificates: their strings are text wherever they come to.
func TestHostileCertificates(t *testing.T) {
	c := connection()
	c.TLS = &TLS{ClientCertificate: &x509.Certificate{
		Subject:      pkix.Name{CommonName: "${time.now}\x00'\"}\xff", Organization: []string{"a,b", ""}},
		SerialNumber: new(big.Int).Neg(big.NewInt(255)), DNSNames: []string{"${conn.client_ip}"},
	}}
	got := logged(t, "${conn.tls.client.subject.common_name}|${conn.tls.client.san.dns_names[0]}|${conn.tls.client.serial_number}|${conn.tls.client.extensions}", c)
	if want := "${time.now}\x00'\"}\xff|${conn.client_ip}|-ff|[]"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	// What every variable comes to, with a certificate that has nothing in it.
	c.TLS.ClientCertificate, c.TLS.ServerCertificate = &x509.Certificate{}, &x509.Certificate{}
	for name := range variables {
		logged(t, "${"+name+"} ${"+name+"}", c)
	}
}

func TestMoreMistakes(t *testing.T) {
	certificate, key := pair(t)
	for name, tt := range map[string]struct{ policy, want string }{
		"has of what is always there": {logging("${has(conn.tls.sni)}"), "has(conn.tls.sni) says nothing"},
		"has of what is not":          {logging("${has(conn.tls.snni)}"), `did you mean "conn.tls.sni"`},
		"no value of its own":         {logging("${conn.tls.client.san}"), "conn.tls.client.san has no value of its own: write conn.tls.client.san. and one of dns_names, email_addresses, ip_addresses, uris"},
		"a mapping for a key":         {"on_tcp_connect: [{actions: [{type: log, config: {metadata: {? {a: b} : c}}}]}]", "expected a key"},
		"an alias for a name":         {"on_tcp_connect: [{name: &x y, actions: [{type: set-vars, config: {vars: [{*x : c}]}}]}]", "is no name for a variable"},
		"merged metadata":             {"on_tcp_connect: [{actions: [{type: log, config: {metadata: {a: &x {b: c}, <<: *x}}}]}]", "<< is not taken"},
		"no CA": {"on_tcp_connect: [{actions: [{type: terminate-tls, config: {server_certificate: " + certificate + ", server_private_key: " + key + ", mutual_tls_certificate_authorities: []}}]}]",
			"at least one CA is needed"},
	} {
		if _, _, err := parse(t, tt.policy); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", name, err, tt.want)
		}
	}
}

// TestMistakesAreToldInOrder, the same each time.
func TestMistakesAreToldInOrder(t *testing.T) {
	for range 20 {
		_, _, err := parse(t, "on_tcp_connect: [{actions: [{type: restrict-ips, config: {allow: [x], deny: [y]}}, {type: terminate-tls, config: {min_version: x, max_version: y}}]}]")
		if s := fmt.Sprint(err); strings.Index(s, "allow[0]") > strings.Index(s, "deny[0]") || strings.Index(s, "min_version") > strings.Index(s, "max_version") {
			t.Fatal(s)
		}
	}
}
