// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const a, b, c = "192.0.2.11:1", "192.0.2.12:1", "192.0.2.13:1"

// weights is a Spec of a, b, c... with these weights.
func weights(t *testing.T, policy Policy, weight ...int) Spec {
	t.Helper()
	spec := Spec{Policy: policy}
	for i, w := range weight {
		spec.Targets = append(spec.Targets, weighted(t, []string{a, b, c}[i], w))
	}
	return spec
}

func TestRoundRobinIsSmooth(t *testing.T) {
	for name, tt := range map[string]struct {
		weights []int
		want    []string
	}{
		"equal weights":      {[]int{1, 1, 1}, []string{a, b, c, a, b, c}},
		"5 to 1 to 1":        {[]int{5, 1, 1}, []string{a, a, b, a, c, a, a, a, a, b, a, c, a, a}},
		"2 to 1":             {[]int{2, 1}, []string{a, b, a, a, b, a}},
		"weight 0 has no go": {[]int{1, 0, 1}, []string{a, c, a, c}},
		"one target":         {[]int{3}, []string{a, a, a}},
	} {
		t.Run(name, func(t *testing.T) {
			bed := newBed(t, weights(t, RoundRobin, tt.weights...))
			if diff := cmp.Diff(tt.want, bed.goes(t, len(tt.want))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLeastConnections(t *testing.T) {
	t.Run("goes by connections per weight", func(t *testing.T) {
		bed := newBed(t, weights(t, LeastConnections, 3, 1))
		count := map[string]int{}
		for range 40 {
			count[bed.connect(t).Addr.String()]++
		}
		if diff := cmp.Diff(map[string]int{a: 30, b: 10}, count); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("follows those that end", func(t *testing.T) {
		bed := newBed(t, weights(t, LeastConnections, 1, 1, 1))
		bed.connect(t)
		second := bed.connect(t)
		bed.connect(t)
		second.Release()
		second.Release() // counts once
		if got := bed.connect(t).Addr; got != second.Addr {
			t.Errorf("got %s, want %s, which has none", got, second.Addr)
		}
		for _, s := range bed.Status() {
			if s.Active != 1 {
				t.Errorf("%s: %d active, want 1", s.Target, s.Active)
			}
		}
	})
	t.Run("equal ones take turns by weight", func(t *testing.T) {
		bed := newBed(t, weights(t, LeastConnections, 2, 1))
		if diff := cmp.Diff([]string{a, b, a, a, b, a}, bed.goes(t, 6)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestRandomTwoChoices(t *testing.T) {
	t.Run("prefers the one with fewer connections", func(t *testing.T) {
		bed := newBed(t, weights(t, RandomTwoChoices, 1, 1))
		for range 10 {
			bed.connect(t)
		}
		for _, s := range bed.Status() {
			if s.Active != 5 {
				t.Errorf("%s: %d active, want 5", s.Target, s.Active)
			}
		}
	})
	t.Run("draws by weight when all are idle", func(t *testing.T) {
		bed := newBed(t, weights(t, RandomTwoChoices, 6, 3, 1))
		bed.intN = rand.New(rand.NewPCG(1, 2)).IntN
		const n = 20000
		shares(t, bed.goes(t, n), map[string]float64{a: 0.6, b: 0.3, c: 0.1})
	})
	t.Run("never draws weight 0", func(t *testing.T) {
		bed := newBed(t, weights(t, RandomTwoChoices, 1, 0, 1))
		bed.intN = rand.New(rand.NewPCG(1, 2)).IntN
		for _, to := range bed.goes(t, 100) {
			if to == b {
				t.Fatal("went to the target of weight 0")
			}
		}
	})
}

// shares compares relative frequencies, within a fiftieth.
func shares(t *testing.T, to []string, want map[string]float64) {
	t.Helper()
	count := map[string]int{}
	for _, addr := range to {
		count[addr]++
	}
	for addr, share := range want {
		if got := float64(count[addr]) / float64(len(to)); math.Abs(got-share) > 0.02 {
			t.Errorf("%s: got %.3f of the connections, want %.3f", addr, got, share)
		}
	}
}

// clients is n client addresses, and where each goes.
func clients(t *testing.T, bed *bed, n int) []string {
	t.Helper()
	var to []string
	for i := range n {
		ip := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		d, err := bed.Connect(t.Context(), ip)
		if err != nil {
			t.Fatal(err)
		}
		to = append(to, d.Addr.String())
	}
	return to
}

func TestSourceHash(t *testing.T) {
	const n = 8000
	before := clients(t, newBed(t, weights(t, SourceHash, 5, 3, 2)), n)
	t.Run("shares by weight", func(t *testing.T) {
		shares(t, before, map[string]float64{a: 0.5, b: 0.3, c: 0.2})
	})
	t.Run("is the same in another pool", func(t *testing.T) {
		if diff := cmp.Diff(before, clients(t, newBed(t, weights(t, SourceHash, 5, 3, 2)), n)); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("is the same in every version", func(t *testing.T) {
		if diff := cmp.Diff([]string{a, a, a, b, b, b, a, b}, before[:8]); diff != "" {
			t.Errorf("clients would move to other targets on an upgrade: %s", diff)
		}
	})
	t.Run("moves only the clients of a target that goes", func(t *testing.T) {
		for i, now := range clients(t, newBed(t, weights(t, SourceHash, 5, 3)), n) {
			if before[i] != c && now != before[i] {
				t.Fatalf("client %d moved from %s to %s", i, before[i], now)
			}
		}
	})
	t.Run("moves only the clients of a target that is down", func(t *testing.T) {
		bed := newBed(t, Spec{Policy: SourceHash, Targets: weights(t, SourceHash, 5, 3, 2).Targets, Retries: 1})
		bed.net.set(b, refuses)
		for i, now := range clients(t, bed, n) {
			if now == b || before[i] != b && now != before[i] {
				t.Fatalf("client %d moved from %s to %s", i, before[i], now)
			}
		}
	})
	t.Run("keeps a client at one address of a name", func(t *testing.T) {
		bed := newBed(t, Spec{Policy: SourceHash}, "many.test:1")
		bed.names.set("many.test", "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4")
		first, seen := clients(t, bed, 400), map[string]int{}
		for i, to := range clients(t, bed, 400) {
			if seen[to]++; to != first[i] {
				t.Fatalf("client %d moved from %s to %s", i, first[i], to)
			}
		}
		if len(seen) != 4 {
			t.Errorf("got %v, want all four in use", seen)
		}
	})
}

func TestSpecEqual(t *testing.T) {
	spec := weights(t, SourceHash, 1, 2)
	same := weights(t, SourceHash, 1, 2)
	if !spec.Equal(same) {
		t.Error("equal ones differ")
	}
	for name, edit := range map[string]func(*Spec){
		"weight":  func(s *Spec) { s.Targets[1].Weight = 3 },
		"order":   func(s *Spec) { s.Targets[0], s.Targets[1] = s.Targets[1], s.Targets[0] },
		"policy":  func(s *Spec) { s.Policy = RoundRobin },
		"check":   func(s *Spec) { s.Check.ServerName = "x" },
		"timeout": func(s *Spec) { s.ConnectTimeout++ },
	} {
		other := weights(t, SourceHash, 1, 2)
		edit(&other)
		if spec.Equal(other) {
			t.Errorf("%s: a change is not seen", name)
		}
	}
}

func BenchmarkPick(b *testing.B) {
	for policy, name := range []string{"roundRobin", "leastConnections", "randomTwoChoices", "sourceHash"} {
		for _, n := range []int{1, 3, 10} {
			b.Run(fmt.Sprintf("%s/%d targets", name, n), func(b *testing.B) {
				spec := Spec{Policy: Policy(policy), ConnectTimeout: 5e9, EjectAfter: 3, EjectFor: 10e9}
				for i := range n {
					spec.Targets = append(spec.Targets, Target{Host: fmt.Sprintf("192.0.2.%d", i), Port: 1, Weight: 1})
				}
				p := New(spec, Options{Dialer: &instant{}})
				b.ReportAllocs()
				for b.Loop() {
					d, err := p.Connect(b.Context(), client)
					if err != nil {
						b.Fatal(err)
					}
					d.Release()
				}
			})
		}
	}
}
