// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/spliceway/spliceway/userspace/api/v1alpha1"
	"github.com/spliceway/spliceway/userspace/config"
	"github.com/spliceway/spliceway/userspace/manifest"
	"github.com/spliceway/spliceway/userspace/route"
)

// internalSuffix is of names that only policies reach.
const internalSuffix = ".internal"

// outcome is what became of an endpoint object.
type outcome struct {
	url    string
	policy string // none, inline, or a name
	// The first that is not nil is why it is not served.
	wrong, wrongUpstream, wrongPolicy *config.Error
	kept                              bool // what was there before is served instead
}

func (o *outcome) errors() (all config.Errors) {
	for _, e := range []*config.Error{o.wrong, o.wrongUpstream, o.wrongPolicy} {
		if e != nil {
			all = append(all, e)
		}
	}
	return all
}

// translate adds an object's endpoint, or that of the object that was right before.
func (p *planner) translate(o *manifest.Object) {
	out := &outcome{}
	p.statuses[o.Key] = out
	if p.endpoint(o, out) {
		p.good[o.Key] = o
		return
	}
	for _, e := range out.errors() {
		p.addProblem(e)
	}
	if p.old == nil {
		return
	}
	if before := p.old.good[o.Key]; before != nil && before != o {
		if p.endpoint(before, &outcome{}) {
			out.kept = true
			p.good[o.Key] = before
			p.warn(o.Pos, "%s: what was there before goes on", o.Key)
		}
	}
}

// endpoint adds what an object comes to. False: it is wrong.
func (p *planner) endpoint(o *manifest.Object, out *outcome) bool {
	e := config.NewEndpoint()
	e.Name, e.Pos = nameOf(o.Key), o.Pos
	x := Endpoint{From: o.Key.String()}
	switch v := o.Value.(type) {
	case *v1alpha1.AgentEndpoint:
		p.agentEndpoint(o, v, &e, &x, out)
	case *v1alpha1.CloudEndpoint:
		p.cloudEndpoint(o, v, &e, &x, out)
	}
	if len(out.errors()) > 0 {
		return false
	}
	e.Finish()
	out.wrong = p.add(o, e, x)
	return out.wrong == nil
}

// nameOf is an object's name in logs and metrics.
func nameOf(k manifest.Key) string {
	return strings.ToLower(k.Kind) + "/" + k.Namespace + "/" + k.Name
}

func (p *planner) agentEndpoint(o *manifest.Object, v *v1alpha1.AgentEndpoint, e *config.Endpoint, x *Endpoint, out *outcome) {
	p.url(o, v.Spec.URL, v.Spec.Bindings, e, x, out)
	x.pooling = true // as ngrok's operator has it
	e.Description, e.Metadata = v.Spec.Description, p.metadata(o, v.Spec.Metadata)
	p.upstream(o, v, e, x, out)
	if v.Spec.Upstream.Protocol != "" {
		p.warn(o.At("spec", "upstream", "protocol"), "%s: spec.upstream.protocol is about HTTP, and means nothing for a TLS endpoint", o.Key)
	}
	e.Upstream.ProxyProtocol = map[string]string{"1": "v1", "2": "v2"}[v.Spec.Upstream.ProxyProtocolVersion]
	if t := v.Spec.TLSTermination; t != nil && out.wrong == nil {
		out.wrong = p.termination(o, t, e)
	}
	out.policy = "none"
	if c := v.Spec.TrafficPolicy; c != nil {
		if c.Inline != nil {
			out.policy = "inline"
			p.use(o, []any{"spec", "trafficPolicy", "inline"}, e, x, out)
		} else {
			p.reference(o, c.TargetRef.Name, []any{"spec", "trafficPolicy", "targetRef", "name"}, e, x, out)
		}
	}
}

