// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"context"
	"crypto/tls"
	"errors"
	"net/netip"
	"time"
)

// cleanupTimeout is what a cleanup waits before it is a failure.
const cleanupTimeout = 10 * time.Second

// TB is what this package needs of a [testing.TB]. It has a name of its own so
// that the agent does not link package testing.
type TB interface {
	Helper()
	Cleanup(func())
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
}

// Privileged fails the test, and says what to do, when the process lacks what
// [CheckPrivileges] asks for. It does not skip: a test that never runs says
// nothing.
func Privileged(tb TB) {
	tb.Helper()
	if err := CheckPrivileges(); err != nil {
		tb.Fatalf("this test needs privileges: %v", err)
	}
}

// CheckLeaks takes a [Baseline] and checks it after every cleanup that the
// test registers later: call it first.
func CheckLeaks(tb TB) {
	tb.Helper()
	baseline, err := NewBaseline()
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() {
		tb.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		if err := baseline.Check(ctx); err != nil {
			tb.Errorf("left behind: %v", err)
		}
	})
}

// MustNamespace is [NewNamespace] for the length of a test.
func MustNamespace(tb TB, name string) *Namespace {
	tb.Helper()
	Privileged(tb)
	return must(NewNamespace(name)).orFail(tb, (*Namespace).Close)
}

// MustNetwork is [NewNetwork] for the length of a test. It skips the test when
// the kernel lacks the kind of link that the options ask for.
func MustNetwork(tb TB, options NetworkOptions) *Network {
	tb.Helper()
	Privileged(tb)
	network, err := NewNetwork(options)
	if errors.Is(err, ErrNoLinkKind) {
		tb.Skipf("%v", err)
	}
	return must(network, err).orFail(tb, (*Network).Close)
}

// MustBackend is [NewBackend] for the length of a test.
func MustBackend(tb TB, ns *Namespace, options BackendOptions) *Backend {
	tb.Helper()
	return must(NewBackend(ns, options)).orFail(tb, (*Backend).Close)
}

// MustCapture is [NewCapture] for the length of a test.
func MustCapture(tb TB, device *Device) *Capture {
	tb.Helper()
	return must(NewCapture(device)).orFail(tb, (*Capture).Close)
}

// MustRawPeer is [NewRawPeer] for the length of a test.
func MustRawPeer(tb TB, host *Host, local netip.AddrPort) *RawPeer {
	tb.Helper()
	return must(NewRawPeer(host, local)).orFail(tb, (*RawPeer).Close)
}

// MustProcess is [StartProcess] for the length of a test: a child that is
// still there at the end is stopped. How it exits is the test's to check.
func MustProcess(tb TB, options ProcessOptions) *Process {
	tb.Helper()
	return must(StartProcess(options)).orFail(tb, func(p *Process) error {
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		if err := p.Stop(ctx); errors.Is(err, context.DeadlineExceeded) {
			return err // it had to be killed
		}
		return nil
	})
}

// MustCA is [NewCA] in a test.
func MustCA(tb TB) *CA {
	tb.Helper()
	return must(NewCA()).orFail(tb, nil)
}

// MustPEM is [EncodePair] in a test, as text.
func MustPEM(tb TB, c tls.Certificate) (chain, key string) {
	tb.Helper()
	chainPEM, keyPEM, err := EncodePair(c)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	return string(chainPEM), string(keyPEM)
}

// MustPair is the [MustPEM] of a certificate for a name, of an authority that nobody else
// knows.
func MustPair(tb TB, name string) (chain, key string) {
	tb.Helper()
	c := must(MustCA(tb).Certificate(name)).orFail(tb, nil)
	return MustPEM(tb, c)
}

// MustHello is [Hello] in a test.
func MustHello(tb TB, name string, options HelloOptions) []byte {
	tb.Helper()
	return must(Hello(name, options)).orFail(tb, nil)
}

// result is a value or why there is none.
type result[T any] struct {
	value T
	err   error
}

func must[T any](value T, err error) result[T] { return result[T]{value, err} }

// orFail returns the value, and closes it after the test.
func (r result[T]) orFail(tb TB, closeValue func(T) error) T {
	tb.Helper()
	if r.err != nil {
		tb.Fatalf("%v", r.err)
	}
	if closeValue != nil {
		tb.Cleanup(func() {
			if err := closeValue(r.value); err != nil {
				tb.Errorf("clean up: %v", err)
			}
		})
	}
	return r.value
}

// MustBPFFS is [MountBPFFS].
func MustBPFFS(tb TB) (dir string) {
	tb.Helper()
	dir, undo, err := MountBPFFS()
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() {
		if err := undo(); err != nil {
			tb.Errorf("%v", err)
		}
	})
	return dir
}
