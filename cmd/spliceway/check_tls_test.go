// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spliceway/spliceway/testenv"
)

// TestCheckNamesBrokenFilesAndNoKey: check says which file of a termination is broken, and
// neither it nor routes says what is in a key.
func TestCheckNamesBrokenFilesAndNoKey(t *testing.T) {
	dir := t.TempDir()
	ca := testenv.MustCA(t)
	pair := func(name string) (keyFile string, key []byte) {
		t.Helper()
		c, err := ca.Certificate("shop.test")
		if err != nil {
			t.Fatal(err)
		}
		_, keyFile, err = testenv.WritePair(dir, name, c)
		if err != nil {
			t.Fatal(err)
		}
		if key, err = os.ReadFile(keyFile); err != nil {
			t.Fatal(err)
		}
		return keyFile, key
	}
	keyFile, key := pair("shop")
	_, other := pair("other")
	config := filepath.Join(dir, "spliceway.yaml")
	// Relative paths: from the file's directory.
	if err := os.WriteFile(config, []byte("endpoints:\n- name: shop\n  url: \"tls://shop.test:443\"\n  tlsTermination:\n    certificates: [{certFile: shop.crt, keyFile: shop.key}]\n  upstream: {url: \"tcp://127.0.0.1:1\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var secrets []string
	for _, k := range [][]byte{key, other} {
		block, _ := pem.Decode(k)
		secrets = append(secrets, strings.Split(string(k), "\n")[1][48:], hex.EncodeToString(block.Bytes[36:68]), fmt.Sprint(block.Bytes[36:68]))
	}
	tests := []struct {
		name   string
		key    []byte
		mode   os.FileMode
		status int
		says   string
	}{
		{"good", key, 0o600, 0, ""},
		{"others may read it", key, 0o644, 0, "may be read by every user"},
		{"of another certificate", other, 0o600, 1, "that of another certificate"},
		{"cut", key[:len(key)-10], 0o600, 1, "was it cut?"},
		{"broken", bytes.Replace(key, []byte("MI"), []byte("XX"), 1), 0o600, 1, "cannot be read"},
		{"empty", nil, 0o600, 1, "is empty"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := testenv.WriteFile(keyFile, tt.key); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(keyFile, tt.mode); err != nil {
				t.Fatal(err)
			}
			out, errs, status := output("check", config)
			if status != tt.status || !strings.Contains(errs, tt.says) || tt.says != "" && !strings.Contains(errs, keyFile) {
				t.Errorf("exit status %d, want %d, and %q of %s in %q", status, tt.status, tt.says, keyFile, errs)
			}
			if status != 0 && !strings.Contains(errs, config+":5:") {
				t.Errorf("the place in the configuration is not in %q", errs)
			}
			routes, more, _ := output("routes", "--config", config, "--json")
			if !strings.Contains(routes, `"terminate"`) {
				t.Errorf("routes says %q, %q", routes, more)
			}
			for _, secret := range secrets {
				if strings.Contains(out+errs+routes+more, secret) {
					t.Errorf("the key is in\n%s%s%s%s", out, errs, routes, more)
				}
			}
		})
	}
}

func TestCheckWarnsOfAnExpiredCertificate(t *testing.T) {
	dir := t.TempDir()
	c, err := testenv.MustCA(t).Issue(testenv.Leaf{Names: []string{"shop.test"}, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(-24 * time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile, err := testenv.WritePair(dir, "shop", c)
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "spliceway.yaml")
	text := fmt.Sprintf("endpoints:\n- name: shop\n  url: \"tls://shop.test:443\"\n  tlsTermination: {certificates: [{certFile: %q, keyFile: %q}]}\n  upstream: {url: \"tcp://127.0.0.1:1\"}\n", certFile, keyFile)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errs, status := output("check", config); status != 0 || !strings.Contains(errs, certFile+": the certificate has expired at ") {
		t.Errorf("exit status %d, %q", status, errs)
	}
}
