// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv"
)

// terminatedKinds are what a terminated flow may be: in the clear or in TLS to the
// upstream, with either version.
func terminatedKinds(t *testing.T, o testenv.NetworkOptions, more string, run func(t *testing.T, s *termSite, r *run, l *net.TCPListener, client, server *tls.Config)) {
	t.Helper()
	ofSplice(t, "terminated flows have the engine relay")
	for _, secure := range []bool{false, true} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			scheme := map[bool]string{false: "tcp", true: "tls"}[secure]
			t.Run(scheme+", "+tls.VersionName(version), func(t *testing.T) {
				testenv.CheckLeaks(t)
				s := newTermSite(t, o)
				l, at := listenOn(t, s.Backends[0])
				upstream := tcp(at)
				var server *tls.Config
				if secure {
					upstream = fmt.Sprintf("{url: \"tls://%s\", tls: {caFile: %q, serverName: up.test}}", at, s.caFile)
					server = &tls.Config{Certificates: []tls.Certificate{s.issue(testenv.Leaf{Names: []string{"up.test"}})}, MaxVersion: version}
				}
				r := start(t, s.Network, "endpoints:\n"+s.terminating("shop", upstream)+more)
				client := s.config("shop")
				client.MaxVersion = version
				run(t, s, r, l, client, server)
			})
		}
	}
}

func TestTerminatedBytesArriveAsTheyWereSent(t *testing.T) {
	terminatedKinds(t, testenv.NetworkOptions{}, "", func(t *testing.T, s *termSite, r *run, l *net.TCPListener, client, server *tls.Config) {
		for i, size := range [][2]int64{{0, 0}, {1, 1}, {16383, 16385}, {16384, 65536}, {5 << 20, 7 << 20}} {
			c, b := r.termFlow(s, l, client, server)
			if err := testenv.ExchangePair(short(t), c, b, uint64(i), size[0], size[1]); err != nil {
				t.Errorf("%v: %v", size, err)
			}
			want := map[string]any{
				"engine": "relay", "outcome": "routed", "end": "eof", "bytes_in": float64(size[0]), "bytes_out": float64(size[1]),
				"tls_version": strings.TrimPrefix(tls.VersionName(client.MaxVersion), "TLS "),
			}
			if server != nil {
				want["upstream_tls_version"] = want["tls_version"]
			}
			r.expectLine(c.LocalAddr(), want)
			_ = c.Close()
			_ = b.Close()
		}
		if got, want := r.metric(`bytes_total{direction="in",endpoint="shop"}`), float64(1+16383+16384+(5<<20)); got != want {
			t.Errorf("bytes in: %v, want %v", got, want)
		}
	})
}

// TestTerminatedBytesUnderFaults: many flows at once over links that lose and double
// packets.
func TestTerminatedBytesUnderFaults(t *testing.T) {
	terminatedKinds(t, testenv.NetworkOptions{}, "", func(t *testing.T, s *termSite, r *run, l *net.TCPListener, client, server *tls.Config) {
		for _, h := range []*testenv.Host{s.Clients[0], s.Backends[0]} {
			for _, d := range []*testenv.Device{h.Device, h.Uplink} {
				if err := d.Impair(testenv.Impairment{Loss: 0.01, Duplicate: 0.01}); err != nil {
					t.Fatal(err)
				}
			}
		}
		var wg sync.WaitGroup
		for i := range 8 {
			c, b := r.termFlow(s, l, client, server)
			wg.Go(func() {
				if err := testenv.ExchangePair(short(t), c, b, uint64(i), int64(i)*100_000, 1<<20); err != nil {
					t.Errorf("flow %d: %v", i, err)
				}
				_ = c.Close()
				_ = b.Close()
			})
		}
		wg.Wait()
	})
}

