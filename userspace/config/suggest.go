// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/agext/levenshtein"
)

// didYouMean returns `, did you mean "x"?` with the candidate that is most
// like the word, or nothing if none is.
func didYouMean(word string, candidates iter.Seq[string]) string {
	if best := nearest(word, candidates); best != "" {
		return fmt.Sprintf(", did you mean %q?", best)
	}
	return ""
}

// nearest returns the first candidate with the fewest edits from the word, case
// aside, or "" if all need too many for it to be a slip.
func nearest(word string, candidates iter.Seq[string]) string {
	if len(word) > 253 { // longer than any name: no slip
		return ""
	}
	word = strings.ToLower(word)
	best, limit := "", slips(len(word))
	for candidate := range candidates {
		if diff := len(candidate) - len(word); diff > limit || -diff > limit {
			continue
		}
		// Without MaxCost: with it the library now and then returns too little.
		d := levenshtein.Distance(word, strings.ToLower(candidate), nil)
		if d <= limit && candidate != "" {
			best, limit = candidate, d-1
		}
		if limit < 0 {
			break
		}
	}
	return best
}

// slips is how many edits a word of this length may be away from what was
// meant.
func slips(length int) int {
	switch {
	case length < 3:
		return 0
	case length < 6:
		return 1
	case length < 10:
		return 2
	}
	return 3
}

// DidYouMean returns `, did you mean "x"?` with the candidate that a word was meant to be,
// or nothing if that is not clear.
func DidYouMean(word string, candidates []string) string {
	return didYouMean(word, slices.Values(candidates))
}
