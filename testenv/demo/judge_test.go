// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"crypto/tls"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestVisitIsJudged(t *testing.T) {
	c := routedCase{sni: "a.app.test", client: "IPv4 TLS 1.3", backend: "apps", route: wildcard}
	for _, test := range []struct {
		name   string
		change func(v *visit, log accessLog)
		want   string // "": no problem
	}{
		{"right", func(*visit, accessLog) {}, ""},
		{"ended early", func(v *visit, _ accessLog) { v.err = errors.New("connection reset") }, "connection reset"},
		{"other backend", func(v *visit, _ accessLog) { v.backend = "shop" }, `backend "shop" answered, want "apps"`},
		{"other certificate", func(v *visit, _ accessLog) { v.certificate.EndToEnd = false }, "not that of backend apps"},
		{"older TLS", func(v *visit, _ accessLog) { v.state.Version = tls.VersionTLS12 }, "TLS 1.2 was spoken, want TLS 1.3"},
		{"no line of a transfer", func(_ *visit, log accessLog) { delete(log, "c:1") }, "no line of the connection from c:1"},
		{"no line of a probe", func(_ *visit, log accessLog) { delete(log, "c:2") }, "no line of the connection from c:2"},
		{"other name in the log", edit("c:2", func(l *accessLine) { l.SNI = "b.app.test" }), `sni "b.app.test"`},
		{"other endpoint in the log", edit("c:2", func(l *accessLine) { l.Endpoint = "shop" }), `endpoint "shop"`},
		{"exact in the log", edit("c:2", func(l *accessLine) { l.Match = "a.app.test" }), `match "a.app.test"`},
		{"refused in the log", edit("c:2", func(l *accessLine) { l.Outcome = "dial_failed" }), `outcome "dial_failed"`},
		{"reset in the log", edit("c:2", func(l *accessLine) { l.End = "reset" }), `end "reset"`},
		{"no engine in the log", edit("c:2", func(l *accessLine) { l.Engine = "" }), "no engine"},
		{"bytes in are too few", edit("c:1", func(l *accessLine) { l.BytesIn-- }), "says 99 bytes in and 200 out, the client counted 100 and 200"},
		{"bytes out are too many", edit("c:1", func(l *accessLine) { l.BytesOut++ }), "says 100 bytes in and 201 out"},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := visit{
				addresses: []string{"c:1", "c:2"}, transfer: "c:1", in: 100, out: 200, backend: "apps",
				certificate: Certificate{Subject: "*.app.test", SHA256: "ab", EndToEnd: true},
				state:       tls.ConnectionState{Version: tls.VersionTLS13},
			}
			line := accessLine{SNI: c.sni, Endpoint: "apps", Match: "*.app.test", Engine: "splice", Outcome: "routed", End: "eof", BytesIn: 100, BytesOut: 200}
			log := accessLog{"c:1": line, "c:2": line}
			test.change(&v, log)
			var report Report
			judgeVisit(&report, c, v, log)
			wantProblem(t, report.Problems, test.want)
		})
	}
}

func TestAttemptIsJudged(t *testing.T) {
	c := refusedCase{sends: "HTTP", outcome: "not_tls"}
	for _, test := range []struct {
		name string
		a    attempt
		log  accessLog
		want string
	}{
		{"right", attempt{address: "c:1"}, accessLog{"c:1": {Outcome: "not_tls"}}, ""},
		{"not closed", attempt{address: "c:1", err: errors.New("got 7 bytes")}, accessLog{"c:1": {Outcome: "not_tls"}}, "got 7 bytes"},
		{"other outcome", attempt{address: "c:1"}, accessLog{"c:1": {Outcome: "malformed"}}, `outcome "malformed", want "not_tls"`},
		{"no line", attempt{address: "c:1"}, accessLog{}, "no line"},
		{"reached a backend", attempt{address: "c:1", reached: 1}, accessLog{"c:1": {Outcome: "not_tls"}}, "1 connections reached a backend"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var report Report
			judgeAttempt(&report, c, test.a, test.log)
			wantProblem(t, report.Problems, test.want)
		})
	}
}

func TestAccessLogIsToldFromTheRest(t *testing.T) {
	log, rest := readAccessLog([]string{
		`{"level":"INFO","msg":"ready"}`,
		`{"msg":"connection","client":"10.1.0.2:1","sni":"shop.test","match":"fallback:unknown_name","bytes_in":7,"outcome":"routed"}`,
		`panic: not JSON`,
	})
	want := accessLog{"10.1.0.2:1": {Client: "10.1.0.2:1", SNI: "shop.test", Match: "fallback:unknown_name", BytesIn: 7, Outcome: "routed"}}
	if diff := cmp.Diff(want, log); diff != "" {
		t.Errorf("access log (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{`{"level":"INFO","msg":"ready"}`, "panic: not JSON"}, rest); diff != "" {
		t.Errorf("the rest (-want +got):\n%s", diff)
	}
	if route := routeOf(log["10.1.0.2:1"]); route != fallback {
		t.Errorf("route %q, want %q", route, fallback)
	}
}

// edit changes one line of the log.
func edit(address string, change func(*accessLine)) func(*visit, accessLog) {
	return func(_ *visit, log accessLog) {
		line := log[address]
		change(&line)
		log[address] = line
	}
}

func wantProblem(t *testing.T, problems []string, want string) {
	t.Helper()
	if want == "" {
		if len(problems) > 0 {
			t.Errorf("problems %q, want none", problems)
		}
		return
	}
	if !slices.ContainsFunc(problems, func(p string) bool { return strings.Contains(p, want) }) {
		t.Errorf("problems %q, want one with %q", problems, want)
	}
}
