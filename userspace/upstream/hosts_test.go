// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// echo is a Resolver that answers with one address, and notes what it is asked.
type echo struct{ asked []string }

func (r *echo) LookupNetIP(_ context.Context, network, host string) ([]netip.Addr, error) {
	r.asked = append(r.asked, network+" "+host)
	return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil
}

func TestHosts(t *testing.T) {
	next := &echo{}
	hosts := Hosts{Next: next, Table: map[string][]netip.Addr{
		"service.namespace": {netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("fd00::5"), netip.MustParseAddr("::ffff:10.0.0.6")},
		"dotted.test.":      {netip.MustParseAddr("10.0.0.7")},
	}}
	for _, tt := range []struct {
		network, host string
		want          []string // nil: not found
		asked         []string
	}{
		{"ip", "service.namespace", []string{"10.0.0.5", "fd00::5", "10.0.0.6"}, nil},
		{"ip4", "service.namespace", []string{"10.0.0.5", "10.0.0.6"}, nil},
		{"ip6", "service.namespace", []string{"fd00::5"}, nil},
		{"ip", "Service.Namespace.", []string{"10.0.0.5", "fd00::5", "10.0.0.6"}, nil},
		{"ip", "dotted.test", []string{"10.0.0.7"}, nil},
		{"ip", "dotted.test.", []string{"10.0.0.7"}, nil},
		{"ip6", "dotted.test", nil, nil},
		{"ip6", "other.test.", []string{"192.0.2.1"}, []string{"ip6 other.test."}},
		{"ip", "a.service.namespace", []string{"192.0.2.1"}, []string{"ip a.service.namespace"}},
	} {
		t.Run(tt.network+" "+tt.host, func(t *testing.T) {
			next.asked = nil
			found, err := hosts.LookupNetIP(t.Context(), tt.network, tt.host)
			var got []string
			for _, a := range found {
				got = append(got, a.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.asked, next.asked); diff != "" {
				t.Errorf("asked (-want +got):\n%s", diff)
			}
			if de := (*net.DNSError)(nil); (tt.want == nil) != (errors.As(err, &de) && de.IsNotFound) {
				t.Errorf("got error %v", err)
			}
		})
	}
}
