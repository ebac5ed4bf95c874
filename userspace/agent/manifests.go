// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/spliceway/spliceway/userspace/config"
	"github.com/spliceway/spliceway/userspace/manifest"
	"github.com/spliceway/spliceway/userspace/plan"
)

// Plan is what a configuration comes to with the manifests that it names, without a look
// at this host.
func Plan(cfg *config.Config) *plan.Plan {
	return plan.Make(cfg, manifest.Load(cfg.Manifests), plan.Options{})
}

// plan is Plan for the running agent: what has been served goes on where it is broken
// now. The error is that of a configuration that is to be strict.
func (a *agent) plan(cfg *config.Config) (*plan.Plan, error) {
	own := sync.OnceValues(net.InterfaceAddrs)
	o := plan.Options{Usable: func(_ types.NamespacedName, at netip.Addr) error { return usable(cfg, own, at) }}
	if !a.strict {
		o.Old = a.planned
	}
	set := manifest.Load(cfg.Manifests)
	if a.cluster != nil {
		set = a.withCluster(set, &o)
	}
	p := plan.Make(cfg, set, o)
	if a.strict && len(p.Problems) > 0 {
		return nil, p.Problems
	}
	return p, nil
}

// usable tells whether an address that a Gateway asks for can be listened on.
func usable(cfg *config.Config, hosts func() ([]net.Addr, error), at netip.Addr) error {
	for _, p := range slices.Concat(cfg.Listen, cfg.Kubernetes.Addresses) {
		if p.Contains(at) {
			return nil
		}
	}
	own, err := hosts()
	if err != nil {
		return fmt.Errorf("the addresses of this host are not known: %w", err)
	}
	for _, a := range own {
		if p, err := netip.ParsePrefix(a.String()); err == nil && (p.Addr() == at || p.Addr().IsLoopback() && p.Contains(at)) {
			return nil
		}
	}
	return fmt.Errorf("%s is not an address of this host, and not within what the agent's file listens on", at)
}

// planApplied is called when p is what is served, whose files were read after since. It
// tells what is wrong and what is odd, unless that was told before.
func (a *agent) planApplied(p *plan.Plan, since time.Time) {
	warned, refused := make(map[manifest.Warning]bool), make(map[config.Error]bool)
	if a.planned != nil {
		for _, w := range a.planned.Warnings {
			warned[w] = true
		}
		for _, e := range a.planned.Problems {
			refused[*e] = true
		}
	}
	for _, w := range p.Warnings {
		if !warned[w] {
			a.logger.Warn(w.Text, "at", w.Pos.String())
		}
	}
	for _, e := range p.Problems {
		if !refused[*e] {
			a.logger.Error("object refused", "at", e.Pos.String(), "error", e.Text())
		}
	}
	if len(p.Config.Endpoints) == 0 && a.cluster == nil {
		a.logger.Warn("nothing is served: the manifests have no endpoint that is right")
	}
	a.metrics.ManifestProblems(len(p.Problems))
	a.planned = p
	if len(p.Files) == 0 && a.manifests == nil {
		return
	}
	if a.manifests == nil {
		w, err := newFilesWatch()
		if err != nil {
			a.logger.Warn("manifests are not watched: SIGHUP has them read again", "error", err.Error())
			return
		}
		a.manifests = w
	}
	if err := a.manifests.set(p.Files, since); err != nil {
		a.logger.Warn("some manifests are not watched: SIGHUP has them read again", "error", err.Error())
	}
}

// manifestsChanged is signalled when manifests may have changed.
func (a *agent) manifestsChanged() <-chan struct{} {
	if a.manifests == nil {
		return nil
	}
	return a.manifests.changed
}
