//go:build tools
package chart
import (_ "sigs.k8s.io/controller-tools/cmd/controller-gen"; _ "helm.sh/helm/v4/pkg/engine")
