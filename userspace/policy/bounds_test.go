// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"strings"
	"testing"
)

// TestValuesOfExpressionsAreBounded: a short expression can ask for gigabytes, or compare
// for hours.
func TestValuesOfExpressionsAreBounded(t *testing.T) {
	many := func(s string) string { return strings.Repeat(s, 30) }
	for _, x := range []string{
		"'a'" + many(".replace('a','aaaaaaaaaa')") + " == ''",
		"dyn('a')" + many(".replace('a','aaaaaaaaaa')") + " == ''",
		"'a'" + many(".replace('a','aaaaaaaaaa', -1)") + " == ''",
		"['a']" + many(".map(b, b + b)") + " == ['']",
		"['a']" + many(".map(b, '%s%s'.format([b, b]))") + " == ['']",
		"['a', 'b']" + many(".map(b, ['a', 'b'].join(b + b + 'x'))") + " == ['']",
		"[b'a']" + many(".map(b, b + b)") + " == [b'']",
		"[['a']]" + many(".map(b, b + b)") + " == []",
		"[['a']" + many(".map(b, [b, b])") + "].exists(x, x == x)",
		"[['a']" + many(".map(b, {'x': b, 'y': b})") + "].exists(x, x == x)",
		"[['a']" + many(".map(b, [b, b])") + "].exists(x, json.encode(x) == '')",
		"[['a']" + many(".map(b, [b, b])") + "].exists(x, x in [x])",
		"lists.range(1000).map(x, 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa').join('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa') == ''",
	} {
		got := run(mustParse(t, "on_tcp_connect: [{expressions: [\""+x+"\"], actions: [{type: deny}]}]"), connection())
		if len(got) != 1 || !strings.Contains(got[0], "a value of more than 64 KiB") && !strings.Contains(got[0], "it takes more than") {
			t.Errorf("%.60s: %.300q", x, got)
		}
	}
}

// TestWhatIsNotLarge works as it does without bounds.
func TestWhatIsNotLarge(t *testing.T) {
	for _, x := range []string{
		"lists.range(1000).map(x, x + 1).filter(x, x > 500).size() == 500",
		"'aXbXc'.replace('X', '-') == 'a-b-c' && 'aXbXc'.replace('X', '-', 1) == 'a-bXc' && dyn('aX').replace('X', '') == 'a'",
		"['a', 'b'].join() == 'ab' && ['a', 'b'].join(', ') == 'a, b' && [].join('x') == ''",
		"conn.tls.sni.split('.')[0] + '-' + conn.client_ip == 'a-10.1.2.3' && (true ? conn.tls.sni : 'x').size() == 6",
		"{'a': [conn.tls.sni]}['a'][0] == 'a.test' && {'a': conn.tls.sni}.a.startsWith('a') && has({'a': conn.tls.sni}.a)",
		"[conn.tls.sni, 'b'].sort()[0] == 'a.test' && sets.contains(conn.tls.offered_alpn, ['h2']) && conn.tls.sni in ['a.test', conn.client_ip]",
		"[[conn.tls.sni]].all(x, x.all(y, y == 'a.test')) && ['a', 'b'].map(x, x == 'a', x + conn.tls.sni) == ['aa.test']",
	} {
		got := run(mustParse(t, "on_tcp_connect: [{expressions: [\""+x+"\"], actions: [{type: deny}]}]"), connection())
		if got[0] != "close by deny of 0" {
			t.Errorf("%s: %q", x, got)
		}
	}
}

// TestSlowFunctionsOfAllExpressionsTogether are bounded like loops.
func TestSlowFunctionsOfAllExpressionsTogether(t *testing.T) {
	policy := func(n int, size string) string {
		return "on_tcp_connect:\n- {actions: [{type: set-vars, config: {vars: [{l: \"${lists.range(500)}\"}]}}]}\n" +
			strings.Repeat("- {expressions: [\"vars.l.distinct().size() == "+size+"\"], actions: [{type: deny}]}\n", n)
	}
	if got := run(mustParse(t, policy(1, "500")), connection()); got[0] != "close by deny of 1" {
		t.Errorf("one: %q", got)
	}
	if got := run(mustParse(t, policy(900, "1")), connection()); !strings.Contains(got[0], "it takes more than") {
		t.Errorf("many: %.200q", got)
	}
}
