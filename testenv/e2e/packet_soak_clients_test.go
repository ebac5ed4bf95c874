// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spliceway/spliceway/testenv"
)

// goConfig is what a Go client varies.
type goConfig struct {
	version uint16 // and no other
	small   bool   // an X25519 share only; else X25519MLKEM768 too
	resume  bool   // from the second connection on
	proxied bool   // a PROXY header must have reached the server
	config  func(*tls.Config)
}

// goKinds: crypto/tls at both ends.
func (s *soak) goKinds() (kinds []soakKind, endpoints string) {
	backend := s.net.Backends[0]
	plain := tlsBackend(s.t, backend, s.ca, "go", "*.go.test", "*.proxy.test")
	own, err := s.ca.ServerConfig("*.mtls.test")
	if err != nil {
		s.t.Fatal(err)
	}
	own.ClientAuth = tls.RequireAnyClientCert
	own.VerifyConnection = func(c tls.ConnectionState) error {
		_, err := c.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: s.ca.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		return err
	}
	mutual := testenv.MustBackend(s.t, backend.Namespace, testenv.BackendOptions{Name: "go", TLS: own})
	certificate, err := s.ca.Certificate("client")
	if err != nil {
		s.t.Fatal(err)
	}
	withCertificate := func(c *tls.Config) { c.Certificates = []tls.Certificate{certificate} }
	add := func(name, domain string, weight int, c goConfig) {
		kinds = append(kinds, soakKind{name: name, domain: domain, weight: weight, visit: s.goClient(c)})
	}
	add("tls13-pq", "go.test", 12, goConfig{version: tls.VersionTLS13})
	add("tls13-small", "go.test", 12, goConfig{version: tls.VersionTLS13, small: true})
	add("tls13-resumed", "go.test", 12, goConfig{version: tls.VersionTLS13, resume: true})
	add("tls12", "go.test", 10, goConfig{version: tls.VersionTLS12})
	add("tls12-resumed", "go.test", 10, goConfig{version: tls.VersionTLS12, resume: true})
	add("tls13", "mtls.test", 6, goConfig{version: tls.VersionTLS13, config: withCertificate})
	add("tls12", "mtls.test", 6, goConfig{version: tls.VersionTLS12, config: withCertificate})
	add("tls13-pq", "proxy.test", 6, goConfig{version: tls.VersionTLS13, proxied: true})
	add("tls12", "proxy.test", 6, goConfig{version: tls.VersionTLS12, proxied: true})
	return kinds, soakEndpoint("go.test", at(backend, plain)) +
		soakEndpoint("mtls.test", at(backend, mutual)) +
		fmt.Sprintf("- {name: proxy.test, url: %q, upstream: {url: \"tcp://%s\", proxyProtocol: v2}}\n", sni("*.proxy.test"), at(backend, plain))
}

// slowKinds: a Go server that takes its time for its first word.
func (s *soak) slowKinds() (kinds []soakKind, endpoints string) {
	config, err := s.ca.ServerConfig("*.slow.test")
	if err != nil {
		s.t.Fatal(err)
	}
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		time.Sleep(50*time.Millisecond + rand.N(450*time.Millisecond))
		return nil, nil
	}
	backend := testenv.MustBackend(s.t, s.net.Backends[0].Namespace, testenv.BackendOptions{Name: "go", TLS: config})
	for name, c := range map[string]goConfig{
		"tls13-pq":    {version: tls.VersionTLS13},
		"tls13-small": {version: tls.VersionTLS13, small: true},
		"tls12":       {version: tls.VersionTLS12},
	} {
		kinds = append(kinds, soakKind{name: name, domain: "slow.test", weight: 1, visit: s.goClient(c)})
	}
	return kinds, soakEndpoint("slow.test", at(s.net.Backends[0], backend))
}

// soakEndpoint is all names below a domain.
func soakEndpoint(domain string, target netip.AddrPort) string {
	return endpoint(domain, sni("*."+domain), target)
}

