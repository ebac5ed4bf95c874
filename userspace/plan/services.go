// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/spliceway/spliceway/userspace/config"
	"github.com/spliceway/spliceway/userspace/gateway"
	"github.com/spliceway/spliceway/userspace/manifest"
)

// services are the Services of the manifests, with their addresses.
type services struct {
	byName map[string]*corev1.Service // NAME.NAMESPACE
	slices map[string][]*discoveryv1.EndpointSlice
}

func newServices(objects []*manifest.Object) *services {
	s := &services{byName: make(map[string]*corev1.Service), slices: make(map[string][]*discoveryv1.EndpointSlice)}
	for _, o := range objects {
		switch v := o.Value.(type) {
		case *corev1.Service:
			s.byName[v.Name+"."+v.Namespace] = v
		case *discoveryv1.EndpointSlice:
			key := v.Labels[discoveryv1.LabelServiceName] + "." + v.Namespace
			s.slices[key] = append(s.slices[key], v)
		}
	}
	return s
}

// targets are where a host and port of an object in a namespace are: the addresses of a
// Service that is among the objects, else the host by its name, which is NAME.NAMESPACE for
// a bare one.
func (s *services) targets(cfg *config.Config, host string, port uint16, namespace string) []config.Target {
	if !strings.Contains(host, ".") && !strings.Contains(host, ":") && host != "localhost" {
		host += "." + namespace
	}
	byName := []config.Target{{Host: host, Port: port, Weight: 1}}
	plain := strings.TrimSuffix(host, ".")
	if _, ok := cfg.Hosts[plain]; ok {
		return byName
	}
	plain = strings.TrimSuffix(strings.TrimSuffix(plain, ".cluster.local"), ".svc")
	service := s.byName[plain]
	if service == nil {
		return byName
	}
	var all []config.Target
	for _, p := range service.Spec.Ports {
		if p.Port != int32(port) {
			continue
		}
		for _, at := range gateway.Endpoints(s.slices[plain], p) {
			all = append(all, config.Target{Host: at.Addr().String(), Port: at.Port(), Weight: 1})
		}
	}
	switch ip := service.Spec.ClusterIP; {
	case len(all) > 0:
		return all
	case len(s.slices[plain]) > 0:
		return []config.Target{{Host: host, Port: port, Weight: 1, Refuse: fmt.Sprintf("Service %s/%s has no address that is ready for port %d", service.Namespace, service.Name, port)}}
	case ip != "" && ip != corev1.ClusterIPNone:
		return []config.Target{{Host: ip, Port: port, Weight: 1}}
	}
	return byName
}

// checkPair tells whether a certificate and a key can be used. The key is not told.
func checkPair(cert, key []byte) error {
	if _, err := tls.X509KeyPair(cert, key); err != nil {
		return fmt.Errorf("its certificate and key cannot be used: %w", err)
	}
	return nil
}

func checkCAs(pem []byte) error {
	if !x509.NewCertPool().AppendCertsFromPEM(pem) {
		return errors.New("no certificate can be read from its ca.crt")
	}
	return nil
}
