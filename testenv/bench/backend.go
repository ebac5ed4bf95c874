// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"

	"github.com/spliceway/spliceway/testenv"
)

// services are what the backend does once it has been greeted, by name and port:
// send, swallow, answer each message with itself (blocking: on a thread, without
// the runtime's poller), shake hands in earnest, or be the one who ends its side of
// the stream last or first.
var services = map[string]uint16{"source": 21001, "sink": 21002, "echo": 21003, "blocking": 21004, "tls": 21005, "lastword": 21006, "firstword": 21007}

// sessionWorkers open connections at once. Each has a service of its own:
// TIME_WAITs of a gateway towards one port of the backend make port search slow.
const sessionWorkers = 8

func init() {
	for i := range sessionWorkers {
		services[session(i)] = uint16(21010 + i)
	}
}

func session(worker int) string { return fmt.Sprintf("session%d", worker) }
func sni(service string) string { return service + ".bench.test" }

// A greeting has the sizes of a TLS 1.3 handshake: hello, the server's flight, the
// client's Finished. So no client sends anything between its hello and the first
// byte from the backend, and no backend speaks first, as with TLS.
const (
	recordHeader = 5
	helloSize    = 4096 // at most
	flightSize   = 3000
	finishedSize = 80
	answerSize   = 200       // of a session
	messageSize  = 200       // of an echo
	block        = 256 << 10 // of bulk reads and writes
)

// greet is the client's side of a greeting.
func (b *bed) greet(c io.ReadWriter, hello []byte) error {
	if _, err := c.Write(hello); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, make([]byte, flightSize)); err != nil {
		return err
	}
	b.opened.Add(1)
	_, err := c.Write(make([]byte, finishedSize))
	return err
}

// greeted is the backend's. The client sends nothing behind its hello, so the size of
// that is all that must be known: it is at the end of a TLS record's header.
func greeted(c io.ReadWriter) error {
	buf := make([]byte, helloSize)
	n, err := io.ReadAtLeast(c, buf, recordHeader)
	if err != nil {
		return err
	}
	whole := recordHeader + int(binary.BigEndian.Uint16(buf[recordHeader-2:]))
	if n > whole || whole > len(buf) {
		return fmt.Errorf("%d bytes of a hello of %d", n, whole)
	}
	if _, err := io.ReadFull(c, buf[n:whole]); err != nil {
		return err
	}
	if _, err := c.Write(make([]byte, flightSize)); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, finishedSize))
	return err
}

// serve starts the backend's services.
func (b *bed) serve() (err error) {
	if b.authority, err = testenv.NewCA(); err != nil {
		return err
	}
	config, err := b.authority.ServerConfig(sni("tls"))
	if err != nil {
		return err
	}
	config.MinVersion = tls.VersionTLS13
	// A client that closes with a ticket unread would send a reset.
	config.SessionTicketsDisabled = true
	for name, port := range services {
		if err := b.makeHellos(name); err != nil {
			return err
		}
		l, err := b.backend.Listen(netip.AddrPortFrom(b.backendIP, port))
		if err != nil {
			return err
		}
		b.listeners = append(b.listeners, l)
		go func() {
			for {
				c, err := l.AcceptTCP()
				if err != nil {
					return
				}
				go func() {
					defer func() { _ = c.Close() }()
					// An error here is one at the client, where it is reported.
					if name == "tls" {
						_ = shakeHands(c, config)
					} else if greeted(c) == nil {
						b.serveOne(c, name)
					}
				}()
			}
		}()
	}
	return nil
}

// makeHellos are the two by which a client asks for a service.
func (b *bed) makeHellos(service string) (err error) {
	alpn := []string{"h2", "http/1.1"}
	if b.hello[service], err = testenv.Hello(sni(service), testenv.HelloOptions{ALPN: alpn}); err != nil {
		return err
	}
	b.small[service], err = testenv.Hello(sni(service), testenv.HelloOptions{ALPN: alpn, Classical: true})
	return err
}

// serveOne is what the backend does after a greeting.
func (b *bed) serveOne(c *net.TCPConn, service string) {
	switch service {
	case "lastword":
		answerAfterEnd(c)
	case "firstword":
		b.received.Store(endBeforeAnswer(c))
	default:
		backend(c, service)
	}
}

// backend serves until the client goes away.
func backend(c *net.TCPConn, service string) {
	switch service {
	case "source":
		for buf := make([]byte, block); ; {
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	case "sink":
		for buf := make([]byte, block); ; {
			if _, err := c.Read(buf); err != nil {
				return
			}
		}
	case "echo":
		echoes(c, messageSize)
	case "blocking":
		if fd, err := blockingCopy(c); err == nil {
			defer fd.Close()
			echoes(fd, messageSize)
		}
	default: // a session
		if _, err := c.Write(make([]byte, answerSize)); err == nil {
			_, _ = c.Read(make([]byte, 1)) // the client's end
		}
	}
}

func echoes(c io.ReadWriter, size int) {
	for buf := make([]byte, size); ; {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return
		}
	}
}

func shakeHands(c net.Conn, config *tls.Config) error {
	if err := tls.Server(c, config).Handshake(); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 1)) // the client's end
	return err
}
