// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write deploy/kubernetes anew")

// values are sets to render with, by what they are about.
var values = map[string]string{
	"none": "",
	"everything": `
image: {tag: v1, pullPolicy: Always}
imagePullSecrets: [{name: pull}]
config:
  kubernetes: {addresses: [203.0.113.0/28], ngrok: true, stateSecrets: true}
  admin: {address: "0.0.0.0:9180"}
  log: {level: debug, format: text}
extraVolumes: [{name: tls, secret: {secretName: tls}}]
extraVolumeMounts: [{name: tls, mountPath: /etc/tls, readOnly: true}]
serviceAccount: {annotations: {a: b}}
resources: {limits: {memory: 1Gi}}
nodeSelector: {edge: "true"}
affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: edge, operator: Exists}]}]}}}
podAnnotations: {a: b}
podLabels: {c: d}
podMonitor: {enabled: true, labels: {release: prometheus}}
dashboard: {enabled: true, annotations: {grafana_folder: edge}}
`,
	"next to nothing": `
fullnameOverride: edge
image: {digest: "sha256:0000000000000000000000000000000000000000000000000000000000000000"}
config: {kubernetes: null, cgroup: null, sourcePorts: null, limits: null, admin: null, listen: [192.0.2.1]}
serviceAccount: {create: false, name: mine}
rbac: {create: false}
gatewayClass: {create: false}
hostPaths: {bpffs: "", cgroup: "", state: ""}
resources: {requests: null, limits: null}
priorityClassName: ""
tolerations: []
updateStrategy: {type: OnDelete, rollingUpdate: null}
capabilities: [NET_BIND_SERVICE]
`,
	"an admin address of IPv6": `config: {admin: {address: "[::]:9180"}}`,
}

func parse(t *testing.T, text string) map[string]any {
	t.Helper()
	out := make(map[string]any)
	if err := yaml.Unmarshal([]byte(text), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestLint(t *testing.T) {
	for name, text := range values {
		l := lint.RunAll(directory, parse(t, text), "spliceway")
		for _, m := range l.Messages {
			if m.Severity >= support.WarningSev {
				t.Errorf("values %q: %v", name, m)
			}
		}
	}
}

func TestValuesRefused(t *testing.T) {
	for text, want := range map[string]string{
		`tollerations: []`:                         "tollerations",
		`image: {tag: "a b"}`:                      "/image/tag",
		`image: {digest: "sha256:0"}`:              "/image/digest",
		`image: {pullPolicy: Sometimes}`:           "/image/pullPolicy",
		`config: [1]`:                              "/config",
		`hostPaths: {bpffs: bpf}`:                  "/hostPaths/bpffs",
		`hostPaths: {run: /run}`:                   "run",
		`capabilities: [CAP_BPF]`:                  "/capabilities/0",
		`terminationGracePeriodSeconds: 30s`:       "/terminationGracePeriodSeconds",
		`updateStrategy: {type: Recreate}`:         "/updateStrategy/type",
		`podMonitor: {enabled: "yes"}`:             "/podMonitor/enabled",
		`podMonitor: {interval: 30}`:               "/podMonitor/interval",
		`podMonitor: {enabled: true}`:              "config.admin.address is loopback",
		`config: {admin: {address: "off"}}`:        "config.admin.address: expected HOST:PORT",
		`serviceAccount: {create: false}`:          "serviceAccount.name is missing",
		`seccompProfile: {type: Default}`:          "/seccompProfile/type",
		`gatewayClass: {name: ""}`:                 "/gatewayClass/name",
		`dashboard: {labels: {grafana: true}}`:     "/dashboard/labels/grafana",
		`rbac: {create: false, clusterRole: true}`: "clusterRole",
	} {
		if _, _, err := render(parse(t, text), "Helm"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: expected an error with %q, found %v", text, want, err)
		}
	}
}

// podMonitor is of the Prometheus operator, as far as the chart has it.
type podMonitor struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Selector            metav1.LabelSelector `json:"selector"`
		PodMetricsEndpoints []struct {
			Port     string `json:"port"`
			Path     string `json:"path"`
			Interval string `json:"interval"`
		} `json:"podMetricsEndpoints"`
	} `json:"spec"`
}

