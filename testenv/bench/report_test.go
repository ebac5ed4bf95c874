// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestCell(t *testing.T) {
	rounds := func(v ...float64) map[int]float64 {
		m := make(map[int]float64)
		for i, x := range v {
			m[i] = x
		}
		return m
	}
	for _, tt := range []struct {
		name      string
		f         figure
		own, base map[int]float64
		want      string
	}{
		{"not measured", figure{digits: 1}, nil, rounds(1), "-"},
		{"direct", figure{digits: 1}, rounds(50, 40, 60), nil, "50.0 (40.0 to 60.0)"},
		{"ratios are those of a round", figure{digits: 1}, rounds(25, 40, 60), rounds(50, 40, 120), "40.0, x0.50 (0.50 to 1.00)"},
		{"one round has no spread", figure{digits: 0}, rounds(10), rounds(20), "10, x0.50"},
		{"a round that direct lacks", figure{digits: 0}, rounds(10, 30), rounds(20), "20, x0.50"},
		{"difference", figure{digits: 2, compare: difference}, rounds(1.5, 1, 1.25), rounds(1, 1.25, 1), "1.25, +0.25 (-0.25 to +0.50)"},
		{"alone", figure{digits: 1, compare: alone}, rounds(2), rounds(1), "2.0"},
		{"direct took nothing", figure{digits: 1}, rounds(2), rounds(0), "2.0"},
	} {
		if got := tt.f.cell(tt.own, tt.base); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestReport(t *testing.T) {
	packet := &spliceway{engine: "packet"}
	r := results{StartBusy: 0.5, IdleBusy: 0.1, Samples: []sample{
		{Subject: "direct", Work: "bulk", Figures: map[string]float64{"Gbit/s": 10, "CPU": 2}},
		{Subject: "spliceway packet", Work: "bulk", Figures: map[string]float64{"Gbit/s": 5, "CPU": 2}, Connections: 1000, Engines: map[string]int64{"packet": 999, "splice": 1}},
		{Subject: "spliceway packet", Work: "other", Connections: 1, Engines: map[string]int64{"packet": 1}, BusyBefore: quietBusy + 0.01},
	}}
	todo := []work{{name: "bulk", figures: []figure{{name: "Gbit/s"}, {name: "CPU", digits: 1}}}}
	var out bytes.Buffer
	r.report(&out, todo, []subject{direct{}, packet})
	const table = `
**bulk**

| | Gbit/s | CPU |
|---|---|---|
| direct | 10 | 2.0 |
| spliceway packet | 5, x0.50 | 2.0, x1.00 |

`
	got, _, _ := strings.Cut(out.String(), legend)
	if _, got, _ = strings.Cut(got, "Versions: .\n"); got != table {
		t.Errorf("table:\n%s\nwant:\n%s", got, table)
	}
	for _, want := range []string{
		"- spliceway packet: 99.90 % of 1001 connections ended as ones of engine packet; not all of them in: bulk.\n",
		"**it was not idle**",
		"1 of 3 measurements began with something else",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, &out)
		}
	}
}

func TestShareNeverRoundsUpToAll(t *testing.T) {
	if got := share(99_999, 100_000); got != "99.99 %" {
		t.Errorf("99,999 of 100,000: %s", got)
	}
	if got := share(1, 1); got != "100.00 %" {
		t.Errorf("1 of 1: %s", got)
	}
	if got := share(0, 0); got != "none" {
		t.Errorf("0 of 0: %s", got)
	}
}