func (p *planner) cloudEndpoint(o *manifest.Object, v *v1alpha1.CloudEndpoint, e *config.Endpoint, x *Endpoint, out *outcome) {
	p.url(o, v.Spec.URL, v.Spec.Bindings, e, x, out)
	x.pooling = v.Spec.PoolingEnabled != nil && *v.Spec.PoolingEnabled
	e.Description, e.Metadata = v.Spec.Description, p.metadata(o, v.Spec.Metadata)
	out.policy = "none"
	c := v.Spec.TrafficPolicy
	switch {
	case c != nil && c.Inline != nil:
		out.policy = "inline"
		p.use(o, []any{"spec", "trafficPolicy", "inline"}, e, x, out)
	case c != nil && c.Policy != nil:
		out.policy = "inline"
		p.use(o, []any{"spec", "trafficPolicy", "policy"}, e, x, out)
	case c != nil && c.TargetRef != nil:
		p.reference(o, c.TargetRef.Name, []any{"spec", "trafficPolicy", "targetRef", "name"}, e, x, out)
	case v.Spec.TrafficPolicyName != "":
		p.reference(o, v.Spec.TrafficPolicyName, []any{"spec", "trafficPolicyName"}, e, x, out)
	default:
		out.wrongPolicy = p.problem(o, []any{"spec", "trafficPolicy"}, "a policy is needed: a CloudEndpoint has no upstream of its own, so something like forward-internal must say where connections go")
	}
	if x.Policy != nil && !x.Policy.Terminating() {
		p.warn(o.At("spec", "trafficPolicy"), "%s: connections may get past its policy, and then end: the last rule should have no expressions, and forward-internal, deny or close-connection", o.Key)
	}
}

// url reads spec.url and spec.bindings.
func (p *planner) url(o *manifest.Object, url string, bindings []string, e *config.Endpoint, x *Endpoint, out *outcome) {
	at := []any{"spec", "url"}
	name, port, err := config.ParsePublicURL(url)
	switch {
	case strings.HasSuffix(url, "://") || url == "":
		err = errors.New("ngrok would choose a name for this; write it out, as tls://NAME[:PORT]")
	case err != nil && !strings.Contains(url, "://"):
		err = errors.New("expected tls://NAME[:PORT]: without tls:// it is an HTTP endpoint")
	}
	if err != nil {
		out.wrong = p.problem(o, at, "%v", err)
		return
	}
	internal := strings.HasSuffix(name, internalSuffix)
	for i, b := range bindings {
		at := []any{"spec", "bindings", i}
		switch {
		case b == "kubernetes":
			out.wrong = p.problem(o, at, "TLS endpoints are public or internal")
			return
		case (b == "internal") != internal:
			out.wrong = p.problem(o, at, "%s is %s, because of its name: names that end with %s are internal, and no others are", url, map[bool]string{true: "internal", false: "public"}[internal], internalSuffix)
			return
		}
	}
	e.URL, e.ServerName, e.Port = url, name, port
	x.URL = "tls://" + net.JoinHostPort(name, strconv.Itoa(int(port)))
	out.url = x.URL
	entry := route.Entry{Port: port, Name: name}
	if internal {
		x.Internal = []route.Entry{entry}
	} else {
		x.Places = []route.Entry{entry}
	}
}

// metadata is a mapping, or JSON with one. What has no strings in it is written as JSON.
func (p *planner) metadata(o *manifest.Object, raw *runtime.RawExtension) map[string]string {
	if raw == nil || len(raw.Raw) == 0 {
		return nil
	}
	data := raw.Raw
	var text string
	if json.Unmarshal(data, &text) == nil {
		data = []byte(text)
	}
	var values map[string]any
	if err := json.Unmarshal(data, &values); err != nil {
		p.warn(o.At("spec", "metadata"), "%s: spec.metadata is no mapping, and no JSON with one: it is not used", o.Key)
		return nil
	}
	m := make(map[string]string, len(values))
	for k, v := range values {
		if s, ok := v.(string); ok {
			m[k] = s
		} else if b, err := json.Marshal(v); err == nil {
			m[k] = string(b)
		}
	}
	return m
}

