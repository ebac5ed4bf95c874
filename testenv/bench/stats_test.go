// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"testing"
)

func TestPercentile(t *testing.T) {
	hundred := make([]int, 100)
	for i := range hundred {
		hundred[i] = 100 - i // out of order
	}
	for _, tt := range []struct {
		values []int
		p      float64
		want   int
	}{
		{nil, 50, 0},
		{[]int{7}, 0, 7},
		{[]int{7}, 99, 7},
		{[]int{3, 1, 2}, 50, 2},
		{[]int{4, 3, 2, 1}, 50, 2},
		{hundred, 50, 50},
		{hundred, 99, 99},
		{hundred, 100, 100},
	} {
		if got := percentile(slices.Clone(tt.values), tt.p); got != tt.want {
			t.Errorf("percentile %g of %v: %d, want %d", tt.p, tt.values, got, tt.want)
		}
	}
}

func TestSpread(t *testing.T) {
	values := []float64{9, 1, 4}
	if got, want := spreadOf(values), (spread{4, 1, 9}); got != want {
		t.Errorf("of three: %v, want %v", got, want)
	}
	if !slices.Equal(values, []float64{9, 1, 4}) {
		t.Errorf("values are now %v", values)
	}
	if got, want := spreadOf([]float64{9, 1, 4, 5}), (spread{4.5, 1, 9}); got != want {
		t.Errorf("of four: %v, want %v", got, want)
	}
}
