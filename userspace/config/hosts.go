// SPDX-License-Identifier: Apache-2.0

package config

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// manifests reports what is wrong with the paths, and makes them relative to what
// the agent's file's is relative to.
func (r *report) manifests(p *path, manifests []string) {
	r.lists(p, manifests)
	for i, file := range manifests {
		if first := slices.Index(manifests, file); first < i && file != "" {
			r.wrong(p.element(i), "the same path as %s", p.element(first))
		}
	}
}

// kubernetes reports what is wrong with the pool and the rest.
func (r *report) kubernetes(p *path, k *Kubernetes) {
	_, k.Set = p.find(r.root)
	r.listen(p.key("addresses"), k.Addresses)
	for i, a := range k.Addresses {
		if a.IsValid() && a.Addr().IsUnspecified() {
			r.wrong(p.key("addresses").element(i), "expected addresses that can be given away one by one, found all of them")
		}
	}
	if len(k.Publish) > 0 {
		r.hostAddresses(p.key("publish"), k.Publish)
	}
	if k.State != "" {
		r.absolute(p.key("state"), k.State)
	}
	r.within(p.key("maxReferences"), k.MaxReferences, 1, 1<<16)
	if k.StateSecrets && k.State == "" {
		r.wrong(p.key("stateSecrets"), "there is no state to keep Secrets in: give state a file")
	}
}

// hosts reports what is wrong with the names and their addresses, and makes the names
// those that are looked for.
func (r *report) hosts(p *path, cfg *Config) {
	if len(cfg.Hosts) == 0 {
		return
	}
	hosts := make(map[string][]netip.Addr, len(cfg.Hosts))
	keys := make(map[string]string, len(cfg.Hosts)) // by name
	for _, key := range slices.Sorted(maps.Keys(cfg.Hosts)) {
		at, addrs := p.key(key), cfg.Hosts[key]
		r.hostAddresses(at, addrs)
		name, err := parseHostName(strings.TrimSuffix(key, "."))
		switch first, taken := keys[name]; {
		case err != nil:
			r.wrong(at, "%v", err)
		case endsInNumber(name):
			r.wrong(at, "expected a host name, whose last label cannot be a number, found %s", quote(key))
		case taken:
			r.wrong(at, "the same name as %s at %s", quote(first), r.at(p.key(first)))
		default:
			keys[name], hosts[name] = key, addrs
		}
	}
	cfg.Hosts = hosts
}

func (r *report) hostAddresses(p *path, addrs []netip.Addr) {
	if len(addrs) == 0 {
		r.wrong(p, "at least one IP address is needed")
	}
	for i, addr := range addrs {
		if first := slices.Index(addrs, addr); first < i && addr.IsValid() {
			r.wrong(p.element(i), "%s is listed twice", addr)
		}
	}
}

func (d *decoder) address(node *yaml.Node, p *path, v reflect.Value) {
	if !d.scalar(node, p, "an IP address", "!!str") {
		return
	}
	addr, err := parseAddress(node.Value)
	if err != nil {
		d.undecodable(node, p, "%v", err)
		return
	}
	v.Set(reflect.ValueOf(addr))
}
