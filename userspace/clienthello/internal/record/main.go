// SPDX-License-Identifier: Apache-2.0

// Record writes the ClientHellos of real TLS clients to files, for the tests of
// package clienthello. It starts each client that is installed, has it connect to
// a listener on loopback, keeps the first hello with the expected server name and
// hangs up. It serves no TLS and is no part of the agent.
//
//	go run ./userspace/clienthello/internal/record -out userspace/clienthello/testdata/hellos
//
// A client that is not installed is left out, with a note. After a new recording,
// look at the golden table of TestRecordedHellos: a fingerprint may have changed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/spliceway/spliceway/userspace/clienthello"
)

func main() {
	out := flag.String("out", ".", "directory that the files go to")
	only := flag.String("only", "", "record this client alone")
	flag.Parse()
	if err := recordAll(*out, *only); err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
}

func recordAll(dir, only string) error {
	var errs []error
	for _, c := range clients() {
		if only != "" && only != c.name {
			continue
		}
		hello, err := recordOne(c)
		if errors.Is(err, exec.ErrNotFound) {
			fmt.Println("left out:", err)
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, c.name+".bin"), hello, 0o644)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("record %s: %w", c.name, err))
			continue
		}
		fmt.Printf("%s: %d bytes\n", c.name, len(hello))
	}
	return errors.Join(errs...)
}

// recordOne runs one client until a hello with its server name has come in.
func recordOne(c client) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tmp, err := os.MkdirTemp("", "record-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()

	ended := make(chan error, 1)
	go func() {
		err := c.run(ctx, l.Addr().String(), tmp)
		if errors.Is(err, exec.ErrNotFound) {
			l.Close()
		}
		ended <- err
	}()
	hello, err := accept(l, c.serverName)
	cancel()
	if runErr := <-ended; err != nil {
		// Any client fails when it is hung up on; that matters only if it
		// had not said anything before.
		return nil, errors.Join(err, runErr)
	}
	return hello, nil
}

// accept returns the first hello that asks for serverName. Others come from
// browsers, which have business of their own.
func accept(l net.Listener, serverName string) ([]byte, error) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return nil, fmt.Errorf("wait for a hello: %w", err)
		}
		hello, name, err := read(conn)
		conn.Close()
		if err == nil && name == serverName {
			return hello, nil
		}
		fmt.Printf("  passed over: %q, %v\n", name, err)
	}
}

func read(conn net.Conn) (hello []byte, serverName string, err error) {
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return nil, "", err
	}
	var p clienthello.Parser
	var h clienthello.Hello
	for {
		err := p.Parse(hello, &h)
		if !errors.Is(err, clienthello.ErrIncomplete) {
			return hello[:h.Size], h.ServerName, err
		}
		n := len(hello)
		hello = append(hello, make([]byte, p.Need-n)...)
		if _, err := io.ReadFull(conn, hello[n:]); err != nil {
			return nil, "", fmt.Errorf("read hello: %w", err)
		}
	}
}
