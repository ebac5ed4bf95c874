// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spliceway/spliceway/testenv"
)

// Way is what is to be shown of some manifests.
type Way struct {
	Manifests []string // files and directories: the agent's file's manifests
	Visits    []Visit
	Upstreams []Upstream
}

// Visit is a URL that a client is to reach.
type Visit struct {
	Object string // that it is of
	SNI    string
	Port   uint16
	// Address is what the client connects to, where that is not any of the gateway's.
	Address netip.Addr
}

// Upstream is a host that the manifests name: the demo has a server for it.
type Upstream struct {
	Host  string
	Ports []uint16
}

// ManifestReport is what a demo of manifests saw.
type ManifestReport struct {
	Visited []Visited `json:"visited"`
	// Problems are sentences about what was not as it should be.
	Problems []string `json:"problems"`
	// AgentLog is the agents' own logs, without the lines of connections.
	AgentLog []string `json:"agentLog"`
	Took     float64  `json:"tookMs"`
}

// Visited is a client that came to a URL.
type Visited struct {
	Manifests   []string    `json:"manifests"`
	Object      string      `json:"object"`
	URL         string      `json:"url"`
	ForwardedTo []string    `json:"forwardedTo,omitempty"`
	Backend     string      `json:"backend"` // who answered, by its own word
	Upstream    string      `json:"upstream"`
	Certificate Certificate `json:"certificate"`
	Engine      string      `json:"engine"`
	BytesIn     int64       `json:"bytesIn"`
	BytesOut    int64       `json:"bytesOut"`
}

// maxUpstreams is how many hosts the demo makes.
const maxUpstreams = 16

// manifestBytes is what each client sends, and gets back.
const manifestBytes = 1 << 20

