// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// SupportedFeatures returns the names of the Gateway API's features that hold,
// sorted. HTTPRoute is not among them: much of it is not supported.
func SupportedFeatures() []string {
	return []string{
		"BackendTLSPolicy",
		"BackendTLSPolicySANValidation",
		"Gateway",
		"GatewayAddressEmpty",
		"GatewayBackendClientCertificate",
		"GatewayStaticAddresses",
		"ReferenceGrant",
		"TLSRoute",
		"TLSRouteModeMixed",
		"TLSRouteModeTerminate",
	}
}

func supportedFeatures() []gatewayv1.SupportedFeature {
	var list []gatewayv1.SupportedFeature
	for _, name := range SupportedFeatures() {
		list = append(list, gatewayv1.SupportedFeature{Name: gatewayv1.FeatureName(name)})
	}
	return list
}

func classConditions(class *gatewayv1.GatewayClass) []metav1.Condition {
	var f finding
	if p := class.Spec.ParametersRef; p != nil {
		f.set(string(gatewayv1.GatewayClassReasonInvalidParameters), fmt.Sprintf("parametersRef: %s %s: no kind is supported", p.Kind, p.Name))
	}
	return []metav1.Condition{f.condition(string(gatewayv1.GatewayClassConditionStatusAccepted), class.Generation,
		finding{string(gatewayv1.GatewayClassReasonAccepted), "this agent serves Gateways of this class"})}
}
