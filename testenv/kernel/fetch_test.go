// SPDX-License-Identifier: Apache-2.0

package main

import "testing"

func TestNewestKernelOfAVersion(t *testing.T) {
	names := []string{
		"linux-image-6.1.0-9-cloud-amd64", "linux-image-6.1.0-56-cloud-amd64", "linux-image-6.1.0-56-cloud-amd64-dbg",
		"linux-image-6.1.0-57-amd64", "linux-image-6.1.0-58-rt-amd64", "linux-image-6.1.0-59-cloud-arm64",
		"linux-image-6.12.9+deb12-cloud-amd64-unsigned", "linux-image-6.12.117+deb12-cloud-amd64-unsigned", "linux-image-6.12-cloud-amd64",
		"linux-image-6.13-cloud-amd64", "apt", "unpacking-1234",
	}
	for version, want := range map[string]string{
		"6.1":       "linux-image-6.1.0-56-cloud-amd64",
		"6.12":      "linux-image-6.12.117+deb12-cloud-amd64-unsigned",
		"6.12.9":    "linux-image-6.12.9+deb12-cloud-amd64-unsigned",
		"6.1.0-9":   "linux-image-6.1.0-9-cloud-amd64",
		"6":         "linux-image-6.12.117+deb12-cloud-amd64-unsigned",
		"6.11":      "",
		"6.13":      "",
		"6.1.0-56.": "",
	} {
		if got := newest(names, version); got != want {
			t.Errorf("%s: got %q, want %q", version, got, want)
		}
	}
}
