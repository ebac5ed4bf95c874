// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestModuleName(t *testing.T) {
	for file, want := range map[string]string{
		"kernel/net/8021q/8021q.ko":                     "8021q",
		"kernel/drivers/net/veth.ko.xz":                 "veth",
		"kernel/arch/x86/crypto/libblake2s-x86_64.ko":   "libblake2s_x86_64",
		"kernel/drivers/net/wireguard/wireguard.ko.zst": "wireguard",
	} {
		if got := moduleName(file); got != want {
			t.Errorf("%s: got %s, want %s", file, got, want)
		}
	}
}

// Here all modules are built in but one, which is nowhere.
func TestModulesSayWhatIsMissing(t *testing.T) {
	k := kernel{moduleDir: t.TempDir()}
	if err := os.Mkdir(filepath.Join(k.moduleDir, "kernel"), 0o755); err != nil {
		t.Fatal(err)
	}
	var builtin strings.Builder
	for _, w := range wanted {
		if w.name != "tun" {
			builtin.WriteString("kernel/net/" + w.name + ".ko\n")
		}
	}
	if err := os.WriteFile(filepath.Join(k.moduleDir, "modules.builtin"), []byte(builtin.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := k.modules(t.Context())
	if err == nil || !strings.Contains(err.Error(), "module tun is not below "+k.moduleDir) {
		t.Errorf("got %v, want an error about tun", err)
	}
}

func TestDependenciesAreReadFromTheModule(t *testing.T) {
	got, err := dependencies(object("license=GPL\x00depends=udp_tunnel,libcurve25519-generic\x00name=wireguard\x00"))
	if diff := cmp.Diff([]string{"udp_tunnel", "libcurve25519_generic"}, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if got, err := dependencies(object("depends=\x00name=veth\x00")); got != nil || err != nil {
		t.Errorf("got %v, %v, want none", got, err)
	}
	if _, err := dependencies([]byte("not an object")); err == nil {
		t.Error("what is no ELF file was accepted")
	}
}
