// SPDX-License-Identifier: Apache-2.0

package certificate

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/spliceway/spliceway/testenv"
)

// inMemory is a pair that is in no file.
func (b *bed) inMemory(l testenv.Leaf) Source {
	b.t.Helper()
	files, _ := b.pair("memory", l)
	s := Source{Where: "Secret a/b at f.yaml:3:1"}
	var err error
	if s.CertPEM, err = os.ReadFile(files.CertFile); err != nil {
		b.t.Fatal(err)
	}
	if s.KeyPEM, err = os.ReadFile(files.KeyFile); err != nil {
		b.t.Fatal(err)
	}
	for _, f := range []string{files.CertFile, files.KeyFile} {
		if err := os.Remove(f); err != nil {
			b.t.Fatal(err)
		}
	}
	return s
}

func TestPairFromMemory(t *testing.T) {
	b := newBed(t)
	memory := b.inMemory(testenv.Leaf{Names: []string{"a.test"}})
	file, _ := b.pair("b", testenv.Leaf{Names: []string{"b.test"}})
	s := b.set(memory, file)
	if got := s.Files(); len(got) != 2 || got[0] != file.CertFile {
		t.Errorf("Files = %q", got)
	}
	before, err := s.Get(modern("a.test"))
	if err != nil || before.Leaf.DNSNames[0] != "a.test" {
		t.Fatalf("got %v, %v", before, err)
	}
	if err := s.Reload(); err != nil {
		t.Fatal(err)
	}
	if after, _ := s.Get(modern("a.test")); after != before {
		t.Error("Reload exchanges it")
	}
	if got := s.List()[0].Origin; got != memory.Where {
		t.Errorf("origin %q", got)
	}
	if got := s.Warnings(); len(got) != 0 {
		t.Errorf("warnings %q", got)
	}
	together := Source{CertPEM: append(bytes.Clone(memory.CertPEM), memory.KeyPEM...), Where: memory.Where}
	b.set(together)
}

func TestPairFromMemoryIsRefused(t *testing.T) {
	b := newBed(t)
	good, other := b.inMemory(testenv.Leaf{Names: []string{"a.test"}}), b.inMemory(testenv.Leaf{Names: []string{"a.test"}})
	broken := bytes.Replace(good.KeyPEM, []byte("M"), []byte("A"), 1) // the first byte of DER
	for _, tt := range []struct {
		name      string
		cert, key []byte
		want      string
	}{
		{"no certificate", nil, good.KeyPEM, "the certificate is empty, expected PEM"},
		{"empty key", good.CertPEM, []byte{}, "the private key is empty, expected PEM"},
		{"no key", good.CertPEM, nil, "key: found no private key in it"},
		{"key for a certificate", good.KeyPEM, good.KeyPEM, "certificate: found no certificate in it"},
		{"another key", good.CertPEM, other.KeyPEM, "certificate: the private key in key is that of another certificate"},
		{"no PEM", []byte("x"), good.KeyPEM, "certificate: found no PEM"},
		{"broken key", good.CertPEM, broken, "key: the private key ("},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := NewSet([]Source{{CertPEM: tt.cert, KeyPEM: tt.key, Where: "Secret a/b"}}, quiet())
			if err == nil || !strings.HasPrefix(err.Error(), "Secret a/b: "+tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			for line := range bytes.Lines(good.KeyPEM) {
				if line = bytes.TrimSpace(line); !bytes.HasPrefix(line, []byte("---")) && strings.Contains(err.Error(), string(line)) {
					t.Errorf("the key is in the error: %v", err)
				}
			}
		})
	}
}
