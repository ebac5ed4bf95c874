// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf/asm"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/bpf"
)

// What the host's owner sets up, which a test cannot ask for.
var hostSettings = map[string]bool{"accept queue of 4096": true, "65536 open files": true, "MPTCP": true, "bpffs": true}

func TestProbeFindsEverythingOnAKernelThatHasIt(t *testing.T) {
	requireRoot(t)
	r := Probe()
	for _, f := range r.Features {
		t.Logf("%-20s %-8s %-18s %s", f.Name, f.Status, f.UsedBy, f.Detail)
		if f.Status != Yes && !hostSettings[f.Name] && !newerThan(f.Since, r.Kernel) {
			t.Errorf("%s: got %s (%s), want yes", f.Name, f.Status, f.Detail)
		}
	}
	if !r.OK() || r.Kernel == "" || r.Machine == "" {
		t.Errorf("report of kernel %q on %q: OK is %t", r.Kernel, r.Machine, r.OK())
	}
}

// newerThan tells whether a version, "6.6", is after that of a kernel, "6.1.0-56-cloud".
func newerThan(version, kernel string) bool {
	var v, k [2]int
	_, _ = fmt.Sscanf(version, "%d.%d", &v[0], &v[1])
	_, _ = fmt.Sscanf(kernel, "%d.%d", &k[0], &k[1])
	return v[0] > k[0] || v[0] == k[0] && v[1] > k[1]
}

// Each program that the packet engine loads has a line, and one that the verifier
// refuses says why.
func TestProbeLoadsThePrograms(t *testing.T) {
	requireRoot(t)
	spec, err := bpf.LoadPacket()
	if err != nil {
		t.Fatal(err)
	}
	var listed, there []string
	for _, c := range packetChecks() {
		if name, ok := strings.CutPrefix(c.Name, "program "); ok {
			listed = append(listed, name)
		}
	}
	for name := range spec.Programs {
		there = append(there, name)
	}
	slices.Sort(listed)
	slices.Sort(there)
	if diff := cmp.Diff(there, listed); diff != "" {
		t.Errorf("programs (-loaded +listed):\n%s", diff)
	}

	spec.Programs[bpf.PacketProgPacketTransit].Instructions = asm.Instructions{asm.Return()}
	status, detail := answer(loadsAlone(spec, bpf.PacketProgPacketTransit)())
	if status != No || !strings.HasPrefix(detail, "the verifier refuses it: ") || !strings.Contains(detail, "R0") {
		t.Errorf("a program that is wrong: %s, %q", status, detail)
	}
	// The others do not suffer for it.
	if status, detail := answer(loadsAlone(spec, bpf.PacketProgPacketReroute)()); status != Yes {
		t.Errorf("a program beside it: %s, %q", status, detail)
	}
}

func TestProbeDescribesEachFeature(t *testing.T) {
	seen := make(map[string]bool)
	unused := false
	for _, f := range Probe().Features {
		if f.Name == "" || f.For == "" || f.Since == "" || seen[f.Name] {
			t.Errorf("feature without a name of its own, a use or a version: %+v", f)
		}
		if (f.UsedBy == Nothing) != (f.Without == "") {
			t.Errorf("%s: used by %q, but without it %q is lost", f.Name, f.UsedBy, f.Without)
		}
		if f.Status != Yes && f.Detail == "" {
			t.Errorf("%s: %s without a reason", f.Name, f.Status)
		}
		if unused && f.UsedBy != Nothing {
			t.Errorf("%s comes after features that nothing uses", f.Name)
		}
		seen[f.Name], unused = true, f.UsedBy == Nothing
	}
}

func TestProbeWithoutPrivilegesCannotTell(t *testing.T) {
	out := asNobody(t, func() string {
		data, err := json.Marshal(Probe())
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	})
	var r Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got := make(map[string]Status)
	for _, f := range r.Features {
		got[f.Name] = f.Status
		if f.Status == Unknown && !strings.Contains(f.Detail, "as root") {
			t.Errorf("%s: detail %q does not say what to do", f.Name, f.Detail)
		}
	}
	for name, want := range map[string]Status{"splice": Yes, "TCP_DEFER_ACCEPT": Yes, "sk_lookup program": Unknown,
		"sockmap": Unknown, "tcx link": Unknown, "clsact": Unknown, "map batch operations": Unknown, "program packet_ingress": Unknown, "bpf_skc_lookup_tcp": Unknown, "TCP_REPAIR": Unknown} {
		if got[name] != want {
			t.Errorf("%s: got %s, want %s", name, got[name], want)
		}
	}
	if !r.OK() {
		t.Error("the agent needs no privilege to relay, but the report is not OK")
	}
}

func TestAnswerTellsNoFromUnknown(t *testing.T) {
	for _, tc := range []struct {
		name       string
		detail     string
		err        error
		want       Status
		wantDetail string
	}{
		{"there", "a figure", nil, Yes, "a figure"},
		{"not there", "", fmt.Errorf("tcx: %w", ErrNotSupported), No, "tcx: not supported"},
		{"not there and why", "turned off", ErrNotSupported, No, "turned off"},
		{"not permitted", "", fmt.Errorf("load: %w", unix.EPERM), Unknown, "operation not permitted: ask as root, or with CAP_BPF and CAP_NET_ADMIN"},
		{"something else", "", errors.New("out of memory"), Unknown, "out of memory"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, detail := answer(tc.detail, tc.err)
			if got != tc.want || detail != tc.wantDetail {
				t.Errorf("got %s, %q; want %s, %q", got, detail, tc.want, tc.wantDetail)
			}
		})
	}
}

func TestReportSummary(t *testing.T) {
	required := Feature{Name: "splice", UsedBy: SpliceEngine, Required: true}
	optional := Feature{Name: "sk_lookup program", UsedBy: PrefixListeners}
	unused := Feature{Name: "tcx link", Status: No}
	with := func(f Feature, s Status) Feature { f.Status = s; return f }
	for _, tc := range []struct {
		name     string
		features []Feature
		ok       bool
		want     string
	}{
		{"all there", []Feature{with(required, Yes), with(optional, Yes), unused}, true,
			"Everything that this version uses is there."},
		{"optional missing", []Feature{with(required, Yes), with(optional, No), unused}, true,
			"The agent can run here. Missing: sk_lookup program."},
		{"required missing", []Feature{with(required, No), with(optional, Unknown), unused}, false,
			"The agent cannot run here. Missing: splice. Could not tell: sk_lookup program."},
		{"cannot tell", []Feature{with(required, Yes), with(optional, Unknown)}, true,
			"Nothing is known to be missing. Could not tell: sk_lookup program."},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := Report{Features: tc.features}
			if got := r.Summary(); got != tc.want || r.OK() != tc.ok {
				t.Errorf("got %q, OK %t; want %q, OK %t", got, r.OK(), tc.want, tc.ok)
			}
		})
	}
}

func TestReportSurvivesJSON(t *testing.T) {
	want := Report{Kernel: "6.6.1", Machine: "x86_64", Features: []Feature{
		{Name: "splice", UsedBy: SpliceEngine, Required: true, For: "moving", Without: "nothing moves", Since: "2.6.25", Status: Yes},
		{Name: "tcx link", For: "attaching", Since: "6.6", Status: No, Detail: "too old"},
	}}
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), `"status":"yes"`) {
		t.Errorf("status is not a word in %s", data)
	}
	var got Report
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	if err := new(Status).UnmarshalText([]byte("maybe")); err == nil {
		t.Error("a status that is none: got no error")
	}
}
