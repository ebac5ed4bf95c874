// SPDX-License-Identifier: Apache-2.0

// Command spliceway is a TLS gateway agent: many services behind one address and
// port, told apart by the name in the ClientHello.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/alecthomas/kong"

	"github.com/spliceway/spliceway/userspace/config"
)

// cli is the command line. Nouns read, verbs change.
type cli struct {
	Run     runCmd     `cmd:"" help:"Run the agent."`
	Check   checkCmd   `cmd:"" help:"Check configuration files and print every mistake."`
	Routes  routesCmd  `cmd:"" help:"Show the routes of a configuration, or ask it where a name goes."`
	Status  statusCmd  `cmd:"" help:"Show what becomes of each object in the manifests of a configuration."`
	Flows   flowsCmd   `cmd:"" help:"Show the established connections, or end some."`
	Unload  unloadCmd  `cmd:"" help:"Take what an agent left in the kernel out of it; ends its connections (root)."`
	Probe   probeCmd   `cmd:"" help:"Show what this kernel can do, and what is lost where it cannot."`
	Demo    demoCmd    `cmd:"" help:"Build a network of namespaces on this host, run the agent in it, and show it at work (root)."`
	Version versionCmd `cmd:"" help:"Print the version."`
}

const description = `Spliceway is a TLS gateway agent for Linux hosts. It serves many names on one
address and port: it reads the name in each ClientHello, picks the backend,
and hands the bytes through untouched, so TLS stays end to end.

Start with "spliceway demo", then "spliceway check FILE" and
"spliceway run --config FILE". Exit status: 0 done, 1 failed, 2 wrong usage.`

// env is the world outside, so that a test can stand in for it.
type env struct {
	stdout, stderr io.Writer
}

// errReported is a failure that has been told in full already.
var errReported = errors.New("reported")

func main() {
	os.Exit(realMain(os.Args[1:], env{stdout: os.Stdout, stderr: os.Stderr}))
}

func realMain(args []string, e env) int {
	exit := -1
	var c cli
	parser, err := kong.New(&c,
		kong.Name("spliceway"), kong.Description(description), kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Writers(e.stdout, e.stderr), kong.Bind(e),
		vars,
		// --help ends the parse here; the exit itself is main's.
		kong.Exit(func(status int) { exit = status; panic(exited{}) }))
	if err != nil {
		panic(err) // a mistake in the structs above
	}
	ctx, err := parse(parser, args)
	if exit >= 0 {
		return exit
	}
	if err != nil {
		fmt.Fprintf(e.stderr, "spliceway: %v\nTry \"spliceway --help\".\n", err)
		return 2
	}
	if err := ctx.Run(); err != nil {
		if !errors.Is(err, errReported) {
			fmt.Fprintf(e.stderr, "spliceway: %v\n", err)
		}
		return 1
	}
	return 0
}

type exited struct{}

func parse(p *kong.Kong, args []string) (ctx *kong.Context, err error) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(exited); !ok {
				panic(r)
			}
		}
	}()
	if len(args) == 0 {
		args = []string{"--help"}
	}
	return p.Parse(args)
}

// vars are what help texts and defaults refer to.
var vars = kong.Vars{"config": defaultConfig, "bpffs": config.DefaultBPFFS, "sourcePorts": config.DefaultSourcePorts}

// defaultConfig is where the packaged service looks.
const defaultConfig = "/etc/spliceway/spliceway.yaml"

// configFlag is the flag of every command that reads the agent's file.
type configFlag struct {
	Config string `help:"The agent's file (default ${config})." placeholder:"FILE" default:"${config}" short:"c"`
}
