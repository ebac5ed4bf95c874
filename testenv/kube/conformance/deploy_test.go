// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

const manifests = "../../../deploy/kubernetes"

// TestDeploy applies the plain manifests, and runs the agent as their pod would: with the
// account's token and nothing else of the cluster's, with the pod's arguments, file and
// capabilities, a read-only root and a read-only /proc/sys.
func TestDeploy(t *testing.T) {
	bin, err := filepath.Abs(*binaries)
	if err != nil {
		t.Fatal(err)
	}
	k := startKube(t, filepath.Join(bin, "kube/control"))
	cfg, err := clientcmd.BuildConfigFromFlags("", k.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := envtest.InstallCRDs(cfg, envtest.CRDInstallOptions{Paths: []string{filepath.Join(moduleDir(t), "config/crd", *channel)}}); err != nil {
		t.Fatal(err)
	}
	admin, err := client.New(cfg, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	clientset, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	d := &deployment{admin: admin, clientset: clientset}
	d.definitions(t)
	d.accepts(t)
	d.refuses(t)

	objects := objectsOf(t, readFile(t, filepath.Join(manifests, "spliceway.yaml")))
	for _, o := range objects {
		d.create(t, o.DeepCopy(), client.DryRunAll)
		d.create(t, o)
		if o.GetKind() == "Namespace" {
			d.namespace = o.GetName()
		}
	}
	d.serves(t, k, bin)
}

type deployment struct {
	admin     client.Client
	clientset kubernetes.Interface
	namespace string
}

// create makes an object. A field that the API server does not know is an error.
func (d *deployment) create(t *testing.T, o *unstructured.Unstructured, opts ...client.CreateOption) {
	t.Helper()
	if err := d.admin.Create(t.Context(), o, append(opts, client.FieldValidation(metav1.FieldValidationStrict))...); err != nil {
		t.Fatalf("%s %s: %v", o.GetKind(), o.GetName(), err)
	}
}

// definitions installs the definitions of the endpoint objects.
func (d *deployment) definitions(t *testing.T) {
	t.Helper()
	all := objectsOf(t, readFile(t, filepath.Join(manifests, "crds.yaml")))
	if len(all) != 3 {
		t.Fatalf("expected 3 definitions, found %d", len(all))
	}
	for _, o := range all {
		d.create(t, o.DeepCopy(), client.DryRunAll)
		d.create(t, o)
		until(t, o.GetName()+" is established", func(ctx context.Context) error {
			if err := d.admin.Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
				return err
			}
			if status(o, "NonStructuralSchema") == "True" {
				t.Fatalf("%s: its schema is not structural", o.GetName())
			}
			if status(o, "Established") != "True" {
				return errors.New("it is not yet")
			}
			return nil
		})
	}
}

// everyField has every field that ngrok's definitions have.
const everyField = `
apiVersion: spliceway.dev/v1alpha1
kind: AgentEndpoint
metadata: {name: every-field, namespace: default}
spec:
  url: tls://every.example.com
  bindings: [public]
  description: of somebody
  metadata: {owned-by: somebody}
  upstream: {url: "tcp://10.244.0.1:9443", protocol: http1, proxyProtocolVersion: "2"}
  clientCertificateRefs: [{name: client}]
  trafficPolicy: {inline: {on_tcp_connect: [{name: all, expressions: ["true"], actions: [{type: deny, config: {}}]}]}}
  tlsTermination: {serverCertificateRef: {name: server}, mutualTLS: {clientCAsRef: {name: cas}, mode: request}}
status:
  assignedURL: tls://every.example.com
  trafficPolicy: inline
  observedGeneration: 1
  domainRef: {name: d, namespace: n}
  conditions: [{type: Ready, status: "True", reason: Active, message: "", observedGeneration: 1, lastTransitionTime: "2026-01-01T00:00:00Z"}]
---
apiVersion: spliceway.dev/v1alpha1
kind: CloudEndpoint
metadata: {name: every-field, namespace: default}
spec:
  url: tls://every.example.com
  bindings: [internal]
  description: of somebody
  metadata: '{"owned-by":"somebody"}'
  poolingEnabled: true
  trafficPolicyName: old
  trafficPolicy: {inline: {}, policy: {on_tcp_connect: []}}
status: {id: ep_1, assignedURL: tls://every.example.com, domainRef: null}
---
apiVersion: spliceway.dev/v1alpha1
kind: NgrokTrafficPolicy
metadata: {name: every-field, namespace: default}
spec: {policy: {on_tcp_connect: [{actions: [{type: log, config: {metadata: {a: {b: [1]}}}}]}]}}
`

// accepts checks that ngrok's objects are accepted with our group.
func (d *deployment) accepts(t *testing.T) {
	t.Helper()
	files, err := filepath.Glob("../../../examples/manifests/*endpoint.yaml")
	if err != nil || len(files) < 2 {
		t.Fatalf("no examples of endpoints (%v)", err)
	}
	texts := [][]byte{[]byte(everyField)}
	for _, f := range files {
		texts = append(texts, bytes.ReplaceAll(readFile(t, f), []byte("ngrok.k8s.ngrok.com"), []byte("spliceway.dev")))
	}
	for _, text := range texts {
		for _, o := range objectsOf(t, text) {
			if o.GetNamespace() == "" {
				o.SetNamespace("default")
			}
			d.create(t, o, client.DryRunAll)
		}
	}
}

// refuses checks that the definitions refuse what is wrong.
func (d *deployment) refuses(t *testing.T) {
	t.Helper()
	for text, want := range map[string]string{
		`{kind: AgentEndpoint, spec: {url: "tls://a.example.com"}}`:                                                                                           "spec.upstream",
		`{kind: AgentEndpoint, spec: {url: "", upstream: {url: "tcp://10.0.0.1:1"}}}`:                                                                         "spec.url",
		`{kind: AgentEndpoint, spec: {url: "tls://a.example.com", upstream: {url: "tcp://10.0.0.1:1", proxyProtocolVersion: "3"}}}`:                           "proxyProtocolVersion",
		`{kind: AgentEndpoint, spec: {url: "tls://a.example.com", upstream: {url: "tcp://10.0.0.1:1"}, bindings: [nowhere]}}`:                                 "bindings",
		`{kind: AgentEndpoint, spec: {url: "tls://a.example.com", upstream: {url: "tcp://10.0.0.1:1"}, trafficPolicy: {inline: {}, targetRef: {name: a}}}}`:   "not both",
		`{kind: AgentEndpoint, spec: {url: "tls://a.example.com", upstream: {url: "tcp://10.0.0.1:1"}, trafficPolicy: {}}}`:                                   "not both",
		`{kind: AgentEndpoint, spec: {url: "https://a.example.com", upstream: {url: "tcp://10.0.0.1:1"}, tlsTermination: {serverCertificateRef: {name: a}}}}`: "tls://",
		`{kind: AgentEndpoint, spec: {url: "tls://a.example.com", upstrem: {}, upstream: {url: "tcp://10.0.0.1:1"}}}`:                                         "upstrem",
		`{kind: CloudEndpoint, spec: {url: "tls://a.example.com", trafficPolicy: {inline: {}, targetRef: {name: a}}}}`:                                        "cannot both be set",
		`{kind: CloudEndpoint, spec: {url: "tls://a.example.com", trafficPolicy: {targetRef: {name: ""}}}}`:                                                   "targetRef.name",
		`{kind: NgrokTrafficPolicy, spec: {policy: [1]}}`:                                                                                                     "spec.policy",
	} {
		o := objectsOf(t, []byte(text))[0]
		o.SetAPIVersion("spliceway.dev/v1alpha1")
		o.SetName("wrong")
		o.SetNamespace("default")
		err := d.admin.Create(t.Context(), o, client.DryRunAll, client.FieldValidation(metav1.FieldValidationStrict))
		if err == nil || !strings.Contains(err.Error(), want) || !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err) {
			t.Errorf("%s: expected it to be refused because of %q, found %v", text, want, err)
		}
	}
}

