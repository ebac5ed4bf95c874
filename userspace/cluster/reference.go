// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"cmp"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/spliceway/spliceway/userspace/api/v1alpha1"
	"github.com/spliceway/spliceway/userspace/manifest"
)

// reference is an object that another one names.
type reference struct {
	kind string // Secret or ConfigMap
	types.NamespacedName
}

// grant lets Gateways of a namespace name an object of another one, or, without a name, all of
// a kind.
type grant struct{ from, kind, namespace, name string }

func addGrants(to map[grant]bool, g *gatewayv1.ReferenceGrant) {
	for _, f := range g.Spec.From {
		for _, t := range g.Spec.To {
			if f.Group != gatewayv1.GroupName || f.Kind != "Gateway" || t.Group != "" {
				continue
			}
			name := ""
			if t.Name != nil {
				name = string(*t.Name)
			}
			to[grant{string(f.Namespace), string(t.Kind), g.Namespace, name}] = true
		}
	}
}

// references are the Secrets and ConfigMaps that objects name and may name, and of each the
// namespace from which it is: its own, else the first by name. Gateways count whose class is
// the controller's.
func references(objects []*manifest.Object, controller string) map[reference]string {
	all, grants := make(map[reference]string), make(map[grant]bool)
	var from string
	add := func(kind, namespace, name string) {
		if name == "" || kind != "Secret" && kind != "ConfigMap" {
			return
		}
		r := reference{kind, types.NamespacedName{Namespace: namespace, Name: name}}
		if from != namespace && !grants[grant{from, kind, namespace, name}] && !grants[grant{from, kind, namespace, ""}] {
			return
		}
		if first, ok := all[r]; !ok || from == namespace || from < first && first != namespace {
			all[r] = from
		}
	}
	for _, o := range objects {
		if g, ok := o.Value.(*gatewayv1.ReferenceGrant); ok {
			addGrants(grants, g)
		}
	}
	for _, g := range gatewaysOf(objects, controller) {
		from = g.Namespace
		gatewayReferences(g, add)
	}
	for _, o := range objects {
		from = o.Namespace
		switch v := o.Value.(type) {
		case *gatewayv1.BackendTLSPolicy:
			for _, r := range v.Spec.Validation.CACertificateRefs {
				add(string(r.Kind), v.Namespace, string(r.Name))
			}
		case *v1alpha1.AgentEndpoint:
			if t := v.Spec.TLSTermination; t != nil {
				add("Secret", v.Namespace, t.ServerCertificateRef.Name)
				if t.MutualTLS != nil {
					add("Secret", v.Namespace, t.MutualTLS.ClientCAsRef.Name)
				}
			}
			for _, r := range v.Spec.ClientCertificateRefs {
				add("Secret", v.Namespace, r.Name)
			}
		}
	}
	return all
}

func gatewayReferences(g *gatewayv1.Gateway, add func(kind, namespace, name string)) {
	secret := func(r gatewayv1.SecretObjectReference) {
		kind, namespace := "Secret", g.Namespace
		if r.Kind != nil {
			kind = string(*r.Kind)
		}
		if r.Namespace != nil {
			namespace = string(*r.Namespace)
		}
		add(kind, namespace, string(r.Name))
	}
	cas := func(v *gatewayv1.FrontendTLSValidation) {
		if v == nil {
			return
		}
		for _, r := range v.CACertificateRefs {
			namespace := g.Namespace
			if r.Namespace != nil {
				namespace = string(*r.Namespace)
			}
			add(string(r.Kind), namespace, string(r.Name))
		}
	}
	for _, l := range g.Spec.Listeners {
		if l.TLS != nil {
			for _, r := range l.TLS.CertificateRefs {
				secret(r)
			}
		}
	}
	if t := g.Spec.TLS; t != nil {
		if t.Backend != nil && t.Backend.ClientCertificateRef != nil {
			secret(*t.Backend.ClientCertificateRef)
		}
		if t.Frontend != nil {
			cas(t.Frontend.Default.Validation)
			for _, p := range t.Frontend.PerPort {
				cas(p.TLS.Validation)
			}
		}
	}
}

// bounded leaves so many references, and tells which it left out: a namespace that wants more
// than its share has less than that of nobody else. What had was told before stays before
// what is new.
func bounded(wanted map[reference]string, had func(reference) bool, limit int) (kept, left map[reference]bool) {
	byNamespace := make(map[string][]reference)
	for r, from := range wanted {
		byNamespace[from] = append(byNamespace[from], r)
	}
	namespaces := slices.SortedFunc(maps.Keys(byNamespace), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(byNamespace[a]), len(byNamespace[b])), cmp.Compare(a, b))
	})
	kept, left = make(map[reference]bool), make(map[reference]bool)
	for i, n := range namespaces {
		list, share := byNamespace[n], (limit-len(kept))/(len(namespaces)-i)
		if len(list) > share {
			slices.SortFunc(list, func(a, b reference) int {
				if x, y := had(a), had(b); x != y {
					if x {
						return -1
					}
					return 1
				}
				return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.String(), b.String()))
			})
		}
		for j, r := range list {
			if j < share {
				kept[r] = true
			} else {
				left[r] = true
			}
		}
	}
	return kept, left
}

// refer watches what objects name, as far as the limit goes, and returns the watches that are
// new. What is left out is in c.unwatched.
func (c *Cluster) refer(all map[reference]string) (news []*watch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wanted, left := bounded(all, func(r reference) bool { return c.watches[watched{"", r.kind, r.Namespace, r.Name}] != nil }, c.opts.MaxReferences)
	if len(left) > 0 && len(left) != len(c.unwatched) {
		c.log.Warn("objects name more Secrets and ConfigMaps than are watched: some are left out (kubernetes.maxReferences)", "named", len(all), "limit", c.opts.MaxReferences)
	}
	c.unwatched = left
	for i := range c.kinds {
		k := &c.kinds[i]
		if !k.referenced {
			continue
		}
		for key, w := range c.watches {
			if key.name == k.name && key.group == k.group && !wanted[reference{k.name, types.NamespacedName{Namespace: key.namespace, Name: key.instance}}] {
				w.end()
				delete(c.watches, key)
			}
		}
		for r := range wanted {
			key := watched{k.group, k.name, r.Namespace, r.Name}
			if r.kind == k.name && c.watches[key] == nil {
				c.watches[key] = c.start(c.context, k, k.versions[0], r.Namespace, r.Name)
				news = append(news, c.watches[key])
			}
		}
	}
	return news
}
