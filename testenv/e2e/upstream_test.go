// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/spliceway/spliceway/testenv"
)

// opsTargets is an upstream of the targets on hosts 0, 1, ...; rest is more of its
// keys.
func opsTargets(n *testenv.Network, hosts int, rest ...string) string {
	var targets []string
	for host := range hosts {
		targets = append(targets, fmt.Sprintf("{%s}", opsURL(opsTarget(n, host))))
	}
	return strings.Join(append([]string{"targets: [" + strings.Join(targets, ", ") + "]"}, rest...), ", ")
}

func opsTally(t *testing.T, r *run, visits int) map[string]int {
	t.Helper()
	tally := make(map[string]int)
	for range visits {
		b, _ := opsVisit(t, r, opsGateway(r.net), "a")
		tally[b]++
	}
	return tally
}

// opsSeries is a series of endpoint a and the target on a host.
func opsSeries(n *testenv.Network, metric string, host int) string {
	return fmt.Sprintf("%s{endpoint=\"a\",target=%q}", metric, opsTarget(n, host))
}

func TestUpstreamFailureGoesToTheNextTarget(t *testing.T) {
	n := opsNetwork(t, testenv.NetworkOptions{Backends: 2})
	opsBackend(t, n, 0, "up") // nobody listens on host 1
	config := func(rest ...string) string {
		return "endpoints:\n" + opsEndpoint("a", opsTargets(n, 2, rest...))
	}
	r := start(t, n, config("ejection: {failures: 0}"))
	const refused = `dial_failures_total{endpoint="a",reason="refused"}`

	t.Run("and every connection succeeds", func(t *testing.T) {
		attempts := make(map[any]int) // by what the line says; nothing for one
		for range 8 {
			b, l := opsVisit(t, r, opsGateway(n), "a")
			if b != "up" || l["upstream"] != opsTarget(n, 0) {
				t.Errorf("%s answered: %v", b, l)
			}
			attempts[l["attempts"]]++
		}
		if d := cmp.Diff(map[any]int{nil: 4, 2.0: 4}, attempts); d != "" {
			t.Errorf("connections by attempts (-want +got):\n%s", d)
		}
		if v := r.metric(refused); v != 4 {
			t.Errorf("%s: %v, want 4", refused, v)
		}
	})
	t.Run("unless there are no retries", func(t *testing.T) {
		opsReload(r, config("ejection: {failures: 0}", "retries: 0"))
		outcomes := make(map[any]int)
		for range 4 {
			c := opsSend(t, n.Clients[0], opsGateway(n), opsHello(t, "a.test"))
			_ = c.CloseWrite()
			l := r.lineOf(c.LocalAddr())
			outcomes[l["outcome"]]++
			if want := "connect to upstream: " + opsTarget(n, 1) + ": refused"; l["outcome"] == "dial_failed" && l["reason"] != want {
				t.Errorf("reason %v, want %s", l["reason"], want)
			}
		}
		if d := cmp.Diff(map[any]int{"routed": 2, "dial_failed": 2}, outcomes); d != "" {
			t.Errorf("outcomes (-want +got):\n%s", d)
		}
	})
	t.Run("until one is ejected", func(t *testing.T) {
		opsReload(r, config("ejection: {failures: 2, duration: 1h}"))
		beyond, attempts := len(r.Log().Lines()), 0
		for range 10 {
			if _, l := opsVisit(t, r, opsGateway(n), "a"); l["attempts"] != nil {
				attempts++
			}
		}
		if attempts != 2 {
			t.Errorf("%d connections tried the dead target, want 2", attempts)
		}
		opsLine(r, beyond, `"msg":"upstream down"`, `"endpoint":"a"`, opsTarget(n, 1), `"why":"refused"`)
		for _, metric := range []string{"upstream_ejections_total", "upstream_addresses_down"} {
			if v := r.metric(opsSeries(n, metric, 1)); v != 1 {
				t.Errorf("%s: %v, want 1", metric, v)
			}
		}
	})
	t.Run("and an ejected one comes back by a trial", func(t *testing.T) {
		opsReload(r, config("ejection: {failures: 1, duration: 1ms}"))
		opsMetric(r, opsSeries(n, "upstream_addresses_down", 1), 0) // the new pool knows nothing
		beyond := len(r.Log().Lines())
		opsTally(t, r, 2)
		opsLine(r, beyond, `"msg":"upstream down"`)
		opsBackend(t, n, 1, "back")
		err := testenv.Poll(short(t), func() (bool, error) {
			return opsTally(t, r, 1)["back"] == 1, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		opsLine(r, beyond, `"msg":"upstream up"`, opsTarget(n, 1))
		if v := r.metric(opsSeries(n, "upstream_addresses_down", 1)); v != 0 {
			t.Errorf("down: %v", v)
		}
	})
}

func TestUpstreamWithoutALiveTargetSaysWhatWasTried(t *testing.T) {
	n := opsNetwork(t, testenv.NetworkOptions{Backends: 2})
	r := start(t, n, "endpoints:\n"+opsEndpoint("a", opsTargets(n, 2)))
	// Both targets are ejected on the way; who has nothing better is tried all the
	// same, in whichever order.
	for range 6 {
		l := opsRefused(t, r, n.Clients[0], "a")
		for host := range 2 {
			if want := opsTarget(n, host) + ": refused"; !strings.Contains(fmt.Sprint(l["reason"]), want) {
				t.Errorf("reason %v lacks %q", l["reason"], want)
			}
		}
		if l["outcome"] != "dial_failed" || l["attempts"] != 2.0 || l["level"] != "WARN" || l["endpoint"] != "a" || l["upstream"] != nil {
			t.Errorf("access line: %v", l)
		}
	}
	if v := r.metric(`dial_failures_total{endpoint="a",reason="refused"}`); v != 12 {
		t.Errorf("failures: %v, want 12", v)
	}
	if v := r.metric(`connections_total{outcome="dial_failed"}`); v != 6 {
		t.Errorf("dial_failed: %v, want 6", v)
	}
}

func TestUpstreamHealthCheckTakesATargetOutAndBack(t *testing.T) {
	n := opsNetwork(t, testenv.NetworkOptions{Backends: 2})
	ca := testenv.MustCA(t)
	conf, err := ca.ServerConfig("a.test")
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, n, "endpoints:\n"+opsEndpoint("a", opsURL(opsTarget(n, 0))))
	for _, tc := range []struct {
		check string
		tls   bool
	}{{"tcp", false}, {"tls", true}} {
		t.Run(tc.check, func(t *testing.T) {
			options := testenv.BackendOptions{Name: "two"}
			if tc.tls {
				options.TLS = conf
			}
			steady := testenv.MustBackend(t, n.Backends[0].Namespace, testenv.BackendOptions{Name: "steady", TLS: options.TLS})
			sick := testenv.MustBackend(t, n.Backends[1].Namespace, options)
			options.Address = netip.AddrPortFrom(netip.IPv6Unspecified(), sick.Port())
			target := fmt.Sprintf("%s:%d", n.Backends[1].IPv4(), sick.Port())
			beyond := len(r.Log().Lines())
			opsReload(r, "endpoints:\n"+opsEndpoint("a", fmt.Sprintf(
				"targets: [{url: \"tls://%s:%d\"}, {%s}], ejection: {failures: 0}, healthCheck: {type: %s, interval: 100ms, timeout: 2s, healthyThreshold: 2, unhealthyThreshold: 2}",
				n.Backends[0].IPv4(), steady.Port(), opsURL(target), tc.check)))
			down := fmt.Sprintf("upstream_addresses_down{endpoint=\"a\",target=%q}", target)
			checks := func(result string) float64 {
				return r.metric(fmt.Sprintf("upstream_checks_total{endpoint=\"a\",result=%q,target=%q}", result, target))
			}
			answers := func() map[string]int {
				tally := make(map[string]int)
				for range 6 {
					var reply testenv.Reply
					if tc.tls {
						c, err := n.Clients[0].DialTLS(short(t), opsGateway(n), ca.ClientConfig("a.test"))
						if err == nil {
							reply, err = testenv.Ask(c, testenv.Request{})
							_ = c.Close()
						}
						if err != nil {
							t.Fatal(err)
						}
					} else {
						c, got := opsOpen(t, n.Clients[0], opsGateway(n), "a")
						reply = got
						_ = c.Close()
					}
					tally[reply.Backend]++
				}
				return tally
			}
			both := map[string]int{"steady": 3, "two": 3}
			if d := cmp.Diff(both, answers()); d != "" {
				t.Errorf("with both up (-want +got):\n%s", d)
			}
			if err := sick.Close(); err != nil {
				t.Fatal(err)
			}
			opsLine(r, beyond, `"msg":"upstream down"`, target, "health check: ")
			opsMetric(r, down, 1)
			if d := cmp.Diff(map[string]int{"steady": 6}, answers()); d != "" {
				t.Errorf("with one down (-want +got):\n%s", d)
			}
			testenv.MustBackend(t, n.Backends[1].Namespace, options)
			opsLine(r, beyond, `"msg":"upstream up"`, target, "health check passed")
			opsMetric(r, down, 0)
			if d := cmp.Diff(both, answers()); d != "" {
				t.Errorf("with both up again (-want +got):\n%s", d)
			}
			if ok, failed := checks("ok"), checks("failed"); ok < 2 || failed < 2 {
				t.Errorf("%v checks passed and %v failed, want 2 of each at least", ok, failed)
			}
		})
	}
}

func TestUpstreamLoadBalancing(t *testing.T) {
	n := opsNetwork(t, testenv.NetworkOptions{Backends: 2})
	opsBackend(t, n, 0, "zero")
	opsBackend(t, n, 1, "one")
	config := func(upstream string) string { return "endpoints:\n" + opsEndpoint("a", upstream) }
	r := start(t, n, config(opsTargets(n, 2)))
	weighted := func(first, second int) string {
		return fmt.Sprintf("targets: [{%s, weight: %d}, {%s, weight: %d}]", opsURL(opsTarget(n, 0)), first, opsURL(opsTarget(n, 1)), second)
	}
	for _, tc := range []struct {
		name, upstream string
		want           map[string]int // of 8 connections
	}{
		{"roundRobin takes turns", opsTargets(n, 2, "loadBalancing: roundRobin"), map[string]int{"zero": 4, "one": 4}},
		{"roundRobin by weight", weighted(3, 1), map[string]int{"zero": 6, "one": 2}},
		{"a weight of 0 gets nothing", weighted(0, 1), map[string]int{"one": 8}},
		{"leastConnections takes turns when nothing is open", opsTargets(n, 2, "loadBalancing: leastConnections"), map[string]int{"zero": 4, "one": 4}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			opsReload(r, config(tc.upstream))
			if d := cmp.Diff(tc.want, opsTally(t, r, 8)); d != "" {
				t.Errorf("connections (-want +got):\n%s", d)
			}
		})
	}
	t.Run("leastConnections avoids who is busy", func(t *testing.T) {
		opsReload(r, config(opsTargets(n, 2, "loadBalancing: leastConnections")))
		busy, reply := opsOpen(t, n.Clients[0], opsGateway(n), "a")
		other := map[string]string{"zero": "one", "one": "zero"}[reply.Backend]
		if d := cmp.Diff(map[string]int{other: 6}, opsTally(t, r, 6)); d != "" {
			t.Errorf("connections (-want +got):\n%s", d)
		}
		opsLeave(t, r, busy)
	})
	t.Run("sourceHash keeps a client's target", func(t *testing.T) {
		opsReload(r, config(opsTargets(n, 2, "loadBalancing: sourceHash")))
		host := n.Clients[0]
		from, used := host.IPv4(), make(map[string]int)
		for range 8 {
			var target string
			for visit := range 3 {
				c := opsSendFrom(t, host, from, opsGateway(n), opsHello(t, "a.test"))
				reply, err := testenv.Ask(c, testenv.Request{Mode: testenv.Echo})
				if err != nil {
					t.Fatal(err)
				}
				opsLeave(t, r, c)
				if visit > 0 && reply.Backend != target {
					t.Errorf("%s went to %s, then to %s", from, target, reply.Backend)
				}
				target = reply.Backend
			}
			used[target]++
			from = from.Next()
			if err := host.AddAddress(from); err != nil {
				t.Fatal(err)
			}
		}
		// Names of targets and addresses of clients are the same in every run,
		// and so is this.
		if used["zero"] == 0 || used["one"] == 0 {
			t.Errorf("clients by target: %v", used)
		}
	})
}