// served has one object of each kind that the agent tells a status, and what they refer to.
// The verbs are a certificate and its key, in base64, and the certificate as it is.
const served = `
apiVersion: v1
kind: Secret
metadata: {name: certificate, namespace: default}
type: kubernetes.io/tls
data: {tls.crt: %[1]s, tls.key: %[2]s}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: authority, namespace: default}
data: {ca.crt: %[3]q}
---
apiVersion: v1
kind: Service
metadata: {name: backend, namespace: default}
spec: {ports: [{name: tls, port: 443, targetPort: 9443}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: backend-1, namespace: default, labels: {kubernetes.io/service-name: backend}}
addressType: IPv4
ports: [{name: tls, port: 9443, protocol: TCP}]
endpoints: [{addresses: [10.244.0.1], conditions: {ready: true}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: default}
spec:
  gatewayClassName: spliceway
  listeners:
  - {name: passthrough, port: 443, protocol: TLS, hostname: "*.example.com", tls: {mode: Passthrough}}
  - {name: terminate, port: 8443, protocol: TLS, hostname: "*.example.com", tls: {mode: Terminate, certificateRefs: [{name: certificate}]}}
  - {name: http, port: 80, protocol: HTTP}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: shop, namespace: default}
spec:
  parentRefs: [{name: edge, sectionName: passthrough}]
  hostnames: [shop.example.com]
  rules: [{backendRefs: [{name: backend, port: 443}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: inside, namespace: default}
spec:
  parentRefs: [{name: edge, sectionName: terminate}]
  hostnames: [inside.example.com]
  rules: [{backendRefs: [{name: backend, port: 443}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: pages, namespace: default}
spec:
  parentRefs: [{name: edge, sectionName: http}]
  rules: [{backendRefs: [{name: backend, port: 443}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: verified, namespace: default}
spec:
  targetRefs: [{group: "", kind: Service, name: backend}]
  validation: {hostname: shop.example.com, caCertificateRefs: [{group: "", kind: ConfigMap, name: authority}]}
---
apiVersion: spliceway.dev/v1alpha1
kind: AgentEndpoint
metadata: {name: own, namespace: default}
spec:
  url: tls://own.example.com:10443
  upstream: {url: "tls://10.244.0.1:9443"}
---
apiVersion: spliceway.dev/v1alpha1
kind: CloudEndpoint
metadata: {name: cloud, namespace: default}
spec:
  url: tls://cloud.example.com:10443
  trafficPolicy: {targetRef: {name: refuse}}
---
apiVersion: spliceway.dev/v1alpha1
kind: NgrokTrafficPolicy
metadata: {name: refuse, namespace: default}
spec: {policy: {on_tcp_connect: [{actions: [{type: deny}]}]}}
`

