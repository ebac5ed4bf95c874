// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

var profile = flag.String("profile", "", "the file that TestScale writes a profile of the agent to, while routes change")

var routes = flag.Int("routes", 1000, "how many TLSRoutes TestScale makes")

// TestScale tells how long it takes until many TLSRoutes are served, until a change of one is,
// and what that takes of memory.
func TestScale(t *testing.T) {
	const services = 100
	s := newSite(t)
	one, two := answers(t, "one"), answers(t, "two")
	s.create(gateway("g"))
	for i := range services {
		s.create(service(fmt.Sprintf("s%d", i), one)...)
	}
	s.create(service("two", two)...)
	began := time.Now()
	name := func(i int) string { return fmt.Sprintf("r%d.example.com", i) }
	s.createAll(*routes, func(i int) client.Object {
		return tlsRoute(fmt.Sprintf("r%d", i), "g", fmt.Sprintf("s%d", i%services), gatewayv1.Hostname(name(i)))
	})
	t.Logf("%d routes created in %v", *routes, time.Since(began))

	began = time.Now()
	s.run(fmt.Sprintf("kubernetes: {addresses: [%q], state: %q}\nlog: {level: debug}", pool, filepath.Join(s.kube.dir, "state")))
	address := s.address("g")
	s.expect(address, name(*routes-1), "one")
	t.Logf("first programming: %v after the start of the agent", time.Since(began))
	until(t, "all statuses are written", func(ctx context.Context) error {
		var list gatewayv1.TLSRouteList
		if err := s.client.List(ctx, &list); err != nil {
			return err
		}
		for i := range list.Items {
			c, err := conditionOf(&list.Items[i], gatewayv1.RouteConditionAccepted)
			if err != nil || c.Status != "True" {
				return fmt.Errorf("%s: %v, %w", list.Items[i].Name, c, err)
			}
		}
		return nil
	})
	t.Logf("all statuses: %v after the start", time.Since(began))

	if *profile != "" {
		done := make(chan error)
		go func() {
			_, body, err := get(t.Context(), "/debug/pprof/profile?seconds=10")
			if err == nil {
				err = os.WriteFile(*profile, []byte(body), 0o600)
			}
			done <- err
		}()
		defer func() {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}()
	}
	var took []time.Duration
	last := ""
	for i := range 20 {
		i = i * *routes / 20
		time.Sleep(time.Second / 2) // one by one: what the change before has set off is over
		patch := client.RawPatch("application/merge-patch+json", []byte(`{"spec": {"rules": [{"backendRefs": [{"name": "two", "port": 443}]}]}}`))
		route := tlsRoute(fmt.Sprintf("r%d", i), "g", "two")
		route.Namespace = namespace
		if err := s.client.Patch(t.Context(), route, patch); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for {
			if got, _ := ask(t.Context(), address, name(i)); got == "two" {
				break
			}
			if time.Since(began) > patience {
				t.Fatal("a change is not seen")
			}
			time.Sleep(5 * time.Millisecond) // leave the agent the processors
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("a change is in the data path after %v (median), %v (worst of %d)", took[len(took)/2], took[len(took)-1], len(took))
	for l := range strings.Lines(s.agent.log()) {
		if strings.Contains(l, "following the cluster") {
			last = l
		}
	}
	t.Logf("the agent: %s", last)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.agent.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(status)) {
		if strings.HasPrefix(l, "VmHWM") || strings.HasPrefix(l, "VmRSS") {
			t.Logf("memory: %s", strings.TrimSpace(l))
		}
	}
}
