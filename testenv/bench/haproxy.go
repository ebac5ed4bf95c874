// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spliceway/spliceway/testenv"
)

type haproxy struct {
	path   string
	splice bool
	flows  int // at once
}

func (h *haproxy) name() string {
	if h.splice {
		return "HAProxy splice"
	}
	return "HAProxy"
}

func (h *haproxy) command(b *bed) (testenv.ProcessOptions, error) {
	if b.layout.terminates() {
		conf, err := h.terminate(b)
		if err != nil {
			return testenv.ProcessOptions{}, err
		}
		env, err := h.environment(b)
		if err != nil {
			return testenv.ProcessOptions{}, err
		}
		options, err := h.run(b, conf)
		options.Env = env
		return options, err
	}
	var conf bytes.Buffer
	fmt.Fprintf(&conf, "global\n maxconn %d\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n", h.flows)
	if h.splice {
		fmt.Fprintf(&conf, " option splice-request\n option splice-response\n")
	}
	fmt.Fprintf(&conf, "frontend gateway\n bind %s:%d\n tcp-request inspect-delay 3s\n tcp-request content accept if { req.ssl_hello_type 1 }\n", b.gatewayIP, gatewayPort)
	for name := range b.services {
		fmt.Fprintf(&conf, " use_backend %s if { req.ssl_sni -i %s }\n", name, sni(name))
	}
	for name, port := range b.services {
		fmt.Fprintf(&conf, "backend %s\n server s %s:%d\n", name, b.backendIP, port)
	}
	return h.run(b, conf.Bytes())
}

func (h *haproxy) run(b *bed, conf []byte) (testenv.ProcessOptions, error) {
	file := filepath.Join(b.dir, "haproxy.cfg")
	if err := os.WriteFile(file, conf, 0o600); err != nil {
		return testenv.ProcessOptions{}, err
	}
	return testenv.ProcessOptions{Path: h.path, Args: []string{"-f", file, "-db"}}, nil
}
