// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/spliceway/spliceway/userspace/splice"
	"github.com/spliceway/spliceway/userspace/telemetry"
	"github.com/spliceway/spliceway/userspace/web"
)

// engineHTTP is the Engine of connections whose requests are served one by one.
const engineHTTP = "http"

// requests gives the connection to what serves HTTP.
func (c *conn) requests() {
	c.turn.Leave()
	s := c.s
	n, err := c.client.NetConn()
	if err != nil {
		c.rec.Reason = err.Error()
		c.end(c.rec, telemetry.OutcomeInternal)
		return
	}
	c.rec.Engine = engineHTTP
	e := c.endpoint
	h := &httpConn{Conn: n, held: c.held, rec: c.rec, moved: e.Metrics.Moved()}
	if c.tls != nil {
		h.Conn = c.tls.Over(n)
	}
	w := &web.Conn{Conn: h, ID: c.rec.ID, Place: c.place, Client: c.from, Secure: c.tls != nil, Site: e.Name, ClientAuth: e.ClientAuth}
	c.snap = nil // as in splice
	s.web.Serve(w)
}

// httpConn counts what is served on a connection, and tells of its end.
type httpConn struct {
	net.Conn
	held  held
	rec   *telemetry.Record
	moved [2]*atomic.Int64
	bytes [2]atomic.Int64
	why   atomic.Pointer[splice.Result]
	once  sync.Once
}

func (h *httpConn) count(d, n int) {
	h.bytes[d].Add(int64(n))
	h.moved[d].Add(int64(n))
}

// ended keeps the first reason for the end.
func (h *httpConn) ended(end telemetry.End, by telemetry.Side, err error) {
	h.why.CompareAndSwap(nil, &splice.Result{End: end, ClosedBy: by, Err: err})
}

// Read is net.Conn's.
func (h *httpConn) Read(b []byte) (int, error) {
	n, err := h.Conn.Read(b)
	h.count(splice.In, n)
	h.failed(err)
	return n, err
}

// Write is net.Conn's.
func (h *httpConn) Write(b []byte) (int, error) {
	n, err := h.Conn.Write(b)
	h.count(splice.Out, n)
	h.failed(err)
	return n, err
}

func (h *httpConn) failed(err error) {
	switch {
	case err == nil, errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, net.ErrClosed): // ours
	case errors.Is(err, io.EOF):
		h.ended(telemetry.EndEOF, telemetry.SideClient, nil)
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		h.ended(telemetry.EndReset, telemetry.SideClient, nil)
	default:
		h.ended(telemetry.EndError, telemetry.SideNone, err)
	}
}

// IdleTimeout is web.Told's, as is Drained.
func (h *httpConn) IdleTimeout() { h.ended(telemetry.EndIdleTimeout, telemetry.SideAgent, nil) }

// Drained is web.Told's.
func (h *httpConn) Drained() { h.ended(telemetry.EndDrain, telemetry.SideAgent, nil) }

// CloseWrite ends what the agent sends, as TCP or TLS do.
func (h *httpConn) CloseWrite() error {
	if c, ok := h.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// Close is net.Conn's.
func (h *httpConn) Close() (err error) {
	h.once.Do(func() {
		err = h.Conn.Close()
		h.ended(telemetry.EndEOF, telemetry.SideAgent, nil)
		r := *h.why.Load()
		r.Bytes[splice.In], r.Bytes[splice.Out] = h.bytes[splice.In].Load(), h.bytes[splice.Out].Load()
		h.held.ended(h.rec, r)
	})
	return err
}
