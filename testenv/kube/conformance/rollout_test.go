// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// echoDeployment runs the suite's echo server with TLS. A pod that is to end goes on for grace
// seconds.
func echoDeployment(name string, replicas int32, grace int64) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	field := func(path string) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}
	}
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace,
			Volumes: []corev1.Volume{{Name: "cert", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "cert",
				Items: []corev1.KeyToPath{{Key: corev1.TLSCertKey, Path: "crt"}, {Key: corev1.TLSPrivateKeyKey, Path: "key"}}}}}},
			Containers: []corev1.Container{{
				Name: "echo", Image: "echo-basic", VolumeMounts: []corev1.VolumeMount{{Name: "cert", MountPath: "/cert"}},
				Env: []corev1.EnvVar{
					{Name: "POD_NAME", ValueFrom: field("metadata.name")}, {Name: "NAMESPACE", ValueFrom: field("metadata.namespace")},
					{Name: "TLS_SERVER_CERT", Value: "/cert/crt"}, {Name: "TLS_SERVER_PRIVKEY", Value: "/cert/key"},
				},
			}},
		}},
	}}
}

// podOf is which pod an answer of the echo server is from.
func podOf(body string) (string, error) {
	var answer struct{ Pod string }
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		return "", fmt.Errorf("%q: %w", body, err)
	}
	return answer.Pod, nil
}

// TestRollout of a Deployment under load: no new connection is lost, and one that is there goes
// on for as long as its pod does.
func TestRollout(t *testing.T) {
	const app, host, grace = "echo", "echo.example.com", 3
	s := newSite(t)
	clients, err := kubernetes.NewForConfig(s.rest)
	if err != nil {
		t.Fatal(err)
	}
	runPods(t, clients, filepath.Join(s.bin, "kube/echo-basic"))
	d := echoDeployment(app, 3, grace)
	s.create(secret(t, "cert"), d,
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: app}, Spec: corev1.ServiceSpec{Selector: d.Spec.Selector.MatchLabels, Ports: []corev1.ServicePort{{Port: 443, TargetPort: intstr.FromInt32(8443)}}}},
		gateway("g"), tlsRoute("r", "g", app, host))
	s.run(fmt.Sprintf("kubernetes: {addresses: [%q]}", pool))
	address := s.address("g")
	deployed := func(ctx context.Context) error {
		if err := s.client.Get(ctx, client.ObjectKeyFromObject(d), d); err != nil {
			return err
		}
		if d.Status.ObservedGeneration != d.Generation || d.Status.UpdatedReplicas != 3 || d.Status.AvailableReplicas != 3 || d.Status.Replicas != 3 {
			return fmt.Errorf("status %+v", d.Status)
		}
		return nil
	}
	until(t, "all pods run", deployed)
	until(t, "they answer", func(ctx context.Context) error { _, err := ask(ctx, address, host); return err })

	live, err := tls.Dial("tcp", address+":443", &tls.Config{ServerName: host, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}) //nolint:gosec // as ask
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = live.Close() }()
	in := bufio.NewReader(live)
	served := func() (string, error) {
		if _, err := io.WriteString(live, "GET / HTTP/1.1\r\nHost: "+host+"\r\n\r\n"); err != nil {
			return "", err
		}
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			return "", err
		}
		defer func() { _ = res.Body.Close() }()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			return "", err
		}
		return podOf(string(body))
	}
	own, err := served()
	if err != nil {
		t.Fatal(err)
	}

	// The load: connections one after the other, from eight clients.
	var asked, lost atomic.Int64
	var pods sync.Map // that answered, and when they last did
	ctx, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	for range 8 {
		load.Go(func() {
			for ctx.Err() == nil {
				body, err := ask(context.WithoutCancel(ctx), address, host)
				var pod string
				if err == nil {
					pod, err = podOf(body)
				}
				asked.Add(1)
				if err != nil {
					lost.Add(1)
					t.Errorf("a connection is lost: %v", err)
					continue
				}
				pods.Store(pod, time.Now())
			}
		})
	}
	if err := s.client.Patch(t.Context(), d, client.RawPatch("application/strategic-merge-patch+json", []byte(`{"spec": {"template": {"metadata": {"annotations": {"version": "2"}}}}}`))); err != nil {
		t.Fatal(err)
	}
	var end time.Time
	until(t, "the pod of the open connection is to end", func(ctx context.Context) error {
		p, err := clients.CoreV1().Pods(namespace).Get(ctx, own, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if p.DeletionTimestamp == nil {
			return errors.New("it is not")
		}
		end = p.DeletionTimestamp.Time
		return nil
	})
	for time.Until(end) > time.Second {
		if pod, err := served(); err != nil || pod != own {
			t.Fatalf("%v before the end of its pod: answered by %q, %v; want %q", time.Until(end), pod, err, own)
		}
		time.Sleep(50 * time.Millisecond) // now and then
	}
	if at, ok := pods.Load(own); ok && at.(time.Time).After(end.Add(-time.Second)) {
		t.Errorf("new connections come to a pod that ends, %v before its end", end.Sub(at.(time.Time)))
	}
	until(t, "the pods of the next version run", deployed)
	stop()
	load.Wait()
	answered := 0
	pods.Range(func(any, any) bool { answered++; return true })
	t.Logf("%d connections, %d lost, answered by %d pods", asked.Load(), lost.Load(), answered)
	if answered < 5 {
		t.Errorf("%d pods have answered: the load was not there while pods changed", answered)
	}
	_, metrics, err := get(t.Context(), "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(metrics, `engine="packet`) {
		t.Error("no connection was moved by packet")
	}
}
