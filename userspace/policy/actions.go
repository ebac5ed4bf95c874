// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/spliceway/spliceway/userspace/config"
)

// action is one step of a rule.
type action interface {
	kind() string
	// terminating actions end what the policy has to say.
	terminating() bool
	// do returns what the caller has to do, if anything.
	do(r *Run) (step Step, needed bool)
}

// readers are the actions by their type.
var readers = map[string]func(r *reader, n *yaml.Node, path string) action{
	"forward-internal": readForwardInternal,
	"terminate-tls":    readTerminateTLS,
	"restrict-ips":     readRestrictIPs,
	"deny":             readDeny,
	"close-connection": readCloseConnection,
	"log":              readLog,
	"set-vars":         readSetVars,
}

// forHTTP are ngrok's actions that need a request.
var forHTTP = []string{
	"add-headers", "basic-auth", "circuit-breaker", "compress-response", "custom-response", "http-request", "jwt-validation", "oauth",
	"openid-connect", "owasp-crs-request", "owasp-crs-response", "rate-limit", "redirect", "remove-headers", "require-tls", "saml",
	"url-rewrite", "user-agent-filter", "verify-webhook", "webhook-verification",
}

func actionNames() []string {
	var all []string
	for name := range readers {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

func (r *reader) action(n *yaml.Node, path string) action {
	f := r.mapping(n, path, []string{"type", "config"}, nil)
	if f == nil {
		return nil
	}
	if f["type"] == nil {
		r.wrong(n, join(path, "type"), "type is needed: %s", strings.Join(actionNames(), ", "))
		return nil
	}
	name, ok := r.text(f["type"], join(path, "type"))
	if !ok {
		return nil
	}
	read := readers[name]
	switch {
	case read == nil && slices.Contains(forHTTP, name):
		r.wrong(f["type"], join(path, "type"), "%s is an action for HTTP endpoints: this is TLS, of which the agent sees no requests", name)
		return nil
	case read == nil:
		r.wrong(f["type"], join(path, "type"), "unknown action %q%s; expected %s", name, config.DidYouMean(name, actionNames()), strings.Join(actionNames(), ", "))
		return nil
	}
	settings := f["config"]
	if settings == nil {
		settings = &yaml.Node{Kind: yaml.MappingNode, Line: n.Line, Column: n.Column}
	}
	return read(r, settings, join(path, "config"))
}

type forwardInternal struct {
	url       *template
	continues bool
}

func readForwardInternal(r *reader, n *yaml.Node, path string) action {
	f := r.mapping(n, path, []string{"url", "on_error"}, map[string]string{
		"binding": "internal endpoints have no other", "endpoint_selectors": "not supported: pooled endpoints are picked at random",
		"endpoint_weights": "not supported: pooled endpoints are picked at random",
	})
	a := &forwardInternal{}
	if f == nil {
		return a
	}
	if f["url"] == nil {
		r.wrong(n, join(path, "url"), "url is needed: that of an internal endpoint, tls://NAME.internal[:PORT]")
		return a
	}
	if s, ok := r.text(f["url"], join(path, "url")); ok {
		a.url = r.template(f["url"], join(path, "url"), s)
	}
	if n := f["on_error"]; n != nil {
		a.continues = r.oneOf(n, join(path, "on_error"), "halt", "continue") == "continue"
	}
	return a
}

func (*forwardInternal) kind() string        { return "forward-internal" }
func (a *forwardInternal) terminating() bool { return !a.continues }

func (a *forwardInternal) do(r *Run) (Step, bool) {
	url, err := a.url.text(r)
	if err != nil && a.continues {
		r.forwardError = err.Error()
		return Step{}, false
	}
	if err != nil {
		return Step{Kind: Failed, Err: err}, true
	}
	return Step{Kind: Forward, URL: url, OnErrorContinue: a.continues}, true
}

type deny struct{}

func readDeny(r *reader, n *yaml.Node, path string) action {
	if f := r.mapping(n, path, []string{"status_code"}, nil); f["status_code"] != nil {
		r.warn(f["status_code"], "%s: a TLS connection is closed without a status code", join(path, "status_code"))
	}
	return deny{}
}

func (deny) kind() string           { return "deny" }
func (deny) terminating() bool      { return true }
func (deny) do(*Run) (Step, bool)   { return Step{Kind: Close}, true }
func (closes) kind() string         { return "close-connection" }
func (closes) terminating() bool    { return true }
func (closes) do(*Run) (Step, bool) { return Step{Kind: Close}, true }

type closes struct{}

func readCloseConnection(r *reader, n *yaml.Node, path string) action {
	if n = resolve(n); n.Kind != yaml.MappingNode || len(n.Content) > 0 {
		r.wrong(n, path, "close-connection has no configuration")
	}
	return closes{}
}

type logs struct{ metadata any }

func readLog(r *reader, n *yaml.Node, path string) action {
	f := r.mapping(n, path, []string{"metadata"}, nil)
	a := &logs{}
	if f == nil {
		return a
	}
	if m := f["metadata"]; m == nil || m.Kind != yaml.MappingNode {
		r.wrong(n, join(path, "metadata"), "metadata is needed: a mapping of what to log")
	} else {
		a.metadata = r.tree(m, join(path, "metadata"), 0)
	}
	return a
}

func (*logs) kind() string      { return "log" }
func (*logs) terminating() bool { return false }

func (a *logs) do(r *Run) (Step, bool) {
	v, err := evalTree(a.metadata, r, false)
	if err != nil {
		return Step{Kind: Failed, Err: err}, true
	}
	m, _ := v.(map[string]any)
	r.logged = m
	return Step{Kind: Log, Metadata: m}, true
}

type setVars struct {
	names  []string
	values []any
}

func readSetVars(r *reader, n *yaml.Node, path string) action {
	f := r.mapping(n, path, []string{"vars"}, nil)
	a := &setVars{}
	if f == nil {
		return a
	}
	at := join(path, "vars")
	if f["vars"] == nil {
		r.wrong(n, at, "vars is needed: a list of mappings, each of one name to its value")
		return a
	}
	for i, e := range r.list(f["vars"], at) {
		if e.Kind != yaml.MappingNode || len(e.Content) != 2 {
			r.wrong(e, index(at, i), "expected a mapping of one name to its value")
			continue
		}
		name := e.Content[0].Value
		if e.Content[0].Kind != yaml.ScalarNode || !isIdentifier(name) {
			r.wrong(e.Content[0], index(at, i), "%q is no name for a variable: letters, digits and _, and no digit first", name)
			continue
		}
		a.names = append(a.names, name)
		a.values = append(a.values, r.tree(resolve(e.Content[1]), join(index(at, i), name), 0))
	}
	return a
}

func isIdentifier(s string) bool {
	for i, c := range s {
		if c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

func (*setVars) kind() string      { return "set-vars" }
func (*setVars) terminating() bool { return false }

func (a *setVars) do(r *Run) (Step, bool) {
	for i, name := range a.names {
		v, err := evalTree(a.values[i], r, true)
		if err != nil {
			return Step{Kind: Failed, Err: err}, true
		}
		if r.vars == nil {
			r.vars = make(map[string]any)
		}
		r.vars[name] = v
	}
	return Step{}, false
}
