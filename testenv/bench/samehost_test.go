// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spliceway/spliceway/testenv"
)

// hostPair is a client that the backend has greeted.
func hostPair(t *testing.T) net.Conn {
	t.Helper()
	client, backend := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- hostServe(backend) }()
	t.Cleanup(func() {
		_ = client.Close()
		if err := <-served; err != io.EOF {
			t.Errorf("backend: %v, want the end of the stream", err)
		}
	})
	if err := client.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	hello, err := testenv.Hello(sni("host"), testenv.HelloOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{hello: map[string][]byte{"host": hello}}
	if err := b.greet(client, b.hello["host"]); err != nil {
		t.Fatal(err)
	}
	return client
}

func TestHostBackend(t *testing.T) {
	c := hostPair(t)
	for _, size := range []int{messageSize, largeMessage} {
		if n, err := trips(c, size, 3, 0); n != 3 || err != nil {
			t.Errorf("%d bytes: %d round trips, %v; want 3", size, n, err)
		}
	}
	// More there than fits its memory, and more back.
	if _, err := c.Write(request(messageSize, block, 2*block)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(make([]byte, block)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 2*block)); err != nil {
		t.Fatal(err)
	}
	if n, err := trips(c, messageSize, 1, 0); n != 1 || err != nil {
		t.Errorf("after a stream: %d round trips, %v; want 1", n, err)
	}
}

func TestTripsSeeWrongAnswers(t *testing.T) {
	for name, spoil := range map[string]func(answer []byte){
		"another's":          func(a []byte) { number(a, binary.BigEndian.Uint64(a[requestHeader:])+1) },
		"of two, the first":  func(a []byte) { a[len(a)-1]++ },
		"of two, the second": func(a []byte) { a[requestHeader]++ },
	} {
		client, backend := net.Pipe()
		go func() {
			defer func() { _ = backend.Close() }()
			buf := make([]byte, messageSize)
			if _, err := io.ReadFull(backend, buf); err == nil {
				spoil(buf)
				_, _ = backend.Write(buf) // the client says what went wrong
			}
		}()
		if _, err := trips(client, messageSize, 1, 0); err == nil || !strings.Contains(err.Error(), "not its own") {
			t.Errorf("%s: %v", name, err)
		}
		_ = client.Close()
	}
}

func TestAccessLines(t *testing.T) {
	got := accessLines([]string{
		`{"msg":"listening"}`,
		`no JSON`,
		`{"outcome":"no_route","bytes_in":900}`,
		`{"engine":"packet","bytes_in":500,"bytes_out":3000}`, // just greeted
		`{"engine":"packet","engine_reason":"reader","bytes_in":501,"bytes_out":3000}`,
		`{"engine":"packet+sockmap","bytes_in":900,"bytes_out":4000,"sockmap_bytes_in":300,"sockmap_bytes_out":800}`,
	}, 500)
	want := []access{
		{Engine: "packet", Reason: "reader", BytesIn: 501, BytesOut: 3000},
		{Engine: shortcut, BytesIn: 900, BytesOut: 4000, SockmapIn: 300, SockmapOut: 800},
	}
	if !slices.Equal(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
}

func TestNothingIsCalledSockmapThatWasNot(t *testing.T) {
	s := &spliceway{engine: shortcut}
	all := []subject{direct{}, s}
	r := results{Samples: []sample{
		{Subject: s.name(), Work: "a", Engines: map[string]int64{"packet": 4}, Bytes: 1000, Reasons: map[string]int64{"reader": 4}},
		{Subject: "spliceway packet", Work: "a", Engines: map[string]int64{shortcut: 4}},
	}}
	if err := r.checkShortcut(all); err == nil {
		t.Error("no flow took the short cut: no error")
	}
	if err := r.checkShortcut([]subject{direct{}}); err != nil {
		t.Errorf("without the subject: %v", err)
	}
	r.Samples = append(r.Samples, sample{
		Subject: s.name(), Work: "b", Engines: map[string]int64{shortcut: 1}, Bytes: 1000, ShortcutBytes: 998, Figures: map[string]float64{},
	})
	if err := r.checkShortcut(all); err != nil {
		t.Errorf("one flow took the short cut: %v", err)
	}
	var out bytes.Buffer
	r.shortcutBytes(&out, []work{{name: "a"}, {name: "b"}})
	const want = `- spliceway sockmap: bytes that went by the short cut: a: 0.00 %; b: 99.80 %.
- spliceway sockmap: 4 connections have the engine_reason "reader" in their log line.
- **spliceway sockmap: a: 1 measurements thrown away: no flow of them took the short cut.**
`
	if out.String() != want {
		t.Errorf("%s\nwant\n%s", &out, want)
	}
}
