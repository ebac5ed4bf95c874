// SPDX-License-Identifier: Apache-2.0

// Command kernel runs tests on other kernels than the machine's own: it fetches
// Debian's cloud kernels, boots each in an emulator with nothing but the tests, and
// exits by their verdict. It needs Debian's apt and qemu-system-x86, and no root.
// See docs/kernels.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// defaultPackages are those whose tests depend on the kernel.
const defaultPackages = "./bpf,./maps,./loader,./userspace/packet,./userspace/sock,./userspace/splice,./testenv,./testenv/e2e"

type options struct {
	kernels, packages []string
	run               string // as go test's -run
	cache             string // directory of unpacked kernels
	update            bool
	testTimeout       time.Duration // of a package, by the guest's clock
	timeout           time.Duration // of a kernel with all its packages
	accel             string        // as qemu's -machine accel
	cpus, memory      int           // memory in MiB
}

func main() {
	// The emulator is killed with the thread that started it: this one, which
	// lives as long as the process.
	runtime.LockOSThread()
	var o options
	kernels := flag.String("k", "6.1,6.12", "kernel versions, each the start of a release")
	packages := flag.String("packages", defaultPackages, "packages to test")
	flag.StringVar(&o.run, "run", "", "only tests that match, as go test's")
	flag.StringVar(&o.cache, "cache", "", "where kernels are kept; default: spliceway/kernels in the user's cache directory")
	flag.BoolVar(&o.update, "update", false, "ask apt for a newer kernel than the one in the cache")
	flag.DurationVar(&o.testTimeout, "test-timeout", 20*time.Minute, "of each package's tests")
	flag.DurationVar(&o.timeout, "timeout", 40*time.Minute, "of each kernel")
	flag.StringVar(&o.accel, "accel", "tcg", "qemu's accelerator: tcg is software and works anywhere, kvm is fast where the machine has it")
	flag.IntVar(&o.cpus, "cpus", 2, "of the virtual machine")
	flag.IntVar(&o.memory, "memory", 2048, "of the virtual machine, in MiB")
	flag.Parse()
	o.kernels, o.packages = split(*kernels), split(*packages)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "test-kernel:", err)
		stop()
		os.Exit(1)
	}
}

// split allows commas and spaces.
func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}

// errFailed is the verdict of tests that ran and failed; the report has said why.
var errFailed = errors.New("tests failed")

func run(ctx context.Context, o options) error {
	if err := checkTools(); err != nil {
		return err
	}
	if o.cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return fmt.Errorf("find a cache directory: %w: name one by -cache", err)
		}
		o.cache = filepath.Join(base, "spliceway", "kernels")
	}
	work, err := os.MkdirTemp("", "spliceway-kernel-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	tests, err := buildTests(ctx, o, work)
	if err != nil {
		return err
	}
	var reports []*report
	for _, version := range o.kernels {
		r, err := testOn(ctx, o, version, tests, work)
		if err != nil {
			return fmt.Errorf("kernel %s: %w", version, err)
		}
		reports = append(reports, r)
	}
	failed := false
	for _, r := range reports {
		r.print(os.Stdout)
		failed = failed || r.failed()
	}
	if failed {
		return errFailed
	}
	return nil
}

// testOn returns an error when there was nothing to boot. That the machine died is
// in the report.
func testOn(ctx context.Context, o options, version string, tests *tests, work string) (*report, error) {
	k, err := findKernel(ctx, o, version)
	if err != nil {
		return nil, err
	}
	initramfs := filepath.Join(work, "initramfs-"+version)
	if err := buildInitramfs(ctx, initramfs, k, tests); err != nil {
		return nil, fmt.Errorf("build initramfs: %w", err)
	}
	fmt.Printf("%s: booting %s\n", version, filepath.Base(k.image))
	r := newReport(os.Stdout, version, o.packages)
	machine := machine{options: o, kernel: k.image, initramfs: initramfs, console: filepath.Join(work, "console-"+version)}
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("the kernel's %s are over (-timeout)", o.timeout))
	defer cancel()
	err = machine.boot(ctx, r.event)
	r.finish(err, machine.consoleText())
	return r, nil
}
