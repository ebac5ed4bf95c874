// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/spliceway/spliceway/userspace/manifest"
)

const controller = "spliceway.dev/gateway-controller"

func objectsOf(values ...metav1.Object) (all []*manifest.Object) {
	for _, v := range values {
		all = append(all, manifest.NewObject(manifest.Key{Namespace: v.GetNamespace(), Name: v.GetName()}, "v1", "kubernetes", v))
	}
	return all
}

func aGateway(name, class string, asks, has []string) *gatewayv1.Gateway {
	g := &gatewayv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	g.Spec.GatewayClassName = gatewayv1.ObjectName(class)
	for _, a := range asks {
		g.Spec.Addresses = append(g.Spec.Addresses, gatewayv1.GatewaySpecAddress{Value: a})
	}
	for _, a := range has {
		g.Status.Addresses = append(g.Status.Addresses, gatewayv1.GatewayStatusAddress{Value: a})
	}
	return g
}

func TestAssign(t *testing.T) {
	class := &gatewayv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: "ours"}, Spec: gatewayv1.GatewayClassSpec{ControllerName: controller}}
	theirs := &gatewayv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}, Spec: gatewayv1.GatewayClassSpec{ControllerName: "example.com/other"}}
	for _, tt := range []struct {
		name     string
		pool     string
		leads    bool
		gateways []*gatewayv1.Gateway
		want     map[string]string
	}{
		{"the first ones of the prefix, without its network's and broadcast address", "10.1.0.0/30", true,
			[]*gatewayv1.Gateway{aGateway("a", "ours", nil, nil), aGateway("b", "ours", nil, nil), aGateway("c", "ours", nil, nil)},
			map[string]string{"a": "10.1.0.1", "b": "10.1.0.2"}},
		{"what it has stays", "10.1.0.0/29", true,
			[]*gatewayv1.Gateway{aGateway("new", "ours", nil, nil), aGateway("old", "ours", nil, []string{"10.1.0.1"})},
			map[string]string{"old": "10.1.0.1", "new": "10.1.0.2"}},
		{"what two have is the older one's", "10.1.0.0/29", true,
			[]*gatewayv1.Gateway{aGateway("a", "ours", nil, []string{"10.1.0.3"}), aGateway("b", "ours", nil, []string{"10.1.0.3"})},
			map[string]string{"a": "10.1.0.3", "b": "10.1.0.1"}},
		{"what one has cannot be asked for by another", "10.1.0.0/29", true,
			[]*gatewayv1.Gateway{aGateway("a", "ours", nil, []string{"10.1.0.1"}), aGateway("b", "ours", []string{"10.1.0.1"}, nil)},
			map[string]string{"a": "10.1.0.1"}},
		{"what nobody has yet may be asked for", "10.1.0.0/29", true,
			[]*gatewayv1.Gateway{aGateway("a", "ours", nil, nil), aGateway("b", "ours", []string{"10.1.0.1"}, nil)},
			map[string]string{"a": "10.1.0.2"}},
		{"an address that is not of the pool is not kept", "10.1.0.0/29", true,
			[]*gatewayv1.Gateway{aGateway("a", "ours", nil, []string{"10.2.0.1"})}, map[string]string{"a": "10.1.0.1"}},
		{"an entry without a value asks for any", "10.1.0.0/29", true,
			[]*gatewayv1.Gateway{aGateway("a", "ours", []string{""}, nil)}, map[string]string{"a": "10.1.0.1"}},
		{"who does not lead gives nothing away", "10.1.0.0/29", false,
			[]*gatewayv1.Gateway{aGateway("a", "ours", nil, nil), aGateway("b", "ours", nil, []string{"10.1.0.4"})}, map[string]string{"b": "10.1.0.4"}},
		{"others' Gateways are none of ours", "10.1.0.0/29", true,
			[]*gatewayv1.Gateway{aGateway("a", "theirs", nil, []string{"10.1.0.1"}), aGateway("b", "ours", nil, nil)}, map[string]string{"b": "10.1.0.1"}},
		{"IPv6", "2001:db8::/126", true, []*gatewayv1.Gateway{aGateway("a", "ours", nil, nil)}, map[string]string{"a": "2001:db8::"}},
		{"a single address", "10.1.0.9/32", true, []*gatewayv1.Gateway{aGateway("a", "ours", nil, nil), aGateway("b", "ours", nil, nil)}, map[string]string{"a": "10.1.0.9"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &Cluster{opts: Options{Controller: controller, Pool: []netip.Prefix{netip.MustParsePrefix(tt.pool)}}}
			values := []metav1.Object{class, theirs}
			for _, g := range tt.gateways {
				values = append(values, g)
			}
			got := make(map[string]string)
			addresses, owners := c.assign(objectsOf(values...), tt.leads)
			for name, addrs := range addresses {
				got[name.Name] = addrs[0].String()
				if owners[addrs[0]] != name {
					t.Errorf("%s is %s's, not %s's", addrs[0], owners[addrs[0]], name)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("addresses (-want +got):\n%s", diff)
			}
		})
	}
	if got, _ := (&Cluster{}).assign(nil, true); got != nil {
		t.Errorf("without a pool: %v, want nil", got)
	}
}
