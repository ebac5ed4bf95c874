// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const noService = "Service shop/cart: there is none"

func refusing(weight int) Target {
	return Target{Host: "cart.shop", Port: 443, Weight: weight, Refuse: noService}
}

func TestRefusingTargetHasItsShare(t *testing.T) {
	for _, tt := range []struct {
		name   string
		policy Policy
	}{
		{"roundRobin", RoundRobin}, {"leastConnections", LeastConnections},
		{"randomTwoChoices", RandomTwoChoices}, {"sourceHash", SourceHash},
	} {
		for _, down := range []bool{false, true} {
			name := tt.name
			if down {
				name += " with the others out"
			}
			t.Run(name, func(t *testing.T) {
				bed := newBed(t, Spec{Policy: tt.policy, Retries: 3, Targets: []Target{weighted(t, "192.0.2.1:1", 2), refusing(1), weighted(t, "192.0.2.2:1", 1)}})
				rng := rand.New(rand.NewPCG(1, 2))
				bed.intN = rng.IntN
				if down {
					for i := range bed.targets {
						for _, a := range bed.targets[i].addrs {
							a.ejected = time.Now().Add(time.Hour)
						}
					}
				}
				const n = 4000
				refused := 0
				for i := range n {
					from := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
					d, err := bed.Connect(t.Context(), from)
					if err == nil && tt.policy != LeastConnections {
						d.Release() // else the connections stay
					}
					if err != nil {
						refused++
					}
				}
				if refused < n/4-150 || refused > n/4+150 {
					t.Errorf("%d of %d are refused, want a fourth", refused, n)
				}
			})
		}
	}
}

func TestRefusalIsAtOnce(t *testing.T) {
	bed := newBed(t, Spec{Retries: 3, Targets: []Target{refusing(1), refusing(0)}})
	for range 3 {
		err := bed.fail(t, t.Context())
		if err.Reason != Invalid || len(err.Attempts) != 1 || err.Attempts[0].Err.Error() != noService {
			t.Errorf("got %+v", err)
		}
		if diff := cmp.Diff("connect to upstream: cart.shop:443: invalid_target: "+noService, err.Error()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	if diff := cmp.Diff([]string{"failed cart.shop:443 invalid_target", "failed cart.shop:443 invalid_target", "failed cart.shop:443 invalid_target"}, bed.events.took()); diff != "" {
		t.Error(diff)
	}
	s := bed.Status()
	if len(s) != 2 || s[0].Up() || s[0].Active != 0 || s[0].Err == nil || s[0].Err.Error() != noService {
		t.Errorf("got %+v", s)
	}
	if bed.targets[0].active != 0 {
		t.Errorf("%d connections are counted", bed.targets[0].active)
	}
}

// TestRetriesDoNotComeToARefusingTarget has one refusal in two, and no more for what
// fails elsewhere.
func TestRetriesDoNotComeToARefusingTarget(t *testing.T) {
	bed := newBed(t, Spec{Retries: 3, Targets: []Target{weighted(t, "192.0.2.1:1", 1), refusing(1)}})
	bed.net.set("192.0.2.1:1", refuses)
	got := map[Reason]int{}
	for range 10 {
		_, err := bed.Connect(context.Background(), client)
		var e *DialError
		if !errors.As(err, &e) {
			t.Fatal(err)
		}
		got[e.Reason]++
	}
	if diff := cmp.Diff(map[Reason]int{Refused: 5, Invalid: 5}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
