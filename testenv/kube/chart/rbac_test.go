// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
)

// The groups of userspace/manifest.
const (
	groupSpliceway = "spliceway.dev"
	groupNgrok     = "ngrok.k8s.ngrok.com"
	groupGateway   = "gateway.networking.k8s.io"
	groupDiscovery = "discovery.k8s.io"
)

// lease is the LeaseName of userspace/cluster.
const lease = "spliceway"

// TestRules checks that the account may do what the agent does, and nothing else.
func TestRules(t *testing.T) {
	for text, ngrok := range map[string]bool{"": false, "config: {kubernetes: {ngrok: true}}": true} {
		want := needed(t, ngrok)
		want["coordination.k8s.io leases create"] = true
		want["events.k8s.io events create"] = true
		for _, verb := range []string{"get", "update"} {
			want["coordination.k8s.io leases/"+lease+" "+verb] = true
		}
		all := rendered(t, text)
		got := make(map[string]bool)
		for _, r := range all["ClusterRole"].(*rbacv1.ClusterRole).Rules {
			add(got, r)
		}
		for _, r := range all["Role"].(*rbacv1.Role).Rules {
			add(got, r)
		}
		for _, k := range slices.Sorted(maps.Keys(want)) {
			if !got[k] {
				t.Errorf("ngrok %v: the agent needs %q, and no rule allows it", ngrok, k)
			}
		}
		for _, k := range slices.Sorted(maps.Keys(got)) {
			if !want[k] {
				t.Errorf("ngrok %v: a rule allows %q, and the agent does not need it", ngrok, k)
			}
		}
	}
}

// add takes a rule apart.
func add(to map[string]bool, r rbacv1.PolicyRule) {
	for _, group := range r.APIGroups {
		for _, resource := range r.Resources {
			for _, verb := range r.Verbs {
				if len(r.ResourceNames) == 0 {
					to[group+" "+resource+" "+verb] = true
				}
				for _, name := range r.ResourceNames {
					to[group+" "+resource+"/"+name+" "+verb] = true
				}
			}
		}
	}
}

// needed is what the kinds of userspace/cluster need, read from its source: they are not
// exported, and no API would tell of one that is missing here.
func needed(t *testing.T, ngrok bool) map[string]bool {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(deploy, "../userspace/cluster/kind.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var plainKinds, endpoints []string // "group resource"; resources of the groups of endpoints
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr: // kindOf[T](group, name, resource, versions...)
			if i, ok := n.Fun.(*ast.IndexExpr); ok && len(n.Args) >= 4 && i.X.(*ast.Ident).Name == "kindOf" {
				name, resource := group(t, n.Args[0])+" ", literal(t, n.Args[2])
				plainKinds = append(plainKinds, name+resource)
			}
		case *ast.CompositeLit: // kind{group: group, name: ..., resource: ..., versions: ...}
			for _, e := range n.Elts {
				kv, ok := e.(*ast.KeyValueExpr)
				if !ok {
					continue
				}
				if key, ok := kv.Key.(*ast.Ident); ok && key.Name == "resource" {
					if l, ok := kv.Value.(*ast.BasicLit); ok {
						endpoints = append(endpoints, literal(t, l))
					}
				}
			}
		}
		return true
	})
	if len(plainKinds) < 11 || len(endpoints) != 3 {
		t.Fatalf("userspace/cluster/kind.go is not written as it was: found %v and %v", plainKinds, endpoints)
	}
	groups := []string{groupSpliceway}
	if ngrok {
		groups = append(groups, groupNgrok)
	}
	all := make(map[string]bool)
	watch := func(resource string, status bool) {
		for _, verb := range []string{"get", "list", "watch"} {
			all[resource+" "+verb] = true
		}
		if status {
			all[resource+"/status patch"] = true
		}
	}
	for _, resource := range plainKinds {
		// Those of the Gateway API have a status, but for permissions.
		watch(resource, strings.HasPrefix(resource, groupGateway) && !strings.HasSuffix(resource, " referencegrants"))
	}
	for _, g := range groups {
		for _, resource := range endpoints {
			watch(g+" "+resource, true)
		}
	}
	return all
}

func literal(t *testing.T, e ast.Expr) string {
	t.Helper()
	l, ok := e.(*ast.BasicLit)
	if !ok {
		t.Fatalf("userspace/cluster/kind.go is not written as it was: expected a string, found %T", e)
	}
	s, err := strconv.Unquote(l.Value)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// group is an API group: a string, or a name for one.
func group(t *testing.T, e ast.Expr) string {
	t.Helper()
	switch e := e.(type) {
	case *ast.Ident:
		if e.Name == "gateway" {
			return groupGateway
		}
	case *ast.SelectorExpr:
		if e.Sel.Name == "GroupDiscovery" {
			return groupDiscovery
		}
	case *ast.BasicLit:
		return literal(t, e)
	}
	t.Fatalf("userspace/cluster/kind.go has a group that this test does not know: %v", e)
	return ""
}
