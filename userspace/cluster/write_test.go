// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// A Gateway that loses its address must not be said to have it.
func TestAStatusPatchTakesAwayWhatFallsAway(t *testing.T) {
	g := aGateway("g", "ours", nil, []string{"10.1.0.1"})
	g.ResourceVersion, g.UID = "7", "u"
	it := &item{Object: g, object: objectsOf(g)[0]}
	got, err := statusPatch(it, merged(g, &gatewayv1.GatewayStatus{}, controller, metav1.Now()))
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"metadata":{"resourceVersion":"7","uid":"u"},"status":{"addresses":null}}`; string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