// serves runs the agent, and waits until everything has a status and is served.
func (d *deployment) serves(t *testing.T, k *kube, bin string) {
	t.Helper()
	certificate, key := selfSigned(t)
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	backend(t, pair)
	b64 := base64.StdEncoding.EncodeToString
	for _, o := range objectsOf(t, fmt.Appendf(nil, served, b64(certificate), b64(key), certificate)) {
		d.create(t, o)
	}
	d.run(t, k, bin)

	get := func(ctx context.Context, group, version, kind, namespace, name string) (*unstructured.Unstructured, error) {
		o := new(unstructured.Unstructured)
		o.SetGroupVersionKind(schema.GroupVersionKind{Group: group, Version: version, Kind: kind})
		return o, d.admin.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, o)
	}
	const gateway, own = "gateway.networking.k8s.io", "spliceway.dev"
	for _, c := range []struct {
		group, version, kind, namespace, name, condition string
		in                                               []string // where the conditions are; else at status
	}{
		{gateway, "v1", "GatewayClass", "", "spliceway", "Accepted", nil},
		{gateway, "v1", "Gateway", "default", "edge", "Programmed", nil},
		{gateway, "v1", "TLSRoute", "default", "shop", "ResolvedRefs", []string{"parents"}},
		{gateway, "v1", "TLSRoute", "default", "inside", "ResolvedRefs", []string{"parents"}},
		{gateway, "v1", "HTTPRoute", "default", "pages", "Accepted", []string{"parents"}},
		{gateway, "v1", "BackendTLSPolicy", "default", "verified", "Accepted", []string{"ancestors"}},
		{own, "v1alpha1", "AgentEndpoint", "default", "own", "Ready", nil},
		{own, "v1alpha1", "CloudEndpoint", "default", "cloud", "Ready", nil},
		{own, "v1alpha1", "NgrokTrafficPolicy", "default", "refuse", "Ready", nil},
	} {
		until(t, c.kind+" "+c.name+" is "+c.condition, func(ctx context.Context) error {
			if err := allowed(k); err != nil {
				t.Fatal(err) // waiting does not mend it
			}
			o, err := get(ctx, c.group, c.version, c.kind, c.namespace, c.name)
			if err != nil {
				return err
			}
			if got := status(o, c.condition, c.in...); got != "True" {
				return fmt.Errorf("it says %q: %v", got, o.Object["status"])
			}
			return nil
		})
	}
	var lease coordinationv1.Lease
	if err := d.admin.Get(t.Context(), client.ObjectKey{Namespace: d.namespace, Name: "spliceway"}, &lease); err != nil {
		t.Fatal(err)
	}
	if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" {
		t.Errorf("nobody holds the Lease: %+v", lease.Spec)
	}
	// A renewal is an update, of which a start needs none.
	taken := lease.Spec.RenewTime
	until(t, "the Lease is renewed", func(ctx context.Context) error {
		if err := d.admin.Get(ctx, client.ObjectKeyFromObject(&lease), &lease); err != nil {
			return err
		}
		if lease.Spec.RenewTime.Equal(taken) {
			return errors.New("it is not yet")
		}
		return nil
	})

	edge, err := get(t.Context(), gateway, "v1", "Gateway", "default", "edge")
	if err != nil {
		t.Fatal(err)
	}
	addresses, _, err := unstructured.NestedSlice(edge.Object, "status", "addresses")
	if err != nil || len(addresses) != 1 {
		t.Fatalf("expected one address, found %v (%v)", addresses, err)
	}
	address := addresses[0].(map[string]any)["value"].(string)
	for at, name := range map[string]string{
		net.JoinHostPort(address, "443"):  "shop.example.com",
		net.JoinHostPort(address, "8443"): "inside.example.com",
		net.JoinHostPort(bridge, "10443"): "own.example.com",
	} {
		until(t, name+" is served", func(ctx context.Context) error { return greet(ctx, at, name, certificate) })
	}
	log := string(readFile(t, filepath.Join(k.dir, "spliceway.log")))
	if err := allowed(k); err != nil {
		t.Error(err)
	}
	// The capabilities and the source ports are what the engine packet needs.
	for _, bad := range []string{"cannot have engine packet", "operation not permitted", "permission denied", "read-only file system", "cannot be kept"} {
		if strings.Contains(log, bad) {
			t.Errorf("the agent's log has %q", bad)
		}
	}
	// Where this test itself is in a container, its root cgroup is not the host's.
	if strings.Contains(log, "cannot have sockmap") && !strings.Contains(log, "sees only a part of the cgroups") {
		t.Error("the agent has no sockmap")
	}
	if t.Failed() {
		t.Log(log)
	}
}

