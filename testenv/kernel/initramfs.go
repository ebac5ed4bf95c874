// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"

	"github.com/spliceway/spliceway/testenv/kernel/guest"
)

// Small files that libraries look for: without them "localhost" is asked of a
// name server.
var etc = map[string]string{
	"/etc/hosts":    "127.0.0.1 localhost\n::1 localhost\n",
	"/etc/passwd":   "root:x:0:0:root:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/sh\n",
	"/etc/group":    "root:x:0:\nnogroup:x:65534:\n",
	"/etc/hostname": "kernel\n",
}

// buildInitramfs writes the guest's file system: init, modules, tests and the plan.
func buildInitramfs(ctx context.Context, file string, k *kernel, t *tests) (err error) {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	out := bufio.NewWriter(f)
	a := newArchive(out)
	var plan guest.Plan

	// The kernel opens it for init before anything is mounted.
	if err := a.entry("dev/console", typeCharacter|0o600, 5, 1, 0, nil); err != nil {
		return err
	}
	if err := a.file("init", t.init, 0o755); err != nil {
		return err
	}
	if err := a.text("bin/readlink", typeSymlink|0o777, "/init"); err != nil {
		return err
	}
	for name, content := range etc {
		if err := a.text(name[1:], typeRegular|0o644, content); err != nil {
			return err
		}
	}
	modules, err := k.modules(ctx)
	if err != nil {
		return err
	}
	for _, m := range modules {
		name := "/modules/" + m.name + ".ko"
		if err := a.text(name[1:], typeRegular|0o644, string(m.content)); err != nil {
			return err
		}
		plan.Modules = append(plan.Modules, guest.Module{File: name, Options: m.options})
	}
	for _, p := range t.packages {
		plan.Packages = append(plan.Packages, p.Package)
		if err := a.file(p.Binary[1:], p.binary, 0o755); err != nil {
			return err
		}
		if err := a.directory(p.Dir[1:]); err != nil {
			return err
		}
		err := p.files(func(guestName, from string) error { return a.file(guestName[1:], from, 0o644) })
		if err != nil {
			return err
		}
	}
	data, err := json.Marshal(plan)
	if err != nil {
		return err
	}
	if err := a.text(guest.PlanFile[1:], typeRegular|0o644, string(data)); err != nil {
		return err
	}
	return errors.Join(a.close(), out.Flush())
}

// text adds a file, or a symbolic link, by its content.
func (a *archive) text(name string, mode uint32, content string) error {
	return a.entry(name, mode, 0, 0, int64(len(content)), strings.NewReader(content))
}
