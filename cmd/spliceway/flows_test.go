// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
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
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spliceway/spliceway/testenv"
	"github.com/spliceway/spliceway/userspace/splice"
)

// patience is far more than any single step takes.
const patience = 30 * time.Second

// flowBed is an agent with an endpoint for each engine, and both ends of its flows.
type flowBed struct {
	t        *testing.T
	net      *testenv.Network
	bpffs    string
	config   string
	listener *net.TCPListener
	agent    *testenv.Process
}

const (
	flowGatewayPort = 9443
	flowPorts       = "40000-40999"
)

func newFlowBed(t *testing.T) *flowBed {
	t.Helper()
	testenv.CheckLeaks(t)
	b := &flowBed{t: t, net: testenv.MustNetwork(t, testenv.NetworkOptions{}), bpffs: filepath.Join(testenv.MustBPFFS(t), "state")}
	backend := netip.AddrPortFrom(b.net.Backends[0].IPv4(), 8443)
	var err error
	if b.listener, err = b.net.Backends[0].Listen(backend); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.listener.Close() })
	b.config = filepath.Join(t.TempDir(), "spliceway.yaml")
	text := fmt.Sprintf("engine: auto\nbpffs: %s\nsourcePorts: %s\nadmin: {address: off}\nlisten: [%s]\nendpoints:\n", b.bpffs, flowPorts, b.net.IPv4)
	for _, name := range []string{"packet", "splice"} {
		text += fmt.Sprintf("- {name: to-%s, engine: %s, url: \"tls://%s.test:%d\", upstream: {url: \"tcp://%s\"}}\n", name, name, name, flowGatewayPort, backend)
	}
	b.write(text)
	return b
}

// write replaces the agent's file as an editor does.
func (b *flowBed) write(text string) {
	b.t.Helper()
	if err := errors.Join(os.WriteFile(b.config+".new", []byte(text), 0o600), os.Rename(b.config+".new", b.config)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *flowBed) ctx() context.Context {
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	b.t.Cleanup(cancel)
	return ctx
}

// start runs the agent; it is ready when start returns.
func (b *flowBed) start() {
	b.t.Helper()
	b.agent = testenv.MustProcess(b.t, testenv.ProcessOptions{
		Namespace: b.net.Gateway, Path: "spliceway", Args: []string{"run", "--config", b.config},
		Env: append(os.Environ(), "GORACE=atexit_sleep_ms=0"),
	})
	if _, err := b.agent.WaitLine(b.ctx(), func(l string) bool { return strings.Contains(l, `"msg":"ready"`) }); err != nil {
		b.t.Fatal(err)
	}
}

// crash ends the agent without a chance to clean up.
func (b *flowBed) crash() {
	b.t.Helper()
	if err := b.agent.Signal(syscall.SIGKILL); err != nil {
		b.t.Fatal(err)
	}
	_ = b.agent.Wait(b.ctx()) // killed
}

// command runs the program beside the agent, and wants an exit status.
func (b *flowBed) command(want int, args ...string) (stdout, stderr string) {
	b.t.Helper()
	cmd := exec.CommandContext(b.ctx(), "spliceway", args...)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := b.net.Gateway.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	status := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		status = exit.ExitCode()
	} else if err != nil {
		b.t.Fatal(err)
	}
	if status != want {
		b.t.Fatalf("%q: exit status %d, want %d\n%s%s", args, status, want, &out, &errs)
	}
	return out.String(), errs.String()
}

// testFlow is a flow and what it has carried.
type testFlow struct {
	*testenv.Flow
	engine  string
	in, out int64
	half    bool // the client has closed its side
}

