// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv"
)

// adminAddress is inside the gateway's namespace.
var adminAddress = netip.MustParseAddrPort("127.0.0.1:9180")

// spliceway is the agent with one engine, as its access log calls it.
type spliceway struct{ path, engine string }

// shortcut is the engine of flows that took the short cut from socket to socket.
const shortcut = "packet+sockmap"

func (s *spliceway) name() string {
	if s.engine == shortcut {
		return "spliceway sockmap"
	}
	return "spliceway " + s.engine
}

func (s *spliceway) command(b *bed) (testenv.ProcessOptions, error) {
	var conf bytes.Buffer
	engine, sockmap := s.engine, "off"
	switch s.engine {
	case shortcut:
		engine, sockmap = "auto", "on"
	case relay:
		engine = "auto"
	}
	fmt.Fprintf(&conf, "engine: %s\nsockmap: %s\nlisten: [%q]\nlog: {access: %t}\nadmin: {address: %q}\n",
		engine, sockmap, b.gatewayIP, b.layout.sameHost(), adminAddress)
	if s.engine != "splice" {
		pins, err := b.mountBPFFS()
		if err != nil {
			return testenv.ProcessOptions{}, err
		}
		fmt.Fprintf(&conf, "bpffs: %q\n", pins)
	}
	fmt.Fprintln(&conf, "endpoints:")
	if b.layout.terminates() {
		endpoint, err := s.terminate(b)
		if err != nil {
			return testenv.ProcessOptions{}, err
		}
		conf.Write(endpoint)
		return s.run(b, conf.Bytes())
	}
	for name, port := range b.services {
		fmt.Fprintf(&conf, "- name: %s\n  url: tls://%s:%d\n  upstream: {url: \"tcp://%s:%d\"}\n", name, sni(name), gatewayPort, b.backendIP, port)
	}
	return s.run(b, conf.Bytes())
}

func (s *spliceway) run(b *bed, conf []byte) (testenv.ProcessOptions, error) {
	file := filepath.Join(b.dir, "spliceway.yaml")
	if err := os.WriteFile(file, conf, 0o600); err != nil {
		return testenv.ProcessOptions{}, err
	}
	return testenv.ProcessOptions{Path: s.path, Args: []string{"run", "--config", file}}, nil
}

// mountBPFFS gives the agent a place of its own for pinned state, which is gone
// with the bed.
func (b *bed) mountBPFFS() (string, error) {
	dir := filepath.Join(b.dir, "bpf")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		return "", fmt.Errorf("mount a bpffs on %s: %w", dir, err)
	}
	b.mounted = dir
	return dir, nil
}

// engines asks the agent how many connections each engine has carried. One counts
// once it has ended, so it waits for the last, but not for long: what never ended
// is the report's to say.
func (s *spliceway) engines(ctx context.Context, b *bed) (map[string]int64, error) {
	wait, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return b.gateway.Dial(ctx, adminAddress)
		},
	}}
	var counts map[string]int64
	err := testenv.Poll(wait, func() (bool, error) {
		answer, err := client.Get("http://" + adminAddress.String() + "/metrics")
		if err != nil {
			return false, err
		}
		page, err := io.ReadAll(answer.Body)
		if err = errors.Join(err, answer.Body.Close()); err != nil {
			return false, err
		}
		var ended int64
		counts = engineCounts(page)
		for _, n := range counts {
			ended += n
		}
		return ended >= b.opened.Load(), nil
	})
	if err != nil && wait.Err() == nil {
		return nil, fmt.Errorf("ask for metrics: %w", err)
	}
	return counts, ctx.Err()
}

var connectionsSeries = regexp.MustCompile(`(?m)^spliceway_endpoint_connections_total\{(?:[^}]*,)?engine="([^"]+)"[^}]*\} ([0-9.e+]+)$`)

// engineCounts reads ended connections by engine from a page of metrics. What was
// not routed has no engine and is left out.
func engineCounts(page []byte) map[string]int64 {
	counts := make(map[string]int64)
	for _, m := range connectionsSeries.FindAllSubmatch(page, -1) {
		n, err := strconv.ParseFloat(string(m[2]), 64)
		if err == nil {
			counts[string(m[1])] += int64(n)
		}
	}
	return counts
}
