// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

const (
	admin     = "http://127.0.0.1:9955"
	namespace = "default"
)

// site is a cluster with an agent.
type site struct {
	t      *testing.T
	bin    string
	kube   *kube
	rest   *rest.Config
	client client.Client
	agent  *process // nil before run
}

// newSite starts a control plane that knows the Gateway API, and our GatewayClass.
func newSite(t *testing.T) *site {
	t.Helper()
	bin, err := filepath.Abs(*binaries)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, bin: bin, kube: startKube(t, filepath.Join(bin, "kube/control"))}
	if s.rest, err = clientcmd.BuildConfigFromFlags("", s.kube.kubeconfig); err != nil {
		t.Fatal(err)
	}
	s.rest.QPS, s.rest.Burst = -1, 0
	if _, err := envtest.InstallCRDs(s.rest, envtest.CRDInstallOptions{Paths: []string{filepath.Join(moduleDir(t), "config/crd", *channel)}}); err != nil {
		t.Fatal(err)
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, gatewayv1.Install} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	if s.client, err = client.New(s.rest, client.Options{Scheme: scheme}); err != nil {
		t.Fatal(err)
	}
	s.create(&gatewayv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: class}, Spec: gatewayv1.GatewayClassSpec{ControllerName: "spliceway.dev/gateway-controller"}})
	return s
}

// run starts the agent, by further lines of its file.
func (s *site) run(settings string) {
	s.t.Helper()
	s.agent = start(s.t, s.kube.dir, "spliceway", filepath.Join(s.bin, "spliceway"), "run", "--kube", "--kubeconfig", s.kube.kubeconfig,
		"--config", s.kube.file(s.t, "spliceway.yaml", fmt.Sprintf("admin: {address: 127.0.0.1:9955, pprof: true}\n%s\n", settings)))
}

func (s *site) create(all ...client.Object) {
	s.t.Helper()
	for _, o := range all {
		if o.GetNamespace() == "" {
			switch o.(type) {
			case *gatewayv1.GatewayClass, *corev1.Namespace:
			default:
				o.SetNamespace(namespace)
			}
		}
		if err := s.client.Create(s.t.Context(), o); err != nil {
			s.t.Fatalf("create %T %s: %v", o, o.GetName(), err)
		}
	}
}

// createAll creates many, side by side.
func (s *site) createAll(n int, of func(i int) client.Object) {
	s.t.Helper()
	next := make(chan int)
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() {
			for i := range next {
				o := of(i)
				if o.GetNamespace() == "" {
					o.SetNamespace(namespace)
				}
				if err := s.client.Create(s.t.Context(), o); err != nil {
					s.t.Errorf("create %s: %v", o.GetName(), err)
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	all.Wait()
}

// answers serves HTTPS among the pods, and answers with its name.
func answers(t *testing.T, name string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", bridge+":0")
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) }))
	s.Listener = l
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return netip.MustParseAddrPort(l.Addr().String())
}

// service is a Service of port 443, and where it is.
func service(name string, to netip.AddrPort) []client.Object {
	port, tcp, ready := int32(to.Port()), corev1.ProtocolTCP, true
	return []client.Object{
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 443}}}},
		&discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Name: name + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: name}}, AddressType: discoveryv1.AddressTypeIPv4,
			Ports:     []discoveryv1.EndpointPort{{Port: &port, Protocol: &tcp}},
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{to.Addr().String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
		},
	}
}

// gateway has one listener that passes TLS through.
func gateway(name string) *gatewayv1.Gateway {
	mode := gatewayv1.TLSModePassthrough
	return &gatewayv1.Gateway{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: gatewayv1.GatewaySpec{
		GatewayClassName: class, Listeners: []gatewayv1.Listener{{Name: "tls", Port: 443, Protocol: gatewayv1.TLSProtocolType, TLS: &gatewayv1.ListenerTLSConfig{Mode: &mode}}},
	}}
}

func tlsRoute(name, parent, service string, hostnames ...gatewayv1.Hostname) *gatewayv1.TLSRoute {
	return &gatewayv1.TLSRoute{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: gatewayv1.TLSRouteSpec{
		CommonRouteSpec: gatewayv1.CommonRouteSpec{ParentRefs: []gatewayv1.ParentReference{{Name: gatewayv1.ObjectName(parent)}}},
		Hostnames:       hostnames, Rules: []gatewayv1.TLSRouteRule{{BackendRefs: []gatewayv1.BackendRef{ref(service)}}},
	}}
}

func ref(service string) gatewayv1.BackendRef {
	port := gatewayv1.PortNumber(443)
	return gatewayv1.BackendRef{BackendObjectReference: gatewayv1.BackendObjectReference{Name: gatewayv1.ObjectName(service), Port: &port}}
}

// address waits for a Gateway's.
func (s *site) address(name string) string {
	s.t.Helper()
	var address string
	until(s.t, "Gateway "+name+" has its address", func(ctx context.Context) error {
		var g gatewayv1.Gateway
		if err := s.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &g); err != nil {
			return err
		}
		if len(g.Status.Addresses) == 0 {
			return fmt.Errorf("its status: %+v", g.Status)
		}
		address = g.Status.Addresses[0].Value
		return nil
	})
	return address
}

// ask is who answers a client of a name.
func ask(ctx context.Context, address, name string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // who it is tells its answer
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(address, "443"))
		},
	}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+name+"/", nil)
	if err != nil {
		return "", err
	}
	res, err := c.Do(r)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	return string(body), err
}

// expect waits until a name is answered by want; "" for nobody.
func (s *site) expect(address, name, want string) {
	s.t.Helper()
	until(s.t, fmt.Sprintf("%s at %s is answered by %q", name, address, want), func(ctx context.Context) error {
		got, err := ask(ctx, address, name)
		if got != want || want == "" && err == nil {
			return fmt.Errorf("it is by %q, %w", got, err)
		}
		return nil
	})
}

// get is what the agent's admin server says.
func get(ctx context.Context, path string) (status int, body string, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, admin+path, nil)
	if err != nil {
		return 0, "", err
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(res.Body)
	return res.StatusCode, string(data), err
}

// conditionOf is a route's condition at its first parent.
func conditionOf(r *gatewayv1.TLSRoute, kind gatewayv1.RouteConditionType) (metav1.Condition, error) {
	if len(r.Status.Parents) == 0 {
		return metav1.Condition{}, errors.New("no parent is in its status")
	}
	all := r.Status.Parents[0].Conditions
	i := slices.IndexFunc(all, func(c metav1.Condition) bool { return c.Type == string(kind) })
	if i < 0 {
		return metav1.Condition{}, fmt.Errorf("no condition %s", kind)
	}
	return all[i], nil
}
