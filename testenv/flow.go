// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Flow is one connection through a relay with both of its ends in hand, so
// that a test drives each FIN, RST and byte itself. What follows the hello is
// plain bytes: a relay must not care.
type Flow struct {
	Client, Backend *net.TCPConn
}

// OpenFlow dials with dial, which leads to the relay; sends hello; takes from
// listener, the relay's backend, the connection that the relay makes; and
// checks that the hello arrives there as it was sent. A prefix that the relay
// adds, a PROXY header, goes by in front of it and is returned.
//
// One call at a time for a listener, or the ends could be mixed up.
func OpenFlow(ctx context.Context, dial func(context.Context) (*net.TCPConn, error), listener *net.TCPListener, hello []byte) (flow *Flow, prefix []byte, err error) {
	flow = &Flow{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open flow: %w", err), flow.Close())
			flow = nil
		}
	}()
	if flow.Client, err = dial(ctx); err != nil {
		return flow, nil, err
	}
	if _, err = flow.Client.Write(hello); err != nil {
		return flow, nil, fmt.Errorf("send hello: %w", err)
	}
	if flow.Backend, err = Accept(ctx, listener); err != nil {
		return flow, nil, err
	}
	stop := interrupt(ctx, flow.Client, flow.Backend)
	defer stop()
	if prefix, err = readUpTo(flow.Backend, hello); err != nil {
		return flow, nil, fmt.Errorf("read hello at the backend: %w", err)
	}
	return flow, prefix, nil
}

// Close closes both ends. An end that is closed already is no error.
func (f *Flow) Close() error {
	var errs []error
	for _, conn := range []*net.TCPConn{f.Client, f.Backend} {
		if conn == nil {
			continue
		}
		if err := conn.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Accept is listener.AcceptTCP that ends with ctx. The listener stays open.
func Accept(ctx context.Context, listener *net.TCPListener) (*net.TCPConn, error) {
	if err := listener.SetDeadline(time.Time{}); err != nil { // a call before may have ended early
		return nil, fmt.Errorf("accept: %w", err)
	}
	stop := context.AfterFunc(ctx, func() {
		_ = listener.SetDeadline(past) // fails on a closed listener only
	})
	conn, err := listener.AcceptTCP()
	if !stop() {
		err = errors.Join(err, context.Cause(ctx))
	}
	if err != nil {
		if conn != nil {
			err = errors.Join(err, conn.Close())
		}
		return nil, fmt.Errorf("accept: %w", err)
	}
	return conn, nil
}

// readUpTo reads until what has come ends with want, and returns what was in
// front of it.
func readUpTo(r io.Reader, want []byte) (prefix []byte, err error) {
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil {
		return nil, err
	}
	for !bytes.HasSuffix(got, want) {
		if len(got)-len(want) >= maxPrefix {
			return nil, errors.New("something else arrived")
		}
		got = append(got, 0)
		if _, err := io.ReadFull(r, got[len(got)-1:]); err != nil {
			return nil, fmt.Errorf("something else arrived: %w", err)
		}
	}
	return got[:len(got)-len(want)], nil
}

// maxPrefix is above any PROXY header that a relay sends.
const maxPrefix = 4096
