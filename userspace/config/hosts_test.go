// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHosts(t *testing.T) {
	cfg, err := Parse("f", []byte(endpoint+`hosts: {Example-Service.example-namespace: ["10.0.0.5", "FD00::5"], b.test.: [10.0.0.6]}`))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]netip.Addr{
		"example-service.example-namespace": {netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("fd00::5")},
		"b.test":                            {netip.MustParseAddr("10.0.0.6")},
	}
	if diff := cmp.Diff(want, cfg.Hosts, compare); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestManifests(t *testing.T) {
	for _, endpoints := range []string{"", "endpoints: []\n", endpoint} {
		cfg, err := Parse("/etc/spliceway/agent.yaml", []byte(endpoints+"manifests: [manifests.d, ../a.yaml, /b.yaml]"))
		if err != nil {
			t.Fatal(err)
		}
		want := []string{filepath.FromSlash("/etc/spliceway/manifests.d"), "/etc/a.yaml", "/b.yaml"}
		if diff := cmp.Diff(want, cfg.Manifests); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}
