// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"fmt"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/spliceway/spliceway/userspace/config"
	"github.com/spliceway/spliceway/userspace/manifest"
)

// kind is a kind of object that is watched.
type kind struct {
	group, name, resource string
	versions              []string     // those that are understood, the best first
	of                    reflect.Type // nil: read as a manifest is, and as strictly
	referenced            bool         // only those that others name are watched, each by itself
	status                bool         // what became of it is written to it
}

func kindOf[T any](group, name, resource string, versions ...string) kind {
	return kind{group: group, name: name, resource: resource, versions: versions, of: reflect.TypeFor[T]()}
}

// kinds are all of them; those of ngrok's group only if they are asked for.
func kinds(ngrok bool) []kind {
	const gateway = manifest.GroupGateway
	all := []kind{
		kindOf[gatewayv1.GatewayClass](gateway, "GatewayClass", "gatewayclasses", "v1"),
		kindOf[gatewayv1.Gateway](gateway, "Gateway", "gateways", "v1"),
		kindOf[gatewayv1.TLSRoute](gateway, "TLSRoute", "tlsroutes", "v1", "v1alpha3", "v1alpha2"),
		kindOf[gatewayv1.HTTPRoute](gateway, "HTTPRoute", "httproutes", "v1"),
		kindOf[gatewayv1.BackendTLSPolicy](gateway, "BackendTLSPolicy", "backendtlspolicies", "v1"),
	}
	groups := []string{manifest.GroupSpliceway}
	if ngrok {
		groups = append(groups, manifest.GroupNgrok)
	}
	for _, group := range groups {
		all = append(all,
			kind{group: group, name: "AgentEndpoint", resource: "agentendpoints", versions: []string{"v1alpha1"}},
			kind{group: group, name: "CloudEndpoint", resource: "cloudendpoints", versions: []string{"v1alpha1"}},
			kind{group: group, name: "NgrokTrafficPolicy", resource: "ngroktrafficpolicies", versions: []string{"v1alpha1"}})
	}
	for i := range all {
		all[i].status = true
	}
	secret, configMap := kindOf[corev1.Secret]("", "Secret", "secrets", "v1"), kindOf[corev1.ConfigMap]("", "ConfigMap", "configmaps", "v1")
	secret.referenced, configMap.referenced = true, true
	return append(all, secret, configMap,
		kindOf[corev1.Namespace]("", "Namespace", "namespaces", "v1"),
		kindOf[gatewayv1.ReferenceGrant](gateway, "ReferenceGrant", "referencegrants", "v1", "v1beta1"),
		kindOf[corev1.Service]("", "Service", "services", "v1"),
		kindOf[discoveryv1.EndpointSlice](manifest.GroupDiscovery, "EndpointSlice", "endpointslices", "v1"))
}

// item is an object in a store: one that is right, or what is wrong with it.
type item struct {
	metav1.Object // its metadata
	key           manifest.Key
	object        *manifest.Object   // nil: it is wrong
	before        []metav1.Condition // of the status of one that is wrong
	problems      config.Errors
	warnings      []manifest.Warning
}

// read makes an item of what the API server, or the file of the last state, has.
func (k *kind) read(u *unstructured.Unstructured) *item {
	u.SetManagedFields(nil)
	if notes := u.GetAnnotations(); notes[corev1.LastAppliedConfigAnnotation] != "" {
		delete(notes, corev1.LastAppliedConfigAnnotation)
		u.SetAnnotations(notes)
	}
	it := &item{key: manifest.Key{Group: k.group, Kind: k.name, Namespace: u.GetNamespace(), Name: u.GetName()}}
	if k.of == nil {
		it.parse(u)
		return it
	}
	value := reflect.New(k.of)
	it.Object = value.Interface().(metav1.Object)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, value.Interface()); err != nil {
		it.Object = metadata(u)
		it.problems = config.Errors{{Pos: where, Msg: fmt.Sprintf("%s: %v", it.key, err)}}
		return it
	}
	if s, ok := value.Interface().(*discoveryv1.EndpointSlice); ok {
		for i := range s.Endpoints {
			s.Endpoints[i].TargetRef, s.Endpoints[i].DeprecatedTopology = nil, nil
		}
	}
	it.object = manifest.NewObject(it.key, u.GroupVersionKind().Version, where.File, value.Interface())
	return it
}

// parse reads an object as one of a file, whose checks no schema of an API server has.
func (it *item) parse(u *unstructured.Unstructured) {
	it.Object = metadata(u)
	data, err := json.Marshal(u.Object)
	if err != nil {
		it.problems = config.Errors{{Pos: where, Msg: fmt.Sprintf("%s: %v", it.key, err)}}
		return
	}
	set := manifest.Parse(where.File, data)
	it.problems, it.warnings = set.Problems, set.Warnings
	if len(set.Objects) == 1 {
		it.object = set.Objects[0]
		it.Object = it.object.Value.(metav1.Object)
		return
	}
	var has struct {
		Status struct{ Conditions []metav1.Condition }
	}
	_ = json.Unmarshal(data, &has) // what cannot be read is written anew
	it.before = has.Status.Conditions
}

func metadata(u *unstructured.Unstructured) metav1.Object {
	return &metav1.ObjectMeta{
		Name: u.GetName(), Namespace: u.GetNamespace(), UID: u.GetUID(), ResourceVersion: u.GetResourceVersion(),
		Generation: u.GetGeneration(), CreationTimestamp: u.GetCreationTimestamp(), Labels: u.GetLabels(),
	}
}

// where is what stands for file and line in messages.
var where = config.Position{File: "kubernetes"}
