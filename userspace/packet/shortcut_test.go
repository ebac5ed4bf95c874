// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"testing"

	"github.com/spliceway/spliceway/maps"
	"github.com/spliceway/spliceway/userspace/telemetry"
)

// The programs' reasons and the metric's labels are the same words.
func TestMisfitsHaveSeries(t *testing.T) {
	for i, word := range telemetry.SockmapReasons {
		if got := maps.Misfit(i + 1).String(); got != word {
			t.Errorf("misfit %d is %q, the metric has %q", i+1, got, word)
		}
	}
	if got := maps.Fits.String(); got != "" {
		t.Errorf("Fits is %q", got)
	}
}
