// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spliceway/spliceway/testenv"
)

// relay is the engine of flows whose TLS the agent ends.
const relay = "relay"

// terminateSubjects are nginx, which the ratios are to, HAProxy and the agent. What is not
// installed is left out, and it is said so, unless it was asked for.
func terminateSubjects(o options) ([]subject, error) {
	if o.subjects != "" {
		return nil, errors.New("-subjects is not for -terminate: its subjects are those of -nginx, -haproxy and -spliceway that are there")
	}
	var chosen []subject
	for _, peer := range []struct {
		flag, name, path string
		make             func(path string) subject
	}{
		{"-nginx", "nginx", o.nginx, func(path string) subject { return &nginx{path: path, flows: o.idle + 1000} }},
		{"-haproxy", "haproxy", o.haproxy, func(path string) subject { return &haproxy{path: path, flows: o.idle + 1000} }},
	} {
		path, err := exec.LookPath(cmp.Or(peer.path, peer.name))
		switch {
		case err == nil:
			chosen = append(chosen, peer.make(path))
		case peer.path != "":
			return nil, fmt.Errorf("%s: %w", peer.flag, err)
		default:
			fmt.Fprintf(os.Stderr, "%s is not in PATH: it is left out (%s names it)\n", peer.name, peer.flag)
		}
	}
	return append(chosen, &spliceway{path: o.agent, engine: relay}), nil
}

// nginx terminates with its stream module.
type nginx struct {
	path  string
	flows int // at once
}

func (*nginx) name() string { return "nginx" }

func (n *nginx) command(b *bed) (testenv.ProcessOptions, error) {
	certFile, keyFile, err := testenv.WritePair(b.dir, "server", b.certificate)
	if err != nil {
		return testenv.ProcessOptions{}, err
	}
	built, err := exec.Command(n.path, "-V").CombinedOutput()
	if err != nil {
		return testenv.ProcessOptions{}, fmt.Errorf("ask nginx what is built in: %w", err)
	}
	var conf bytes.Buffer
	if strings.Contains(string(built), "--with-stream=dynamic") {
		fmt.Fprintln(&conf, "load_module modules/ngx_stream_module.so;")
	}
	// Without the last, two per handshake are sent all the same.
	resume := "ssl_session_tickets off; ssl_session_cache off; ssl_conf_command NumTickets 0;"
	if b.layout == resuming {
		resume = "ssl_session_tickets on; ssl_session_cache shared:tls:10m;"
	}
	// Of a flow's two connections, each worker may have all.
	fmt.Fprintf(&conf, `daemon off;
user root;
worker_processes 2;
worker_rlimit_nofile %[1]d;
error_log stderr warn;
pid %[2]s/nginx.pid;
events { worker_connections %[1]d; }
stream {
  server {
    listen %[3]s:%[4]d ssl reuseport backlog=4096;
    ssl_certificate %[5]s;
    ssl_certificate_key %[6]s;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
    %[7]s
    proxy_timeout 1h;
    proxy_pass %[8]s:%[9]d;
  }
}
`, 2*n.flows+100, b.dir, b.gatewayIP, gatewayPort, certFile, keyFile, resume, b.backendIP, b.services[tlsService])
	file := filepath.Join(b.dir, "nginx.conf")
	if err := os.WriteFile(file, conf.Bytes(), 0o600); err != nil {
		return testenv.ProcessOptions{}, err
	}
	return testenv.ProcessOptions{Path: n.path, Args: []string{"-c", file, "-e", "stderr"}}, nil
}

// terminate is HAProxy's configuration where it ends the clients' TLS.
func (h *haproxy) terminate(b *bed) ([]byte, error) {
	if _, _, err := testenv.WritePair(b.dir, "server.pem", b.certificate); err != nil {
		return nil, err
	}
	// HAProxy finds the key of NAME.crt in NAME.crt.key, or in the file itself.
	pem := filepath.Join(b.dir, "server.pem")
	if err := joinFiles(pem, pem+".crt", pem+".key"); err != nil {
		return nil, err
	}
	tickets := " no-tls-tickets"
	if b.layout == resuming {
		tickets = ""
	}
	return fmt.Appendf(nil, `global
 maxconn %d
 nbthread 2
defaults
 mode tcp
 timeout connect 5s
 timeout client 1h
 timeout server 1h
listen gateway
 bind %s:%d ssl crt %s ssl-min-ver TLSv1.2 ciphersuites TLS_AES_128_GCM_SHA256%s
 server s %s:%d
`, h.flows, b.gatewayIP, gatewayPort, pem, tickets, b.backendIP, b.services[tlsService]), nil
}

// noTickets is OpenSSL's configuration for handshakes that offer no session: HAProxy 2.6
// has no word for it, and no-tls-tickets only makes them sessions of its own cache.
const noTickets = `openssl_conf = libraries
[libraries]
ssl_conf = contexts
[contexts]
system_default = gateway
[gateway]
NumTickets = 0
`

// environment is HAProxy's where it terminates.
func (h *haproxy) environment(b *bed) ([]string, error) {
	if b.layout == resuming {
		return nil, nil
	}
	file := filepath.Join(b.dir, "openssl.cnf")
	return append(os.Environ(), "OPENSSL_CONF="+file), os.WriteFile(file, []byte(noTickets), 0o600)
}

func joinFiles(into string, from ...string) error {
	var all []byte
	for _, file := range from {
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		all = append(all, content...)
	}
	return os.WriteFile(into, all, 0o600)
}

// terminate is the endpoint of the agent where it ends the clients' TLS.
func (s *spliceway) terminate(b *bed) ([]byte, error) {
	certFile, keyFile, err := testenv.WritePair(b.dir, "server", b.certificate)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, `- name: %[1]s
  url: tls://%[2]s:%[3]d
  tlsTermination:
    certificates: [{certFile: %[4]q, keyFile: %[5]q}]
    sessionTickets: %[6]t
  upstream: {url: "tcp://%[7]s:%[8]d"}
`, tlsService, sni(tlsService), gatewayPort, certFile, keyFile, b.layout == resuming, b.backendIP, b.services[tlsService]), nil
}
