// SPDX-License-Identifier: Apache-2.0

package cluster

import (
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

// references are the Secrets and ConfigMaps that objects name. Whether they may is not
// asked here.
func references(objects []*manifest.Object) map[reference]bool {
	all := make(map[reference]bool)
	add := func(kind, namespace, name string) {
		if name != "" && (kind == "Secret" || kind == "ConfigMap") {
			all[reference{kind, types.NamespacedName{Namespace: namespace, Name: name}}] = true
		}
	}
	for _, o := range objects {
		switch v := o.Value.(type) {
		case *gatewayv1.Gateway:
			gatewayReferences(v, add)
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

// refer watches exactly these of the kinds that are watched by name, and tells whether
// there are new ones among them.
func (c *Cluster) refer(wanted map[reference]bool) (news bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
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
				news = true
			}
		}
	}
	return news
}
