// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"fmt"
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
	// command writes the subject's files to the bed's directory and says how it
	// is run; the zero value: there is nothing to run.
	command(*bed) (testenv.ProcessOptions, error)
}

// direct is the kernel's own routing: the limit.
type direct struct{}

func (direct) name() string                                 { return "direct" }
func (direct) command(*bed) (testenv.ProcessOptions, error) { return testenv.ProcessOptions{}, nil }

// known is every subject in the order of the table's columns. make returns nil
// for one that is not installed.
var known = []struct {
	key  string
	make func(options) subject
}{
	{"direct", func(options) subject { return direct{} }},
	{"sockmap", func(o options) subject { return &spliceway{path: o.agent, engine: shortcut} }},
	{"packet", func(o options) subject { return &spliceway{path: o.agent, engine: "packet"} }},
	{"splice", func(o options) subject { return &spliceway{path: o.agent, engine: "splice"} }},
	{"haproxy-splice", func(o options) subject { return newHAProxy(o, true) }},
	{"haproxy", func(o options) subject { return newHAProxy(o, false) }},
}

func subjectKeys() []string {
	var keys []string
	for _, k := range known {
		keys = append(keys, k.key)
	}
	return keys
}

func newHAProxy(o options, splice bool) subject {
	found, err := exec.LookPath(cmp.Or(o.haproxy, "haproxy"))
	if err != nil {
		return nil
	}
	return &haproxy{path: found, splice: splice, flows: o.idle + 1000}
}

// chooseSubjects leaves out what is not installed, unless it was asked for.
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
		if k.key == "sockmap" && !o.sameHost {
			if wanted != nil {
				return nil, errors.New("-subjects: sockmap is for -same-host: it needs client and backend on the gateway's host")
			}
			continue
		}
		s := k.make(o)
		switch {
		case s != nil:
			chosen = append(chosen, s)
		case wanted != nil || o.haproxy != "":
			return nil, fmt.Errorf("%s: there is no program %q: name it by -haproxy, or leave it out by -subjects", k.key, cmp.Or(o.haproxy, "haproxy"))
		}
	}
	return chosen, nil
}