func (p *podMonitor) DeepCopyObject() runtime.Object { c := *p; return &c }

var scheme = func() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientscheme.AddToScheme, gatewayv1.Install, apiextensionsv1.AddToScheme} {
		if err := add(s); err != nil {
			panic(err)
		}
	}
	s.AddKnownTypeWithName(schema.GroupVersionKind{Group: "monitoring.coreos.com", Version: "v1", Kind: "PodMonitor"}, &podMonitor{})
	return s
}()

// decode reads an object as its type has it: what that does not know is an error.
func decode(t *testing.T, text string) runtime.Object {
	t.Helper()
	var head metav1.TypeMeta
	if err := yaml.Unmarshal([]byte(text), &head); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	o, err := scheme.New(head.GroupVersionKind())
	if err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	if err := yaml.UnmarshalStrict([]byte(text), o); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	return o
}

// rendered has the objects of a set of values, by kind.
func rendered(t *testing.T, text string) map[string]runtime.Object {
	t.Helper()
	docs, _, err := render(parse(t, text), "Helm")
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]runtime.Object)
	for _, d := range docs {
		kind := d.Kind
		if all[kind] != nil {
			kind += " (another)"
		}
		all[kind] = decode(t, d.Text)
	}
	return all
}

// agent is the agent, built once.
var agent = sync.OnceValues(func() (string, error) {
	file := filepath.Join(temporary, "spliceway")
	cmd := exec.Command("go", "-C", filepath.Join(deploy, ".."), "build", "-o", file, "./cmd/spliceway")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the agent: %w\n%s", err, out)
	}
	return file, nil
})

var temporary string

