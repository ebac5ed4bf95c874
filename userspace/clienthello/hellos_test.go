// SPDX-License-Identifier: Apache-2.0

package clienthello

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The fingerprints were computed a second time, by a program that shares no code
// with this package.
func TestRecordedHellos(t *testing.T) {
	h2 := []string{"h2", "http/1.1"}
	want := map[string]Hello{
		"go-tls12":      {ServerName: "go-tls12.test", MaxVersion: 0x0303, JA4: "t12d101000_a8cf61a50a39_a92c7c6a82fe", Size: 229},
		"go-tls13":      {ServerName: "go-tls13.test", MaxVersion: 0x0304, JA4: "t13d031100_55b375c5d22e_4a12575e92d6", Size: 247},
		"go-pq":         {ServerName: "go-pq.test", MaxVersion: 0x0304, JA4: "t13d131100_f57a46bbacb6_ab7e3b40a677", Size: 1502},
		"go-nosni":      {MaxVersion: 0x0304, JA4: "t13i131000_f57a46bbacb6_ab7e3b40a677", Size: 1483},
		"go-h2":         {ServerName: "go-h2.test", ALPN: h2, MaxVersion: 0x0304, JA4: "t13d1312h2_f57a46bbacb6_ab7e3b40a677", Size: 1520},
		"openssl-tls12": {ServerName: "openssl-tls12.test", MaxVersion: 0x0303, JA4: "t12d280700_d943125447b4_e7e480e5a997", Size: 215},
		"openssl-tls13": {ServerName: "openssl-tls13.test", ALPN: h2, MaxVersion: 0x0304, JA4: "t13d3111h2_e8f1e7e78f70_1f22a2ca17c4", Size: 342},
		"openssl-nosni": {MaxVersion: 0x0304, JA4: "t13i310900_e8f1e7e78f70_1f22a2ca17c4", Size: 297},
		"curl":          {ServerName: "curl.test", ALPN: h2, MaxVersion: 0x0304, JA4: "t13d3112h2_e8f1e7e78f70_b26ce05bbdd6", Size: 517},
		"node":          {ServerName: "node.test", MaxVersion: 0x0304, JA4: "t13d591000_a33745022dd6_1f22a2ca17c4", Size: 367},
		"nginx":         {ServerName: "nginx.test", MaxVersion: 0x0303, JA4: "t12d280700_d943125447b4_e7e480e5a997", Size: 207},
		"chromium":      {ServerName: "chromium.test", ALPN: h2, MaxVersion: 0x0304, ECH: true, JA4: "t13d1517h2_8daaf6152771_cb7bf5808d99", Size: 2017},
	}
	got := make(map[string]Hello)
	var p Parser
	for name, in := range recorded(t) {
		var h Hello
		if err := p.Parse(in, &h); err != nil {
			t.Errorf("parse %s: %v", name, err)
		}
		got[name] = h
	}
	for name, h := range want {
		h.HasSNI = h.ServerName != ""
		want[name] = h
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("recorded hellos (-want +got):\n%s", diff)
	}
}
