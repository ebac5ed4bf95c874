// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// wanted are the modules that tests use, directly or by a rule of the kernel that
// would load them, each with its options. What a kernel has built in is skipped.
var wanted = []struct{ name, options string }{
	{"veth", ""}, {"bridge", ""}, {"bonding", "max_bonds=0"}, {"8021q", ""}, {"tun", ""}, {"dummy", "numdummies=0"},
	{"ipip", ""}, {"ip6_tunnel", ""}, {"wireguard", ""},
	{"sch_netem", ""}, {"sch_ingress", ""}, {"cls_bpf", ""},
	{"tcp_bbr", ""}, {"tcp_diag", ""}, {"tls", ""},
}

type module struct {
	name, options string
	content       []byte // the object, decompressed
}

// modules returns what is wanted and what that depends on, in an order in which it
// can be loaded. modules.dep, which says the same, is only made on installation.
func (k *kernel) modules(ctx context.Context) ([]module, error) {
	found, err := k.moduleFiles()
	if err != nil {
		return nil, err
	}
	builtin, err := os.ReadFile(filepath.Join(k.moduleDir, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	var list []module
	var add func(name, options string) error
	add = func(name, options string) error {
		has := func(m module) bool { return m.name == name }
		if slices.ContainsFunc(list, has) {
			return nil
		}
		file, ok := found[name]
		if !ok {
			if slices.ContainsFunc(strings.Fields(string(builtin)), func(f string) bool { return moduleName(f) == name }) {
				return nil
			}
			return fmt.Errorf("module %s is not below %s", name, k.moduleDir)
		}
		content, err := readModule(ctx, file)
		if err != nil {
			return err
		}
		needs, err := dependencies(content)
		if err != nil {
			return fmt.Errorf("module %s: %w", file, err)
		}
		for _, n := range needs {
			if err := add(n, ""); err != nil {
				return fmt.Errorf("needed by %s: %w", name, err)
			}
		}
		list = append(list, module{name, options, content})
		return nil
	}
	for _, w := range wanted {
		if err := add(w.name, w.options); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// moduleFiles returns the path of each module by its name.
func (k *kernel) moduleFiles() (map[string]string, error) {
	found := make(map[string]string)
	err := filepath.WalkDir(filepath.Join(k.moduleDir, "kernel"), func(file string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			found[moduleName(file)] = file
		}
		return err
	})
	return found, err
}

// moduleName is what the kernel calls the module in file: net/8021q/8021q.ko.xz is
// 8021q, and a dash is an underscore.
func moduleName(file string) string {
	name, _, _ := strings.Cut(filepath.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

func readModule(ctx context.Context, file string) ([]byte, error) {
	if strings.HasSuffix(file, ".xz") {
		content, err := output(ctx, "", "xz", "--decompress", "--stdout", file)
		return []byte(content), err
	}
	return os.ReadFile(file)
}

// dependencies reads section .modinfo, as modinfo(8).
func dependencies(content []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("no section .modinfo")
	}
	data, err := section.Data()
	if err != nil {
		return nil, err
	}
	for line := range strings.SplitSeq(string(data), "\x00") {
		if list, ok := strings.CutPrefix(line, "depends="); ok && list != "" {
			return strings.Split(strings.ReplaceAll(list, "-", "_"), ","), nil
		}
	}
	return nil, nil
}