func TestMain(m *testing.M) {
	var err error
	if temporary, err = os.MkdirTemp("", "chart"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(temporary)
	os.Exit(code)
}

// check has the agent check its file.
func check(t *testing.T, all map[string]runtime.Object) error {
	t.Helper()
	spliceway, err := agent()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "spliceway.yaml")
	if err := os.WriteFile(file, []byte(all["ConfigMap"].(*corev1.ConfigMap).Data["spliceway.yaml"]), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(spliceway, "check", file).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func TestObjects(t *testing.T) {
	for name, text := range values {
		t.Run(name, func(t *testing.T) {
			all := rendered(t, text)
			// Without kubernetes the agent wants something else to serve.
			if err := check(t, all); err != nil && name != "next to nothing" {
				t.Errorf("the agent refuses its file: %v", err)
			}
			pod := all["DaemonSet"].(*appsv1.DaemonSet).Spec.Template.Spec
			volumes := make(map[string]bool)
			for _, v := range pod.Volumes {
				volumes[v.Name] = true
			}
			for _, m := range pod.Containers[0].VolumeMounts {
				if !volumes[m.Name] {
					t.Errorf("the mount %s has no volume", m.Name)
				}
				delete(volumes, m.Name)
			}
			if len(volumes) > 0 {
				t.Errorf("volumes that are not mounted: %v", volumes)
			}
		})
	}
}

// TestPod checks what the pod may do, which no schema says.
func TestPod(t *testing.T) {
	all := rendered(t, "")
	pod := all["DaemonSet"].(*appsv1.DaemonSet).Spec.Template.Spec
	c := pod.Containers[0]
	s := c.SecurityContext
	if !pod.HostNetwork || pod.DNSPolicy != corev1.DNSClusterFirstWithHostNet || pod.HostPID || pod.HostIPC {
		t.Error("expected the host's network, and nothing else of the host's")
	}
	if *s.Privileged || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || len(s.Capabilities.Drop) != 1 || s.Capabilities.Drop[0] != "ALL" {
		t.Errorf("more than is needed: %+v", s)
	}
	for _, want := range []string{"BPF", "NET_ADMIN", "NET_BIND_SERVICE", "NET_RAW", "PERFMON"} {
		if len(s.Capabilities.Add) == 0 || string(s.Capabilities.Add[0]) != want {
			t.Fatalf("capabilities: expected %s next, found %v", want, s.Capabilities.Add)
		}
		s.Capabilities.Add = s.Capabilities.Add[1:]
	}
	if len(s.Capabilities.Add) > 0 {
		t.Errorf("capabilities that no engine needs: %v", s.Capabilities.Add)
	}
	drain := regexp.MustCompile(`(?m)^  drain: (\S+)`).FindStringSubmatch(read(t, "../examples/reference.yaml"))
	if drain == nil {
		t.Fatal("examples/reference.yaml has no timeouts.drain")
	}
	if d, err := time.ParseDuration(drain[1]); err != nil || time.Duration(*pod.TerminationGracePeriodSeconds)*time.Second <= d {
		t.Errorf("terminationGracePeriodSeconds: %d is no longer than draining, %s (%v)", *pod.TerminationGracePeriodSeconds, drain[1], err)
	}
	for _, m := range c.VolumeMounts {
		if m.Name == "cgroup" && !m.ReadOnly || m.Name == "bpffs" && (m.MountPropagation == nil || *m.MountPropagation != corev1.MountPropagationHostToContainer) {
			t.Errorf("mount: %+v", m)
		}
	}
}

// TestRestart checks that pods are replaced for what an agent cannot take up, and for nothing else.
func TestRestart(t *testing.T) {
	sum := func(text string) string {
		return rendered(t, text)["DaemonSet"].(*appsv1.DaemonSet).Spec.Template.Annotations["spliceway.dev/restart-for"]
	}
	before := sum("")
	for text, want := range map[string]bool{
		`config: {timeouts: {idle: 1m}}`:               false,
		`config: {log: {level: debug}}`:                false,
		`config: {log: {access: false}}`:               true,
		`config: {kubernetes: {publish: [192.0.2.1]}}`: true,
		`config: {limits: {openFiles: 4096}}`:          true,
		`config: {limits: {maxConnections: 4096}}`:     false,
	} {
		if got := sum(text) != before; got != want {
			t.Errorf("%s: restarts: %v, expected %v", text, got, want)
		}
	}
}

func TestNotes(t *testing.T) {
	_, notes, err := render(parse(t, `config: {kubernetes: {addresses: [203.0.113.0/28, 2001:db8::/64]}}`), "Helm")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"daemonset/spliceway", "gatewayClassName: spliceway", "203.0.113.0/28, 2001:db8::/64"} {
		if !strings.Contains(notes, want) {
			t.Errorf("expected %q in the notes:\n%s", want, notes)
		}
	}
}

// TestPlain checks that deploy/kubernetes is what the chart renders to.
func TestPlain(t *testing.T) {
	files, err := plain()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		for _, d := range documents(text) {
			decode(t, d)
		}
		file := filepath.Join(deploy, "kubernetes", name)
		if *update {
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if data, err := os.ReadFile(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		} else if string(data) != text {
			t.Errorf("%s is not what the chart renders to: run make generate", file)
		}
	}
}

// TestDashboard checks that the chart's dashboard is the one in deploy/grafana.
func TestDashboard(t *testing.T) {
	own, err := os.ReadFile(filepath.Join(deploy, "grafana/spliceway.json"))
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, o := range rendered(t, `dashboard: {enabled: true}`) {
		if c, ok := o.(*corev1.ConfigMap); ok && c.Data["spliceway.json"] != "" {
			found = true
			if !bytes.Equal(bytes.TrimSpace([]byte(c.Data["spliceway.json"])), bytes.TrimSpace(own)) || !json.Valid(own) {
				t.Error("the chart's dashboard is not deploy/grafana/spliceway.json: run make generate")
			}
		}
	}
	if !found {
		t.Error("there is no dashboard among the objects")
	}
}