// goClient is a visit by crypto/tls to a testenv.Backend.
func (s *soak) goClient(c goConfig) func(context.Context, string, int) (time.Duration, error) {
	config := s.ca.ClientConfig("")
	config.MinVersion, config.MaxVersion = c.version, c.version
	if c.small {
		config.CurvePreferences = []tls.CurveID{tls.X25519}
	}
	if c.resume {
		config.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	}
	if c.config != nil {
		c.config(config)
	}
	return func(ctx context.Context, name string, i int) (handshake time.Duration, err error) {
		raw, err := s.net.Clients[0].Dial(ctx, s.gateway())
		if err != nil {
			return 0, err
		}
		own := config.Clone()
		own.ServerName = name
		conn := tls.Client(raw, own)
		defer func() { err = errors.Join(err, conn.Close()) }()
		begin := time.Now()
		if err := conn.HandshakeContext(ctx); err != nil {
			return 0, fmt.Errorf("%s: handshake: %w", raw.LocalAddr(), err)
		}
		handshake = time.Since(begin)
		if got, want := conn.ConnectionState().DidResume, c.resume && i > 0; got != want {
			return handshake, fmt.Errorf("resumed: %t, want %t", got, want)
		}
		reply, err := echo(conn, i)
		if err == nil && (reply.Backend != "go" || reply.ServerName != name || reply.TLSVersion != c.version) {
			err = fmt.Errorf("answered by %+v", reply)
		}
		if err == nil && c.proxied && (reply.Proxy == nil || reply.Proxy.Source != raw.LocalAddr().String()) {
			err = fmt.Errorf("the PROXY header is %+v, want %s", reply.Proxy, raw.LocalAddr())
		}
		return handshake, err
	}
}

// echoSizes are payloads from less than a segment to many.
var echoSizes = []int{1, 1000, 5000, 40_000}

// echo has a backend send random bytes back, until the end of both directions.
func echo(conn io.ReadWriter, i int) (testenv.Reply, error) {
	reply, err := testenv.Ask(conn, testenv.Request{Mode: testenv.Echo})
	if err != nil {
		return reply, err
	}
	sent := make([]byte, echoSizes[i%len(echoSizes)])
	for i := range sent {
		sent[i] = byte(rand.Uint32())
	}
	if _, err := conn.Write(sent); err != nil {
		return reply, fmt.Errorf("send: %w", err)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		return reply, fmt.Errorf("half-close: %w", err)
	}
	got, err := io.ReadAll(conn)
	if err != nil {
		return reply, fmt.Errorf("receive: %w", err)
	}
	if !bytes.Equal(got, sent) {
		return reply, fmt.Errorf("got %d bytes that are not the %d that were sent", len(got), len(sent))
	}
	return reply, nil
}

// plainKinds: clients that go on talking after the hello.
func (s *soak) plainKinds() (kinds []soakKind, endpoints string) {
	backend := plainBackend(s.t, s.net.Backends[0], "plain")
	visit := func(ctx context.Context, name string, i int) (time.Duration, error) {
		greeting, err := testenv.Hello(name, testenv.HelloOptions{Classical: i%2 == 0})
		if err != nil {
			return 0, err
		}
		conn, err := s.net.Clients[0].Dial(ctx, s.gateway())
		if err != nil {
			return 0, err
		}
		if _, err = conn.Write(greeting); err == nil {
			_, err = echo(conn, i)
		}
		return 0, errors.Join(err, conn.Close())
	}
	return []soakKind{{name: "speaks", domain: "plain.test", weight: 4, speaks: true, visit: visit}},
		soakEndpoint("plain.test", at(s.net.Backends[0], backend))
}

// certificates are files with a key pair for the names, and with the authority.
func (s *soak) certificates(name string, others ...string) (chain, key, ca string) {
	s.t.Helper()
	c, err := s.ca.Certificate(name, others...)
	if err != nil {
		s.t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		s.t.Fatal(err)
	}
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	return s.file(name[2:]+".crt", block("CERTIFICATE", c.Certificate[0])), s.file(name[2:]+".key", block("PRIVATE KEY", der)),
		s.file("ca.crt", s.ca.PEM())
}

const (
	reversePort = 4433
	earlyPort   = 4434
	nginxPort   = 8443
)

