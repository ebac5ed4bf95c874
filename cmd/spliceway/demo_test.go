// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/spliceway/spliceway/testenv/demo"
)

// The longest values that a demo has fit a terminal of 120 columns, and a
// report with problems does not say that all was right.
func TestPrintDemo(t *testing.T) {
	report := &demo.Report{
		Gateway: []string{"10.0.0.1:443", "[fd00::1]:443"},
		Services: []demo.Service{
			{Name: "shop", URL: "tls://shop.test", Address: "10.2.0.2:443"},
			{Name: "apps", URL: "tls://*.app.test", Address: "10.2.1.2:443"},
			{Name: "www", URL: "tls://www.test", Address: "10.2.2.2:443", Fallback: true},
		},
		Routed: []demo.Routed{{
			SNI: "db.eu.app.test", Client: "IPv4 TLS 1.3", Backend: "apps", Route: "wildcard", Engine: "splice",
			Certificate: demo.Certificate{Subject: "*.app.test", SHA256: strings.Repeat("ab", 32), EndToEnd: true},
			BytesIn:     4_210_000, BytesOut: 8_410_000,
			Handshake: demo.Timing{Gateway: 9.94, Direct: 9.94}, RoundTrip: demo.Timing{Gateway: 0.999, Direct: 0.999},
		}},
		Refused: []demo.Refused{{Sends: `a hello for "shop\x00test"`, Outcome: "malformed", Sees: "closed (FIN)", After: 1000}},
	}
	const allRight = "All of it was right"
	var out strings.Builder
	printDemo(&out, report)
	for line := range strings.Lines(out.String()) {
		if n := text.StringWidth(strings.TrimSuffix(line, "\n")); n > 120 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	for _, want := range []string{"┌─ shop", "┼─ apps", "└─ www", "✓ *.app.test abababab", "wildcard: apps", "4.2 / 8.4", "9.9 / 9.9", "999 / 999", allRight} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, &out)
		}
	}
	report.Problems, report.Routed[0].Certificate.EndToEnd = []string{"it was another's"}, false
	out.Reset()
	printDemo(&out, report)
	if strings.Contains(out.String(), allRight) || !strings.Contains(out.String(), "✗ *.app.test abababab") {
		t.Errorf("a report with a problem:\n%s", &out)
	}
}
