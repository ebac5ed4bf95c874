// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strconv"

	"go.yaml.in/yaml/v3"
)

// path is a key's way from the root, which is nil. It is made for every key
// and turned into text only for those that are wrong.
type path struct {
	parent *path
	name   string // of a mapping's key; empty for a list's element
	index  int
}

func (p *path) key(name string) *path   { return &path{parent: p, name: name} }
func (p *path) element(index int) *path { return &path{parent: p, index: index} }

func (p *path) String() string {
	switch {
	case p == nil:
		return ""
	case p.name == "":
		return p.parent.String() + "[" + strconv.Itoa(p.index) + "]"
	case p.parent == nil:
		return p.name
	}
	return p.parent.String() + "." + p.name
}

// find returns the path's node below root, or the nearest above it that the
// file has, and whether it is the path's own.
func (p *path) find(root *yaml.Node) (*yaml.Node, bool) {
	if p == nil {
		return root, true
	}
	node, ok := p.parent.find(root)
	if !ok {
		return node, false
	}
	switch {
	case p.name != "" && node.Kind == yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			if node.Content[i].Value == p.name {
				return node.Content[i+1], true
			}
		}
	case p.name == "" && node.Kind == yaml.SequenceNode && p.index < len(node.Content):
		return node.Content[p.index], true
	}
	return node, false
}
