// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func fullRecord() *Record {
	return &Record{
		ID: "ab-1", Start: time.Now(),
		Client: netip.MustParseAddrPort("10.0.0.1:4000"), Listener: netip.MustParseAddrPort("[fd00::1]:443"), Via: netip.MustParseAddrPort("10.0.0.9:5"),
		SNI: "a.test", ALPN: []string{"h2", "http/1.1"}, JA4: "t13d", ECH: true,
		Endpoint: "a", Match: "*.test", Upstream: netip.MustParseAddrPort("10.2.0.2:443"), UpstreamHost: "b.test:443", Attempts: 2,
		Engine: "splice", EngineReason: "why", BytesIn: 1, BytesOut: 2,
		Hello: 1500 * time.Microsecond, Dial: 2 * time.Millisecond, Total: time.Second,
		Outcome: OutcomeRouted, Reason: "connection reset by peer", End: EndReset, ClosedBy: SideClient,
	}
}

// noTime leaves the time of the line out.
func noTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

func TestLineOfARoutedConnection(t *testing.T) {
	var b bytes.Buffer
	NewAccessLog(slog.New(slog.NewJSONHandler(&b, &slog.HandlerOptions{ReplaceAttr: noTime}))).Write(fullRecord())
	want := `{"level":"INFO","msg":"connection","id":"ab-1","client":"10.0.0.1:4000","via":"10.0.0.9:5","listener":"[fd00::1]:443",` +
		`"sni":"a.test","alpn":["h2","http/1.1"],"ja4":"t13d","ech":true,"endpoint":"a","match":"*.test","upstream":"10.2.0.2:443",` +
		`"upstream_host":"b.test:443","attempts":2,"engine":"splice","engine_reason":"why","bytes_in":1,"bytes_out":2,` +
		`"hello_ms":1.5,"dial_ms":2,"total_ms":1000,"outcome":"routed","reason":"connection reset by peer","end":"reset","closed_by":"client"}` + "\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

func TestLineOfARefusedConnectionHasWhatThereIs(t *testing.T) {
	var b bytes.Buffer
	r := &Record{ID: "ab-2", Client: netip.MustParseAddrPort("10.0.0.1:1"), Outcome: OutcomeNotTLS, Total: time.Millisecond}
	NewAccessLog(slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{ReplaceAttr: noTime}))).Write(r)
	want := "level=INFO msg=connection id=ab-2 client=10.0.0.1:1 total_ms=1 outcome=not_tls\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

func TestWhatClientsSendCannotForgeLines(t *testing.T) {
	hostile := "a\nlevel=ERROR msg=forged\x1b[31m\x00\xff\"\x7f\u009b31m\u2028\u202e"
	r := &Record{SNI: hostile, ALPN: []string{hostile}, Reason: hostile, Outcome: OutcomeMalformed}
	for name, handler := range map[string]func(io.Writer, *slog.HandlerOptions) slog.Handler{
		"json": func(w io.Writer, o *slog.HandlerOptions) slog.Handler { return slog.NewJSONHandler(w, o) },
		"text": func(w io.Writer, o *slog.HandlerOptions) slog.Handler { return slog.NewTextHandler(w, o) },
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			NewAccessLog(slog.New(handler(&b, nil))).Write(r)
			if n := strings.Count(b.String(), "\n"); n != 1 {
				t.Errorf("%d lines, want 1:\n%s", n, &b)
			}
			if strings.ContainsFunc(b.String(), func(c rune) bool { return (c < ' ' || c > '~') && c != '\n' }) {
				t.Errorf("the line has more than printable ASCII: %q", b.String())
			}
			if name == "json" && !json.Valid(b.Bytes()) {
				t.Errorf("not JSON: %s", &b)
			}
		})
	}
}

// TestALargeClientCertificateTakesLittleOfALine, which is not to be larger than a log
// collector takes.
func TestALargeClientCertificateTakesLittleOfALine(t *testing.T) {
	long := strings.Repeat("n", 60_000)
	names := slices.Repeat([]string{"URI:" + long}, 1000)
	var b bytes.Buffer
	NewAccessLog(slog.New(slog.NewJSONHandler(&b, nil))).Write(&Record{TLS: &TLS{Client: &ClientCertificate{Subject: "CN=" + long, SANs: names}}})
	if b.Len() > 20<<10 || !strings.Contains(b.String(), "CN=nnn") || !strings.Contains(b.String(), "URI:nnn") {
		t.Errorf("a line of %d bytes: %.200q", b.Len(), b.String())
	}
	if len(names[0]) != len(long)+4 {
		t.Error("the record itself was cut")
	}
}