func (p *planner) upstream(o *manifest.Object, v *v1alpha1.AgentEndpoint, e *config.Endpoint, x *Endpoint, out *outcome) {
	at := []any{"spec", "upstream", "url"}
	scheme, host, port, err := config.ParseTargetURL(v.Spec.Upstream.URL)
	if err != nil {
		out.wrongUpstream = p.problem(o, at, "%v", err)
		return
	}
	if x.Tenant = p.options.Cluster && !p.options.Own[o.Key]; x.Tenant && config.OnlyHere(host) {
		out.wrongUpstream = p.problem(o, at, "%s is the node's own: an object of the cluster does not lead there", host)
		return
	}
	e.Upstream.URL = v.Spec.Upstream.URL
	e.Upstream.All = p.services.targets(p.cfg, host, port, o.Namespace)
	for i := range e.Upstream.All {
		t := &e.Upstream.All[i]
		t.TLS = scheme == "tls"
		t.URL = scheme + "://" + net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port)))
	}
	if refs := v.Spec.ClientCertificateRefs; len(refs) > 0 {
		at := []any{"spec", "clientCertificateRefs"}
		if len(refs) > 1 {
			out.wrong = p.problem(o, at, "one certificate is taken")
			return
		}
		cert, key, err := p.pair(o, refs[0].Name)
		if err != nil {
			out.wrong = p.problem(o, append(at, 0, "name"), "%v", err)
			return
		}
		u := config.NewUpstreamTLS()
		u.CertPEM, u.KeyPEM, u.Pos = cert, key, o.At(at...)
		e.Upstream.TLS = u
	}
}

// secret is a Secret's value.
func (p *planner) secret(o *manifest.Object, name, key string) ([]byte, error) {
	s := p.secrets[manifest.Key{Kind: "Secret", Namespace: o.Namespace, Name: name}]
	if s == nil {
		if f := p.options.Unwatched; f != nil {
			if err := f("Secret", types.NamespacedName{Namespace: o.Namespace, Name: name}); err != nil {
				return nil, err
			}
		}
		return nil, fmt.Errorf("there is no Secret %s/%s", o.Namespace, name)
	}
	if data := applied(s.Value.(*corev1.Secret)).Data[key]; len(data) > 0 {
		return data, nil
	}
	return nil, fmt.Errorf("the Secret %s/%s (%s) has no %s", o.Namespace, name, s.Pos, key)
}

func (p *planner) pair(o *manifest.Object, name string) (cert, key []byte, err error) {
	cert, err = p.secret(o, name, corev1.TLSCertKey)
	if err == nil {
		key, err = p.secret(o, name, corev1.TLSPrivateKeyKey)
	}
	if err == nil {
		err = checkPair(cert, key)
	}
	return cert, key, err
}

// mutualTLS asks clients for certificates that CAs vouch for, or, if any client is let in, for
// whatever they have.
func mutualTLS(ca []byte, anyone bool, at config.Position) *config.MutualTLS {
	if anyone {
		return &config.MutualTLS{Mode: "request", Pos: at}
	}
	return &config.MutualTLS{Mode: "require-and-verify", CAPEM: ca, Pos: at}
}

func (p *planner) termination(o *manifest.Object, t *v1alpha1.TLSTermination, e *config.Endpoint) *config.Error {
	at := []any{"spec", "tlsTermination"}
	cert, key, err := p.pair(o, t.ServerCertificateRef.Name)
	if err != nil {
		return p.problem(o, append(at, "serverCertificateRef", "name"), "%v", err)
	}
	c := config.NewTermination()
	c.Pos = o.At(at...)
	c.Certificates = []config.Certificate{{CertPEM: cert, KeyPEM: key, From: "Secret " + o.Namespace + "/" + t.ServerCertificateRef.Name, Pos: c.Pos}}
	if m := t.MutualTLS; m != nil {
		ca, err := p.secret(o, m.ClientCAsRef.Name, "ca.crt")
		if err == nil {
			err = checkCAs(ca)
		}
		if err != nil {
			return p.problem(o, append(at, "mutualTLS", "clientCAsRef", "name"), "%v", err)
		}
		// ngrok verifies what comes, and lets in who shows nothing: the same as its
		// require but for that. Verified or not is in the log.
		c.MutualTLS = mutualTLS(ca, m.Mode == "request", o.At(append(at, "mutualTLS")...))
	}
	e.TLSTermination = c
	return nil
}
