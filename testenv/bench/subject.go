// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv"
)

// gatewayPort is where every subject listens.
const gatewayPort = 9443

// subject is what stands between client and backend.
type subject interface {
	name() string
	// command runs the subject, nil for nothing to run. dir is for its files.
	command(dir string, n *testenv.Network) (*exec.Cmd, error)
}

// direct is the kernel's own routing: the limit.
type direct struct{}

func (direct) name() string                                        { return "direct" }
func (direct) command(string, *testenv.Network) (*exec.Cmd, error) { return nil, nil }

type spliceway struct{ path string }

func (*spliceway) name() string { return "spliceway" }

func (s *spliceway) command(dir string, n *testenv.Network) (*exec.Cmd, error) {
	var conf bytes.Buffer
	fmt.Fprintf(&conf, "listen: [%q]\nlog: {access: false}\nendpoints:\n", n.IPv4)
	for name, port := range services {
		fmt.Fprintf(&conf, "- name: %s\n  url: tls://%s:%d\n  upstream: {url: \"tcp://%s:%d\"}\n", name, sni(name), gatewayPort, n.Backends[0].IPv4(), port)
	}
	file := filepath.Join(dir, "spliceway.yaml")
	if err := os.WriteFile(file, conf.Bytes(), 0o600); err != nil {
		return nil, err
	}
	return exec.Command(s.path, "run", "--config", file), nil
}

type haproxy struct {
	path   string
	splice bool
}

func (h *haproxy) name() string {
	if h.splice {
		return "HAProxy, splice"
	}
	return "HAProxy"
}

func findHAProxy(path string) string {
	if path == "" {
		path, _ = exec.LookPath("haproxy")
	}
	return path
}

func (h *haproxy) command(dir string, n *testenv.Network) (*exec.Cmd, error) {
	var conf bytes.Buffer
	fmt.Fprintf(&conf, "global\n maxconn 6000\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n")
	if h.splice {
		fmt.Fprintf(&conf, " option splice-request\n option splice-response\n")
	}
	fmt.Fprintf(&conf, "frontend tls\n bind %s:%d\n tcp-request inspect-delay 3s\n tcp-request content accept if { req.ssl_hello_type 1 }\n", n.IPv4, gatewayPort)
	for name := range services {
		fmt.Fprintf(&conf, " use_backend %s if { req.ssl_sni -i %s }\n", name, sni(name))
	}
	for name, port := range services {
		fmt.Fprintf(&conf, "backend %s\n server s %s:%d\n", name, n.Backends[0].IPv4(), port)
	}
	file := filepath.Join(dir, "haproxy.cfg")
	if err := os.WriteFile(file, conf.Bytes(), 0o600); err != nil {
		return nil, err
	}
	return exec.Command(h.path, "-f", file, "-db"), nil
}

// bed is a network with a subject in its gateway and the backend's services.
type bed struct {
	net       *testenv.Network
	subject   subject
	cmd       *exec.Cmd
	log       bytes.Buffer
	dir       string
	listeners []net.Listener
	hello     map[string][]byte // by service
	sources   []netip.Addr      // the client's addresses
	next      int
}

// clientAddresses: ports in TIME_WAIT make one address slow to dial from.
const clientAddresses = 16

func newBed(s subject) (b *bed, err error) {
	b = &bed{subject: s, hello: make(map[string][]byte)}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if b.net, err = testenv.NewNetwork(testenv.NetworkOptions{CongestionControl: "cubic"}); err != nil {
		return b, err
	}
	for i := range clientAddresses {
		a := netip.AddrFrom4([4]byte{10, 1, 0, byte(10 + i)})
		if err := b.net.Clients[0].AddAddress(a); err != nil {
			return b, err
		}
		b.sources = append(b.sources, a)
	}
	for name := range services {
		if b.hello[name], err = testenv.Hello(sni(name), testenv.HelloOptions{ALPN: []string{"h2", "http/1.1"}}); err != nil {
			return b, err
		}
	}
	if err := b.serve(); err != nil {
		return b, err
	}
	if b.dir, err = os.MkdirTemp("", "bench"); err != nil {
		return b, err
	}
	if b.cmd, err = s.command(b.dir, b.net); err != nil || b.cmd == nil {
		return b, err
	}
	b.cmd.Stdout, b.cmd.Stderr = &b.log, &b.log
	b.cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := b.net.Gateway.Start(b.cmd); err != nil {
		return b, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err = testenv.Poll(ctx, func() (bool, error) {
		c, err := b.dial(ctx, "echo")
		if err != nil {
			return false, nil
		}
		return true, c.Close()
	})
	if err != nil {
		err = fmt.Errorf("%w; its log:\n%s", err, &b.log)
	}
	return b, err
}

func (b *bed) close() {
	if b.cmd != nil && b.cmd.Process != nil {
		_ = b.cmd.Process.Kill()
		_ = b.cmd.Wait()
	}
	for _, l := range b.listeners {
		_ = l.Close()
	}
	if b.net != nil {
		_ = b.net.Close()
	}
	_ = os.RemoveAll(b.dir)
}

// target is where a client connects to for a service.
func (b *bed) target(service string) netip.AddrPort {
	if b.cmd == nil {
		return netip.AddrPortFrom(b.net.Backends[0].IPv4(), services[service])
	}
	return netip.AddrPortFrom(b.net.IPv4, gatewayPort)
}

// dial connects to a service through the subject and sends the hello.
func (b *bed) dial(ctx context.Context, service string) (*net.TCPConn, error) {
	b.next++
	var d net.Dialer
	d.SetMultipathTCP(false)
	d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(b.sources[b.next%len(b.sources)], 0))
	c, err := b.net.Clients[0].DialWith(ctx, d, b.target(service))
	if err != nil {
		return nil, err
	}
	if _, err := c.Write(b.hello[service]); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// raiseOpenFiles takes all that this process may have: client and backend of each
// flow are its own.
func raiseOpenFiles() error {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("read open file limit: %w", err)
	}
	l.Cur = l.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("raise open file limit to %d: %w", l.Cur, err)
	}
	return nil
}
