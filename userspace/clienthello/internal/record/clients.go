// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// client is one way to have a hello sent.
type client struct {
	name       string // of the file
	serverName string
	// run connects to addr once. It may keep files in dir. It ends when ctx does.
	run func(ctx context.Context, addr, dir string) error
}

func clients() []client {
	return []client{
		{"go-tls12", "go-tls12.test", goClient(&tls.Config{ServerName: "go-tls12.test", MaxVersion: tls.VersionTLS12})},
		{"go-tls13", "go-tls13.test", goClient(&tls.Config{ServerName: "go-tls13.test", MinVersion: tls.VersionTLS13,
			CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256}})},
		{"go-pq", "go-pq.test", goClient(&tls.Config{ServerName: "go-pq.test"})},
		{"go-nosni", "", goClient(&tls.Config{ServerName: "127.0.0.1"})},
		{"go-h2", "go-h2.test", goClient(&tls.Config{ServerName: "go-h2.test", NextProtos: []string{"h2", "http/1.1"}})},
		{"openssl-tls12", "openssl-tls12.test", command("openssl", "s_client", "-connect", "ADDR", "-servername", "openssl-tls12.test", "-tls1_2")},
		{"openssl-tls13", "openssl-tls13.test", command("openssl", "s_client", "-connect", "ADDR", "-servername", "openssl-tls13.test", "-alpn", "h2,http/1.1")},
		{"openssl-nosni", "", command("openssl", "s_client", "-connect", "ADDR", "-noservername")},
		{"curl", "curl.test", command("curl", "-sk", "--connect-to", "curl.test:443:ADDR", "https://curl.test/")},
		{"node", "node.test", command("node", "-e", `
			const [host, port] = "ADDR".split(":")
			require("https").get({host, port, servername: "node.test", path: "/"}).on("error", () => {})`)},
		{"nginx", "nginx.test", nginx},
		{"chromium", "chromium.test", command("chromium", "--headless", "--no-sandbox", "--disable-gpu",
			"--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
			"--disable-sync", "--ignore-certificate-errors", "--user-data-dir=DIR",
			"--host-resolver-rules=MAP * ADDR", "https://chromium.test/")},
	}
}

func goClient(config *tls.Config) func(context.Context, string, string) error {
	return func(ctx context.Context, addr, _ string) error {
		d := tls.Dialer{Config: config}
		conn, err := d.DialContext(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		return conn.Close()
	}
}

// command runs a program. ADDR and DIR in its arguments are filled in.
func command(name string, args ...string) func(context.Context, string, string) error {
	return func(ctx context.Context, addr, dir string) error {
		fill := strings.NewReplacer("ADDR", addr, "DIR", dir)
		filled := make([]string, len(args))
		for i, a := range args {
			filled[i] = fill.Replace(a)
		}
		cmd := exec.CommandContext(ctx, name, filled...)
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		cmd.WaitDelay = 5 * time.Second
		cmd.Dir = dir
		return cmd.Run()
	}
}

const nginxConfig = `
daemon off;
worker_processes 1;
pid DIR/pid;
error_log stderr;
events {}
http {
	access_log off;
	client_body_temp_path DIR/body;
	proxy_temp_path DIR/proxy;
	fastcgi_temp_path DIR/fastcgi;
	uwsgi_temp_path DIR/uwsgi;
	scgi_temp_path DIR/scgi;
	server {
		listen unix:DIR/nginx.sock;
		location / {
			proxy_pass https://ADDR;
			proxy_ssl_server_name on;
			proxy_ssl_name nginx.test;
		}
	}
}
`

// nginx starts a reverse proxy of its own, and asks it for a page.
func nginx(ctx context.Context, addr, dir string) error {
	fill := strings.NewReplacer("ADDR", addr, "DIR", dir)
	config := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(config, []byte(fill.Replace(nginxConfig)), 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- command("nginx", "-c", config, "-e", "stderr")(ctx, addr, dir) }()

	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialUnix(ctx, filepath.Join(dir, "nginx.sock"))
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://nginx.test/", nil)
	if err != nil {
		return err
	}
	asked := make(chan error, 1)
	go func() {
		res, err := client.Do(req)
		if err == nil {
			err = res.Body.Close()
		}
		asked <- err
	}()
	select {
	case err := <-ended:
		return fmt.Errorf("run nginx: %w", err)
	case err := <-asked:
		cancel()
		<-ended
		return err
	}
}

// dialUnix tries until nginx listens.
func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	for {
		conn, err := d.DialContext(ctx, "unix", path)
		if err == nil {
			return conn, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}
