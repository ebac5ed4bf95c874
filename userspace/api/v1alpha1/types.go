// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 has the endpoint objects: AgentEndpoint, CloudEndpoint and
// NgrokTrafficPolicy, with the fields of ngrok.k8s.ngrok.com/v1alpha1. The resource
// definitions in deploy are made from these types (make generate).
//
// +groupName=spliceway.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// AgentEndpoint is a URL and the upstream that its connections go to.
//
// +kubebuilder:resource:categories=networking;spliceway,shortName=aep
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="URL",type=string,JSONPath=`.spec.url`
// +kubebuilder:printcolumn:name="Upstream URL",type=string,JSONPath=`.spec.upstream.url`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type AgentEndpoint struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec AgentEndpointSpec `json:"spec"`
	// +optional
	Status AgentEndpointStatus `json:"status,omitzero"`
}

// AgentEndpointSpec is what its owner wants.
//
// +kubebuilder:validation:XValidation:rule="!has(self.tlsTermination) || self.url.startsWith('tls://')",message="url must begin with tls:// where tlsTermination is set"
type AgentEndpointSpec struct {
	// URL is tls://NAME[:PORT]. NAME may begin with "*."; one that ends with .internal
	// is reached by forward-internal only.
	// +kubebuilder:validation:MinLength=1
	URL string `json:"url"`
	// Upstream is where connections go.
	Upstream EndpointUpstream `json:"upstream"`
	// TrafficPolicy decides about each connection first.
	TrafficPolicy *TrafficPolicyConfig `json:"trafficPolicy,omitempty"`
	// TLSTermination has the agent do TLS with the clients.
	TLSTermination *TLSTermination `json:"tlsTermination,omitempty"`
	Description    string          `json:"description,omitempty"`
	// Metadata is a mapping of strings, or a string of JSON with one.
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:pruning:PreserveUnknownFields
	Metadata *runtime.RawExtension `json:"metadata,omitempty"`
	// Bindings is one of public (the default), internal, kubernetes.
	// +kubebuilder:validation:MaxItems=1
	// +kubebuilder:validation:items:Enum=public;internal;kubernetes
	Bindings []string `json:"bindings,omitempty"`
	// ClientCertificateRefs name Secrets of type kubernetes.io/tls: what is shown to
	// upstreams that ask for it.
	ClientCertificateRefs []ObjectRef `json:"clientCertificateRefs,omitempty"`
}

// EndpointUpstream is where an AgentEndpoint's connections go.
type EndpointUpstream struct {
	// URL is tls://HOST:PORT or tcp://HOST:PORT.
	// +kubebuilder:validation:MinLength=1
	URL string `json:"url"`
	// Protocol is about HTTP: http1, http2.
	// +kubebuilder:validation:Enum=http1;http2
	Protocol string `json:"protocol,omitempty"`
	// ProxyProtocolVersion is 1 or 2; left out: no PROXY header.
	// +kubebuilder:validation:Enum="1";"2"
	ProxyProtocolVersion string `json:"proxyProtocolVersion,omitempty"`
}

// TrafficPolicyConfig is a policy, or the name of one.
//
// +kubebuilder:validation:XValidation:rule="has(self.inline) != has(self.targetRef)",message="either inline or targetRef must be set, not both"
type TrafficPolicyConfig struct {
	// Inline is the policy.
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	Inline *runtime.RawExtension `json:"inline,omitempty"`
	// TargetRef names a NgrokTrafficPolicy.
	TargetRef *ObjectRef `json:"targetRef,omitempty"`
}

// ObjectRef names an object of the same namespace.
type ObjectRef struct {
	// +kubebuilder:validation:MinLength=1
	Name string `json:"name"`
}

// TLSTermination is how an AgentEndpoint terminates TLS.
type TLSTermination struct {
	// ServerCertificateRef names a Secret of type kubernetes.io/tls.
	ServerCertificateRef ObjectRef  `json:"serverCertificateRef"`
	MutualTLS            *MutualTLS `json:"mutualTLS,omitempty"`
}

