// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/spliceway/spliceway/userspace/api/v1alpha1"
	"github.com/spliceway/spliceway/userspace/config"
	"github.com/spliceway/spliceway/userspace/manifest"
)

// keep returns the objects to be served: those that were read, and of those that could not
// be the ones that were there before.
func (p *planner) keep() []*manifest.Object {
	if p.old == nil || len(p.set.Broken)+len(p.set.BrokenFiles) == 0 {
		return p.set.Objects
	}
	lost, lostFiles := setOf(p.set.Broken), setOf(p.set.BrokenFiles)
	have := make(map[manifest.Key]bool, len(p.set.Objects))
	for _, o := range p.set.Objects {
		have[o.Key] = true
	}
	objects := slices.Clone(p.set.Objects)
	for _, o := range p.old.set.Objects {
		if (lost[o.Key] || lostFiles[o.Pos.File]) && !have[o.Key] {
			p.warn(o.Pos, "%s: what was there before goes on", o.Key)
			objects = append(objects, o)
		}
	}
	p.set = &manifest.Set{Objects: objects, Problems: p.set.Problems, Warnings: p.set.Warnings, Broken: p.set.Broken, BrokenFiles: p.set.BrokenFiles, Files: p.set.Files}
	p.Plan.set = p.set
	return objects
}

func setOf[T comparable](list []T) map[T]bool {
	set := make(map[T]bool, len(list))
	for _, x := range list {
		set[x] = true
	}
	return set
}

// replace puts what was there before in the place of policies and certificates that are
// wrong now: endpoints that name them go on.
func (p *planner) replace() {
	if p.old == nil {
		return
	}
	before := make(map[manifest.Key]*manifest.Object)
	for _, o := range p.old.set.Objects {
		if o.Kind == "NgrokTrafficPolicy" || o.Kind == "Secret" {
			before[o.Key] = o
		}
	}
	objects := slices.Clone(p.objects)
	for i, o := range objects {
		old := before[o.Key]
		if old == nil || old == o {
			continue
		}
		wrong := p.wrongByItself(o)
		if len(wrong) == 0 || len(p.wrongByItself(old)) > 0 {
			continue
		}
		for _, w := range wrong {
			p.addProblem(w)
		}
		p.warn(o.Pos, "%s: what was there before goes on", o.Key)
		p.replaced[o.Key], objects[i] = wrong[0], old
	}
	p.objects = objects
	set := *p.set
	set.Objects = objects
	p.set, p.Plan.set = &set, &set
}

// wrongByItself is what is wrong with an object whatever names it.
func (p *planner) wrongByItself(o *manifest.Object) config.Errors {
	switch v := o.Value.(type) {
	case *v1alpha1.NgrokTrafficPolicy:
		return p.compile(o, []any{"spec", "policy"}, false).errs
	case *corev1.Secret:
		v = applied(v)
		cert, key := v.Data[corev1.TLSCertKey], v.Data[corev1.TLSPrivateKeyKey]
		if v.Type != corev1.SecretTypeTLS && (cert == nil || key == nil) {
			return nil
		}
		if err := checkPair(cert, key); err != nil {
			return config.Errors{p.problem(o, []any{"data"}, "%v", err)}
		}
	}
	return nil
}