// open makes a flow of the engine and waits until the list has it as that.
func (b *flowBed) open(engine string) *testFlow {
	b.t.Helper()
	hello := testenv.MustHello(b.t, engine+".test", testenv.HelloOptions{Classical: true})
	flow, _, err := testenv.OpenFlow(b.ctx(), func(ctx context.Context) (*net.TCPConn, error) {
		return b.net.Clients[0].Dial(ctx, netip.AddrPortFrom(b.net.IPv4, flowGatewayPort))
	}, b.listener, hello)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = flow.Close() })
	f := &testFlow{Flow: flow, engine: engine, in: int64(len(hello))}
	b.wait(f, func(i splice.FlowInfo) bool { return i.Engine == engine })
	return f
}

// send moves bytes both ways.
func (b *flowBed) send(f *testFlow, up, down int) {
	b.t.Helper()
	for _, way := range []struct {
		from, to *net.TCPConn
		n        int
	}{{f.Client, f.Backend, up}, {f.Backend, f.Client, down}} {
		got := make([]byte, way.n)
		_ = way.to.SetReadDeadline(time.Now().Add(patience))
		_, err := way.from.Write(bytes.Repeat([]byte{'x'}, way.n))
		if err == nil {
			_, err = io.ReadFull(way.to, got)
		}
		if err != nil {
			b.t.Fatalf("flow of engine %s: %v", f.engine, err)
		}
	}
	f.in, f.out = f.in+int64(up), f.out+int64(down)
}

// list is what the list has, by the client's address.
func (b *flowBed) list(args ...string) map[string]splice.FlowInfo {
	b.t.Helper()
	out, _ := b.command(0, append([]string{"flows", "--json", "--bpffs", b.bpffs}, args...)...)
	var flows []splice.FlowInfo
	if err := json.Unmarshal([]byte(out), &flows); err != nil {
		b.t.Fatalf("%v in %s", err, out)
	}
	if !slices.IsSortedFunc(flows, func(x, y splice.FlowInfo) int { return x.Start.Compare(y.Start) }) {
		b.t.Errorf("not the oldest first: %s", out)
	}
	by := make(map[string]splice.FlowInfo, len(flows))
	for _, f := range flows {
		by[f.Client.String()] = f
	}
	if len(by) != len(flows) {
		b.t.Errorf("a flow is there twice: %s", out)
	}
	return by
}

// wait waits until the list has the flow as wanted.
func (b *flowBed) wait(f *testFlow, want func(splice.FlowInfo) bool) splice.FlowInfo {
	b.t.Helper()
	var last splice.FlowInfo
	if err := testenv.Poll(b.ctx(), func() (bool, error) {
		var ok bool
		last, ok = b.list()[f.Client.LocalAddr().String()]
		return ok && want(last), nil
	}); err != nil {
		b.t.Fatalf("the list has the flow of engine %s as %+v: %v\n%s", f.engine, last, err, b.agent.Log())
	}
	return last
}

// expectReset wants both ends reset.
func (b *flowBed) expectReset(flows ...*testFlow) {
	b.t.Helper()
	for _, f := range flows {
		if err := testenv.ExpectReset(f.Client, patience); err != nil {
			b.t.Errorf("client of a flow of engine %s: %v", f.engine, err)
		}
		var err error
		if !f.half {
			err = testenv.ExpectReset(f.Backend, patience)
		} else if err = testenv.Poll(b.ctx(), func() (bool, error) {
			// It has read the end: a reset shows when it writes (tcp_reset).
			_, err := f.Backend.Write([]byte{0})
			if errors.Is(err, syscall.EPIPE) {
				return true, nil
			}
			return false, err
		}); err != nil {
			err = fmt.Errorf("half-closed, write: %w", err)
		}
		if err != nil {
			b.t.Errorf("backend of a flow of engine %s: %v", f.engine, err)
		}
	}
}

