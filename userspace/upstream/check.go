// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// startCheck begins to check a, if the pool checks and runs. The caller holds
// p.mu.
func (p *Pool) startCheck(a *address) {
	if p.bg.probe == nil || p.bg.ctx == nil {
		return
	}
	ctx, stop := context.WithCancel(p.bg.ctx)
	a.stop = stop
	p.bg.spawn(func(context.Context) {
		defer stop()
		p.check(ctx, a)
	})
}

// check checks a until ctx ends. The first check comes at a random time within
// the interval: many pools start together.
func (p *Pool) check(ctx context.Context, a *address) {
	pause := time.Duration(p.intN(int(p.bg.check.Interval)))
	for sleep(ctx, pause) {
		bounded, cancel := context.WithTimeout(ctx, p.bg.check.Timeout)
		err := p.bg.probe(bounded, a.addr)
		cancel()
		if ctx.Err() != nil {
			return
		}
		p.checked(a, err)
		pause = p.jitter(p.bg.check.Interval)
	}
}

// checked notes the result of a check.
func (p *Pool) checked(a *address, err error) {
	p.mu.Lock()
	was := a.up()
	if (err != nil) == a.sick {
		a.streak = 0
	} else {
		a.streak++
	}
	if limit := p.bg.check.Unhealthy; !a.sick && a.streak >= limit {
		a.sick, a.streak = true, 0
	}
	if limit := p.bg.check.Healthy; a.sick && a.streak >= limit {
		a.sick, a.streak = false, 0
	}
	is, gone := a.up(), a.gone
	p.mu.Unlock()

	if p.observer != nil {
		p.observer.Checked(a.target.name, a.addr, err == nil)
	}
	if was != is && !gone {
		why := "health check passed"
		if err != nil {
			why = "health check: " + err.Error()
		}
		p.changed(a, is, why)
	}
}

// probeFor is the check that spec describes, or nil.
func probeFor(spec CheckSpec) func(context.Context, netip.AddrPort) error {
	switch spec.Type {
	case CheckTCP:
		return probeTCP
	case CheckTLS:
		return func(ctx context.Context, addr netip.AddrPort) error {
			return probeTLS(ctx, addr, spec.ServerName)
		}
	}
	return nil
}

// probeTCP connects and closes, with FIN as long as the server has not spoken.
func probeTCP(ctx context.Context, addr netip.AddrPort) error {
	conn, err := dialTCP(ctx, addr)
	if err != nil {
		return err
	}
	return conn.Close()
}

// probeLinger is how long a TLS check waits for the server's end of the goodbye.
const probeLinger = time.Second

// probeTLS does a handshake. It says goodbye (close_notify) and reads what the
// server has sent, session tickets above all: a close before that would be a
// reset, and a line in the server's log for each check.
func probeTLS(ctx context.Context, addr netip.AddrPort, serverName string) error {
	raw, err := dialTCP(ctx, addr)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = raw.Close() })()
	defer func() { _ = raw.Close() }()
	conn := tls.Client(raw, &tls.Config{
		ServerName: serverName,
		// The question is whether the server is alive; whether it is the right
		// one is for the clients, whose handshakes pass through.
		InsecureSkipVerify: true,
		MinVersion:         tls.VersionTLS10,
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("tls handshake: %w", err)
	}
	_ = raw.SetDeadline(time.Now().Add(probeLinger))
	if conn.CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(conn, 64<<10))
	}
	return nil
}

func dialTCP(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	d.SetMultipathTCP(false)
	return d.DialContext(ctx, "tcp", addr.String())
}
