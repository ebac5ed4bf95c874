// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"net/netip"
	"time"
)

// memoVersion is the first byte of a memo. Version 1, of earlier agents, has nothing
// about policies.
const memoVersion = 2

// AppendMemo appends what an open connection's record says so far, in few bytes, for
// whoever writes its line: what is known at its end only is left out. If that takes
// more than limit bytes, ALPN is left out too, and if it still does, ok is false and
// b is as it was.
func (r *Record) AppendMemo(b []byte, limit int) (_ []byte, ok bool) {
	for _, alpn := range [][]string{r.ALPN, nil} {
		if memo := r.appendMemo(b, alpn); len(memo)-len(b) <= limit {
			return memo, true
		}
	}
	return b, false
}

func (r *Record) appendMemo(b []byte, alpn []string) []byte {
	str := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	addr := func(a netip.AddrPort) {
		m, _ := a.MarshalBinary() // never fails
		str(string(m))
	}
	same := func(s, as string) { // most names match as they are
		if s == as {
			b = append(b, 1)
			return
		}
		b = append(b, 0)
		str(s)
	}
	b = append(b, memoVersion)
	str(r.ID)
	b = binary.AppendVarint(b, r.Start.UnixNano())
	addr(r.Client)
	addr(r.Listener)
	addr(r.Via)
	addr(r.Upstream)
	str(r.SNI)
	same(r.Match, r.SNI)
	str(r.Endpoint)
	same(r.UpstreamHost, r.Upstream.String())
	str(r.JA4)
	ech := byte(0)
	if r.ECH {
		ech = 1
	}
	b = append(b, ech)
	b = binary.AppendUvarint(b, uint64(r.Attempts))
	b = binary.AppendVarint(b, int64(r.Hello))
	b = binary.AppendVarint(b, int64(r.Dial))
	str(r.Engine)
	b = binary.AppendUvarint(b, uint64(len(alpn)))
	for _, p := range alpn {
		str(p)
	}
	b = binary.AppendUvarint(b, uint64(len(r.ForwardedTo)))
	for _, e := range r.ForwardedTo {
		str(e)
	}
	log := []byte(nil)
	if len(r.PolicyLog) > 0 {
		log, _ = json.Marshal(r.PolicyLog) // fails for what no policy makes
	}
	str(string(log))
	return b
}

// ErrMemo: the bytes are no memo, or another version's.
var ErrMemo = errors.New("not a connection's memo")

// ReadMemo makes a record of what AppendMemo wrote, and returns what follows it.
func ReadMemo(b []byte) (r *Record, rest []byte, err error) {
	bad := false
	uvarint := func() uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			bad, n = true, 0
		}
		b = b[n:]
		return v
	}
	varint := func() int64 {
		v, n := binary.Varint(b)
		if n <= 0 {
			bad, n = true, 0
		}
		b = b[n:]
		return v
	}
	str := func() string {
		n := uvarint()
		if n > uint64(len(b)) {
			bad = true
			return ""
		}
		s := string(b[:n])
		b = b[n:]
		return s
	}
	flag := func() bool {
		if len(b) == 0 {
			bad = true
			return false
		}
		f := b[0]
		b = b[1:]
		return f == 1
	}
	addr := func() (a netip.AddrPort) {
		if a.UnmarshalBinary([]byte(str())) != nil {
			bad = true
		}
		return a
	}
	same := func(as string) string {
		if flag() {
			return as
		}
		return str()
	}
	if len(b) == 0 || b[0] != memoVersion && b[0] != 1 {
		return nil, nil, ErrMemo
	}
	version := b[0]
	b = b[1:]
	r = &Record{ID: str(), Start: time.Unix(0, varint()), Client: addr(), Listener: addr(), Via: addr(), Upstream: addr(), SNI: str()}
	r.Match = same(r.SNI)
	r.Endpoint = str()
	r.UpstreamHost = same(r.Upstream.String())
	r.JA4, r.ECH, r.Attempts = str(), flag(), int(uvarint())
	r.Hello, r.Dial, r.Engine = time.Duration(varint()), time.Duration(varint()), str()
	for n := uvarint(); n > 0 && !bad; n-- {
		r.ALPN = append(r.ALPN, str())
	}
	if version > 1 {
		for n := uvarint(); n > 0 && !bad; n-- {
			r.ForwardedTo = append(r.ForwardedTo, str())
		}
		if log := str(); log != "" && json.Unmarshal([]byte(log), &r.PolicyLog) != nil {
			bad = true
		}
	}
	if bad {
		return nil, nil, ErrMemo
	}
	return r, b, nil
}