// expectLine wants the flow's line, once, as that of one that was killed.
func (b *flowBed) expectLine(f *testFlow) {
	b.t.Helper()
	client := fmt.Sprintf(`"client":"%s"`, f.Client.LocalAddr())
	ours := func(l string) bool { return strings.Contains(l, `"msg":"connection"`) && strings.Contains(l, client) }
	l, err := b.agent.WaitLine(b.ctx(), ours)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, want := range []string{
		`"engine":"` + f.engine + `"`, `"end":"killed"`, `"closed_by":"agent"`, `"sni":"` + f.engine + `.test"`,
		fmt.Sprintf(`"bytes_in":%d,"bytes_out":%d,`, f.in, f.out),
	} {
		if !strings.Contains(l, want) {
			b.t.Errorf("no %s in the line %s", want, l)
		}
	}
}

func TestFlowsOfARunningAgent(t *testing.T) {
	b := newFlowBed(t)
	b.start()
	if out, _ := b.command(0, "flows", "--bpffs", b.bpffs); out != "0 flows\n" {
		t.Errorf("without flows: %q", out)
	}
	flows := []*testFlow{b.open("packet"), b.open("splice"), b.open("packet"), b.open("splice"), b.open("packet"), b.open("splice")}
	ids := make(map[*testFlow]string)
	for i, f := range flows {
		b.send(f, 5000+i, 70000+i)
		// The kernel counts what was acknowledged, which may take a moment.
		got := b.wait(f, func(l splice.FlowInfo) bool { return l.BytesIn == f.in && l.BytesOut == f.out })
		ids[f] = got.ID
		if got.Local.String() != f.Backend.RemoteAddr().String() || got.Upstream.String() != f.Backend.LocalAddr().String() ||
			got.Listener.String() != f.Client.RemoteAddr().String() || got.Endpoint != "to-"+f.engine || got.SNI != f.engine+".test" ||
			got.HalfClosed || got.Idle < 0 || got.Idle > got.Age+0.01 || got.Age > patience.Seconds() {
			t.Errorf("a flow of engine %s: %+v", f.engine, got)
		}
		hasPackets := got.PacketsIn > 0 && got.PacketsOut > 0
		if hasPackets != (f.engine == "packet") || (got.EngineReason == "configured") != (f.engine == "splice") {
			t.Errorf("packets or reason of a flow of engine %s: %+v", f.engine, got)
		}
	}
	if got := b.list("--endpoint", "to-splice"); len(got) != 3 {
		t.Errorf("--endpoint: %v", got)
	}
	if got := b.list("--engine", "packet"); len(got) != 3 {
		t.Errorf("--engine: %v", got)
	}
	if got := b.list("--engine", "packet", "--endpoint", "to-splice"); len(got) != 0 {
		t.Errorf("--engine and --endpoint: %v", got)
	}
	out, _ := b.command(0, "flows", "--bpffs", b.bpffs)
	t.Logf("\n%s", out)
	for f, id := range ids {
		if !strings.Contains(out, id) || !strings.Contains(out, fmt.Sprintf("%s → %s", f.Client.LocalAddr(), f.Client.RemoteAddr())) {
			t.Errorf("the table has no %s (%s):\n%s", id, f.Client.LocalAddr(), out)
		}
	}
	if !strings.Contains(out, "\n6 flows\n") {
		t.Errorf("the table has no sum:\n%s", out)
	}

	for _, f := range flows[:2] {
		if err := errors.Join(f.Client.CloseWrite(), testenv.ExpectEOF(f.Backend, patience)); err != nil {
			t.Fatal(err)
		}
		f.half = true
		b.wait(f, func(l splice.FlowInfo) bool { return l.HalfClosed })
	}

	// By ID, one of them of nobody's: the others end.
	out, stderr := b.command(1, "flows", "kill", "--bpffs", b.bpffs, ids[flows[0]], "no-such", ids[flows[1]])
	if out != "2 flows ended\n" || stderr != "spliceway: no such flow: no-such\n" {
		t.Errorf("kill by ID: %q, %q", out, stderr)
	}
	b.expectReset(flows[:2]...)
	b.expectLine(flows[0])
	b.expectLine(flows[1])
	if got := b.list(); len(got) != 4 {
		t.Errorf("after the end of two: %v", got)
	}
	b.send(flows[2], 10, 10) // untouched
	b.send(flows[3], 10, 10)
	// By endpoint, then all.
	if out, _ := b.command(0, "flows", "kill", "--bpffs", b.bpffs, "--endpoint", "to-packet"); out != "2 flows ended\n" {
		t.Errorf("kill by endpoint: %q", out)
	}
	b.expectReset(flows[2], flows[4])
	if out, _ := b.command(0, "flows", "kill", "--bpffs", b.bpffs, "--all"); out != "2 flows ended\n" {
		t.Errorf("kill all: %q", out)
	}
	b.expectReset(flows[3], flows[5])
	for _, f := range flows[2:] {
		b.expectLine(f)
	}
	if out, _ := b.command(0, "flows", "kill", "--bpffs", b.bpffs, "--all"); out != "0 flows ended\n" {
		t.Errorf("kill all of none: %q", out)
	}
	out, stderr = b.command(1, "unload", "--bpffs", b.bpffs)
	if out != "" || !strings.Contains(stderr, "stop the agent first") {
		t.Errorf("unload beside an agent: %q, %q", out, stderr)
	}
}

