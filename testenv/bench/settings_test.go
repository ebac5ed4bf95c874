// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
)

func TestConfigurations(t *testing.T) {
	backend := netip.MustParseAddr("10.2.0.2")
	s := settings{
		Listen: netip.MustParseAddrPort("10.0.0.1:9443"), Admin: adminAddress, Dir: t.TempDir(), Flows: 10, Engine: "packet",
		Splice: true, Modules: []string{"/m.so"},
	}
	for i := range 5 { // two upstreams
		s.Routes = append(s.Routes, routing{
			Name: fmt.Sprintf("r%d", i), SNI: fmt.Sprintf("r%d.test", i), Upstream: netip.AddrPortFrom(backend, uint16(8000+i%2)),
		})
	}
	if got := s.Upstreams(); len(got) != 2 || got[0].Port() != 8000 {
		t.Errorf("upstreams: %v, want each of the two once", got)
	}
	if got := strings.Join(s.Names(netip.AddrPortFrom(backend, 8001)), " "); got != "r1.test r3.test" {
		t.Errorf("names of the second upstream: %q", got)
	}
	for _, name := range []string{"spliceway.yaml", "haproxy.cfg", "haproxy.map", "nginx.conf", "sniproxy.conf", "tlsrouter.conf", "caddy.json"} {
		file, err := s.write(name)
		if err != nil {
			t.Error(err)
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i := range s.Routes {
			// sniproxy's names are regular expressions.
			if !strings.Contains(strings.ReplaceAll(string(text), `\`, ""), fmt.Sprintf("r%d.test", i)) && name != "haproxy.cfg" {
				t.Errorf("%s: route %d is not in it", name, i)
			}
		}
		if name == "caddy.json" && !json.Valid(text) {
			t.Errorf("%s is no JSON:\n%s", name, text)
		}
	}
}
