// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"errors"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/userspace/sock"
)

// Reason is why a connect failed. The set is closed; its names (String) are
// stable and fit for a metric's label.
type Reason uint8

const (
	// Other is none of the rest, a want of this host's included: no free
	// descriptor, port or memory.
	Other Reason = iota
	// Refused is an RST in answer to the SYN: nobody listens.
	Refused
	// Timeout is no answer within Spec.ConnectTimeout, or the kernel's own.
	Timeout
	// Unreachable is no route, or a router's word that there is none.
	Unreachable
	// Reset is a connection that broke while it was set up.
	Reset
	// Resolve is a host name without an address.
	Resolve
	// NoTarget is a pool in which every weight is 0.
	NoTarget
	// Handshake is TLS that could not be agreed on.
	Handshake
	// Invalid is a target that refuses (Target.Refuse).
	Invalid
	// Canceled is the end of the caller's context, or of the dialer.
	Canceled
)

// String is the reason's name: "refused", "no_target", ...
func (r Reason) String() string {
	switch r {
	case Refused:
		return "refused"
	case Timeout:
		return "timeout"
	case Unreachable:
		return "unreachable"
	case Reset:
		return "reset"
	case Resolve:
		return "resolve"
	case NoTarget:
		return "no_target"
	case Handshake:
		return "tls_handshake"
	case Invalid:
		return "invalid_target"
	case Canceled:
		return "canceled"
	}
	return "other"
}

// HandshakeError is why Secure failed.
type HandshakeError struct {
	// Reason is a word, Text what there is to say besides.
	Reason, Text string
	Err          error
}

// Error is "reason: text".
func (e *HandshakeError) Error() string { return e.Reason + ": " + e.Text }

// Unwrap is crypto/tls's error, or the socket's.
func (e *HandshakeError) Unwrap() error { return e.Err }

// DialError is every error of Connect.
type DialError struct {
	// Reason is the last attempt's; NoTarget if there was none.
	Reason Reason
	// Attempts are in the order in which they failed.
	Attempts []Attempt
}

// Attempt is one failed connect to one address, or one failed lookup, or what fell
// to a target that refuses.
type Attempt struct {
	// Target is host:port as configured.
	Target string
	// Addr is invalid after a failed lookup, and of a target that refuses.
	Addr   netip.AddrPort
	Reason Reason
	Err    error // Target.Refuse is the text where that is it
}

// Error lists every attempt on one line.
func (e *DialError) Error() string {
	if len(e.Attempts) == 0 {
		return "connect to upstream: no target takes connections"
	}
	var b strings.Builder
	b.WriteString("connect to upstream: ")
	for i, a := range e.Attempts {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(a.String())
	}
	return b.String()
}

// Unwrap gives the attempts' errors to errors.Is and errors.As.
func (e *DialError) Unwrap() []error {
	errs := make([]error, len(e.Attempts))
	for i, a := range e.Attempts {
		errs[i] = a.Err
	}
	return errs
}

// String is "target (address): reason", and the cause where the reason leaves
// it open.
func (a Attempt) String() string {
	s := a.Target
	if a.Addr.IsValid() && a.Addr.String() != a.Target {
		s += " (" + a.Addr.String() + ")"
	}
	s += ": " + a.Reason.String()
	switch a.Reason {
	case Other, Unreachable, Resolve, Handshake, Invalid:
		cause := a.Err
		if errno := unix.Errno(0); a.Reason != Handshake && errors.As(a.Err, &errno) {
			cause = errno // the address has been said
		}
		s += ": " + cause.Error()
	}
	return s
}

// reasonOf sorts the error of a connect made under ctx, which may have had less
// time than ctx has.
func reasonOf(ctx context.Context, err error) Reason {
	if h := (*HandshakeError)(nil); errors.As(err, &h) && ctx.Err() == nil {
		return Handshake
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		switch errno {
		case unix.ECONNREFUSED:
			return Refused
		case unix.ETIMEDOUT:
			return Timeout
		case unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EHOSTDOWN, unix.ENETDOWN:
			return Unreachable
		case unix.ECONNRESET, unix.ECONNABORTED, unix.EPIPE:
			return Reset
		}
		return Other
	}
	switch {
	case ctx.Err() != nil, errors.Is(err, context.Canceled), errors.Is(err, sock.ErrClosed):
		return Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return Timeout
	}
	return Other
}

// localWant tells whether err is this host's want and not the target's fault.
func localWant(err error) bool {
	for _, errno := range []unix.Errno{
		unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, // descriptors, memory
		unix.EADDRNOTAVAIL, unix.EAGAIN, unix.EADDRINUSE, // ports
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}
