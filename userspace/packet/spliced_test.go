// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"testing"
	"time"

	"github.com/spliceway/spliceway/maps"
)

// A sweep reads many flows at once. One that was armed then, and is spliced by the time
// it is looked at, has no last packet yet: it must not be taken for idle.
func TestCheckOfWhatWasReadBeforeTheFlip(t *testing.T) {
	const id = maps.FlowID(1)
	s := &spliced{id: id, idle: time.Nanosecond, halfClose: time.Nanosecond}
	e := &Engine{spliced: map[maps.FlowID]*spliced{id: s}}
	for _, state := range []maps.FlowState{maps.FlowArmed, maps.FlowFlipping} {
		func() {
			defer func() {
				if recover() != nil { // there is no kernel here
					t.Errorf("a flow read in state %v was acted on", state)
				}
			}()
			e.check(id, &maps.Flow{State: state})
		}()
		if s.finished || s.gone != 0 || s.counted != [2]uint64{} {
			t.Errorf("a flow read in state %v was changed: %+v", state, s)
		}
	}
}
