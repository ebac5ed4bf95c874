// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// caKey is where a ConfigMap has CA certificates.
const caKey = "ca.crt"

type pairResult struct {
	pair *Certificate
	err  error
}

type caResult struct {
	pem []byte
	err error
}

// pair returns the certificate in a Secret.
func (o *objects) pair(name types.NamespacedName) (*Certificate, error) {
	r, known := o.pairs[name]
	if !known {
		r.pair, r.err = o.readPair(name)
		o.pairs[name] = r
	}
	return r.pair, r.err
}

func (o *objects) readPair(name types.NamespacedName) (*Certificate, error) {
	s := o.secrets[name]
	if s == nil {
		return nil, o.absent("Secret", name)
	}
	content := func(k string) []byte {
		if v, ok := s.StringData[k]; ok { // a file has these, an API server turned them into data
			return []byte(v)
		}
		return s.Data[k]
	}
	p := &Certificate{CertPEM: content(corev1.TLSCertKey), KeyPEM: content(corev1.TLSPrivateKeyKey), From: "Secret " + name.String()}
	if _, err := tls.X509KeyPair(p.CertPEM, p.KeyPEM); err != nil {
		return nil, fmt.Errorf("content of Secret %s: %s and %s are no certificate with its key: %w", name, corev1.TLSCertKey, corev1.TLSPrivateKeyKey, err)
	}
	return p, nil
}

// ca returns the CA certificates in a ConfigMap.
func (o *objects) ca(name types.NamespacedName) ([]byte, error) {
	r, known := o.cas[name]
	if !known {
		if m := o.configMaps[name]; m == nil {
			r.err = o.absent("ConfigMap", name)
		} else {
			r.pem = []byte(m.Data[caKey])
			if len(r.pem) == 0 {
				r.pem = m.BinaryData[caKey]
			}
			if !x509.NewCertPool().AppendCertsFromPEM(r.pem) {
				r.pem, r.err = nil, fmt.Errorf("content of ConfigMap %s: no certificate in PEM form under %s", name, caKey)
			}
		}
		o.cas[name] = r
	}
	return r.pem, r.err
}

// secretOf finds what a Gateway's reference is to. invalid is the reason for
// whatever is wrong other than that it may not be referred to.
func (c *computation) secretOf(g *gateway, ref gatewayv1.SecretObjectReference, invalid string) (*Certificate, finding) {
	if kind := value(ref.Kind, "Secret"); kind != "Secret" || value(ref.Group, "") != "" {
		return nil, finding{invalid, fmt.Sprintf("%s %s: a Secret is expected", kind, ref.Name)}
	}
	to := types.NamespacedName{Namespace: string(value(ref.Namespace, gatewayv1.Namespace(g.object.Namespace))), Name: string(ref.Name)}
	if !c.objects.permitted(reference{"Gateway", g.object.Namespace, "Secret", to}) {
		return nil, finding{string(gatewayv1.ListenerReasonRefNotPermitted), fmt.Sprintf("Secret %s: no ReferenceGrant in its namespace lets Gateways of namespace %s refer to it", to, g.object.Namespace)}
	}
	p, err := c.objects.pair(to)
	if err != nil {
		return nil, finding{invalid, err.Error()}
	}
	return p, finding{}
}

func (c *computation) readCertificates(l *listener, t *gatewayv1.ListenerTLSConfig, term *Termination) {
	invalid := string(gatewayv1.ListenerReasonInvalidCertificateRef)
	for _, ref := range t.CertificateRefs {
		p, f := c.secretOf(l.gateway, ref, invalid)
		if !f.ok() {
			l.refs.set(f.reason, "tls.certificateRefs: "+f.message)
			continue
		}
		term.Certificates = append(term.Certificates, *p)
	}
	if len(t.CertificateRefs) == 0 {
		l.refs.set(invalid, "tls.certificateRefs: a Secret is expected for mode Terminate")
	}
}

// readValidation reads which clients' certificates l takes. The API defines that
// for HTTPS; it holds here wherever TLS is terminated.
func (c *computation) readValidation(l *listener, term *Termination) {
	spec := l.gateway.object.Spec.TLS
	if spec == nil || spec.Frontend == nil {
		return
	}
	v := spec.Frontend.Default.Validation
	for _, p := range spec.Frontend.PerPort {
		if p.Port == l.spec.Port {
			v = p.TLS.Validation
		}
	}
	if v == nil {
		return
	}
	term.ClientValidation = &ClientValidation{Insecure: v.Mode == gatewayv1.AllowInsecureFallback}
	l.gateway.insecure = l.gateway.insecure || term.ClientValidation.Insecure
	for _, ref := range v.CACertificateRefs {
		pem, f := c.clientCA(l.gateway, ref)
		if !f.ok() {
			l.refs.set(f.reason, "tls.frontend: "+f.message)
			continue
		}
		term.ClientValidation.CAPEM = joinPEM(term.ClientValidation.CAPEM, pem)
	}
	if len(term.ClientValidation.CAPEM) == 0 {
		l.accepted.set(string(gatewayv1.ListenerReasonNoValidCACertificate), "tls.frontend: none of caCertificateRefs is valid: clients' certificates cannot be verified")
	}
}

func (c *computation) clientCA(g *gateway, ref gatewayv1.ObjectReference) ([]byte, finding) {
	if ref.Kind != "ConfigMap" || ref.Group != "" {
		return nil, finding{string(gatewayv1.ListenerReasonInvalidCACertificateKind), fmt.Sprintf("caCertificateRefs: %s %s: a ConfigMap is expected", ref.Kind, ref.Name)}
	}
	to := types.NamespacedName{Namespace: string(value(ref.Namespace, gatewayv1.Namespace(g.object.Namespace))), Name: string(ref.Name)}
	if !c.objects.permitted(reference{"Gateway", g.object.Namespace, "ConfigMap", to}) {
		return nil, finding{string(gatewayv1.ListenerReasonRefNotPermitted), fmt.Sprintf("caCertificateRefs: ConfigMap %s: no ReferenceGrant in its namespace lets Gateways of namespace %s refer to it", to, g.object.Namespace)}
	}
	pem, err := c.objects.ca(to)
	if err != nil {
		return nil, finding{string(gatewayv1.ListenerReasonInvalidCACertificateRef), "caCertificateRefs: " + err.Error()}
	}
	return pem, finding{}
}

func (c *computation) readClientCertificate(g *gateway) {
	t := g.object.Spec.TLS
	if t == nil || t.Backend == nil || t.Backend.ClientCertificateRef == nil {
		return
	}
	p, f := c.secretOf(g, *t.Backend.ClientCertificateRef, string(gatewayv1.GatewayReasonInvalidClientCertificateRef))
	if !f.ok() {
		g.refs.set(f.reason, "tls.backend.clientCertificateRef: "+f.message)
	}
	g.clientCert = p
}

// joinPEM returns a new text of a's blocks and then b's.
func joinPEM(a, b []byte) []byte {
	return slices.Concat(bytes.TrimRight(a, "\n"), []byte("\n"), b)
}

func equalTermination(a, b *Termination) bool {
	pairs := slices.EqualFunc(a.Certificates, b.Certificates, func(x, y Certificate) bool { return x.From == y.From })
	if !pairs || a.MinVersion != b.MinVersion || (a.ClientValidation == nil) != (b.ClientValidation == nil) {
		return false
	}
	return a.ClientValidation == nil || a.ClientValidation.Insecure == b.ClientValidation.Insecure && bytes.Equal(a.ClientValidation.CAPEM, b.ClientValidation.CAPEM)
}