// RunManifests runs an agent on each way's manifests, between a client and a server for
// each host that they name, and visits each of the way's URLs. It is like [Run] otherwise.
func RunManifests(ctx context.Context, executable string, ways []Way) (*ManifestReport, error) {
	if err := testenv.CheckPrivileges(); err != nil {
		return nil, fmt.Errorf("the demo makes network namespaces (sudo spliceway demo): %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, longest, fmt.Errorf("it took more than %s", longest))
	defer cancel()
	start := time.Now()
	report := &ManifestReport{Visited: []Visited{}, Problems: []string{}}
	for _, way := range ways {
		if err := showWay(ctx, executable, way, report); err != nil {
			return nil, fmt.Errorf("%s: %w", strings.Join(way.Manifests, ", "), err)
		}
	}
	report.Took = milliseconds(time.Since(start))
	return report, nil
}

func (r *ManifestReport) problem(format string, args ...any) {
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

// upstreamServer is the server of a host that manifests name.
type upstreamServer struct {
	host     *testenv.Host
	backends []*testenv.Backend
	leaf     []byte // DER
}

func showWay(ctx context.Context, executable string, way Way, report *ManifestReport) (err error) {
	if len(way.Upstreams) > maxUpstreams {
		return fmt.Errorf("the demo has room for %d upstream hosts, the manifests name %d", maxUpstreams, len(way.Upstreams))
	}
	s := &site{}
	servers := make(map[string]*upstreamServer)
	defer func() {
		errs := []error{err}
		for _, u := range servers {
			for _, b := range u.backends {
				errs = append(errs, b.Close())
			}
		}
		err = errors.Join(append(errs, s.close())...)
	}()
	if s.dir, err = os.MkdirTemp("", "spliceway-demo-"); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	s.bpffs, s.unmount, _ = testenv.MountBPFFS()
	if s.network, err = testenv.NewNetwork(testenv.NetworkOptions{Backends: max(1, len(way.Upstreams))}); err != nil {
		return err
	}
	if s.ca, err = testenv.NewCA(); err != nil {
		return err
	}
	if err := s.startUpstreams(way, servers); err != nil {
		return err
	}
	if err := s.startOn(ctx, executable, way, servers); err != nil {
		return err
	}
	seen := make([]Visited, len(way.Visits))
	clients := make([]string, len(way.Visits))
	for i, v := range way.Visits {
		at := s.network.IPv4
		if v.Address.IsValid() {
			at = v.Address
		}
		seen[i] = Visited{Manifests: way.Manifests, Object: v.Object, URL: fmt.Sprintf("tls://%s:%d", v.SNI, v.Port)}
		if clients[i], err = s.visitURL(ctx, v.SNI, netip.AddrPortFrom(at, v.Port), &seen[i], servers); err != nil {
			report.problem("%s: a client of %s: %v", v.Object, seen[i].URL, err)
			continue
		}
		// An agent that is stopped leaves flows of engine packet to the next one.
		if _, err := s.agent.WaitLine(ctx, func(line string) bool { return strings.Contains(line, `"client":"`+clients[i]+`"`) }); err != nil {
			return fmt.Errorf("wait for the line of a client: %w", err)
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := s.stopAgent(); err != nil {
		report.problem("the agent did not stop in order: %v", err)
	}
	log, rest := readAccessLog(s.agent.Log().Lines())
	report.AgentLog = append(report.AgentLog, rest...)
	for i := range seen {
		v, l := &seen[i], log[clients[i]]
		v.ForwardedTo, v.Engine, v.BytesIn, v.BytesOut, v.Upstream = l.ForwardedTo, l.Engine, l.BytesIn, l.BytesOut, l.Upstream
		if l.Outcome != "routed" || l.End != "eof" {
			report.problem("%s: the access log says %q, %q (%s) of a client of %s", v.Object, l.Outcome, l.End, l.Reason, v.URL)
		}
	}
	report.Visited = append(report.Visited, seen...)
	return nil
}

// startUpstreams starts a server for each port of each host, with a certificate for all
// the names.
func (s *site) startUpstreams(way Way, servers map[string]*upstreamServer) error {
	names := []string{"upstream.test"}
	for _, v := range way.Visits {
		if !slices.Contains(names, v.SNI) {
			names = append(names, v.SNI)
		}
	}
	for i, u := range way.Upstreams {
		config, err := s.ca.ServerConfig(names[0], names[1:]...)
		if err != nil {
			return err
		}
		server := &upstreamServer{host: s.network.Backends[i], leaf: config.Certificates[0].Certificate[0]}
		servers[u.Host] = server
		for _, port := range u.Ports {
			b, err := testenv.NewBackend(server.host.Namespace, testenv.BackendOptions{
				Name: u.Host, TLS: config, Address: netip.AddrPortFrom(netip.IPv6Unspecified(), port),
			})
			if err != nil {
				return err
			}
			server.backends = append(server.backends, b)
		}
	}
	return nil
}

// startOn starts the agent on the way's manifests.
func (s *site) startOn(ctx context.Context, executable string, way Way, servers map[string]*upstreamServer) error {
	var b strings.Builder
	b.WriteString("admin: {address: \"off\"}\nmanifests:\n")
	for _, m := range way.Manifests {
		fmt.Fprintf(&b, "- %q\n", m)
	}
	if s.bpffs != "" {
		fmt.Fprintf(&b, "bpffs: %s\n", filepath.Join(s.bpffs, "state"))
	} else {
		b.WriteString("engine: splice\n")
	}
	if len(servers) > 0 {
		b.WriteString("hosts:\n")
	}
	for _, u := range way.Upstreams {
		fmt.Fprintf(&b, "  %s: [%q]\n", u.Host, servers[u.Host].host.IPv4())
	}
	return s.start(ctx, executable, b.String())
}

// visitURL goes to a URL, checks whom it meets, and has a megabyte sent back.
func (s *site) visitURL(ctx context.Context, sni string, to netip.AddrPort, v *Visited, servers map[string]*upstreamServer) (client string, err error) {
	c, err := clientOf(s, sni).open(ctx, to)
	if err != nil {
		return "", err
	}
	defer c.Close()
	client = c.LocalAddr().String()
	reply, err := testenv.Ask(c, testenv.Request{Mode: testenv.Echo})
	if err != nil {
		return client, err
	}
	v.Backend = reply.Backend
	leaf := c.ConnectionState().PeerCertificates[0]
	sum := sha256.Sum256(leaf.Raw)
	v.Certificate = Certificate{Subject: leaf.Subject.CommonName, SHA256: hex.EncodeToString(sum[:])}
	if u := servers[reply.Backend]; u != nil {
		v.Certificate.EndToEnd = bytes.Equal(leaf.Raw, u.leaf)
	}
	data := make([]byte, manifestBytes)
	_, _ = rand.Read(data) // never fails (crypto/rand)
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(data)
		sent <- errors.Join(err, testenv.CloseWrite(c.Conn))
	}()
	got, err := io.ReadAll(c)
	if err := errors.Join(err, <-sent); err != nil {
		return client, err
	}
	if !bytes.Equal(got, data) {
		return client, fmt.Errorf("%d bytes came back, not the %d that were sent", len(got), len(data))
	}
	if !v.Certificate.EndToEnd {
		return client, errors.New("the certificate is not the server's own")
	}
	return client, nil
}

func clientOf(s *site, sni string) client {
	return client{host: s.network.Clients[0], ca: s.ca, sni: sni}
}
