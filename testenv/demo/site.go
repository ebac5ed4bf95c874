// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spliceway/spliceway/testenv"
)

const (
	port = 443

	// helloTimeout is the agent's in the demo, short because the demo waits for
	// it once, and long enough for any client on a busy machine.
	helloTimeout = time.Second

	// stopTimeout is for the agent to end when every connection has.
	stopTimeout = 5 * time.Second
)

// site is everything that the demo sets up.
type site struct {
	dir      string // holds the agent's file
	bpffs    string // for its engine packet; empty: it has none
	unmount  func() error
	network  *testenv.Network
	ca       *testenv.CA
	services []*service
	agent    *testenv.Process
}

// service is a backend on a host of its own.
type service struct {
	Service
	host        *testenv.Host
	backend     *testenv.Backend
	certificate []byte // DER
}

// plan are the services. A certificate's wildcard stands for one label, the
// agent's for any number.
var plan = []struct {
	name, url    string
	fallback     bool
	certificates []string
}{
	{name: "shop", url: "tls://shop.test", certificates: []string{"shop.test"}},
	{name: "apps", url: "tls://*.app.test", certificates: []string{"*.app.test", "*.eu.app.test"}},
	{name: "www", url: "tls://www.test", fallback: true, certificates: []string{"www.test", "old.example"}},
}

// openSite returns when the agent is ready. On an error nothing is left.
func openSite(ctx context.Context, executable string) (*site, error) {
	s := &site{}
	if err := s.open(ctx, executable); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *site) open(ctx context.Context, executable string) (err error) {
	if s.dir, err = os.MkdirTemp("", "spliceway-demo-"); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	// A host whose kernel has none has the demo without it.
	s.bpffs, s.unmount, _ = testenv.MountBPFFS()
	if s.network, err = testenv.NewNetwork(testenv.NetworkOptions{Backends: len(plan)}); err != nil {
		return err
	}
	if s.ca, err = testenv.NewCA(); err != nil {
		return err
	}
	for i, p := range plan {
		host := s.network.Backends[i]
		config, err := s.ca.ServerConfig(p.certificates[0], p.certificates[1:]...)
		if err != nil {
			return err
		}
		backend, err := testenv.NewBackend(host.Namespace, testenv.BackendOptions{
			Name: p.name, TLS: config, Address: netip.AddrPortFrom(netip.IPv6Unspecified(), port),
		})
		if err != nil {
			return err
		}
		s.services = append(s.services, &service{
			Service: Service{Name: p.name, URL: p.url, Fallback: p.fallback, Address: netip.AddrPortFrom(host.IPv4(), port).String()},
			host:    host, backend: backend, certificate: config.Certificates[0].Certificate[0],
		})
	}
	return s.startAgent(ctx, executable)
}

func (s *site) startAgent(ctx context.Context, executable string) error {
	return s.start(ctx, executable, s.config())
}

// start starts the agent with a file's content.
func (s *site) start(ctx context.Context, executable, config string) error {
	file := filepath.Join(s.dir, "spliceway.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	var err error
	s.agent, err = testenv.StartProcess(testenv.ProcessOptions{
		Namespace: s.network.Gateway, Path: executable, Args: []string{"run", "--config", file},
	})
	if err != nil {
		return err
	}
	if _, err := s.agent.WaitLine(ctx, isReady); err != nil {
		return fmt.Errorf("wait until the agent is ready: %w", err)
	}
	return nil
}

// isReady recognises the line of the agent's log that says it serves.
func isReady(line string) bool {
	var entry struct {
		Msg string `json:"msg"`
	}
	return json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "ready"
}

// config is the agent's file. What a name's fallback does not take is refused.
func (s *site) config() string {
	var b strings.Builder
	fmt.Fprintf(&b, "listen: [%q, %q]\nendpoints:\n", s.network.IPv4, s.network.IPv6)
	for _, service := range s.services {
		fmt.Fprintf(&b, "- name: %s\n  url: %q\n  upstream: {url: \"tls://%s\"}\n", service.Name, service.URL, service.Address)
	}
	for _, service := range s.services {
		if service.Fallback {
			fmt.Fprintf(&b, "fallback: {unknownName: %s}\n", service.Name)
		}
	}
	if s.bpffs != "" {
		fmt.Fprintf(&b, "bpffs: %s\n", filepath.Join(s.bpffs, "state"))
	} else {
		fmt.Fprintf(&b, "engine: splice\n")
	}
	fmt.Fprintf(&b, "timeouts: {hello: %s}\nadmin: {address: \"off\"}\n", helloTimeout)
	return b.String()
}

// stopAgent ends the agent in order: by SIGTERM, with nothing left to drain.
func (s *site) stopAgent() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	return s.agent.Stop(ctx)
}

// close removes all of it. The agent may have been stopped before.
func (s *site) close() error {
	var errs []error
	if s.agent != nil {
		// How it ended has been judged where that mattered.
		_ = s.stopAgent()
	}
	for _, service := range s.services {
		errs = append(errs, service.backend.Close())
	}
	if s.network != nil {
		errs = append(errs, s.network.Close())
	}
	if s.unmount != nil {
		errs = append(errs, s.unmount())
	}
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(errs...)
}

func (s *site) listen() []string {
	return []string{
		netip.AddrPortFrom(s.network.IPv4, port).String(),
		netip.AddrPortFrom(s.network.IPv6, port).String(),
	}
}

func (s *site) describe() []Service {
	list := make([]Service, 0, len(s.services))
	for _, service := range s.services {
		list = append(list, service.Service)
	}
	return list
}

func (s *site) service(name string) *service {
	for _, service := range s.services {
		if service.Name == name {
			return service
		}
	}
	panic("no service " + name) // a mistake in routedCases
}

// accepted is how many connections the backends have seen, all together.
func (s *site) accepted() int {
	n := 0
	for _, service := range s.services {
		n += service.backend.Accepted()
	}
	return n
}
