// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"testing"
)

func TestSockmapFindsBothEnds(t *testing.T) {
	for _, family := range families {
		t.Run(family.name, func(t *testing.T) {
			s := joined(t, family.name)
			s.send(s.client, "abc")
			s.receives(s.backend, "abc")
			s.wantWays(0, ways{cut: 3, messages: 1})
		})
	}
}
