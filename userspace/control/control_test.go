// SPDX-License-Identifier: Apache-2.0

package control

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/spliceway/spliceway/userspace/splice"
)

// serve serves flows under a name of the test's own until its end.
func serve(t *testing.T, flows ...splice.FlowInfo) (bpffs string) {
	t.Helper()
	bpffs = t.TempDir() // taken for its name
	s, err := Listen(bpffs, Flows{
		List: func() []splice.FlowInfo { return flows },
		Kill: func(match func(*splice.FlowInfo) bool) (n int) {
			for i := range flows {
				if match(&flows[i]) {
					n++
				}
			}
			return n
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return bpffs
}

func TestFlowsAreListedAndSelected(t *testing.T) {
	flows := []splice.FlowInfo{{ID: "x-1", Endpoint: "a", BytesIn: 1 << 40}, {ID: "x-2", Endpoint: "a"}, {ID: "x-3", Endpoint: "b", HalfClosed: true}}
	bpffs := serve(t, flows...)
	c := NewClient(bpffs)
	got, err := c.List(t.Context())
	if diff := cmp.Diff(flows, got, cmpopts.IgnoreTypes(flows[0].Client)); diff != "" || err != nil {
		t.Error(diff, err)
	}
	for _, tt := range []struct {
		s    Selection
		want int
	}{
		{Selection{}, 0}, {Selection{All: true}, 3}, {Selection{Endpoint: "a"}, 2}, {Selection{Endpoint: "c"}, 0},
		{Selection{IDs: []string{"x-3", "x-4"}}, 1}, {Selection{IDs: []string{"x-3"}, Endpoint: "a"}, 3},
	} {
		if n, err := c.Kill(t.Context(), tt.s); err != nil || n != tt.want {
			t.Errorf("%+v: %d, %v, want %d", tt.s, n, err, tt.want)
		}
	}
	if _, err := Listen(bpffs, Flows{}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second agent: %v", err)
	}
}

func TestNobodyIsThere(t *testing.T) {
	if _, err := NewClient(t.TempDir()).List(t.Context()); !errors.Is(err, ErrNoAgent) {
		t.Errorf("got %v", err)
	}
}

func TestWhatIsNoRequest(t *testing.T) {
	c := NewClient(serve(t))
	res, err := c.http.Post("http://agent/flows/kill", "application/json", strings.NewReader("{")) //nolint:noctx // it has a timeout
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	if res.StatusCode != http.StatusBadRequest {
		t.Errorf("got %s", res.Status)
	}
}

// Another user is not answered. It is this test again, as nobody.
func TestOthersAreNotAnswered(t *testing.T) {
	const child = "CONTROL_TEST_AS_NOBODY"
	if bpffs := os.Getenv(child); bpffs != "" {
		_, err := NewClient(bpffs).List(t.Context())
		fmt.Println("--- said:", err)
		t.SkipNow() // the rest is the parent's
	}
	if os.Geteuid() != 0 {
		t.Fatal("this test becomes another user: run it as root (sudo make test)")
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$")
	cmd.Dir, cmd.Env = "/", append(os.Environ(), child+"="+serve(t, splice.FlowInfo{ID: "secret"}))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "run the command as root, or as the agent's user") || strings.Contains(string(out), "secret") {
		t.Errorf("%v: %s", err, out)
	}
}
