// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"syscall"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/testenv"
)

// bed is a network with a subject in its gateway and the backend's services.
type bed struct {
	place
	layout      layout
	subject     subject
	process     *testenv.Process // nil: direct
	host        *testenv.Process // the backend as a process of its own; nil: it is this one
	dir         string
	mounted     string  // a bpffs below dir; empty: none
	idleBusy    float64 // CPU seconds per second that are not the work's, set before it
	listeners   []net.Listener
	flows       int               // at once, that the subject must bear
	added       int               // routes that came by reloads
	hello       map[string][]byte // by service, with a post-quantum key share
	small       map[string][]byte // the same with a classical one
	received    atomic.Int64      // bytes that the service "firstword" got
	authority   *testenv.CA       // of the service "tls", and of a terminating subject
	certificate tls.Certificate   // of a terminating subject
	next        atomic.Int64      // address to dial from
	opened      atomic.Int64      // connections that got an answer
}

const (
	// patience is how long a connection may take over what it does, beside the
	// time that its work is given: a subject that hangs is an error.
	patience    = 20 * time.Second
	stopTimeout = 3 * time.Second
)

func newBed(ctx context.Context, s subject, l layout, flows int) (b *bed, err error) {
	b = &bed{subject: s, layout: l, flows: flows, hello: make(map[string][]byte), small: make(map[string][]byte)}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if err := b.build(l); err != nil {
		return b, err
	}
	serve := b.serve
	if l.sameHost() {
		serve = func() error { return b.serveHost(ctx) }
	}
	if l.terminates() {
		serve = b.serveTLS
	}
	if err := serve(); err != nil {
		return b, err
	}
	return b, b.start(ctx)
}

// start runs the subject and sees one connection through.
func (b *bed) start(ctx context.Context) (err error) {
	if b.dir, err = os.MkdirTemp("", "bench"); err != nil {
		return err
	}
	run, err := b.subject.command(b)
	if err != nil {
		return err
	}
	if run.Path != "" {
		run.Namespace = b.gateway
		if b.process, err = testenv.StartProcess(run); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if err := b.process.WaitListening(ctx, gatewayPort); err != nil {
			return fmt.Errorf("%w (-subjects leaves a subject out)", err)
		}
	}
	if b.layout.terminates() {
		if err := b.tryTLS(ctx); err != nil {
			return fmt.Errorf("%w%s", err, b.output())
		}
		return nil
	}
	c, err := b.dial(ctx, b.first, 0)
	if err != nil {
		return fmt.Errorf("%w%s", err, b.output())
	}
	return c.Close()
}

// ended: the subject has, by the work's own doing.
func (b *bed) ended() bool {
	if b.process == nil {
		return true
	}
	select {
	case <-b.process.Done():
		return true
	default:
		return false
	}
}

// output is the subject's own words, for an error.
func (b *bed) output() string {
	if b.process == nil || b.process.Log().String() == "" {
		return ""
	}
	return "; of the subject's output " + b.process.Log().Tail()
}

// close ends the subject first, so that what it pinned is nobody's any more.
func (b *bed) close() error {
	if b.process != nil {
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		_ = b.process.Stop(ctx) // how it exits is not what is measured
	}
	for _, l := range b.listeners {
		_ = l.Close()
	}
	if b.host != nil {
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		_ = b.host.Stop(ctx)
	}
	errs := []error{b.place.close()}
	if b.mounted != "" {
		if err := unix.Unmount(b.mounted, 0); err != nil {
			// Not RemoveAll then: it would go on into the mount.
			return errors.Join(append(errs, fmt.Errorf("unmount %s (do it by hand): %w", b.mounted, err))...)
		}
	}
	return errors.Join(append(errs, os.RemoveAll(b.dir))...)
}

// target is where a client connects to for a service.
func (b *bed) target(service string) netip.AddrPort {
	if b.process == nil {
		return netip.AddrPortFrom(b.backendIP, b.services[service])
	}
	return netip.AddrPortFrom(b.gatewayIP, gatewayPort)
}

// dial connects to a service through the subject and greets it. The connection is
// good for d and some patience.
func (b *bed) dial(ctx context.Context, service string, d time.Duration) (*net.TCPConn, error) {
	return b.dialHello(ctx, service, b.hello[service], d)
}

// dialHello is dial with a hello of the caller's.
func (b *bed) dialHello(ctx context.Context, service string, hello []byte, d time.Duration) (*net.TCPConn, error) {
	var dialer net.Dialer
	dialer.SetMultipathTCP(false)
	source := b.sources[b.next.Add(1)%int64(len(b.sources))]
	dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
	c, err := b.client.DialWith(ctx, dialer, b.target(service))
	if err != nil {
		return nil, err
	}
	err = cmp.Or(c.SetDeadline(time.Now().Add(d+patience)), b.greet(c, hello))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("greet %s: %w", service, err), c.Close())
	}
	return c, nil
}

func (b *bed) dialAll(ctx context.Context, service string, n int, d time.Duration) ([]net.Conn, error) {
	var conns []net.Conn
	for range n {
		c, err := b.dial(ctx, service, d)
		if err != nil {
			closeAll(conns)
			return nil, err
		}
		conns = append(conns, c)
	}
	return conns, nil
}

func closeAll(conns []net.Conn) {
	for _, c := range conns {
		_ = c.Close()
	}
}

// raiseOpenFiles takes all that this process may have: client and backend of each
// flow are its own.
func raiseOpenFiles() error {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("read open file limit: %w", err)
	}
	// By package syscall, whose limit is what children start with. Some hold two sockets
	// and two pipes for a flow: more is asked for than the machine may give.
	for _, most := range []uint64{max(l.Max, manyFiles), l.Max} {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: most, Max: most}); err == nil {
			return nil
		} else if most == l.Max {
			return fmt.Errorf("raise open file limit to %d: %w", most, err)
		}
	}
	return nil
}

const manyFiles = 1 << 18
