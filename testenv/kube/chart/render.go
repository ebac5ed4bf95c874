// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"sigs.k8s.io/yaml"
)

// deploy is where all of it is, seen from here.
const deploy = "../../../deploy"

var directory = filepath.Join(deploy, "helm/spliceway")

// document is one object, as it was rendered.
type document struct {
	Kind string
	Text string
}

// render renders the chart's objects, in the order in which they can be made, and its notes.
func render(values map[string]any, by string) (objects []document, notes string, err error) {
	c, err := loader.Load(directory)
	if err != nil {
		return nil, "", fmt.Errorf("load chart: %w", err)
	}
	release := common.ReleaseOptions{Name: "spliceway", Namespace: "spliceway", Revision: 1, IsInstall: true}
	all, err := util.ToRenderValues(c, values, release, common.DefaultCapabilities)
	if err != nil {
		return nil, "", fmt.Errorf("values: %w", err)
	}
	all["Release"].(map[string]any)["Service"] = by
	files, err := engine.Render(c, all)
	if err != nil {
		return nil, "", fmt.Errorf("render chart: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if path.Ext(name) == ".txt" {
			notes = files[name]
			continue
		}
		for _, text := range documents(files[name]) {
			var o struct{ Kind string }
			if err := yaml.Unmarshal([]byte(text), &o); err != nil {
				return nil, "", fmt.Errorf("%s: %w", name, err)
			}
			if o.Kind != "" {
				objects = append(objects, document{o.Kind, text})
			}
		}
	}
	slices.SortStableFunc(objects, func(a, b document) int { return cmp.Compare(rank(a.Kind), rank(b.Kind)) })
	return objects, notes, nil
}

// documents are those of a file.
func documents(text string) (all []string) {
	for part := range strings.SplitSeq("\n"+text, "\n---") {
		if part = strings.TrimSpace(part); part != "" {
			all = append(all, part+"\n")
		}
	}
	return all
}

func rank(kind string) int {
	order := []string{"Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "ConfigMap", "GatewayClass", "DaemonSet"}
	if i := slices.Index(order, kind); i >= 0 {
		return i
	}
	return len(order)
}

const header = "# SPDX-License-Identifier: Apache-2.0\n# Made by `make generate` from deploy/helm/spliceway: do not edit.\n"

// namespace is what `helm install --create-namespace` would make. The agent needs the host's
// network and directories, which is what the level is called.
const namespace = `apiVersion: v1
kind: Namespace
metadata:
  name: spliceway
  labels:
    pod-security.kubernetes.io/enforce: privileged
`

// plain is deploy/kubernetes, by file name.
func plain() (map[string]string, error) {
	objects, _, err := render(nil, "kubectl")
	if err != nil {
		return nil, err
	}
	parts := []string{namespace}
	for _, o := range objects {
		parts = append(parts, o.Text)
	}
	c, err := loader.Load(directory)
	if err != nil {
		return nil, fmt.Errorf("load chart: %w", err)
	}
	var definitions []string
	for _, crd := range c.CRDObjects() {
		definitions = append(definitions, strings.TrimPrefix(string(crd.File.Data), "---\n"))
	}
	return map[string]string{
		"spliceway.yaml": header + strings.Join(parts, "---\n"),
		"crds.yaml":      header + strings.Join(definitions, "---\n"),
	}, nil
}
