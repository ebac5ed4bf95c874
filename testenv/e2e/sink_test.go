// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv"
)

// sinkAgent runs an agent whose standard output and error are pipes that the test
// holds. Its one endpoint leads nowhere, so each connection is a line of the log.
func sinkAgent(t *testing.T, n *testenv.Network) (cmd *exec.Cmd, stdout, stderr *os.File) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "spliceway.yaml")
	// No connection becomes a flow; the host's own state is none of a test's.
	config := "admin: {address: off}\nengine: splice\nendpoints:\n" + endpoint("a", sni("a.test"), netip.AddrPortFrom(n.Backends[0].IPv4(), 1))
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	pipe := func() (r, w *os.File) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Close() })
		// Full after a few lines.
		if _, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 4096); err != nil {
			t.Fatal(err)
		}
		return r, w
	}
	stdout, out := pipe()
	stderr, errw := pipe()
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), configVariable+"="+file, "GORACE=atexit_sleep_ms=0")
	cmd.Stdout, cmd.Stderr = out, errw
	if err := n.Gateway.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	_, _ = out.Close(), errw.Close()
	lines := bufio.NewReader(stderr)
	for {
		l, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("the agent is not ready: %v", err)
		}
		if strings.Contains(l, `"msg":"ready"`) {
			return cmd, stdout, stderr
		}
	}
}

// sinkConnect makes a connection that fails to be dialled, to its end.
func sinkConnect(t *testing.T, n *testenv.Network) {
	t.Helper()
	c, err := n.Clients[0].Dial(short(t), netip.AddrPortFrom(n.IPv4, gatewayPort))
	if err != nil {
		t.Fatalf("the agent is gone: %v", err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write(testenv.MustHello(t, "a.test", testenv.HelloOptions{})); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, net.Conn(c)); err != nil {
		t.Fatalf("want the agent's FIN: %v", err)
	}
}

// sinkStops sends SIGTERM and wants the agent's orderly end.
func sinkStops(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(patience):
		t.Error("it does not end")
	}
}

func TestALogReaderThatGoesAwayCostsLinesOnly(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	cmd, stdout, stderr := sinkAgent(t, n)
	_, _ = stdout.Close(), stderr.Close()
	for range 3 {
		sinkConnect(t, n)
		if err := cmd.Process.Signal(syscall.SIGHUP); err != nil { // a line on standard error
			t.Fatal(err)
		}
	}
	sinkStops(t, cmd)
}

func TestALogThatNobodyReadsCostsLinesOnly(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	cmd, _, _ := sinkAgent(t, n)
	for i := range 40 { // some 10 KB of lines into pipes of 4 KB
		sinkConnect(t, n)
		if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(fmt.Errorf("connection %d: %w", i, err))
		}
	}
	sinkStops(t, cmd)
}
