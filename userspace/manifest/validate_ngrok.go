// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"strings"

	"github.com/spliceway/spliceway/userspace/api/v1alpha1"
)

func validateAgentEndpoint(v *validation, o *v1alpha1.AgentEndpoint) {
	if p := o.Spec.TrafficPolicy; p != nil && (p.Inline == nil) == (p.TargetRef == nil) {
		v.wrong(v.at("spec", "trafficPolicy"), []any{"spec", "trafficPolicy"}, "exactly one of inline and targetRef must be set")
	}
	if o.Spec.TLSTermination != nil && !strings.HasPrefix(o.Spec.URL, "tls://") {
		v.wrong(v.at("spec", "url"), []any{"spec", "url"}, "expected a tls:// URL, because tlsTermination is set")
	}
}

func validateCloudEndpoint(v *validation, o *v1alpha1.CloudEndpoint) {
	given := 0
	if p := o.Spec.TrafficPolicy; p != nil {
		for _, is := range []bool{p.Inline != nil, p.TargetRef != nil, p.Policy != nil} {
			if is {
				given++
			}
		}
		if p.Policy != nil {
			v.warn(v.at("spec", "trafficPolicy", "policy"), "spec.trafficPolicy.policy is deprecated: write inline")
		}
	}
	if o.Spec.TrafficPolicyName != "" {
		given++
		v.warn(v.at("spec", "trafficPolicyName"), "spec.trafficPolicyName is deprecated: write trafficPolicy: {targetRef: {name: ...}}")
	}
	if given > 1 {
		v.wrong(v.at("spec", "trafficPolicy"), []any{"spec", "trafficPolicy"}, "there is more than one policy; expected one of inline and targetRef")
	}
}
