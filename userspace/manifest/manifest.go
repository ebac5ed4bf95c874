// SPDX-License-Identifier: Apache-2.0

// Package manifest reads Kubernetes manifests from files: strictly, with the place of
// every field, and going on after every mistake. What the objects mean is not its
// business.
package manifest

import (
	"fmt"
	"reflect"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/spliceway/spliceway/userspace/api/v1alpha1"
	"github.com/spliceway/spliceway/userspace/config"
)

// Set is what was read.
type Set struct {
	// Objects are those that are right, in the order of the files.
	Objects []*Object
	// Problems say what is wrong with the others.
	Problems config.Errors
	Warnings []Warning
	// Broken are the objects that have problems.
	Broken []Key
	// BrokenFiles are files that may have objects of which it is not known which they are:
	// some part of them could not be read as YAML, or has no kind or name.
	BrokenFiles []string
	// Files are all files and directories that were to be read, for a watcher. A file that
	// several paths lead to is there by each of them.
	Files []string
}

// Key is an object's identity.
type Key struct{ Group, Kind, Namespace, Name string }

// String returns KIND NAMESPACE/NAME.
func (k Key) String() string {
	if k.Namespace == "" {
		return k.Kind + " " + k.Name
	}
	return k.Kind + " " + k.Namespace + "/" + k.Name
}

// Warning is about something that is accepted though it is odd.
type Warning struct {
	Pos  config.Position
	Text string
}

// Object is one object.
type Object struct {
	Key
	Version string // as written
	Pos     config.Position
	// Value is a pointer to the object's type: of package v1alpha1, of the Gateway API
	// v1, or of the core API.
	Value any

	node *yaml.Node
	file string
}

// NewObject is an object of somewhere else than a file. Nothing in it has a place, or a Node.
func NewObject(key Key, version, from string, value any) *Object {
	return &Object{Key: key, Version: version, Pos: config.Position{File: from}, Value: value, node: &yaml.Node{}, file: from}
}

// Node is what stands at a path of keys and indices; nil: nothing. An alias is what it
// stands for.
func (o *Object) Node(path ...any) *yaml.Node {
	n, whole := find(o.node, path)
	if !whole {
		return nil
	}
	return resolve(n)
}

// At is the place of what stands at a path, or of the nearest thing around it.
func (o *Object) At(path ...any) config.Position {
	n, _ := find(o.node, path)
	return config.Position{File: o.file, Line: n.Line, Column: n.Column}
}

// find is the node at a path, or the nearest one around it: an alias as such.
func find(n *yaml.Node, path []any) (at *yaml.Node, whole bool) {
	for _, step := range path {
		next := child(resolve(n), step)
		if next == nil {
			return n, false
		}
		n = next
	}
	return n, true
}

// child is a mapping's value, or a list's element.
func child(n *yaml.Node, step any) *yaml.Node {
	switch step := step.(type) {
	case string:
		for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
			if resolve(n.Content[i]).Value == step {
				return n.Content[i+1]
			}
		}
	case int:
		if n.Kind == yaml.SequenceNode && 0 <= step && step < len(n.Content) {
			return n.Content[step]
		}
	}
	return nil
}

// resolve follows an alias.
func resolve(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// The groups that objects are taken from.
const (
	GroupNgrok     = "ngrok.k8s.ngrok.com"
	GroupSpliceway = "spliceway.dev"
	GroupGateway   = "gateway.networking.k8s.io"
	GroupDiscovery = "discovery.k8s.io"
)

// kind is what is known of a kind of object.
type kind struct {
	of         reflect.Type
	versions   []string
	deprecated []string
	cluster    bool // it has no namespace
	label      bool // its name is a DNS label
	validate   func(*validation, any)
}

func kindOf[T any](versions []string, validate func(*validation, *T)) *kind {
	k := &kind{of: reflect.TypeFor[T](), versions: versions}
	if validate != nil {
		k.validate = func(v *validation, o any) { validate(v, o.(*T)) }
	}
	return k
}

// kinds are those that are read, by group and name.
var kinds = func() map[[2]string]*kind {
	v1 := []string{"v1"}
	class := kindOf[gatewayv1.GatewayClass]([]string{"v1", "v1beta1"}, nil)
	class.cluster = true
	namespace := kindOf[corev1.Namespace](v1, nil)
	namespace.cluster, namespace.label = true, true
	service := kindOf(v1, validateService)
	service.label = true
	route := kindOf[gatewayv1.TLSRoute]([]string{"v1", "v1alpha3", "v1alpha2"}, validateTLSRoute)
	route.deprecated = []string{"v1alpha3", "v1alpha2"}
	backendTLS := kindOf([]string{"v1", "v1alpha3"}, validateBackendTLSPolicy)
	backendTLS.deprecated = []string{"v1alpha3"}
	all := map[[2]string]*kind{
		{GroupGateway, "GatewayClass"}:     class,
		{GroupGateway, "Gateway"}:          kindOf[gatewayv1.Gateway]([]string{"v1", "v1beta1"}, validateGateway),
		{GroupGateway, "TLSRoute"}:         route,
		{GroupGateway, "HTTPRoute"}:        kindOf([]string{"v1", "v1beta1"}, validateHTTPRoute),
		{GroupGateway, "ReferenceGrant"}:   kindOf[gatewayv1.ReferenceGrant]([]string{"v1", "v1beta1"}, nil),
		{GroupGateway, "BackendTLSPolicy"}: backendTLS,
		{"", "Service"}:                    service,
		{"", "Secret"}:                     kindOf[corev1.Secret](v1, nil),
		{"", "ConfigMap"}:                  kindOf[corev1.ConfigMap](v1, nil),
		{"", "Namespace"}:                  namespace,
		{GroupDiscovery, "EndpointSlice"}:  kindOf(v1, validateEndpointSlice),
	}
	for _, group := range []string{GroupNgrok, GroupSpliceway} {
		all[[2]string{group, "AgentEndpoint"}] = kindOf([]string{"v1alpha1"}, validateAgentEndpoint)
		all[[2]string{group, "CloudEndpoint"}] = kindOf([]string{"v1alpha1"}, validateCloudEndpoint)
		all[[2]string{group, "NgrokTrafficPolicy"}] = kindOf[v1alpha1.NgrokTrafficPolicy]([]string{"v1alpha1"}, nil)
	}
	return all
}()

// PathText is a path in an object for messages: spec.listeners[0].name.
func PathText(path []any) string {
	s := ""
	for _, step := range path {
		switch step := step.(type) {
		case int:
			s += fmt.Sprintf("[%d]", step)
		case string:
			if s != "" {
				s += "."
			}
			s += clean(step)
		}
	}
	return s
}
