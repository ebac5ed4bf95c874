// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"time"
)

// run is what the benchmark has written.
type run struct {
	Date    time.Time `json:"date"`
	Machine struct {
		CPU        string `json:"cpu"`
		Processors int    `json:"processors"`
		Kernel     string `json:"kernel"`
	} `json:"machine"`
	Quick    bool                    `json:"quick"`
	Rounds   int                     `json:"rounds"`
	Duration time.Duration           `json:"durationNs"`
	Subjects []struct{ Name string } `json:"subjects"`
	Samples  []struct {
		Subject, Work string
		Figures       map[string]float64 // by name
	} `json:"samples"`
}

func readRun(file string) (*run, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := new(run)
	if err := json.Unmarshal(content, r); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return r, nil
}

// caption says where and when it was measured.
func (r *run) caption() string {
	text := fmt.Sprintf("%s · %d processors (%s), Linux %s · median of %d rounds of %s; the line is least to greatest",
		r.Date.Format("2 January 2006"), r.Machine.Processors, r.Machine.CPU, r.Machine.Kernel, r.Rounds, r.Duration)
	if r.Quick {
		text = "QUICK RUN, WORTH LITTLE · " + text
	}
	return text
}

// spread is a figure over the rounds.
type spread struct{ least, median, greatest float64 }

func spreadOf(values []float64) spread {
	v := slices.Sorted(slices.Values(values))
	mid := len(v) / 2
	median := v[mid]
	if len(v)%2 == 0 {
		median = (v[mid-1] + v[mid]) / 2
	}
	return spread{v[0], median, v[len(v)-1]}
}

// figure is what a subject has in a piece of work; false if it was not measured.
func (r *run) figure(work, subject, name string) (spread, bool) {
	var values []float64
	for _, s := range r.Samples {
		if s.Work != work || s.Subject != subject {
			continue
		}
		if v, ok := s.Figures[name]; ok && !math.IsNaN(v) {
			values = append(values, v)
		}
	}
	if values == nil {
		return spread{}, false
	}
	return spreadOf(values), true
}

// works are the names of those that there are and that match, in order.
func (r *run) works(match func(string) bool) (names []string) {
	for _, s := range r.Samples {
		if match(s.Work) && !slices.Contains(names, s.Work) {
			names = append(names, s.Work)
		}
	}
	return names
}