func TestALongProtocolListIsCut(t *testing.T) {
	for _, tt := range []struct{ offered, shown int }{{0, 0}, {1, 1}, {maxLoggedALPN, maxLoggedALPN}, {maxLoggedALPN + 1, maxLoggedALPN + 1}, {128, maxLoggedALPN + 1}} {
		offered := slices.Repeat([]string{"h2"}, tt.offered)
		got := shown(offered, maxLoggedALPN)
		if len(got) != tt.shown {
			t.Errorf("%d of %d protocols are shown, want %d", len(got), tt.offered, tt.shown)
		}
		if cut := slices.Contains(got, "..."); cut != (tt.offered > maxLoggedALPN) {
			t.Errorf("of %d protocols %q are shown", tt.offered, got)
		}
	}
}

func TestEveryMemberOfTheClosedSetsHasItsOwnLabel(t *testing.T) {
	seen := map[string]bool{}
	check := func(set, label string, mayBeEmpty bool) {
		if label == "" && !mayBeEmpty {
			t.Errorf("%s: a member has no label", set)
		}
		if seen[set+label] {
			t.Errorf("%s: %q twice", set, label)
		}
		seen[set+label] = true
	}
	for o := range outcomes {
		check("outcome ", o.String(), false)
	}
	for e := range ends {
		check("end ", e.String(), e == EndNone)
	}
	for s := range sides {
		check("side ", s.String(), s == SideNone)
	}
	for l := range limits {
		check("limit ", l.String(), false)
	}
}

func TestAlertsOfRefusals(t *testing.T) {
	// RFC 8446, section 6.2. No alert for those who did not speak TLS, who are
	// gone, or whose hello never came.
	want := map[Outcome]byte{
		OutcomeUnknownName: 112, OutcomeNoSNI: 109, OutcomeMalformed: 50, OutcomeTooLarge: 50,
		OutcomeOverLimit: 80, OutcomeDialFailed: 80, OutcomeInternal: 80, OutcomeDenied: 49, OutcomePolicyFailed: 80,
	}
	for o := range outcomes {
		description, ok := o.Alert()
		if w, has := want[o]; ok != has || description != w {
			t.Errorf("%s: alert %d, %t; want %d, %t", o, description, ok, w, has)
		}
	}
}

// stuckWriter blocks until it is released.
type stuckWriter struct {
	entered, release chan struct{}
	bytes.Buffer
}

func (w *stuckWriter) Write(b []byte) (int, error) {
	select {
	case w.entered <- struct{}{}:
	default:
	}
	<-w.release
	return w.Buffer.Write(b)
}

func TestAsyncWriterNeverWaitsAndCountsWhatItDrops(t *testing.T) {
	sink := &stuckWriter{entered: make(chan struct{}, 1), release: make(chan struct{})}
	dropped := 0
	w := NewAsyncWriter(sink, func() { dropped++ })
	line := bytes.Repeat([]byte("x"), 1<<20)
	_, _ = w.Write(line)
	<-sink.entered // the first line is on its way; the buffer is empty
	for range asyncLimit/len(line) + 3 {
		_, _ = w.Write(line)
	}
	if dropped != 3 {
		t.Errorf("%d lines dropped, want 3", dropped)
	}
	close(sink.release)
	_ = w.Close()
	if got, want := sink.Len(), asyncLimit+len(line); got != want {
		t.Errorf("%d bytes written by the end of Close, want %d", got, want)
	}
	_, _ = w.Write([]byte("late"))
	if dropped != 4 {
		t.Error("a line after Close is not counted as dropped")
	}
}

// brokenWriter takes some bytes and fails.
type brokenWriter struct{ takes int }

func (w brokenWriter) Write([]byte) (int, error) { return w.takes, errors.New("no space left") }

func TestAsyncWriterCountsTheLinesThatItsSinkRefuses(t *testing.T) {
	var dropped atomic.Int64
	w := NewAsyncWriter(brokenWriter{takes: len("li")}, func() { dropped.Add(1) })
	_, _ = w.Write([]byte("line\nline\nline\n"))
	_ = w.Close()
	if n := dropped.Load(); n != 3 { // the first was cut
		t.Errorf("%d lines dropped, want 3", n)
	}
}

func TestAsyncWriterEndsThoughItsSinkIsStuck(t *testing.T) {
	sink := &stuckWriter{entered: make(chan struct{}, 1), release: make(chan struct{})}
	w := NewAsyncWriter(sink, func() {})
	_, _ = w.Write([]byte("x"))
	<-sink.entered
	_ = w.Close() // returns, or the test times out
	close(sink.release)
}

func BenchmarkAccessLine(b *testing.B) {
	l := NewAccessLog(slog.New(slog.NewJSONHandler(io.Discard, nil)))
	r := fullRecord()
	b.ReportAllocs()
	for b.Loop() {
		l.Write(r)
	}
}