// run runs the agent as the pod would.
func (d *deployment) run(t *testing.T, k *kube, bin string) {
	t.Helper()
	var set appsv1.DaemonSet
	if err := d.admin.Get(t.Context(), client.ObjectKey{Namespace: d.namespace, Name: "spliceway"}, &set); err != nil {
		t.Fatal(err)
	}
	pod := set.Spec.Template.Spec
	container := pod.Containers[0]
	lifetime := int64(3600)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &lifetime}}
	answer, err := d.clientset.CoreV1().ServiceAccounts(d.namespace).CreateToken(t.Context(), pod.ServiceAccountName, request, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig := k.file(t, "of-the-account", fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: u, user: {token: %q}}]
contexts: [{name: x, context: {cluster: c, user: u, namespace: %q}}]
current-context: x
`, apiServer, filepath.Join(k.dir, "apiserver.crt"), answer.Status.Token, d.namespace))

	var file corev1.ConfigMap
	if err := d.admin.Get(t.Context(), client.ObjectKey{Namespace: d.namespace, Name: "spliceway"}, &file); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(k.dir, "of-the-host")
	if err := os.Mkdir(state, 0o755); err != nil {
		t.Fatal(err)
	}
	const line = "  state: /var/lib/spliceway/state\n"
	text := file.Data["spliceway.yaml"]
	if !strings.Contains(text, line) {
		t.Fatalf("expected %q in the agent's file:\n%s", line, text)
	}
	text = strings.Replace(text, line, fmt.Sprintf("  state: %s\n  addresses: [%q]\n", filepath.Join(state, "state"), pool), 1)

	args := slices.Clone(container.Args)
	at := slices.Index(args, "/etc/spliceway/spliceway.yaml")
	if at < 0 {
		t.Fatalf("the pod's arguments do not name its file: %q", args)
	}
	args[at] = k.file(t, "of-the-pod.yaml", text)
	capabilities := "-all"
	for _, c := range container.SecurityContext.Capabilities.Add {
		capabilities += ",+" + strings.ToLower(string(c))
	}
	const script = `set -e