// TestTerminatedServerSpeaksFirst, and a client that sends with its Finished.
func TestTerminatedServerSpeaksFirst(t *testing.T) {
	terminatedKinds(t, testenv.NetworkOptions{}, "", func(t *testing.T, s *termSite, r *run, l *net.TCPListener, client, server *tls.Config) {
		c, b := r.termFlow(s, l, client, server)
		if _, err := b.Write([]byte("220 ready")); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 9)
		if _, err := io.ReadFull(c, got); err != nil || string(got) != "220 ready" {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

func TestTerminatedEnds(t *testing.T) {
	terminatedKinds(t, testenv.NetworkOptions{}, "", func(t *testing.T, s *termSite, r *run, l *net.TCPListener, client, server *tls.Config) {
		t.Run("a client without a goodbye", func(t *testing.T) {
			c, b := r.termFlow(s, l, client, server)
			if _, err := c.Write([]byte("half a sen")); err != nil {
				t.Fatal(err)
			}
			_ = rawOf(c).CloseWrite()
			got, err := io.ReadAll(b)
			if string(got) != "half a sen" || !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("the backend got %q, %v, want a reset after it", got, err)
			}
			r.expectLine(c.LocalAddr(), map[string]any{"end": "truncated", "closed_by": "client"})
		})
		if server != nil {
			t.Run("an upstream without a goodbye", func(t *testing.T) {
				c, b := r.termFlow(s, l, client, server)
				if _, err := b.Write([]byte("half a sen")); err != nil {
					t.Fatal(err)
				}
				_ = rawOf(b).Close()
				got, err := io.ReadAll(c)
				if string(got) != "half a sen" || err == nil {
					t.Errorf("the client got %q, %v, want an error after it", got, err)
				}
				r.expectLine(c.LocalAddr(), map[string]any{"end": "truncated", "closed_by": "upstream"})
			})
		}
		t.Run("a reset by the upstream", func(t *testing.T) {
			c, b := r.termFlow(s, l, client, server)
			flows(t, c, b)
			_ = rawOf(b).SetLinger(0)
			_ = rawOf(b).Close()
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("the client got %v, want a reset", err)
			}
			r.expectLine(c.LocalAddr(), map[string]any{"end": "reset", "closed_by": "upstream"})
		})
		t.Run("garbage", func(t *testing.T) {
			c, b := r.termFlow(s, l, client, server)
			if _, err := rawOf(c).Write([]byte("\x17\x03\x03\x00\x20 this is no record of this session")); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(b); len(got) > 0 || !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("the backend got %q, %v, want a reset", got, err)
			}
			r.expectLine(c.LocalAddr(), map[string]any{"end": "tls_error", "closed_by": "client"})
		})
	})
}

func TestTerminatedFlowsInListsAndAtTheStop(t *testing.T) {
	testenv.CheckLeaks(t)
	s := newTermSite(t, testenv.NetworkOptions{})
	l, at := listenOn(t, s.Backends[0])
	state := testenv.MustBPFFS(t) + "/state"
	r := start(t, s.Network, "endpoints:\n"+s.terminating("shop", tcp(at))+s.terminating("slow", tcp(at))+
		"bpffs: "+state+"\ntimeouts: {drain: 100ms}\n")
	c, b := r.termFlow(s, l, s.config("shop"), nil)
	flows(t, c, b)
	var all []struct{ ID, Engine, Endpoint string }
	asked(t, s.Network, state, &all, "list")
	if len(all) != 1 || all[0].Engine != "relay" || all[0].Endpoint != "shop" {
		t.Errorf("flows: %+v", all)
	}
	var killed any
	asked(t, s.Network, state, &killed, "kill", "shop")
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("got %v, want a reset", err)
	}
	r.expectLine(c.LocalAddr(), map[string]any{"end": "killed"})

	c, b = r.termFlow(s, l, s.config("slow"), nil)
	flows(t, c, b)
	if err := r.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("got %v, want a reset", err)
	}
	r.expectLine(c.LocalAddr(), map[string]any{"end": "drain"})
}

