// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// objects finds what is referred to by name.
type objects struct {
	classes    map[string]*gatewayv1.GatewayClass
	gateways   map[types.NamespacedName]*gatewayv1.Gateway
	services   map[types.NamespacedName]*corev1.Service
	slices     map[types.NamespacedName][]*discoveryv1.EndpointSlice // by Service
	secrets    map[types.NamespacedName]*corev1.Secret
	configMaps map[types.NamespacedName]*corev1.ConfigMap
	namespaces map[string]labels.Set
	grants     map[string][]*gatewayv1.ReferenceGrant // by namespace
	pairs      map[types.NamespacedName]pairResult    // of Secrets that were parsed
	cas        map[types.NamespacedName]caResult      // of ConfigMaps that were parsed
	unwatched  func(kind string, name types.NamespacedName) error
}

// absent is why there is no object of a name.
func (o *objects) absent(kind string, name types.NamespacedName) error {
	if o.unwatched != nil {
		if err := o.unwatched(kind, name); err != nil {
			return err
		}
	}
	return fmt.Errorf("there is no %s %s", kind, name)
}

func index(in Input) *objects {
	o := &objects{
		classes:    map[string]*gatewayv1.GatewayClass{},
		gateways:   byKey(in.Gateways),
		services:   byKey(in.Services),
		slices:     map[types.NamespacedName][]*discoveryv1.EndpointSlice{},
		secrets:    byKey(in.Secrets),
		configMaps: byKey(in.ConfigMaps),
		namespaces: map[string]labels.Set{},
		grants:     map[string][]*gatewayv1.ReferenceGrant{},
		pairs:      map[types.NamespacedName]pairResult{},
		cas:        map[types.NamespacedName]caResult{},
		unwatched:  in.Unwatched,
	}
	for _, c := range in.Classes {
		o.classes[c.Name] = c
	}
	for _, s := range in.EndpointSlices {
		k := types.NamespacedName{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}
		o.slices[k] = append(o.slices[k], s)
	}
	for _, n := range in.Namespaces {
		set := labels.Set(maps.Clone(n.Labels))
		if set == nil {
			set = labels.Set{}
		}
		// An API server sees to it that each has this one.
		set[corev1.LabelMetadataName] = n.Name
		o.namespaces[n.Name] = set
	}
	for _, g := range in.ReferenceGrants {
		o.grants[g.Namespace] = append(o.grants[g.Namespace], g)
	}
	return o
}

func byKey[T metav1.Object](list []T) map[types.NamespacedName]T {
	m := make(map[types.NamespacedName]T, len(list))
	for _, o := range list {
		m[key(o)] = o
	}
	return m
}

// reference is from an object of the Gateway API's group to one of the core group.
type reference struct {
	fromKind, fromNamespace string
	toKind                  string
	to                      types.NamespacedName
}

// permitted tells whether r stays in its namespace or a ReferenceGrant allows it.
func (o *objects) permitted(r reference) bool {
	if r.fromNamespace == r.to.Namespace {
		return true
	}
	return slices.ContainsFunc(o.grants[r.to.Namespace], func(g *gatewayv1.ReferenceGrant) bool {
		from := slices.ContainsFunc(g.Spec.From, func(f gatewayv1.ReferenceGrantFrom) bool {
			return f.Group == gatewayv1.GroupName && string(f.Kind) == r.fromKind && string(f.Namespace) == r.fromNamespace
		})
		return from && slices.ContainsFunc(g.Spec.To, func(t gatewayv1.ReferenceGrantTo) bool {
			return t.Group == corev1.GroupName && string(t.Kind) == r.toKind && (t.Name == nil || *t.Name == "" || string(*t.Name) == r.to.Name)
		})
	})
}

// value returns what p points to, or the fallback if that is nothing.
func value[T comparable](p *T, fallback T) T {
	var zero T
	if p == nil || *p == zero {
		return fallback
	}
	return *p
}
