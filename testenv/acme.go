// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// PebbleOptions describes a [Pebble].
type PebbleOptions struct {
	// Namespace nil is the caller's, for Address, too; the zero Address is 127.0.0.1.
	Namespace *Namespace
	Address   netip.Addr
	// Resolve is the address of every name, as Pebble sees it. Zero: Address.
	Resolve netip.Addr
	// TLSPort and HTTPPort are where Pebble looks for answers to challenges. 0: nobody
	// is there.
	TLSPort, HTTPPort uint16
	// Lifetime is that of the certificates, in whole seconds. 0: 90 days.
	Lifetime time.Duration
	// Accounts has the keys (base64url) of external accounts by their IDs. Not empty:
	// an account must be bound to one of them.
	Accounts map[string]string
}

// Pebble is an ACME authority with all the checks of a real one (Let's Encrypt's own for
// tests), and a DNS server that knows every name. It is built from the module
// testenv/pebble. Each has a root of its own.
type Pebble struct {
	// DirectoryURL is what ACME begins with. CAFile vouches for it; it has nothing
	// to do with the certificates that are issued.
	DirectoryURL, CAFile string

	dir        string
	options    PebbleOptions
	management netip.AddrPort
	web        *CA
	dns, acme  *Process
}

// pebbleTimeout is for building and starting it.
const pebbleTimeout = time.Minute

// NewPebble builds and starts one. The caller closes it.
func NewPebble(options PebbleOptions) (_ *Pebble, err error) {
	if !options.Address.IsValid() {
		options.Address = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	if !options.Resolve.IsValid() {
		options.Resolve = options.Address
	}
	p := &Pebble{options: options}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start Pebble: %w", err), p.Close())
		}
	}()
	if p.dir, err = os.MkdirTemp("", "pebble"); err != nil {
		return nil, err
	}
	if p.web, err = NewCA(); err != nil {
		return nil, err
	}
	p.CAFile = filepath.Join(p.dir, "web-ca.pem")
	if err := WriteFile(p.CAFile, p.web.PEM()); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), pebbleTimeout)
	defer cancel()
	if err := buildPebble(ctx, p.dir); err != nil {
		return nil, err
	}
	return p, p.start(ctx)
}

// buildPebble puts the two programs into dir.
func buildPebble(ctx context.Context, dir string) error {
	_, file, _, _ := runtime.Caller(0)
	build := exec.CommandContext(ctx, "go", "build", "-o", dir+"/", "tool")
	build.Dir = filepath.Join(filepath.Dir(file), "pebble")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build it in %s: %w: %s", build.Dir, err, out)
	}
	return nil
}

func (p *Pebble) start(ctx context.Context) error {
	var ports [4]uint16 // DNS, its control, ACME, management
	for i := range ports {
		var err error
		if ports[i], err = p.freePort(); err != nil {
			return err
		}
	}
	at := func(i int) string { return netip.AddrPortFrom(p.options.Address, ports[i]).String() }
	p.management = netip.AddrPortFrom(p.options.Address, ports[3])
	p.DirectoryURL = "https://" + at(2) + "/dir"
	config, err := p.writeConfig(at(2), at(3))
	if err != nil {
		return err
	}
	a, aaaa := p.options.Resolve.String(), ""
	if p.options.Resolve.Is6() {
		a, aaaa = "", a
	}
	if p.dns, err = StartProcess(ProcessOptions{Namespace: p.options.Namespace, Path: filepath.Join(p.dir, "pebble-challtestsrv"), Args: []string{
		"-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "", "-dnsserver", at(0), "-management", at(1),
		"-defaultIPv4", a, "-defaultIPv6", aaaa}}); err != nil {
		return err
	}
	// Nothing is left to chance: no waits, no nonces refused for practice, no
	// authorizations that are good for another order.
	env := append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0", "PEBBLE_AUTHZREUSE=0")
	if p.acme, err = StartProcess(ProcessOptions{Namespace: p.options.Namespace, Path: filepath.Join(p.dir, "pebble"),
		Args: []string{"-config", config, "-dnsserver", at(0)}, Env: env}); err != nil {
		return err
	}
	// The name server has both transports; Pebble asks by UDP, which /proc/net/tcp
	// does not tell of.
	if err := Poll(ctx, func() (bool, error) { return bound(p.dns.Pid(), ports[0]) }); err != nil {
		return fmt.Errorf("wait for the name server: %w; its output: %s", err, p.dns.Log())
	}
	return errors.Join(p.dns.WaitListening(ctx, ports[0]), p.acme.WaitListening(ctx, ports[2]), p.acme.WaitListening(ctx, ports[3]))
}

