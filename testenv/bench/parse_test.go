// SPDX-License-Identifier: Apache-2.0

package main

import (
	"maps"
	"testing"

	"golang.org/x/sys/unix"
)

func TestEngineCounts(t *testing.T) {
	page := []byte(`# TYPE spliceway_endpoint_connections_total counter
spliceway_endpoint_connections_total{closed_by="client",end="eof",endpoint="a",engine="packet",outcome="routed"} 40
spliceway_endpoint_connections_total{closed_by="client",end="eof",endpoint="b",engine="packet",outcome="routed"} 1e+06
spliceway_endpoint_connections_total{engine="splice",endpoint="b"} 2
spliceway_endpoint_connections_total{closed_by="",end="",endpoint="a",engine="",outcome="dial_failed"} 7
spliceway_other_total{engine="packet"} 9
`)
	got, want := engineCounts(page), map[string]int64{"packet": 1_000_040, "splice": 2}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestValue(t *testing.T) {
	page := []byte("TCP6: inuse 9\nTCP: inuse 3 orphan 0\nmap_id:\t12\n")
	for _, tt := range []struct {
		first string
		n     int
		want  string
	}{{"TCP:", 1, "3"}, {"map_id:", 0, "12"}, {"map_id:", 1, ""}, {"TCP", 0, ""}} {
		if got := value(page, tt.first, tt.n); got != tt.want {
			t.Errorf("value %d of %q: %q, want %q", tt.n, tt.first, got, tt.want)
		}
	}
}

func TestLastCPU(t *testing.T) {
	var set unix.CPUSet
	set.Set(1)
	set.Set(70)
	if got := lastCPU(&set); got != 70 {
		t.Errorf("of 1 and 70: %d", got)
	}
}

func TestChooseSubjects(t *testing.T) {
	names := func(o options) (list []string, err error) {
		subjects, err := chooseSubjects(o)
		for _, s := range subjects {
			list = append(list, s.name())
		}
		return list, err
	}
	t.Setenv("PATH", t.TempDir()) // no HAProxy
	for _, tt := range []struct {
		o    options
		want int // subjects; 0: an error
	}{
		{options{}, 4},
		{options{subjects: "direct,splice"}, 2},
		{options{subjects: "packet"}, 1},
		{options{subjects: "direct,nginx"}, 0},
		{options{subjects: "haproxy"}, 0},
		{options{subjects: "squid"}, 0},
		{options{haproxy: "/no/such/haproxy"}, 0},
		{options{haproxy: "/proc/self/exe"}, 6},
		{options{subjects: "direct,nginx", nginx: "/proc/self/exe"}, 2},
	} {
		got, err := names(tt.o)
		if (err != nil) != (tt.want == 0) || err == nil && len(got) != tt.want {
			t.Errorf("%+v: %v, %v; want %d", tt.o, got, err, tt.want)
		}
	}
}

func TestServicesHavePortsOfTheirOwn(t *testing.T) {
	by := make(map[uint16]string)
	for name, port := range services {
		if other := by[port]; other != "" {
			t.Errorf("%s and %s have port %d", name, other, port)
		}
		by[port] = name
	}
	if want := 7 + sessionWorkers; len(services) != want {
		t.Errorf("%d services, want %d", len(services), want)
	}
}
