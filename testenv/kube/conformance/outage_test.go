// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// ready waits until /readyz answers with a status and a text in its body.
func (s *site) ready(status int, text string) {
	s.t.Helper()
	until(s.t, fmt.Sprintf("/readyz says %d and %q", status, text), func(ctx context.Context) error {
		got, body, err := get(ctx, "/readyz")
		if err != nil || got != status || !strings.Contains(body, text) {
			return fmt.Errorf("it says %d %q, %w", got, body, err)
		}
		return nil
	})
}

// secret is a certificate.
func secret(t *testing.T, name string) *corev1.Secret {
	t.Helper()
	chain, key := selfSigned(t)
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Type: corev1.SecretTypeTLS, Data: map[string][]byte{corev1.TLSCertKey: chain, corev1.TLSPrivateKeyKey: key}}
}

// TestOutage of the API server: what was known is served, by an agent that starts meanwhile as
// well, and what changes afterwards is seen by it.
func TestOutage(t *testing.T) {
	for _, keeps := range []bool{false, true} {
		t.Run(fmt.Sprintf("stateSecrets %t", keeps), func(t *testing.T) {
			s := newSite(t)
			one, two := answers(t, "one"), answers(t, "two")
			s.create(service("one", one)...)
			s.create(service("two", two)...)
			s.create(secret(t, "cert"))
			g := gateway("g")
			hostname, mode := gatewayv1.Hostname("ended.example.com"), gatewayv1.TLSModeTerminate
			g.Spec.Listeners = append(g.Spec.Listeners, gatewayv1.Listener{Name: "ended", Port: 443, Protocol: gatewayv1.TLSProtocolType, Hostname: &hostname,
				TLS: &gatewayv1.ListenerTLSConfig{Mode: &mode, CertificateRefs: []gatewayv1.SecretObjectReference{{Name: "cert"}}}})
			s.create(g, tlsRoute("r", "g", "one", "a.example.com"), tlsRoute("ended", "g", "one", hostname))
			state := filepath.Join(s.kube.dir, "state")
			s.run(fmt.Sprintf("kubernetes: {addresses: [%q], state: %q, stateSecrets: %t}", pool, state, keeps))
			address := s.address("g")
			s.expect(address, "a.example.com", "one")
			s.ready(http.StatusOK, "ok")
			handshakes := func(ctx context.Context) error {
				c, err := (&tls.Dialer{Config: &tls.Config{ServerName: string(hostname), InsecureSkipVerify: true}}).DialContext(ctx, "tcp", address+":443") //nolint:gosec // whether it does TLS at all
				if err != nil {
					return err
				}
				return c.Close()
			}
			until(t, "TLS is terminated", handshakes)
			live, err := tls.Dial("tcp", address+":443", &tls.Config{ServerName: "a.example.com", InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}) //nolint:gosec // as ask
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = live.Close() }()
			goesOn := func() {
				t.Helper()
				if _, err := fmt.Fprintf(live, "GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n"); err != nil {
					t.Fatal(err)
				}
				res, err := http.ReadResponse(bufio.NewReader(live), nil)
				if err != nil {
					t.Fatalf("a connection from before: %v", err)
				}
				_ = res.Body.Close()
			}
			until(t, "the last state is there", func(context.Context) error {
				data, err := os.ReadFile(state)
				if err == nil && !strings.Contains(string(data), "ended.example.com") {
					err = errors.New("it is an earlier one")
				}
				return err
			})

			s.kube.apiServer.end(syscall.SIGKILL)
			s.ready(http.StatusOK, "degraded: the API server has not answered since")
			s.expect(address, "a.example.com", "one")
			goesOn()

			// Another agent, that has never seen the API server.
			s.agent.end(syscall.SIGKILL)
			goesOn() // the kernel has it
			s.agent.start()
			s.expect(address, "a.example.com", "one")
			goesOn()
			s.ready(http.StatusOK, "degraded")
			if keeps {
				until(t, "TLS is terminated by what the state has", handshakes)
			} else if err := handshakes(t.Context()); err == nil {
				t.Error("a certificate is served that the state must not have")
			}
			if data, err := os.ReadFile(state); err != nil || strings.Contains(string(data), "tls.key") != keeps {
				t.Errorf("a key is in the state: %t, want %t (%v)", !keeps, keeps, err)
			}

			s.kube.apiServer.start()
			s.kube.wait(t)
			s.ready(http.StatusOK, "ok")
			until(t, "TLS is terminated again", handshakes)
			route := tlsRoute("r", "g", "two", "a.example.com")
			route.Namespace = namespace
			if err := s.client.Patch(t.Context(), route, client.RawPatch("application/merge-patch+json", []byte(`{"spec": {"rules": [{"backendRefs": [{"name": "two", "port": 443}]}]}}`))); err != nil {
				t.Fatal(err)
			}
			s.expect(address, "a.example.com", "two")
			goesOn()
		})
	}
}
