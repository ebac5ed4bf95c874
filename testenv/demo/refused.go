// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/spliceway/spliceway/testenv"
)

// closeTimeout is for the agent to end a connection that it refuses.
const closeTimeout = helloTimeout + 4*time.Second

// refusedCase is a client that must not arrive.
type refusedCase struct {
	sends   string
	outcome string
	bytes   func() ([]byte, error)
}

var refusedCases = []refusedCase{
	{"a hello without a name", "no_sni", func() ([]byte, error) {
		return testenv.Hello("", testenv.HelloOptions{NoSNI: true})
	}},
	{"HTTP in the clear", "not_tls", func() ([]byte, error) {
		return []byte("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n"), nil
	}},
	{`a hello for "shop\x00test"`, "malformed", func() ([]byte, error) {
		hello, err := testenv.Hello("shop.test", testenv.HelloOptions{})
		return bytes.Replace(hello, []byte("shop.test"), []byte("shop\x00test"), 1), err
	}},
	{"half a hello, then nothing", "hello_timeout", func() ([]byte, error) {
		hello, err := testenv.Hello("shop.test", testenv.HelloOptions{})
		return hello[:len(hello)/2], err
	}},
}

// attempt is what the client of a case saw.
type attempt struct {
	err     error
	address string
	after   time.Duration
	reached int // of all attempts together
}

// attemptAll makes all attempts at once, since one of them takes its time.
func (s *site) attemptAll(ctx context.Context, cases []refusedCase) []attempt {
	before := s.accepted()
	attempts := make([]attempt, len(cases))
	var group sync.WaitGroup
	for i, c := range cases {
		group.Go(func() { attempts[i] = s.attempt(ctx, c) })
	}
	group.Wait()
	reached := s.accepted() - before
	for i := range attempts {
		attempts[i].reached = reached
	}
	return attempts
}

// attempt sends what no backend may get, and waits for the end.
func (s *site) attempt(ctx context.Context, c refusedCase) (a attempt) {
	hello, err := c.bytes()
	if err != nil {
		return attempt{err: err}
	}
	conn, err := s.network.Clients[0].Dial(ctx, netip.AddrPortFrom(s.network.IPv4, port))
	if err != nil {
		return attempt{err: err}
	}
	defer func() { a.err = errors.Join(a.err, conn.Close()) }()
	a.address = conn.LocalAddr().String()
	if _, err := conn.Write(hello); err != nil {
		a.err = fmt.Errorf("send: %w", err)
		return a
	}
	start := time.Now()
	stop := context.AfterFunc(ctx, func() {
		_ = conn.SetDeadline(past) // fails on a closed connection only
	})
	defer stop()
	a.err = testenv.ExpectEOF(conn, closeTimeout)
	a.after = time.Since(start)
	return a
}

func judgeAttempt(report *Report, c refusedCase, a attempt, log accessLog) Refused {
	problem := func(format string, args ...any) {
		report.problem("%s: %s", c.sends, fmt.Sprintf(format, args...))
	}
	line, ok := log[a.address]
	r := Refused{Sends: c.sends, Outcome: line.Outcome, Reason: line.Reason, Sees: "closed (FIN)", After: milliseconds(a.after), Reached: a.reached}
	if a.err != nil {
		r.Sees = a.err.Error()
		problem("%v", a.err)
	}
	switch {
	case !ok:
		problem("the access log has no line of it")
	case line.Outcome != c.outcome:
		problem("the access log says outcome %q, want %q", line.Outcome, c.outcome)
	}
	if a.reached > 0 {
		problem("%d connections reached a backend while only such clients were there", a.reached)
	}
	return r
}
