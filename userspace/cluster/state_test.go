// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/spliceway/spliceway/userspace/manifest"
)

const (
	routeJSON    = `{"apiVersion":"gateway.networking.k8s.io/v1alpha2","kind":"TLSRoute","metadata":{"namespace":"default","name":"r","managedFields":[{}],"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"x"}},"spec":{"hostnames":["a.example.com"]}}`
	secretJSON   = `{"apiVersion":"v1","kind":"Secret","metadata":{"namespace":"default","name":"s"},"data":{"tls.key":"a2V5"}}`
	endpointJSON = `{"apiVersion":"spliceway.dev/v1alpha1","kind":"AgentEndpoint","metadata":{"namespace":"default","name":"e"},"spec":{"url":"tls://a.example.com","upstream":{"url":"tcp://10.0.0.1:80"}}}`
	brokenJSON   = `{"apiVersion":"spliceway.dev/v1alpha1","kind":"AgentEndpoint","metadata":{"namespace":"default","name":"b"},"spec":{"url":7}}`
)

// readAll reads objects as watches do.
func readAll(t *testing.T, objects ...string) *manifest.Set {
	t.Helper()
	set := &manifest.Set{}
	ks := kinds(false)
	for _, text := range objects {
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON([]byte(text)); err != nil {
			t.Fatal(err)
		}
		for i := range ks {
			if ks[i].name == u.GetKind() {
				it := ks[i].read(u)
				if it.GetName() != u.GetName() {
					t.Errorf("an item without the object's name: %+v", it)
				}
				set.Problems = append(set.Problems, it.problems...)
				if it.object != nil {
					set.Objects = append(set.Objects, it.object)
				}
			}
		}
	}
	return set
}

func keys(set *manifest.Set) string {
	var all []string
	for _, o := range set.Objects {
		all = append(all, o.Key.String())
	}
	return strings.Join(all, ", ")
}

func TestReadTellsWhatIsWrong(t *testing.T) {
	set := readAll(t, routeJSON, brokenJSON, endpointJSON)
	if got := keys(set); got != "TLSRoute default/r, AgentEndpoint default/e" {
		t.Errorf("read %s", got)
	}
	if len(set.Problems) == 0 || !strings.Contains(set.Problems[0].Text(), "AgentEndpoint default/b") {
		t.Errorf("problems %v, want one of AgentEndpoint default/b", set.Problems)
	}
	if set.Objects[1].Node("spec", "url") == nil {
		t.Error("policies in endpoint objects have no node to be read from")
	}
}

func TestState(t *testing.T) {
	set := readAll(t, routeJSON, secretJSON, endpointJSON)
	for _, tt := range []struct {
		name    string
		secrets bool
		want    string
	}{
		{"without Secrets", false, "TLSRoute default/r, AgentEndpoint default/e"},
		{"with Secrets", true, "TLSRoute default/r, Secret default/s, AgentEndpoint default/e"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			data, err := encodeState(set, tt.secrets)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(data), "managedFields") || strings.Contains(string(data), "last-applied") {
				t.Errorf("it has what is for the API server only:\n%s", data)
			}
			file := filepath.Join(t.TempDir(), "state")
			if err := writeWhole(file, data); err != nil {
				t.Fatal(err)
			}
			if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
			}
			c := &Cluster{opts: Options{State: file}, kinds: kinds(false), log: slog.New(slog.DiscardHandler)}
			got := c.load()
			if got == nil || keys(got) != tt.want {
				t.Errorf("loaded %+v, want %s", got, tt.want)
			}
			// One byte of it, anywhere.
			for _, i := range []int{0, len(stateFormat) + 5, len(data) / 2, len(data) - 2} {
				bad := append([]byte(nil), data...)
				bad[i] ^= 1
				if set, err := c.decodeState(bad); err == nil {
					t.Errorf("damaged at byte %d, and read all the same: %s", i, keys(set))
				}
			}
			if _, err := c.decodeState(data[:len(data)/2]); err == nil {
				t.Error("cut in the middle, and read all the same")
			}
		})
	}
	c := &Cluster{opts: Options{State: filepath.Join(t.TempDir(), "none")}, log: slog.New(slog.DiscardHandler)}
	if c.load() != nil {
		t.Error("something was loaded from a file that is not there")
	}
}
