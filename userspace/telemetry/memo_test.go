// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func memoRecord() *Record {
	return &Record{
		ID: "abc-1", Start: time.Unix(1700000000, 123456789), Client: netip.MustParseAddrPort("[2001:db8::1]:1234"),
		Listener: netip.MustParseAddrPort("10.0.0.1:443"), Via: netip.MustParseAddrPort("10.0.0.2:99"),
		SNI: "a.test", Match: "*.test", Endpoint: "e", Upstream: netip.MustParseAddrPort("10.0.0.3:443"), UpstreamHost: "b.test:443",
		JA4: "t13d1516h2_8daaf6152771_e5627efa2ab1", ECH: true, Attempts: 2, Hello: time.Millisecond, Dial: -1, Engine: "packet",
		ALPN: []string{"h2", "http/1.1"}, ForwardedTo: []string{"agentendpoint/default/a"}, PolicyLog: []any{map[string]any{"tenant": "x", "n": 1.0}},
	}
}

// TestMemoOfAnEarlierAgent had nothing about policies.
func TestMemoOfAnEarlierAgent(t *testing.T) {
	r := memoRecord()
	r.ForwardedTo, r.PolicyLog = nil, nil
	b, _ := r.AppendMemo(nil, 400)
	b = b[:len(b)-2] // no forwards, no log
	b[0] = 1
	got, rest, err := ReadMemo(b)
	if err != nil || len(rest) > 0 {
		t.Fatalf("%v, rest %q", err, rest)
	}
	if diff := cmp.Diff(r, got, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Error(diff)
	}
}

func TestMemoSaysWhatTheRecordSays(t *testing.T) {
	for name, r := range map[string]*Record{"full": memoRecord(), "zero": {Start: time.Unix(0, 0)}} {
		b, ok := r.AppendMemo([]byte("x"), 400)
		if !ok || b[0] != 'x' {
			t.Fatalf("%s: %t, %q", name, ok, b)
		}
		got, rest, err := ReadMemo(append(b[1:], "rest"...))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(r, got, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" || string(rest) != "rest" {
			t.Errorf("%s: %s, rest %q", name, diff, rest)
		}
	}
}

func TestMemoGivesUpALPNForRoom(t *testing.T) {
	r := memoRecord()
	r.ALPN = []string{strings.Repeat("x", 300)}
	b, ok := r.AppendMemo(nil, 330)
	if !ok {
		t.Fatal("does not fit")
	}
	if got, _, err := ReadMemo(b); err != nil || got.ALPN != nil || got.JA4 != r.JA4 {
		t.Errorf("got %+v, %v", got, err)
	}
	if b, ok := r.AppendMemo([]byte("as it was"), 50); ok || string(b) != "as it was" {
		t.Errorf("got %q, %t", b, ok)
	}
}

func FuzzReadMemo(f *testing.F) {
	b, _ := memoRecord().AppendMemo(nil, 400)
	f.Add(b)
	for i := range b {
		f.Add(b[:i])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, _, err := ReadMemo(b)
		if err != nil {
			return
		}
		again, ok := r.AppendMemo(nil, 1<<20)
		if !ok {
			t.Fatal("does not fit")
		}
		if got, _, err := ReadMemo(again); err != nil || got.ID != r.ID || got.Endpoint != r.Endpoint {
			t.Fatalf("%+v became %+v, %v", r, got, err)
		}
	})
}
