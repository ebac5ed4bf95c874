// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"errors"
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

	"github.com/spliceway/spliceway/testenv"
	agentsocket "github.com/spliceway/spliceway/userspace/control"
	"github.com/spliceway/spliceway/userspace/packet"
	"github.com/spliceway/spliceway/userspace/splice"
)

// askVariable in the environment turns the test binary into a client of the agent that
// has its state there: the agent's socket belongs to a network namespace, and so does
// whoever asks.
const askVariable = "SPLICEWAY_TEST_ASK"

// ask prints the flows, or ends those of an endpoint, as spliceway flows does.
func ask(bpffs string, args []string) {
	client := agentsocket.NewClient(bpffs)
	var answer any
	var err error
	if len(args) > 0 && args[0] == "kill" {
		s := agentsocket.Selection{Endpoint: args[1]}
		answer, err = client.Kill(context.Background(), s)
		if errors.Is(err, agentsocket.ErrNoAgent) {
			answer, err = packet.KillPinned(bpffs, s.Has)
		}
	} else {
		answer, err = client.List(context.Background())
		if errors.Is(err, agentsocket.ErrNoAgent) {
			answer, err = packet.ListPinned(bpffs)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_ = json.NewEncoder(os.Stdout).Encode(answer)
	os.Exit(0)
}

func asked(t *testing.T, n *testenv.Network, bpffs string, answer any, args ...string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), askVariable+"="+bpffs)
	var out, complaint strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := n.Gateway.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, &complaint)
	}
	if err := json.Unmarshal([]byte(out.String()), answer); err != nil {
		t.Fatalf("%v in %q", err, &out)
	}
}

// TestPacketFlowsAreListedAndKilled with an agent, and without one.
func TestPacketFlowsAreListedAndKilled(t *testing.T) {
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	l, target := listenOn(t, n.Backends[0])
	state := filepath.Join(testenv.MustBPFFS(t), "state")
	config := "log: {access: true}\nengine: packet\nbpffs: " + state + "\nendpoints:\n" +
		endpoint("a", sni("a.test"), target) + endpoint("b", sni("b.test"), target, "engine: splice") + endpoint("c", sni("c.test"), target)
	r := start(t, n, config)
	flows := make(map[string]*testenv.Flow)
	say := func(name string) { // a message there and back
		t.Helper()
		f := flows[name]
		for _, way := range [][2]*net.TCPConn{{f.Backend, f.Client}, {f.Client, f.Backend}} {
			if _, err := way[0].Write([]byte("message")); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len("message"))
			if _, err := io.ReadFull(way[1], got); err != nil || string(got) != "message" {
				t.Fatalf("%s: got %q, %v", name, got, err)
			}
		}
	}
	for _, name := range []string{"a.test", "b.test", "c.test"} {
		flows[name] = r.open(n.Clients[0], l, name)
		say(name)
	}
	list := func() map[string]splice.FlowInfo {
		t.Helper()
		var all []splice.FlowInfo
		asked(t, n, state, &all, "list")
		by := make(map[string]splice.FlowInfo)
		for _, f := range all {
			by[f.SNI] = f
		}
		return by
	}
	kill := func(endpoint string) (killed int) {
		t.Helper()
		asked(t, n, state, &killed, "kill", endpoint)
		return killed
	}
	expect := func(name, engine string, said int) {
		t.Helper()
		flow := flows[name]
		var f, want splice.FlowInfo
		// Bytes of packet are those that were acknowledged, which takes a moment.
		if err := testenv.Poll(short(t), func() (bool, error) {
			f = list()[name]
			want = f
			want.Engine, want.Endpoint, want.SNI, want.EngineReason, want.HalfClosed = engine, name[:1], name, "", false
			want.Client, want.Listener, want.Local, want.Upstream = addrOf(flow.Client.LocalAddr()), opsGateway(n), addrOf(flow.Backend.RemoteAddr()), target
			want.BytesIn, want.BytesOut = int64(len(hello(t, name))+7*said), int64(7*said)
			if engine == "splice" {
				want.EngineReason = "configured"
			}
			return f == want && f.ID != "" && f.Age > 0 && f.Idle <= f.Age && (f.PacketsIn > 0) == (engine == "packet"), nil
		}); err != nil {
			t.Errorf("got\n%+v, want\n%+v", f, want)
		}
	}
	expect("a.test", "packet", 1)
	expect("b.test", "splice", 1)
	if n := len(list()); n != 3 {
		t.Errorf("%d flows, want 3", n)
	}

	if n := kill("b"); n != 1 {
		t.Errorf("%d killed, want 1", n)
	}
	if n := kill("nobody"); n != 0 {
		t.Errorf("%d killed, want none", n)
	}
	if n := kill("c"); n != 1 {
		t.Errorf("%d killed, want 1", n)
	}
	gone := func(name string, r *run) {
		t.Helper()
		for _, c := range []*net.TCPConn{flows[name].Client, flows[name].Backend} {
			if err := testenv.ExpectReset(c, patience); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		r.expectLine(flows[name].Client.LocalAddr(), map[string]any{"end": "killed", "closed_by": "agent", "sni": name})
	}
	gone("b.test", r)
	gone("c.test", r)

	// Nothing of a second agent touches the first one's state.
	if err := launch(t, n, config).Wait(short(t)); err == nil {
		t.Error("two agents have the same state")
	}
	say("a.test")
	expect("a.test", "packet", 2)

	// Without an agent.
	if err := r.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = r.Wait(short(t))
	say("a.test")
	expect("a.test", "packet", 3)
	if n := kill("a"); n != 1 {
		t.Errorf("%d killed, want 1", n)
	}
	if n := len(list()); n != 0 {
		t.Errorf("%d flows, want none", n)
	}
	gone("a.test", start(t, n, config))
}

func addrOf(a net.Addr) netip.AddrPort { return a.(*net.TCPAddr).AddrPort() }