// opensslKinds: the openssl command at both ends, and with Go's server.
func (s *soak) opensslKinds() (kinds []soakKind, endpoints string) {
	if _, err := exec.LookPath("openssl"); err != nil {
		s.t.Logf("without openssl: %v", err)
		return nil, ""
	}
	backend := s.net.Backends[0]
	chain, key, _ := s.certificates("*.reverse.test", "*.early.test")
	// It answers each line with the line reversed.
	reverse := testenv.MustProcess(s.t, testenv.ProcessOptions{
		Namespace: backend.Namespace, Path: "openssl",
		Args: []string{"s_server", "-accept", fmt.Sprint(reversePort), "-cert", chain, "-key", key, "-rev"},
	})
	if err := reverse.WaitListening(short(s.t), reversePort); err != nil {
		s.t.Fatal(err)
	}
	var one sync.Mutex // it serves one after the other
	add := func(name string, weight int, resume bool, args ...string) {
		session := filepath.Join(s.dir, name)
		kinds = append(kinds, soakKind{name: name, domain: "reverse.test", weight: weight, visit: func(ctx context.Context, name string, i int) (time.Duration, error) {
			one.Lock()
			defer one.Unlock()
			args, said := args, "New, "
			if resume && i == 0 {
				args = append([]string{"-sess_out", session}, args...)
			} else if resume {
				args, said = append([]string{"-sess_in", session}, args...), "Reused, "
			}
			return 0, s.opensslClient(ctx, name, args, func(line string, in io.Writer, out *bufio.Reader) error {
				if err := waitFor(out, said); err != nil {
					return err
				}
				if _, err := io.WriteString(in, line+"\n"); err != nil {
					return err
				}
				return waitFor(out, reversed(line))
			}, i)
		}})
	}
	add("tls13", 3, false, "-tls1_3")
	add("tls13-resumed", 3, true, "-tls1_3")
	add("tls12", 3, false, "-tls1_2")
	add("tls12-resumed", 3, true, "-tls1_2")
	early, earlyEndpoint := s.earlyKinds(chain, key)
	return append(kinds, early...), soakEndpoint("reverse.test", netip.AddrPortFrom(backend.IPv4(), reversePort)) + earlyEndpoint
}

// earlyKinds: 0-RTT. The client's first request follows the hello at once.
func (s *soak) earlyKinds(chain, key string) (kinds []soakKind, endpoints string) {
	backend := s.net.Backends[0]
	server := exec.Command("openssl", "s_server", "-accept", fmt.Sprint(earlyPort), "-cert", chain, "-key", key, "-tls1_3", "-early_data", "-no_anti_replay")
	answers, err := server.StdinPipe() // at its end the server ends, too
	if err != nil {
		s.t.Fatal(err)
	}
	output, err := server.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := backend.Start(server); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
	served := bufio.NewReader(output)
	if err := waitFor(served, "ACCEPT"); err != nil {
		s.t.Fatal(err)
	}
	session := filepath.Join(s.dir, "early")
	var one sync.Mutex
	visit := func(ctx context.Context, name string, i int) (time.Duration, error) {
		one.Lock()
		defer one.Unlock()
		early := fmt.Sprintf("early %d", i)
		args := []string{"-tls1_3", "-sess_in", session, "-early_data", s.file("request", []byte(early+"\n"))}
		if i == 0 {
			args = []string{"-tls1_3", "-sess_out", session}
		}
		return 0, s.opensslClient(ctx, name, args, func(line string, in io.Writer, out *bufio.Reader) error {
			if i > 0 {
				if err := waitFor(out, "Early data was accepted"); err != nil {
					return err
				}
				if err := waitFor(served, early); err != nil {
					return err
				}
			}
			if _, err := io.WriteString(in, line+"\n"); err != nil {
				return err
			}
			if err := waitFor(served, line); err != nil {
				return err
			}
			if _, err := io.WriteString(answers, reversed(line)+"\n"); err != nil {
				return err
			}
			return waitFor(out, reversed(line))
		}, i)
	}
	return []soakKind{{name: "zero-rtt", domain: "early.test", weight: 3, speaks: true, visit: visit}},
		soakEndpoint("early.test", netip.AddrPortFrom(backend.IPv4(), earlyPort))
}

