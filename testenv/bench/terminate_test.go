// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spliceway/spliceway/testenv"
)

func TestCheckHandshake(t *testing.T) {
	good := tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: tlsSuite, CurveID: tls.X25519}
	if err := checkHandshake(good, tls.X25519); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*tls.ConnectionState){
		"version":      func(s *tls.ConnectionState) { s.Version = tls.VersionTLS12 },
		"suite":        func(s *tls.ConnectionState) { s.CipherSuite = tls.TLS_AES_256_GCM_SHA384 },
		"key exchange": func(s *tls.ConnectionState) { s.CurveID = tls.X25519MLKEM768 },
	} {
		bad := good
		change(&bad)
		if checkHandshake(bad, tls.X25519) == nil {
			t.Errorf("another %s passes for the one that is measured", name)
		}
	}
}

func TestTerminateSubjects(t *testing.T) {
	here := "/proc/self/exe"
	t.Setenv("PATH", t.TempDir()) // neither nginx nor HAProxy
	for _, tt := range []struct {
		name string
		o    options
		want []string // none: an error
	}{
		{"what is not there is left out", options{}, []string{"spliceway relay"}},
		{"what is named", options{nginx: here, haproxy: here}, []string{"nginx", "HAProxy", "spliceway relay"}},
		{"one of them", options{haproxy: here}, []string{"HAProxy", "spliceway relay"}},
		{"named and not there", options{nginx: "/no/such/nginx"}, nil},
		{"-subjects", options{subjects: "direct"}, nil},
	} {
		subjects, err := terminateSubjects(tt.o)
		var got []string
		for _, s := range subjects {
			got = append(got, s.name())
		}
		if (err != nil) != (tt.want == nil) || !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, %v; want %v", tt.name, got, err, tt.want)
		}
	}
}

// TestOfferedSessions: what a subject sends after the handshake is work of the
// handshake, which nobody sees who does not ask for it.
func TestOfferedSessions(t *testing.T) {
	authority, err := testenv.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := authority.Certificate(sni(tlsService))
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range []bool{false, true} {
		config := (&bed{authority: authority}).tlsClient(tls.X25519)
		near, far := net.Pipe()
		go func() {
			s := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{certificate}, SessionTicketsDisabled: off})
			_, _ = s.Write([]byte{0})
			_ = s.Close()
		}()
		c := tls.Client(near, config)
		if _, err := io.ReadAll(c); err != nil {
			t.Error(err)
		}
		if err := config.ClientSessionCache.(*noSessions).check(); (err == nil) != off {
			t.Errorf("tickets are off: %t, and the check says %v", off, err)
		}
		_ = near.Close()
	}
}

// terminatingBed has what a subject's configuration needs, and no network.
func terminatingBed(t *testing.T, l layout) *bed {
	t.Helper()
	authority, err := testenv.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := authority.Certificate(sni(tlsService))
	if err != nil {
		t.Fatal(err)
	}
	address := netip.MustParseAddr("192.0.2.1")
	return &bed{layout: l, dir: t.TempDir(), certificate: certificate,
		place: place{gatewayIP: address, backendIP: address, services: map[string]uint16{tlsService: 1}}}
}

func TestOpenSSLOfHAProxy(t *testing.T) {
	for _, l := range []layout{terminating, resuming} {
		b := terminatingBed(t, l)
		run, err := (&peer{product: haproxy}).command(b)
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.Contains(run.Env, "OPENSSL_CONF="+filepath.Join(b.dir, "haproxy-openssl.cnf")); got != (l == terminating) {
			t.Errorf("%s: told to offer no sessions: %t", l, got)
		}
	}
}

// TestConfigurationsWithAndWithoutTickets: a full handshake must not be a resumed one
// by a subject's default, nor the other way round.
func TestConfigurationsWithAndWithoutTickets(t *testing.T) {
	for _, l := range []layout{terminating, resuming} {
		for config, off := range map[string]string{
			"haproxy-terminate.cfg": " no-tls-tickets\n",
			"nginx-terminate.conf":  "ssl_session_tickets off;",
			"spliceway.yaml":        "sessionTickets: false\n",
		} {
			s, err := terminatingBed(t, l).settings()
			if err != nil {
				t.Fatal(err)
			}
			file, err := s.write(config)
			if err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Contains(string(text), off); got != (l == terminating) {
				t.Errorf("%s, %s: tickets are off: %t, in:\n%s", l, config, got, text)
			}
		}
	}
}

func TestReportOfTermination(t *testing.T) {
	nginx, agent := &peer{title: "nginx"}, &spliceway{engine: relay}
	r := results{Samples: []sample{
		{Subject: "nginx", Work: "bulk", Figures: map[string]float64{"CPU": 4}},
		{Subject: "spliceway relay", Work: "bulk", Figures: map[string]float64{"CPU": 3}, Connections: 2, Engines: map[string]int64{relay: 2}},
	}}
	todo := []work{{name: "bulk", layout: terminating, figures: []figure{{name: "CPU", digits: 1}}}}
	var out bytes.Buffer
	r.report(&out, todo, []subject{nginx, agent})
	for _, want := range []string{
		"| spliceway relay | 3.0, x0.75 |\n",
		"ratios (x) to *nginx* in the same round",
		"- spliceway relay: 100.00 % of 2 connections ended as ones of engine relay.\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, &out)
		}
	}
	if strings.Contains(out.String(), legend) {
		t.Error("the legend of the relay's figures is there: it says that CPU is the whole system's")
	}
}

// TestGatewayProcesses: the work of nginx is its workers', which are children.
func TestGatewayProcesses(t *testing.T) {
	shell, err := testenv.StartProcess(testenv.ProcessOptions{Path: "/bin/sh", Args: []string{"-c", "sleep 60 & echo $!; wait"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	defer func() { _ = shell.Stop(ctx) }()
	child, err := shell.WaitLine(ctx, func(string) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	// Not by TERM: between fork and exec the child would miss it. The shell ends after it.
	pid, err := strconv.Atoi(child)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = errors.Join(syscall.Kill(pid, syscall.SIGKILL), shell.Wait(ctx)) }()
	pids, err := (&bed{process: shell}).gatewayProcesses()
	if want := fmt.Sprintf("[%d %s]", shell.Pid(), child); err != nil || fmt.Sprint(pids) != want {
		t.Errorf("%v, %v; want %s", pids, err, want)
	}
}
