// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/conformance"
	confv1 "sigs.k8s.io/gateway-api/conformance/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
)

var (
	binaries = flag.String("binaries", "../../../bin", "the directory with spliceway, and kube/control and kube/echo-basic")
	channel  = flag.String("channel", "standard", "of the Gateway API's definitions: standard or experimental")
	report   = flag.String("report", "", "the file to write the report to")
	version  = flag.String("agent-version", "dev", "of the agent, for the report")
)

const class = "spliceway"

// TestConformance runs the profile GATEWAY-TLS, with every feature that the agent claims in
// the status of its GatewayClass.
func TestConformance(t *testing.T) {
	bin, err := filepath.Abs(*binaries)
	if err != nil {
		t.Fatal(err)
	}
	k := startKube(t, filepath.Join(bin, "kube/control"))
	if err := os.Setenv("KUBECONFIG", k.kubeconfig); err != nil { // the suite looks there
		t.Fatal(err)
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", k.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := envtest.InstallCRDs(cfg, envtest.CRDInstallOptions{Paths: []string{filepath.Join(moduleDir(t), "config/crd", *channel)}}); err != nil {
		t.Fatal(err)
	}
	opts := conformance.DefaultOptions(t)
	runPods(t, opts.Clientset, filepath.Join(bin, "kube/echo-basic"))
	start(t, k.dir, "spliceway", filepath.Join(bin, "spliceway"), "run", "--kube", "--kubeconfig", k.kubeconfig,
		"--config", k.file(t, "spliceway.yaml", fmt.Sprintf("kubernetes: {addresses: [%q]}\nadmin: {address: 127.0.0.1:9955}\nlog: {level: debug}\n", pool)))
	if err := opts.Client.Create(t.Context(), &gatewayv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: class}, Spec: gatewayv1.GatewayClassSpec{ControllerName: "spliceway.dev/gateway-controller"}}); err != nil {
		t.Fatal(err)
	}
	until(t, "the GatewayClass is accepted", func(ctx context.Context) error {
		var c gatewayv1.GatewayClass
		if err := opts.Client.Get(ctx, client.ObjectKey{Name: class}, &c); err != nil {
			return err
		}
		accepted := func(c metav1.Condition) bool {
			return c.Type == string(gatewayv1.GatewayClassConditionStatusAccepted) && c.Status == metav1.ConditionTrue
		}
		if !slices.ContainsFunc(c.Status.Conditions, accepted) || len(c.Status.SupportedFeatures) == 0 {
			return errors.New("it is not, or has no supportedFeatures")
		}
		return nil
	})

	ip := gatewayv1.IPAddressType
	opts.GatewayClassName = class
	opts.ConformanceProfiles = []suite.ConformanceProfileName{suite.GatewayTLSConformanceProfileName}
	opts.UsableNetworkAddresses = []gatewayv1.GatewaySpecAddress{{Type: &ip, Value: "10.244.255.200"}}
	opts.UnusableNetworkAddresses = []gatewayv1.GatewaySpecAddress{{Type: &ip, Value: "192.0.2.1"}} // RFC 5737: nobody's
	opts.ReportOutputPath = *report
	opts.Implementation = confv1.Implementation{Organization: "spliceway", Project: "spliceway", URL: "https://spliceway.dev", Version: *version, Contact: []string{"@spliceway/maintainers"}}
	conformance.RunConformanceWithOptions(t, opts)
	usable(t)
}

// usable checks that the agent that has been through all this says that it is ready.
func usable(t *testing.T) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:9955/readyz", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Errorf("/readyz says %s", res.Status)
	}
}

// moduleDir is where the Gateway API's module is, with its definitions.
func moduleDir(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api").Output()
	if err != nil {
		t.Fatalf("find the module of the Gateway API: %v", err)
	}
	return strings.TrimSpace(string(out))
}