// opensslClient runs `openssl s_client` and talk with it. At the end of its input it
// closes the connection.
func (s *soak) opensslClient(ctx context.Context, name string, args []string, talk func(line string, in io.Writer, out *bufio.Reader) error, i int) error {
	args = append([]string{"s_client", "-connect", s.gateway().String(), "-servername", name, "-CAfile", filepath.Join(s.dir, "ca.crt"), "-verify_return_error"}, args...)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, "openssl", args...)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := s.net.Clients[0].Start(cmd); err != nil {
		return err
	}
	reader := bufio.NewReader(out)
	err = talk(fmt.Sprintf("line %d of a client", i), in, reader)
	if err != nil {
		cancel()
		return errors.Join(err, cmd.Wait(), errors.New(complaints.String()))
	}
	_ = in.Close()
	_, _ = io.Copy(io.Discard, reader)
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%w: %s", err, complaints.String())
	}
	return nil
}

// waitFor reads up to a line that has the text.
func waitFor(r *bufio.Reader, text string) error {
	for {
		l, err := r.ReadString('\n')
		if strings.Contains(l, text) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("wait for %q: %w", text, err)
		}
	}
}

func reversed(line string) string {
	b := []byte(line)
	for i, j := 0, len(b)-1; i < j; i, j = i+1, j-1 {
		b[i], b[j] = b[j], b[i]
	}
	return string(b)
}

// nginxConfig answers each request with its path.
const nginxConfig = `daemon off;
worker_processes 1;
error_log stderr warn;
pid nginx.pid;
events { worker_connections 1024; }
http {
	access_log off;
	client_body_temp_path body;
	proxy_temp_path proxy;
	fastcgi_temp_path fastcgi;
	uwsgi_temp_path uwsgi;
	scgi_temp_path scgi;
	server {
		listen %d ssl http2;
		ssl_certificate %s;
		ssl_certificate_key %s;
		ssl_protocols TLSv1.2 TLSv1.3;
		default_type text/plain;
		location / { return 200 "answer to $request_uri\n"; }
	}
}
`

// nginxKinds: curl and nginx.
func (s *soak) nginxKinds() (kinds []soakKind, endpoints string) {
	for _, program := range []string{"nginx", "curl"} {
		if _, err := exec.LookPath(program); err != nil {
			s.t.Logf("without curl and nginx: %v", err)
			return nil, ""
		}
	}
	backend := s.net.Backends[0]
	chain, key, ca := s.certificates("*.nginx.test")
	server := testenv.MustProcess(s.t, testenv.ProcessOptions{
		Namespace: backend.Namespace, Path: "nginx",
		Args: []string{"-p", s.dir, "-e", "stderr", "-c", s.file("nginx.conf", fmt.Appendf(nil, nginxConfig, nginxPort, chain, key))},
	})
	if err := server.WaitListening(short(s.t), nginxPort); err != nil {
		s.t.Fatal(err)
	}
	add := func(name string, version string, args ...string) {
		visit := func(ctx context.Context, name string, i int) (time.Duration, error) {
			path := fmt.Sprintf("/%d/%s", i, strings.Repeat("x", i%2*3000))
			at := fmt.Sprintf("%s:%d", name, gatewayPort)
			args := append([]string{
				"--silent", "--show-error", "--cacert", ca, "--resolve", at + ":" + s.gateway().Addr().String(),
				"--write-out", "%{http_version} %{time_connect} %{time_appconnect}", "https://" + at + path,
			}, args...)
			cmd := exec.CommandContext(ctx, "curl", args...)
			var out, complaints bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &complaints
			if err := s.net.Clients[0].Start(cmd); err != nil {
				return 0, err
			}
			if err := cmd.Wait(); err != nil {
				return 0, fmt.Errorf("%w: %s", err, complaints.String())
			}
			answer, rest, _ := strings.Cut(out.String(), "\n")
			var http string
			var connected, done float64
			if _, err := fmt.Sscan(rest, &http, &connected, &done); err != nil || answer != "answer to "+path || http != version {
				return 0, fmt.Errorf("curl %s: got %q", at+path, out.String())
			}
			return time.Duration((done - connected) * float64(time.Second)), nil
		}
		kinds = append(kinds, soakKind{name: name, domain: "nginx.test", weight: 3, visit: visit})
	}
	add("tls13-h1", "1.1", "--tlsv1.3", "--http1.1")
	add("tls12-h1", "1.1", "--tls-max", "1.2", "--http1.1")
	add("tls13-h2", "2", "--tlsv1.3", "--http2")
	add("tls12-h2", "2", "--tls-max", "1.2", "--http2")
	return kinds, soakEndpoint("nginx.test", netip.AddrPortFrom(backend.IPv4(), nginxPort))
}
