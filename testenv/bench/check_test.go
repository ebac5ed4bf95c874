// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"
	"time"
)

func TestBehind(t *testing.T) {
	steady := func(v float64) spread { return spread{v, v, v} }
	for _, c := range []struct {
		name   string
		guard  guard
		before spread
		now    float64
		want   bool
	}{
		{"a rate within what is tolerated", atLeast, steady(1), 0.86, false},
		{"a rate beyond it", atLeast, steady(1), 0.84, true},
		{"a rate that a round has had", atLeast, spread{1, 0.7, 1.1}, 0.75, false},
		{"a rate below all rounds", atLeast, spread{1, 0.7, 1.1}, 0.69, true},
		{"a better rate", atLeast, steady(0.5), 2, false},
		{"a cost within what is tolerated", atMost, steady(2), 2.29, false},
		{"a cost beyond it", atMost, steady(2), 2.31, true},
		{"a cost that a round has had", atMost, spread{2, 1, 3}, 2.9, false},
		{"a cost above all rounds", atMost, spread{2, 1, 3}, 3.1, true},
		{"a lower cost", atMost, steady(2), 0.1, false},
	} {
		g := guarded{figure: figure{guard: c.guard}, before: c.before, now: c.now}
		if got := g.behind(); got != c.want {
			t.Errorf("%s: got %v", c.name, got)
		}
	}
}

// sampled are rounds of one work, direct's beside a subject's.
func sampled(subject string, direct, own []float64) *results {
	r := new(results)
	for round := range direct {
		r.Samples = append(r.Samples, sample{Round: round, Subject: "direct", Work: "bulk", Figures: map[string]float64{"Gbit/s": direct[round]}})
	}
	for round := range own {
		r.Samples = append(r.Samples, sample{Round: round, Subject: subject, Work: "bulk", Figures: map[string]float64{"Gbit/s": own[round], "CPU": 1}})
	}
	return r
}

func TestGuardedRatios(t *testing.T) {
	packet := &spliceway{engine: "packet"}
	splice := &spliceway{engine: "splice"}
	todo := []work{
		{name: "bulk", figures: []figure{{name: "Gbit/s", guard: atLeast}, {name: "CPU", guard: atMost}, {name: "p50"}}},
		{name: "never measured", figures: []figure{{name: "Gbit/s", guard: atLeast}}},
	}
	// The median of the ratios of a round, not the ratio of the medians: 0.5, 1, 0.8.
	earlier := sampled("spliceway packet", []float64{10, 20, 50}, []float64{5, 20, 40})
	now := sampled("spliceway packet", []float64{10}, []float64{7})
	got := guardedRatios(earlier, now, todo, []subject{direct{}, packet, splice})
	if len(got) != 1 {
		t.Fatalf("%d ratios, want the one that both runs have: %v", len(got), got)
	}
	if g := got[0]; g.before != (spread{0.8, 0.5, 1}) || g.now != 0.7 || g.subject != "spliceway packet" || g.behind() {
		t.Errorf("got %v, before %v, now %v", g, g.before, g.now)
	}
}

func TestResultsAreReadAsWritten(t *testing.T) {
	file := t.TempDir() + "/new/run.json"
	r := sampled("HAProxy", []float64{1, 2}, []float64{3})
	r.Date, r.Rounds, r.Duration = time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC), 2, time.Second
	r.Subjects = []described{{Name: "direct"}, {Name: "HAProxy", Version: "2.6"}}
	r.Samples = append(r.Samples, sample{Subject: "HAProxy", Work: "memory", Failed: "it <ended>"})
	if err := r.write(file); err != nil {
		t.Fatal(err)
	}
	got, err := readResults(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Samples) != 4 || got.Samples[3].Failed != "it <ended>" || got.Samples[1].Figures["Gbit/s"] != 2 {
		t.Errorf("samples: %+v", got.Samples)
	}
	if !got.Date.Equal(r.Date) || got.Duration != r.Duration || got.Subjects[1] != r.Subjects[1] {
		t.Errorf("head: %+v", got)
	}
}
