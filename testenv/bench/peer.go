// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spliceway/spliceway/testenv"
)

// peer is a gateway that is not ours.
type peer struct {
	product
	title  string // the table's
	path   string
	splice bool
}

// product is how a peer is run.
type product struct {
	program string   // looked up in PATH
	config  string   // template of its configuration
	also    []string // further files that it reads
	// args start it in the foreground with a configuration file.
	args func(file string, s settings) []string
	// chatty says that it has a line for every connection, and no way not to: what it
	// prints is thrown away.
	chatty bool
	// terminate is the configuration where it ends the clients' TLS; empty: it cannot.
	terminate string
	version   func(path string) (string, error)
	// reload has it read its files again; nil: it cannot.
	reload func(context.Context, *bed) error
}

var haproxy = product{
	program: "haproxy", config: "haproxy.cfg", also: []string{"haproxy.map"}, terminate: "haproxy-terminate.cfg",
	// A master with a worker, as distributions run it: it is what reloads.
	args:    func(file string, _ settings) []string { return []string{"-W", "-db", "-f", file} },
	version: printedVersion("-v"),
	reload:  signalReload(syscall.SIGUSR2),
}

var nginx = product{
	program: "nginx", config: "nginx.conf", terminate: "nginx-terminate.conf",
	args:    func(file string, _ settings) []string { return []string{"-c", file, "-e", "stderr"} },
	version: printedVersion("-v"),
	reload:  signalReload(syscall.SIGHUP),
}

var sniproxy = product{
	program: "sniproxy", config: "sniproxy.conf",
	args:    func(file string, _ settings) []string { return []string{"-f", "-c", file} },
	version: printedVersion("-V"),
	reload:  signalReload(syscall.SIGHUP),
}

var tlsrouter = product{
	program: "tlsrouter", config: "tlsrouter.conf", chatty: true,
	args: func(file string, s settings) []string {
		return []string{"-conf", file, "-listen", s.Listen.String(), "-hello-timeout", "3s"}
	},
	version: moduleVersion("github.com/inetaf/tcpproxy"),
}

var caddy = product{
	program: "caddy", config: "caddy.json",
	args:    func(file string, _ settings) []string { return []string{"run", "--config", file} },
	version: moduleVersion("github.com/mholt/caddy-l4"),
	reload:  caddyReload,
}

func (p *peer) name() string { return p.title }

func (p *peer) version() (string, error) { return p.product.version(p.path) }

func (p *peer) command(b *bed) (testenv.ProcessOptions, error) {
	file, s, err := p.configure(b)
	if err != nil {
		return testenv.ProcessOptions{}, err
	}
	run := testenv.ProcessOptions{Path: p.path, Args: p.args(file, s), Dir: b.dir}
	if p.chatty {
		run.Args = append([]string{"-c", `exec "$0" "$@" >/dev/null 2>&1`, run.Path}, run.Args...)
		run.Path = "/bin/sh"
	}
	if p.program == haproxy.program && b.layout == terminating {
		cnf, err := s.write("haproxy-openssl.cnf")
		if err != nil {
			return run, err
		}
		run.Env = append(os.Environ(), "OPENSSL_CONF="+cnf)
	}
	return run, nil
}

// configure writes the peer's files.
func (p *peer) configure(b *bed) (file string, s settings, err error) {
	if s, err = b.settings(); err != nil {
		return "", s, err
	}
	s.Splice = p.splice
	if p.program == nginx.program {
		if s.Modules, err = nginxModules(p.path); err != nil {
			return "", s, err
		}
	}
	main, also := p.config, p.also
	if b.layout.terminates() {
		main, also = p.product.terminate, nil
	}
	for _, name := range also {
		if _, err := s.write(name); err != nil {
			return "", s, err
		}
	}
	file, err = s.write(main)
	return file, s, err
}

func (p *peer) reload(ctx context.Context, b *bed) error {
	if p.product.reload == nil {
		return errCannotReload
	}
	if _, _, err := p.configure(b); err != nil {
		return err
	}
	return p.product.reload(ctx, b)
}

// errCannotReload is of a subject that reads its configuration once.
var errCannotReload = errors.New("it cannot reload")

func signalReload(signal syscall.Signal) func(context.Context, *bed) error {
	return func(_ context.Context, b *bed) error { return b.process.Signal(signal) }
}

// caddyReload posts the new file to the admin API (POST /load).
func caddyReload(ctx context.Context, b *bed) error {
	content, err := os.ReadFile(filepath.Join(b.dir, "caddy.json"))
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+adminAddress.String()+"/load", bytes.NewReader(content))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := b.admin().Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 1000))
		return fmt.Errorf("POST /load: %s: %s", answer.Status, text)
	}
	return nil
}

// nginxModules are what is not built in: Debian's nginx loads its stream module.
func nginxModules(path string) ([]string, error) {
	built, err := exec.Command(path, "-V").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("ask nginx what is built in: %w", err)
	}
	if strings.Contains(string(built), "--with-stream=dynamic") {
		return []string{"modules/ngx_stream_module.so"}, nil
	}
	return nil, nil
}

// haproxyBuilds are two peers of each HAProxy, named by its version when there are more
// than one.
func haproxyBuilds(paths []string) (found []subject, err error) {
	for _, path := range paths {
		title := "HAProxy"
		if len(paths) > 1 {
			v, err := haproxy.version(path)
			if err != nil {
				return nil, err
			}
			title += " " + shortVersion.FindString(v)
		}
		found = append(found,
			&peer{product: haproxy, title: title + " splice", path: path, splice: true},
			&peer{product: haproxy, title: title, path: path})
	}
	return found, nil
}

// shortVersion is major and minor number, and the word of what is no release.
var shortVersion = regexp.MustCompile(`^[0-9]+\.[0-9]+(-[a-z]+[0-9]+)?`)

var versionNumber = regexp.MustCompile(`[0-9]+\.[0-9]+[^\s]*`)

// printedVersion is the first version number in what a program prints.
func printedVersion(flag string) func(path string) (string, error) {
	return func(path string) (string, error) {
		printed, err := exec.Command(path, flag).CombinedOutput()
		version := versionNumber.Find(printed)
		if version == nil {
			return "", fmt.Errorf("%s %s: no version in what it prints: %w", path, flag, cmp.Or(err, errors.New(string(printed))))
		}
		return string(version), nil
	}
}

// moduleVersion is that of a module in a program of Go.
func moduleVersion(module string) func(path string) (string, error) {
	return func(path string) (string, error) {
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			return "", err
		}
		at := slices.IndexFunc(info.Deps, func(m *debug.Module) bool { return m.Path == module })
		switch {
		case info.Main.Path == module:
			return info.Main.Version, nil
		case at < 0:
			return "", fmt.Errorf("%s: built without %s", path, module)
		}
		return info.Deps[at].Version, nil
	}
}

// adminTimeout is for one request to a subject's admin API.
const adminTimeout = 10 * time.Second