func TestFlowsWithoutAnAgent(t *testing.T) {
	b := newFlowBed(t)
	_, stderr := b.command(1, "flows", "--bpffs", b.bpffs)
	if want := "no agent is running here with state at " + b.bpffs + ", and there is none left"; !strings.Contains(stderr, want) {
		t.Errorf("with nothing there: %q, want %q", stderr, want)
	}
	if _, stderr = b.command(1, "flows", "kill", "--all", "--bpffs", b.bpffs); !strings.Contains(stderr, "no agent is running here") {
		t.Errorf("kill with nothing there: %q", stderr)
	}
	b.start()
	killed, goesOn, of := b.open("packet"), b.open("packet"), b.open("splice")
	b.send(killed, 100, 200)
	b.send(goesOn, 300, 400)
	id := b.wait(killed, func(l splice.FlowInfo) bool { return l.BytesIn == killed.in && l.BytesOut == killed.out }).ID
	b.crash()
	_ = of.Close() // died with the agent

	b.send(goesOn, 1000, 2000)
	b.wait(goesOn, func(l splice.FlowInfo) bool { return l.BytesIn == goesOn.in && l.BytesOut == goesOn.out })
	out, stderr := b.command(0, "flows", "--json", "--bpffs", b.bpffs)
	if strings.Count(out, `"id"`) != 2 || !strings.Contains(stderr, "no agent is running") {
		t.Errorf("the list of a dead agent's flows: %s, %q", out, stderr)
	}
	out, stderr = b.command(1, "flows", "kill", "--bpffs", b.bpffs, id, "no-such")
	if out != "1 flow ended\n" || !strings.Contains(stderr, "no such flow: no-such") {
		t.Errorf("kill by ID without an agent: %q, %q", out, stderr)
	}
	b.expectReset(killed)
	b.send(goesOn, 10, 20)
	if got := b.list(); len(got) != 1 {
		t.Errorf("after the end of one: %v", got)
	}

	// The next agent writes the line, and has the other flow.
	b.start()
	b.expectLine(killed)
	b.send(goesOn, 10, 20)
	b.wait(goesOn, func(l splice.FlowInfo) bool { return l.BytesIn == goesOn.in && l.BytesOut == goesOn.out })
	if n := strings.Count(b.agent.Log().String(), `"msg":"connection"`); n != 1 {
		t.Errorf("%d lines, want that of the killed flow alone:\n%s", n, b.agent.Log())
	}

	// A line that was written is not written again.
	b.crash()
	b.start()
	b.wait(goesOn, func(l splice.FlowInfo) bool { return l.BytesIn == goesOn.in && l.BytesOut == goesOn.out })
	if strings.Contains(b.agent.Log().String(), `"msg":"connection"`) {
		t.Errorf("a line for the second time:\n%s", b.agent.Log())
	}

	b.crash()
	if got := b.reserved(); got != flowPorts {
		t.Errorf("reserved ports of an agent: %q, want %q", got, flowPorts)
	}
	out, _ = b.command(0, "unload", "--config", b.config)
	if want := fmt.Sprintf("unloaded: 1 flow ended, %s is gone, source ports %s are free\n", b.bpffs, flowPorts); out != want {
		t.Errorf("unload: %q, want %q", out, want)
	}
	b.expectReset(goesOn)
	if got := b.reserved(); got != "" {
		t.Errorf("reserved ports after unload: %q", got)
	}
	if _, err := os.Stat(b.bpffs); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after unload %s: %v", b.bpffs, err)
	}
	if out, _ = b.command(0, "unload", "--bpffs", b.bpffs, "--source-ports", flowPorts); !strings.HasPrefix(out, "nothing to unload: there is no "+b.bpffs) {
		t.Errorf("a second unload: %q", out)
	}
	b.start()
	b.send(b.open("packet"), 10, 20)
}

