// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
)

const (
	tolerance = 0.15 // by which a ratio may fall behind
	tries     = 3
)

// guarded is a ratio to the direct connection that must not get worse.
type guarded struct {
	work, subject string
	figure        figure
	before        spread  // over the rounds
	now           float64 // their median
}

func (g guarded) String() string {
	return fmt.Sprintf("%s: %s: %s: %.3f of direct, before %.3f (%.3f to %.3f)", g.subject, g.work, g.figure.name, g.now, g.before.median, g.before.low, g.before.high)
}

// same: the same figure of the same subject.
func (g guarded) same(other guarded) bool {
	return g.work == other.work && g.subject == other.subject && g.figure == other.figure
}

// behind: by more than what is tolerated, and than a round of the earlier run has been.
func (g guarded) behind() bool {
	if g.figure.guard == atLeast {
		return g.now < min(g.before.median*(1-tolerance), g.before.low)
	}
	return g.now > max(g.before.median*(1+tolerance), g.before.high)
}

// check measures spliceway as an earlier run did, and returns an error where a ratio has
// fallen behind it. What seems to is measured once more, since other work of the machine
// may have been in the way.
func check(ctx context.Context, o options, out io.Writer) error {
	earlier, err := readResults(o.check)
	if err != nil {
		return err
	}
	o.subjects, o.rounds = "direct,sockmap,packet,splice", tries
	if !o.quick {
		o.duration = earlier.Duration
	}
	subjects, err := chooseSubjects(o)
	if err != nil {
		return err
	}
	todo := slices.DeleteFunc(works(o), func(w work) bool { return !w.guarded() })
	r, done, err := begin(ctx, o, subjects)
	if err != nil {
		return err
	}
	defer done()
	var behind []guarded
	for again := range 2 {
		r.Samples = nil
		if err := r.measure(ctx, tries, todo, subjects); err != nil {
			return err
		}
		ratios := guardedRatios(earlier, r, todo, subjects)
		if len(ratios) == 0 {
			return fmt.Errorf("%s has nothing of what was measured: was it written by -json?", o.check)
		}
		first := behind
		behind = nil
		for _, g := range ratios {
			mark := ""
			if g.behind() && (again == 0 || slices.ContainsFunc(first, g.same)) {
				mark, behind = "  BEHIND", append(behind, g)
			}
			fmt.Fprintf(out, "%s%s\n", g, mark)
		}
		if len(behind) == 0 {
			return nil
		}
		if again == 0 {
			fmt.Fprintf(out, "%d of %d are behind: once more, to be sure\n", len(behind), len(ratios))
		}
		todo = slices.DeleteFunc(todo, func(w work) bool {
			return !slices.ContainsFunc(behind, func(g guarded) bool { return g.work == w.name })
		})
		subjects = slices.DeleteFunc(subjects, func(s subject) bool {
			return s != direct{} && !slices.ContainsFunc(behind, func(g guarded) bool { return g.subject == s.name() })
		})
	}
	errs := []error{fmt.Errorf("%d ratios are more than %.0f %% behind %s, twice", len(behind), 100*tolerance, o.check)}
	for _, g := range behind {
		errs = append(errs, errors.New(g.String()))
	}
	return errors.Join(errs...)
}

func (w work) guarded() bool {
	return slices.ContainsFunc(w.figures, func(f figure) bool { return f.guard != unguarded })
}

// guardedRatios are those that both runs have.
func guardedRatios(earlier, now *results, todo []work, subjects []subject) (all []guarded) {
	for _, w := range todo {
		for _, s := range subjects {
			for _, f := range w.figures {
				if f.guard == unguarded || s == (direct{}) {
					continue
				}
				before, ok := earlier.ratio(w.name, s.name(), f.name)
				after, measured := now.ratio(w.name, s.name(), f.name)
				if ok && measured {
					all = append(all, guarded{w.name, s.name(), f, before, after.median})
				}
			}
		}
	}
	return all
}

// ratio is a figure's ratio to direct's in the same round, over the rounds.
func (r *results) ratio(work, subject, figure string) (over spread, ok bool) {
	base := r.values(work, direct{}.name(), figure)
	var ratios []float64
	for round, v := range r.values(work, subject, figure) {
		if to := base[round]; to != 0 {
			ratios = append(ratios, v/to)
		}
	}
	if ratios == nil {
		return spread{}, false
	}
	return spreadOf(ratios), true
}