func (p *Pebble) writeConfig(listen, management string) (file string, err error) {
	leaf, err := p.web.Issue(Leaf{Names: []string{"pebble.test"}, IPs: []net.IP{p.options.Address.AsSlice()}})
	if err != nil {
		return "", err
	}
	certFile, keyFile, err := WritePair(p.dir, "web", leaf)
	if err != nil {
		return "", err
	}
	data, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": listen, "managementListenAddress": management, "certificate": certFile, "privateKey": keyFile,
		"tlsPort": p.options.TLSPort, "httpPort": p.options.HTTPPort, "keyAlgorithm": "ecdsa",
		"externalAccountBindingRequired": len(p.options.Accounts) > 0, "externalAccountMACKeys": p.options.Accounts,
		"profiles": map[string]any{"default": map[string]any{"description": "the only one", "validityPeriod": int(p.options.Lifetime.Seconds())}},
	}})
	if err != nil {
		return "", err
	}
	file = filepath.Join(p.dir, "pebble.json")
	return file, WriteFile(file, data)
}

// Roots is what clients need to trust the certificates that it issues.
func (p *Pebble) Roots(ctx context.Context) (*x509.CertPool, error) {
	transport := &http.Transport{TLSClientConfig: p.web.ClientConfig("pebble.test"), DisableKeepAlives: true}
	if ns := p.options.Namespace; ns != nil {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return ns.Dial(ctx, p.management) }
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+p.management.String()+"/roots/0", nil)
	if err != nil {
		return nil, err
	}
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return nil, fmt.Errorf("get Pebble's root: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, fmt.Errorf("get Pebble's root: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("get Pebble's root: %s: no certificate", res.Status)
	}
	return pool, nil
}

// Log is what Pebble says.
func (p *Pebble) Log() *Log { return p.acme.Log() }

// Close ends it, and removes its files. Closing twice is harmless.
func (p *Pebble) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	var err error
	for _, process := range []*Process{p.acme, p.dns} {
		if process == nil {
			continue
		}
		// They end by the signal itself, which is an error to Stop.
		if e := process.Stop(ctx); errors.Is(e, context.DeadlineExceeded) {
			err = errors.Join(err, e)
		}
	}
	return errors.Join(err, os.RemoveAll(p.dir))
}

// MustPebble is [NewPebble] for the length of a test.
func MustPebble(tb TB, options PebbleOptions) *Pebble {
	tb.Helper()
	return must(NewPebble(options)).orFail(tb, (*Pebble).Close)
}

// freePort is free for TCP at the moment.
func (p *Pebble) freePort() (port uint16, err error) {
	address := netip.AddrPortFrom(p.options.Address, 0)
	var l net.Listener
	if p.options.Namespace != nil {
		l, err = p.options.Namespace.Listen(address)
	} else {
		l, err = net.Listen("tcp", address.String())
	}
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	return l.Addr().(*net.TCPAddr).AddrPort().Port(), l.Close()
}

// bound tells whether a UDP socket has the port in the process's network namespace.
func bound(pid int, port uint16) (bool, error) {
	for _, table := range []string{"udp", "udp6"} {
		content, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, err
		}
		for line := range strings.Lines(string(content)) {
			if fields := strings.Fields(line); len(fields) > 1 && strings.HasSuffix(fields[1], fmt.Sprintf(":%04X", port)) {
				return true, nil
			}
		}
	}
	return false, nil
}