// An agent that stops gives the kernel's flows up at once, and may wait long for the
// others: what it has given up can be seen and ended all the same.
func TestFlowsOfAnAgentThatDrains(t *testing.T) {
	b := newFlowBed(t)
	b.start()
	given, kept := b.open("packet"), b.open("splice")
	b.send(given, 100, 200)
	id := b.wait(given, func(l splice.FlowInfo) bool { return l.BytesIn == given.in && l.BytesOut == given.out }).ID
	if err := b.agent.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _, err := b.agent.WaitLine(b.ctx(), func(l string) bool { return strings.Contains(l, `"msg":"draining"`) }); err != nil {
		t.Fatal(err)
	}
	if got := b.list(); len(got) != 2 {
		t.Errorf("while the agent drains: %v", got)
	}
	if out, _ := b.command(0, "flows", "kill", "--bpffs", b.bpffs, id); out != "1 flow ended\n" {
		t.Errorf("kill: %q", out)
	}
	b.expectReset(given)
	if err := errors.Join(kept.Client.Close(), kept.Backend.Close(), b.agent.Wait(b.ctx())); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.agent.Log().String(), given.Client.LocalAddr().String()) {
		b.start() // the line is the next one's, unless the flow had not been given up yet
	}
	b.expectLine(given)
}

// A reload may be what opens engine packet: endpoints that are there have it from then
// on, and commands see its flows.
func TestFlowsAfterAReload(t *testing.T) {
	b := newFlowBed(t)
	text, err := os.ReadFile(b.config)
	if err != nil {
		t.Fatal(err)
	}
	b.write(strings.NewReplacer("engine: auto", "engine: splice", "engine: packet", "engine: splice").Replace(string(text)))
	b.start()
	if got := b.list(); len(got) != 0 {
		t.Errorf("without flows: %v", got)
	}
	b.write(string(text))
	if _, err := b.agent.WaitLine(b.ctx(), func(l string) bool { return strings.Contains(l, `"msg":"configuration loaded"`) }); err != nil {
		t.Fatal(err)
	}
	f := b.open("packet")
	if out, _ := b.command(0, "flows", "kill", "--bpffs", b.bpffs, "--all"); out != "1 flow ended\n" {
		t.Errorf("kill: %q", out)
	}
	b.expectReset(f)
	b.expectLine(f)
}

// reserved is the gateway's net.ipv4.ip_local_reserved_ports.
func (b *flowBed) reserved() string {
	b.t.Helper()
	var text []byte
	if err := b.net.Gateway.Do(func() (err error) {
		text, err = os.ReadFile("/proc/sys/net/ipv4/ip_local_reserved_ports")
		return err
	}); err != nil {
		b.t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}
