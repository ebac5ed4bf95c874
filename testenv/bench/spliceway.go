// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
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

func (s *spliceway) version() (string, error) { return programVersion(s.path) }

func (s *spliceway) command(b *bed) (testenv.ProcessOptions, error) {
	if s.engine != "splice" && b.mounted == "" {
		if err := b.mountBPFFS(); err != nil {
			return testenv.ProcessOptions{}, err
		}
	}
	file, err := s.configure(b)
	return testenv.ProcessOptions{Path: s.path, Args: []string{"run", "--config", file}}, err
}

func (s *spliceway) configure(b *bed) (file string, err error) {
	conf, err := b.settings()
	if err != nil {
		return "", err
	}
	conf.Engine, conf.BPFFS = s.engine, b.mounted
	switch s.engine {
	case shortcut:
		conf.Engine, conf.Sockmap = "auto", true
	case relay:
		conf.Engine = "auto"
	}
	return conf.write("spliceway.yaml")
}

func (s *spliceway) reload(ctx context.Context, b *bed) error {
	if _, err := s.configure(b); err != nil {
		return err
	}
	return signalReload(syscall.SIGHUP)(ctx, b)
}

// programVersion is the second word that the agent prints: "spliceway VERSION (...)".
func programVersion(path string) (string, error) {
	printed, err := exec.Command(path, "version").Output()
	if err != nil {
		return "", fmt.Errorf("%s version: %w", path, err)
	}
	words := strings.Fields(string(printed))
	if len(words) < 2 {
		return "", fmt.Errorf("%s version: it prints %q", path, printed)
	}
	return words[1], nil
}

// mountBPFFS gives the agent a place of its own for pinned state, which is gone
// with the bed.
func (b *bed) mountBPFFS() error {
	dir := filepath.Join(b.dir, "bpf")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		return fmt.Errorf("mount a bpffs on %s: %w", dir, err)
	}
	b.mounted = dir
	return nil
}

// admin asks in the gateway's namespace.
func (b *bed) admin() *http.Client {
	return &http.Client{Timeout: adminTimeout, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return b.gateway.Dial(ctx, adminAddress)
		},
	}}
}

// engines asks the agent how many connections each engine has carried. One counts
// once it has ended, so it waits for the last, but not for long: what never ended
// is the report's to say.
func (s *spliceway) engines(ctx context.Context, b *bed) (map[string]int64, error) {
	wait, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	client := b.admin()
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