func TestTerminatedTimeoutsAndLimits(t *testing.T) {
	testenv.CheckLeaks(t)
	s := newTermSite(t, testenv.NetworkOptions{})
	l, at := listenOn(t, s.Backends[0])
	limited := strings.Replace(s.terminating("few", tcp(at)), "- {", "- {limits: {maxConnections: 1}, ", 1)
	idle := strings.Replace(s.terminating("idle", tcp(at)), "- {", "- {timeouts: {idle: 200ms}, ", 1)
	r := start(t, s.Network, "endpoints:\n"+limited+idle+"timeouts: {handshake: 300ms}\n")
	before := r.held()

	c, _ := r.termFlow(s, l, s.config("idle"), nil)
	_, _ = c.Read(make([]byte, 1))
	r.expectLine(c.LocalAddr(), map[string]any{"end": "idle_timeout", "closed_by": "agent"})

	c, b := r.termFlow(s, l, s.config("few"), nil)
	second, err := r.connect(s, s.config("few"))
	if err == nil {
		t.Error("one connection more than the limit gets through")
	}
	r.expectLine(second.NetConn().LocalAddr(), map[string]any{"outcome": "over_limit"})
	_, _ = c.Close(), b.Close()

	// Half a handshake, then silence.
	silent := r.dial(s.Clients[0])
	if _, err := silent.Write(hello(t, "idle.test")); err != nil {
		t.Fatal(err)
	}
	_ = silent.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, silent); err != nil {
		t.Errorf("got %v, want a close", err)
	}
	r.expectLine(silent.LocalAddr(), map[string]any{"outcome": "handshake_failed", "handshake_failure": "timeout"})
	if got := r.metric(`tls_handshakes_total{endpoint="idle",result="timeout",side="client"}`); got != 1 {
		t.Errorf("the metric says %v", got)
	}
	r.expectHeld(before)
}

func TestReloadTurnsPassthroughIntoTermination(t *testing.T) {
	testenv.CheckLeaks(t)
	s := newTermSite(t, testenv.NetworkOptions{})
	l, at := listenOn(t, s.Backends[0])
	server := &tls.Config{Certificates: []tls.Certificate{s.issue(testenv.Leaf{Names: []string{"shop.test"}})}}
	pass := "endpoints:\n" + endpoint("shop", sni("shop.test"), at)
	r := start(t, s.Network, pass)
	through, inside := r.termFlow(s, l, s.config("shop"), server)

	r.write("endpoints:\n" + s.terminating("shop", tcp(at)))
	if _, err := r.WaitLine(short(t), says("configuration loaded")); err != nil {
		t.Fatal(err)
	}
	ended, plain := r.termFlow(s, l, s.config("shop"), nil)
	for i, f := range [][2]net.Conn{{through, inside}, {ended, plain}} { // both go on
		if err := testenv.ExchangePair(short(t), f[0], f[1], uint64(i), 200_000, 300_000); err != nil {
			t.Error(err)
		}
		_, _ = f[0].Close(), f[1].Close()
	}
	if l := r.lineOf(through.LocalAddr()); l["engine"] == "relay" || l["outcome"] != "routed" {
		t.Errorf("what passed through: %v", l)
	}
	r.expectLine(ended.LocalAddr(), map[string]any{"engine": "relay", "outcome": "routed"})
}

// TestTerminatedBehindAProxy: the PROXY header comes before the hello, and says who the
// client is.
func TestTerminatedBehindAProxy(t *testing.T) {
	testenv.CheckLeaks(t)
	s := newTermSite(t, testenv.NetworkOptions{})
	r := start(t, s.Network, "endpoints:\n"+s.terminating("shop", tcp(echoes(t, s.Backends[0])))+"proxyProtocol: {from: [10.0.0.0/8]}\n")
	raw := r.dial(s.Clients[0])
	_ = raw.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(raw, fmt.Sprintf("PROXY TCP4 192.0.2.7 192.0.2.1 1234 %d\r\n", gatewayPort)); err != nil {
		t.Fatal(err)
	}
	c := tls.Client(raw, s.config("shop"))
	if err := r.echoed(c); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	r.line(func(m map[string]any) bool {
		return m["client"] == "192.0.2.7:1234" && m["via"] == raw.LocalAddr().String() && m["engine"] == "relay" && m["end"] == "eof"
	})
}
