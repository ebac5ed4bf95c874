// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"strings"

	"go.yaml.in/yaml/v3"
)

// restrictIPs has literal networks ready, and templates for the others.
type restrictIPs struct {
	enforce     bool
	allow, deny networks
}

func readRestrictIPs(r *reader, n *yaml.Node, path string) action {
	f := r.mapping(n, path, []string{"enforce", "allow", "deny"}, map[string]string{
		"ip_policies": "IP policies are objects of ngrok's API, which this agent does not ask: write their networks in allow and deny",
	})
	a := &restrictIPs{enforce: true}
	if f == nil {
		return a
	}
	if n := f["enforce"]; n != nil {
		a.enforce, _ = r.boolean(n, join(path, "enforce"))
	}
	if f["allow"] == nil && f["deny"] == nil {
		r.wrong(n, path, "allow or deny is needed: lists of networks, such as 10.0.0.0/8")
	}
	for _, which := range []struct {
		key  string
		list *networks
	}{{"allow", &a.allow}, {"deny", &a.deny}} {
		key, list := which.key, which.list
		if f[key] == nil {
			continue
		}
		list.given = true
		for i, e := range r.list(f[key], join(path, key)) {
			at := index(join(path, key), i)
			s, ok := r.text(e, at)
			if !ok {
				continue
			}
			if strings.Contains(s, "${") {
				list.templates = append(list.templates, r.template(e, at, s))
			} else if p, err := parseNetwork(s); err != nil {
				r.wrong(e, at, "expected an IP address or a network such as 10.0.0.0/8, found %q%s", s, halfMapped(err))
			} else {
				list.add(p)
			}
		}
	}
	return a
}

func (*restrictIPs) kind() string      { return "restrict-ips" }
func (*restrictIPs) terminating() bool { return false }

func (a *restrictIPs) do(r *Run) (Step, bool) {
	client := address(r.c.Client.Addr())
	r.restricted = restriction{action: "deny"}
	denied, by, err := a.deny.contains(r, client)
	allowed := !a.allow.given
	var in netip.Prefix
	if err == nil && a.allow.given && !denied {
		allowed, in, err = a.allow.contains(r, client)
	}
	switch {
	case err != nil && a.enforce:
		return Step{Kind: Failed, Err: err}, true
	case err != nil:
		r.restricted.err = err.Error()
	case denied:
		r.restricted.cidr = by
	case allowed:
		r.restricted = restriction{action: "allow", cidr: in}
		return Step{}, false
	}
	if !a.enforce {
		return Step{}, false
	}
	return Step{Kind: Close}, true
}
