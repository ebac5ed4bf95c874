// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// Status answers whether the kernel can do something.
type Status uint8

const (
	// Unknown: it could not be found out, mostly for want of privileges.
	Unknown Status = iota
	Yes
	No
)

// String is "unknown", "yes" or "no"; JSON has the same words.
func (s Status) String() string {
	switch s {
	case Yes:
		return "yes"
	case No:
		return "no"
	}
	return "unknown"
}

// MarshalText implements encoding.TextMarshaler.
func (s Status) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Status) UnmarshalText(text []byte) error {
	for _, known := range []Status{Unknown, Yes, No} {
		if string(text) == known.String() {
			*s = known
			return nil
		}
	}
	return fmt.Errorf("unknown status %q", text)
}

// User is the part of the agent that uses a feature.
type User string

const (
	Nothing         User = ""                 // no part of this version
	Listeners       User = "listeners"        // accepting connections and reading their hellos
	PrefixListeners User = "prefix listeners" // listening on all addresses of a prefix
	SpliceEngine    User = "splice engine"    // moving the bytes of a connection
	PacketEngine    User = "packet engine"    // moving them packet by packet, in the kernel
	Shortcut        User = "sockmap"          // moving them from socket to socket, where both are of this host
)

// Feature is one ability of this kernel and host.
type Feature struct {
	Name string `json:"name"`
	// UsedBy is the part of the agent that uses it. A feature that Nothing uses
	// is reported as a fact about the host: missing it costs nothing.
	UsedBy User `json:"usedBy,omitempty"`
	// Required: the agent cannot relay a connection without it.
	Required bool `json:"required,omitempty"`
	// For is what it does.
	For string `json:"for"`
	// Without is what is lost where it is missing; empty if nothing.
	Without string `json:"without,omitempty"`
	// Since is the Linux version that had it first. Distributions move features
	// to older kernels and leave others out: Status counts, not the version.
	Since  string `json:"since"`
	Status Status `json:"status"`
	// Detail is a figure, or why Status is not Yes.
	Detail string `json:"detail,omitempty"`
}

// Report is what Probe found.
type Report struct {
	Kernel  string `json:"kernel"`  // uname -r
	Machine string `json:"machine"` // uname -m
	// Features, those that this version uses first.
	Features []Feature `json:"features"`
}

// Missing lists the features that this version uses and the host does not have.
func (r Report) Missing() []Feature { return r.used(No) }

// Unknown lists the features that this version uses and Probe could not find out
// about.
func (r Report) Unknown() []Feature { return r.used(Unknown) }

func (r Report) used(s Status) []Feature {
	var found []Feature
	for _, f := range r.Features {
		if f.UsedBy != Nothing && f.Status == s {
			found = append(found, f)
		}
	}
	return found
}

// OK reports whether the agent can run here: nothing that it requires is known to
// be missing.
func (r Report) OK() bool {
	for _, f := range r.Missing() {
		if f.Required {
			return false
		}
	}
	return true
}

// Summary is the report in a sentence or two.
func (r Report) Summary() string {
	names := func(features []Feature) string {
		var all []string
		for _, f := range features {
			all = append(all, f.Name)
		}
		return strings.Join(all, ", ")
	}
	missing, unknown := r.Missing(), r.Unknown()
	var s string
	switch {
	case !r.OK():
		s = "The agent cannot run here. Missing: " + names(missing) + "."
	case len(missing) > 0:
		s = "The agent can run here. Missing: " + names(missing) + "."
	case len(unknown) > 0:
		s = "Nothing is known to be missing."
	default:
		s = "Everything that this version uses is there."
	}
	if len(unknown) > 0 {
		s += " Could not tell: " + names(unknown) + "."
	}
	return s
}

// check is a feature and the way to ask for it. An error that is ErrNotSupported
// means no, any other that it cannot be told; detail comes before its text.
type check struct {
	Feature
	ask func() (detail string, err error)
}

// Probe asks the kernel for each feature by trying it, on objects of its own that
// are gone when it returns; nothing on the host changes. It never fails: without
// privileges what needs them is Unknown. The answers about BPF are remembered for
// the life of the process.
func Probe() Report {
	// Kernels before 5.11 refuse maps and programs over this limit, which would
	// look like a want of privileges; if it stays, so will the Unknown.
	_ = rlimit.RemoveMemlock()

	var r Report
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil {
		r.Kernel = unix.ByteSliceToString(name.Release[:])
		r.Machine = unix.ByteSliceToString(name.Machine[:])
	}
	for _, checks := range [][]check{hostChecks(), bpfChecks(), packetHostChecks(), packetChecks(), sockmapChecks(), unusedHostChecks(), unusedBPFChecks()} {
		for _, c := range checks {
			f := c.Feature
			f.Status, f.Detail = answer(c.ask())
			r.Features = append(r.Features, f)
		}
	}
	return r
}

func answer(detail string, err error) (Status, string) {
	switch {
	case err == nil:
		return Yes, detail
	case detail != "":
	case errors.Is(err, unix.EPERM):
		detail = "operation not permitted: ask as root, or with CAP_BPF and CAP_NET_ADMIN"
	default:
		detail = err.Error()
	}
	if errors.Is(err, ErrNotSupported) {
		return No, detail
	}
	return Unknown, detail
}