mount --bind "$1" "$1"
mkdir -p /run/spliceway/cgroup
mount -t cgroup2 cgroup2 /run/spliceway/cgroup
mount -o remount,bind,ro /run/spliceway/cgroup
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -o remount,bind,ro /
capabilities=$2
shift 2
exec setpriv --bounding-set "$capabilities" --inh-caps=-all --no-new-privs "$@"`
	command := append([]string{"unshare", "-m", "sh", "-c", script, "pod", state, capabilities, filepath.Join(bin, "spliceway")}, args...)
	start(t, k.dir, "spliceway", append(command, "--kubeconfig", kubeconfig)...)
}

// allowed tells whether the account may do all that the agent has tried.
func allowed(k *kube) error {
	data, err := os.ReadFile(filepath.Join(k.dir, "spliceway.log"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		if strings.Contains(strings.ToLower(line), "forbidden") {
			return fmt.Errorf("a rule is missing: %s", line)
		}
	}
	return nil
}

// status is that of a condition, "" if it is not there.
func status(o *unstructured.Unstructured, condition string, in ...string) string {
	places := []any{o.Object["status"]}
	if len(in) > 0 {
		places, _, _ = unstructured.NestedSlice(o.Object, append([]string{"status"}, in...)...)
	}
	for _, place := range places {
		m, ok := place.(map[string]any)
		if !ok {
			continue
		}
		conditions, _, _ := unstructured.NestedSlice(m, "conditions")
		for _, c := range conditions {
			if c, ok := c.(map[string]any); ok && c["type"] == condition {
				s, _ := c["status"].(string)
				return s
			}
		}
	}
	return ""
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func objectsOf(t *testing.T, text []byte) (all []*unstructured.Unstructured) {
	t.Helper()
	d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	for {
		o := new(unstructured.Unstructured)
		if err := d.Decode(&o.Object); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		if len(o.Object) > 0 {
			all = append(all, o)
		}
	}
}

func selfSigned(t *testing.T) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		DNSNames: []string{"*.example.com"}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// backend is a server where the Service's endpoint is.
func backend(t *testing.T, pair tls.Certificate) {
	t.Helper()
	l, err := tls.Listen("tcp", net.JoinHostPort(bridge, "9443"), &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }), ReadHeaderTimeout: patience}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
}

// greet asks the backend through the gateway.
func greet(ctx context.Context, at, name string, certificate []byte) error {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certificate)
	dialer := &tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: name}}
	transport := &http.Transport{DialTLSContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, network, at)
	}, DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+name+"/", nil)
	if err != nil {
		return err
	}
	res, err := (&http.Client{Transport: transport, Timeout: 5 * time.Second}).Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || string(body) != "hello" {
		return fmt.Errorf("it answers %q (%v)", body, err)
	}
	return nil
}