// MutualTLS asks clients for certificates.
type MutualTLS struct {
	// ClientCAsRef names a Secret with the CAs in ca.crt.
	ClientCAsRef ObjectRef `json:"clientCAsRef"`
	// Mode is require (the default) or request.
	// +kubebuilder:validation:Enum=require;request
	Mode string `json:"mode,omitempty"`
}

// AgentEndpointStatus is what became of it.
type AgentEndpointStatus struct {
	AssignedURL string `json:"assignedURL,omitempty"`
	// TrafficPolicy is none, inline, or the name of the policy.
	TrafficPolicy string `json:"trafficPolicy,omitempty"`
	// DomainRef is never set: ngrok's own.
	// +nullable
	DomainRef          *NamespacedRef `json:"domainRef,omitempty"`
	ObservedGeneration int64          `json:"observedGeneration,omitempty"`
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// NamespacedRef names an object of any namespace.
type NamespacedRef struct {
	Name      string  `json:"name"`
	Namespace *string `json:"namespace,omitempty"`
}

// CloudEndpoint is a URL and the policy that says where its connections go.
//
// +kubebuilder:resource:categories=networking;spliceway,shortName=clep
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="URL",type=string,JSONPath=`.spec.url`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type CloudEndpoint struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec CloudEndpointSpec `json:"spec"`
	// +optional
	Status CloudEndpointStatus `json:"status,omitzero"`
}

// CloudEndpointSpec is what its owner wants.
type CloudEndpointSpec struct {
	// URL is as in AgentEndpointSpec.
	// +kubebuilder:validation:MinLength=1
	URL           string              `json:"url"`
	TrafficPolicy *CloudTrafficPolicy `json:"trafficPolicy,omitempty"`
	// TrafficPolicyName is deprecated: TrafficPolicy.TargetRef.
	TrafficPolicyName string `json:"trafficPolicyName,omitempty"`
	// PoolingEnabled lets other endpoints have the same URL, if they are for it, too.
	PoolingEnabled *bool  `json:"poolingEnabled,omitempty"`
	Description    string `json:"description,omitempty"`
	// Metadata is as in AgentEndpointSpec.
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:pruning:PreserveUnknownFields
	Metadata *runtime.RawExtension `json:"metadata,omitempty"`
	// Bindings is as in AgentEndpointSpec.
	// +kubebuilder:validation:MaxItems=1
	// +kubebuilder:validation:items:Enum=public;internal;kubernetes
	Bindings []string `json:"bindings,omitempty"`
}

// CloudTrafficPolicy is TrafficPolicyConfig with an older name for Inline.
//
// +kubebuilder:validation:XValidation:rule="!(has(self.inline) && has(self.targetRef))",message="inline and targetRef cannot both be set"
type CloudTrafficPolicy struct {
	// Inline is the policy.
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	Inline *runtime.RawExtension `json:"inline,omitempty"`
	// TargetRef names a NgrokTrafficPolicy.
	TargetRef *ObjectRef `json:"targetRef,omitempty"`
	// Policy is deprecated: Inline.
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	Policy *runtime.RawExtension `json:"policy,omitempty"`
}

// CloudEndpointStatus is what became of it.
type CloudEndpointStatus struct {
	ID          string `json:"id,omitempty"`
	AssignedURL string `json:"assignedURL,omitempty"`
	// DomainRef is never set: ngrok's own.
	// +nullable
	DomainRef          *NamespacedRef `json:"domainRef,omitempty"`
	ObservedGeneration int64          `json:"observedGeneration,omitempty"`
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// NgrokTrafficPolicy is a policy that endpoints refer to.
//
// +kubebuilder:resource:categories=networking;spliceway,shortName=ntp
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type NgrokTrafficPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec NgrokTrafficPolicySpec `json:"spec,omitzero"`
	// +optional
	Status NgrokTrafficPolicyStatus `json:"status,omitzero"`
}

// NgrokTrafficPolicySpec has the policy.
type NgrokTrafficPolicySpec struct {
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	Policy *runtime.RawExtension `json:"policy,omitempty"`
}

// NgrokTrafficPolicyStatus is what became of it.
type NgrokTrafficPolicyStatus struct {
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}
