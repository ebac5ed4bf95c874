// SPDX-License-Identifier: Apache-2.0

// Package splice moves the bytes of established flows: it declares what an
// engine is, and holds the engine of that name, which works on every kernel and
// for every flow. It does not dial, does not parse and does not log.
package splice

import (
	"sync/atomic"
	"time"

	"github.com/spliceway/spliceway/userspace/sock"
	"github.com/spliceway/spliceway/userspace/telemetry"
)

// Engine moves flows. Implementations are safe for concurrent use.
type Engine interface {
	// Name is the engine's name in configuration, logs and metrics.
	Name() string
	// Start takes over both of the flow's sockets, whatever happens to them,
	// and returns without waiting for the flow's end, which Flow.Done hears of.
	Start(Flow)
	// Flows is how many flows the engine holds now.
	Flows() int
	// Abort ends every flow with a reset on both sides and the given reason.
	Abort(telemetry.End)
	// Close ends every flow and frees the engine; Start must not be called
	// any more.
	Close() error
}

// The two directions of a flow, as indices.
const (
	In  = 0 // client to upstream
	Out = 1 // upstream to client
)

// Flow is one client connection with its upstream connection.
type Flow struct {
	// Client's receive queue begins with the ClientHello: it was peeked, and
	// is the first thing to be forwarded.
	Client, Upstream *sock.Conn
	// TLS is what is between a side's socket and its bytes, for engine relay; nil:
	// nothing. The hello has been read, then.
	TLS [2]Layer
	// Preface is sent to Upstream before the client's bytes (a PROXY header).
	// It is not counted.
	Preface []byte
	// Idle ends the flow when no byte has moved in either direction for as
	// long; HalfClose instead of it once one side has closed. 0: never.
	Idle, HalfClose time.Duration
	// Forwarded is how many of the client's bytes Upstream has already, and
	// Client's queue no longer. Preface must be empty then.
	Forwarded int64
	// Moved, where not nil, are added to as bytes are delivered.
	Moved [2]*atomic.Int64
	// Shortcut allows to pass bytes from socket to socket where both ends are of this
	// host, on engines that can: the applications' own sockets are changed by that.
	Shortcut bool
	// Record is the flow's, for its log line: the engine fills in its name, and
	// why it is not a faster one. An engine that keeps a flow for long may keep
	// what it says elsewhere, and give Done another one that says the same.
	Record *telemetry.Record
	// Done is called once, after both sockets are closed, by whatever goroutine has
	// ended the flow: it must not wait for anything.
	Done func(*telemetry.Record, Result)
}

// Layer is TLS on one side of a flow, by then without a word to wait for: the calls
// never block. It is the engine's from Start on.
type Layer interface {
	// Detach tells that the socket is the engine's, and which it is.
	Detach(fd int)
	// Read decrypts at most one record into b, which has room for the largest.
	// EAGAIN: nothing whole has arrived. io.EOF: the peer said goodbye. Bytes and an
	// error may come together.
	Read(b []byte) (int, error)
	// Park is called when Read will not be for a while.
	Park()
	// Write takes all of b. What the socket does not take is Pending, until Flush.
	Write(b []byte) error
	// CloseWrite says goodbye; the FIN is the engine's.
	CloseWrite() error
	Pending() int
	Flush() error // EAGAIN: not all of it
	// Flooded tells that the peer has been answered enough, besides what Write was
	// given, before it takes what is pending.
	Flooded() bool
	// Truncated tells whether an error of Read is an end without a goodbye.
	Truncated(err error) bool
}

// Result is how a flow went.
type Result struct {
	// Bytes delivered (accepted by the receiving socket) in each direction.
	Bytes    [2]int64
	End      telemetry.End
	ClosedBy telemetry.Side
	// Err is the socket error behind End, an errno, where there was one.
	Err error
}
