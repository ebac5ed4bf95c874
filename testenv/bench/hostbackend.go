// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/spliceway/spliceway/testenv"
)

// hostServices is what the backend of a flow within one host does once it has been
// greeted: it takes requests that say how long they are and how long the answer is
// to be.
var hostServices = map[string]uint16{"host": 21100}

// requestHeader is the size of both lengths.
const requestHeader = 16

// request is one of so many bytes, header included, or the beginning of a longer one.
func request(size, rest, answer uint64) []byte {
	r := make([]byte, size)
	binary.BigEndian.PutUint64(r, size+rest)
	binary.BigEndian.PutUint64(r[8:], answer)
	return r
}

// serveHost starts the backend as a process of its own: as one with the client, its
// runtime would wake one end as it waits for the other.
func (b *bed) serveHost(ctx context.Context) (err error) {
	if err := b.makeHellos("host"); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	port := hostServices["host"]
	b.host, err = testenv.StartProcess(testenv.ProcessOptions{
		Namespace: b.backend, Path: self, Args: []string{"-backend", netip.AddrPortFrom(b.backendIP, port).String()},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return b.host.WaitListening(ctx, port)
}

// hostBackend is the process. It is ended by a signal.
func hostBackend(address string) error {
	var config net.ListenConfig
	config.SetMultipathTCP(false) // as the agent
	l, err := config.Listen(context.Background(), "tcp", address)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		go func() {
			defer func() { _ = c.Close() }()
			// An error here is one at the client, where it is reported.
			_ = hostServe(c)
		}()
	}
}

func hostServe(c net.Conn) error {
	if err := greeted(c); err != nil {
		return err
	}
	for buf := make([]byte, block); ; {
		n, err := io.ReadAtLeast(c, buf, requestHeader)
		if err != nil {
			return err
		}
		size, answer := binary.BigEndian.Uint64(buf), binary.BigEndian.Uint64(buf[8:])
		// What fits is answered with itself.
		whole := min(size, block)
		if uint64(n) > whole {
			return fmt.Errorf("%d bytes of a request of %d: bytes came twice", n, size)
		}
		if _, err := io.ReadFull(c, buf[n:whole]); err != nil {
			return err
		}
		for left := size - whole; left > 0; left -= uint64(n) {
			if n, err = c.Read(buf[:min(left, block)]); err != nil {
				return err
			}
		}
		for left := answer; left > 0; left -= uint64(n) {
			if n, err = c.Write(buf[:min(left, block)]); err != nil {
				return err
			}
		}
	}
}
