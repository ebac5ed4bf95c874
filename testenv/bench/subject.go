// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/spliceway/spliceway/testenv"
)

// gatewayPort is where every subject listens.
const gatewayPort = 9443

// subject is what stands between client and backend.
type subject interface {
	name() string
	// version is the program's; empty: there is none.
	version() (string, error)
	// command writes the subject's files to the bed's directory and says how it
	// is run; the zero value: there is nothing to run.
	command(*bed) (testenv.ProcessOptions, error)
	// reload writes its files again and has it read them, or returns
	// [errCannotReload].
	reload(context.Context, *bed) error
}

// direct is the kernel's own routing: the limit.
type direct struct{}

func (direct) name() string                                 { return "direct" }
func (direct) version() (string, error)                     { return "", nil }
func (direct) command(*bed) (testenv.ProcessOptions, error) { return testenv.ProcessOptions{}, nil }
func (direct) reload(context.Context, *bed) error           { return errCannotReload }

// known is every subject in the order of the tables' rows. make returns none for one
// that is not installed.
var known = []struct {
	key  string
	make func(options) ([]subject, error)
}{
	{"direct", one(func(options) subject { return direct{} })},
	{"sockmap", one(func(o options) subject { return &spliceway{path: o.agent, engine: shortcut} })},
	{"packet", one(func(o options) subject { return &spliceway{path: o.agent, engine: "packet"} })},
	{"splice", one(func(o options) subject { return &spliceway{path: o.agent, engine: "splice"} })},
	{"haproxy", func(o options) ([]subject, error) {
		paths, err := installed(haproxy.program, o.haproxy)
		if err != nil {
			return nil, err
		}
		return haproxyBuilds(paths)
	}},
	{"nginx", installedPeer(nginx, "nginx", func(o options) string { return o.nginx })},
	{"sniproxy", installedPeer(sniproxy, "sniproxy", inPath)},
	{"tlsrouter", installedPeer(tlsrouter, "tlsrouter", inPath)},
	{"caddy", installedPeer(caddy, "caddy-l4", inPath)},
}

func one(f func(options) subject) func(options) ([]subject, error) {
	return func(o options) ([]subject, error) { return []subject{f(o)}, nil }
}

func installedPeer(p product, title string, named func(options) string) func(options) ([]subject, error) {
	return func(o options) ([]subject, error) {
		paths, err := installed(p.program, named(o))
		if err != nil || paths == nil {
			return nil, err
		}
		return []subject{&peer{product: p, title: title, path: paths[0]}}, nil
	}
}

// inPath is of a peer that no flag names.
func inPath(options) string { return "" }

// installed are the programs named, separated by commas; without any the one in PATH,
// if it is there.
func installed(program, named string) (paths []string, err error) {
	for _, name := range strings.Split(cmp.Or(named, program), ",") {
		path, err := exec.LookPath(name)
		if err != nil && named == "" {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("-%s: %w", program, err)
		}
		paths = append(paths, path)
	}
	return paths, nil
}

func subjectKeys() []string {
	var keys []string
	for _, k := range known {
		keys = append(keys, k.key)
	}
	return keys
}

// chooseSubjects leaves out what is not installed, and says so, unless it was asked for.
func chooseSubjects(o options) ([]subject, error) {
	var wanted []string
	if o.subjects != "" {
		wanted = strings.Split(o.subjects, ",")
	}
	for _, key := range wanted {
		if !slices.Contains(subjectKeys(), key) {
			return nil, fmt.Errorf("-subjects: %q is none of %s", key, strings.Join(subjectKeys(), ", "))
		}
	}
	var chosen []subject
	for _, k := range known {
		if wanted != nil && !slices.Contains(wanted, k.key) {
			continue
		}
		found, err := k.make(o)
		switch {
		case err != nil:
			return nil, err
		case found == nil && wanted != nil:
			return nil, fmt.Errorf("-subjects: %s is not in PATH", k.key)
		case found == nil:
			fmt.Fprintf(os.Stderr, "%s is not in PATH: it is left out\n", k.key)
		}
		chosen = append(chosen, found...)
	}
	if len(chosen) == 0 {
		return nil, errors.New("-subjects: none is left")
	}
	return chosen, nil
}

// takesPart: the short cut from socket to socket is for flows within one host.
func takesPart(s subject, w work) bool {
	agent, ok := s.(*spliceway)
	return !ok || agent.engine != shortcut || w.layout.sameHost()
}
