// SPDX-License-Identifier: Apache-2.0

package tlsconn

import (
	"bytes"
	"crypto/tls"
	"reflect"
	"sync"
	"unsafe"
)

// crypto/tls reads records into a buffer of its own (tls.Conn's field rawInput), which
// grows to a few records and stays as long as the connection: for idle connections that
// is most of what they cost. Here it is lent one while it reads, large enough for
// several records in one recv(2), and given none in between. That is a look behind the
// library's back, so it is done only if the field is what it is known to be; else
// connections are dearer, and just as right.

// rawSize is the lent buffer's: bytes.Buffer goes on without allocating as long as
// twice the largest record (RFC 5246, section 6.2.3: 16 KiB and 2048 bytes) fits.
const rawSize = 64 << 10

var raws = sync.Pool{New: func() any { b := make([]byte, rawSize); return &b }}

// rawInputAt and inputAt are the fields' offsets; known: both are there, and of those
// types.
var rawInputAt, inputAt, rawInputKnown = func() (raw, input uintptr, known bool) {
	r, ok := reflect.TypeFor[tls.Conn]().FieldByName("rawInput")
	i, ok2 := reflect.TypeFor[tls.Conn]().FieldByName("input")
	return r.Offset, i.Offset, ok && ok2 && r.Type == reflect.TypeFor[bytes.Buffer]() && i.Type == reflect.TypeFor[bytes.Reader]()
}()

// decrypted is how many bytes crypto/tls has decrypted and not passed on. They are in
// rawInput's memory.
func (c *Conn) decrypted() int {
	return (*bytes.Reader)(unsafe.Add(unsafe.Pointer(c.tls), inputAt)).Len()
}

func (c *Conn) rawInput() *bytes.Buffer {
	return (*bytes.Buffer)(unsafe.Add(unsafe.Pointer(c.tls), rawInputAt))
}

// lend gives the connection a buffer that begins with what it had.
func (c *Conn) lend() {
	if c.raw != nil || !rawInputKnown || c.decrypted() > 0 {
		return
	}
	had := c.partial
	if had == nil {
		had = c.rawInput().Bytes() // the first time: what the handshake left
	}
	c.raw = raws.Get().(*[]byte)
	*c.rawInput() = *bytes.NewBuffer(append((*c.raw)[:0], had...))
	c.partial = nil
}

// Park says that Read will not be called for a while: the connection keeps the bytes
// that it has, encrypted ones, and no room for more. Where it has decrypted ones, too, it
// keeps the buffer that they are in: after a record Read looks for an alert, passes over a
// warning of TLS 1.2, and has decrypted the record behind that by then.
func (c *Conn) Park() {
	if c.raw == nil || c.decrypted() > 0 {
		return
	}
	b := c.rawInput()
	if b.Len() > 0 {
		c.partial = bytes.Clone(b.Bytes())
	}
	*b = bytes.Buffer{}
	raws.Put(c.raw)
	c.raw = nil
}

// LendsBuffers tells whether crypto/tls is as it is known here.
func LendsBuffers() bool { return rawInputKnown }

// Held is how many bytes of buffers the connection has while Read is not called.
func (c *Conn) Held() int {
	if !rawInputKnown {
		return 0
	}
	held := c.rawInput().Cap() + cap(c.partial)
	if c.raw != nil {
		held += len(*c.raw)
	}
	return held
}
