// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 has the endpoint objects: AgentEndpoint, CloudEndpoint and
// NgrokTrafficPolicy, with the fields of ngrok.k8s.ngrok.com/v1alpha1.
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// AgentEndpoint is a URL and the upstream that its connections go to.
type AgentEndpoint struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   AgentEndpointSpec   `json:"spec"`
	Status AgentEndpointStatus `json:"status,omitzero"`
}

// AgentEndpointSpec is what its owner wants.
type AgentEndpointSpec struct {
	// URL is tls://NAME[:PORT]. NAME may begin with "*."; one that ends with .internal
	// is reached by forward-internal only.
	URL string `json:"url"`
	// Upstream is where connections go.
	Upstream EndpointUpstream `json:"upstream"`
	// TrafficPolicy decides about each connection first.
	TrafficPolicy *TrafficPolicyConfig `json:"trafficPolicy,omitempty"`
	// TLSTermination has the agent do TLS with the clients.
	TLSTermination *TLSTermination `json:"tlsTermination,omitempty"`
	Description    string          `json:"description,omitempty"`
	// Metadata is a mapping of strings, or a string of JSON with one.
	Metadata *runtime.RawExtension `json:"metadata,omitempty"`
	// Bindings is one of public (the default), internal, kubernetes.
	Bindings []string `json:"bindings,omitempty"`
	// ClientCertificateRefs name Secrets of type kubernetes.io/tls: what is shown to
	// upstreams that ask for it.
	ClientCertificateRefs []ObjectRef `json:"clientCertificateRefs,omitempty"`
}

// EndpointUpstream is where an AgentEndpoint's connections go.
type EndpointUpstream struct {
	// URL is tls://HOST:PORT or tcp://HOST:PORT.
	URL string `json:"url"`
	// Protocol is about HTTP: http1, http2.
	Protocol string `json:"protocol,omitempty"`
	// ProxyProtocolVersion is 1 or 2; empty: no PROXY header.
	ProxyProtocolVersion string `json:"proxyProtocolVersion,omitempty"`
}

// TrafficPolicyConfig is a policy, or the name of one.
type TrafficPolicyConfig struct {
	Inline    *runtime.RawExtension `json:"inline,omitempty"`
	TargetRef *ObjectRef            `json:"targetRef,omitempty"`
}

// ObjectRef names an object of the same namespace.
type ObjectRef struct {
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
	Mode string `json:"mode,omitempty"`
}

// AgentEndpointStatus is what became of it.
type AgentEndpointStatus struct {
	AssignedURL string `json:"assignedURL,omitempty"`
	// TrafficPolicy is none, inline, or the name of the policy.
	TrafficPolicy      string             `json:"trafficPolicy,omitempty"`
	DomainRef          *NamespacedRef     `json:"domainRef,omitempty"`
	ObservedGeneration int64              `json:"observedGeneration,omitempty"`
	Conditions         []metav1.Condition `json:"conditions,omitempty"`
}

// NamespacedRef names an object of any namespace.
type NamespacedRef struct {
	Name      string  `json:"name"`
	Namespace *string `json:"namespace,omitempty"`
}

// CloudEndpoint is a URL and the policy that says where its connections go.
type CloudEndpoint struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   CloudEndpointSpec   `json:"spec"`
	Status CloudEndpointStatus `json:"status,omitzero"`
}

// CloudEndpointSpec is what its owner wants.
type CloudEndpointSpec struct {
	// URL is as in AgentEndpointSpec.
	URL           string              `json:"url"`
	TrafficPolicy *CloudTrafficPolicy `json:"trafficPolicy,omitempty"`
	// TrafficPolicyName is deprecated: TrafficPolicy.TargetRef.
	TrafficPolicyName string `json:"trafficPolicyName,omitempty"`
	// PoolingEnabled lets other endpoints have the same URL, if they are for it, too.
	PoolingEnabled *bool                 `json:"poolingEnabled,omitempty"`
	Description    string                `json:"description,omitempty"`
	Metadata       *runtime.RawExtension `json:"metadata,omitempty"`
	Bindings       []string              `json:"bindings,omitempty"`
}

// CloudTrafficPolicy is TrafficPolicyConfig with an older name for Inline.
type CloudTrafficPolicy struct {
	Inline    *runtime.RawExtension `json:"inline,omitempty"`
	TargetRef *ObjectRef            `json:"targetRef,omitempty"`
	// Policy is deprecated: Inline.
	Policy *runtime.RawExtension `json:"policy,omitempty"`
}

// CloudEndpointStatus is what became of it.
type CloudEndpointStatus struct {
	ID                 string             `json:"id,omitempty"`
	AssignedURL        string             `json:"assignedURL,omitempty"`
	DomainRef          *NamespacedRef     `json:"domainRef,omitempty"`
	ObservedGeneration int64              `json:"observedGeneration,omitempty"`
	Conditions         []metav1.Condition `json:"conditions,omitempty"`
}

// NgrokTrafficPolicy is a policy that endpoints refer to.
type NgrokTrafficPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   NgrokTrafficPolicySpec   `json:"spec,omitzero"`
	Status NgrokTrafficPolicyStatus `json:"status,omitzero"`
}

// NgrokTrafficPolicySpec has the policy.
type NgrokTrafficPolicySpec struct {
	Policy *runtime.RawExtension `json:"policy,omitempty"`
}

// NgrokTrafficPolicyStatus is what became of it.
type NgrokTrafficPolicyStatus struct {
	ObservedGeneration int64              `json:"observedGeneration,omitempty"`
	Conditions         []metav1.Condition `json:"conditions,omitempty"`
}
