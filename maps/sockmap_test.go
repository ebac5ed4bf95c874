// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/spliceway/spliceway/bpf"
)

func TestSockmapShortcutsAreRead(t *testing.T) {
	m := packetObjects(t).Shortcuts
	cuts := NewShortcuts(m)
	if _, err := cuts.Get(7); !errors.Is(err, ErrNotFound) {
		t.Errorf("one that is not there: %v", err)
	}
	if err := cuts.Delete(7); err != nil {
		t.Errorf("delete one that is not there: %v", err)
	}
	var v bpf.SockmapShortcut
	c, b := &v.Ends[Client], &v.Ends[Backend]
	c.State, c.Bytes, c.Messages, c.Road, c.Switches, c.Seen = bpf.SockmapEndStateJOINED, 1<<40, 2, 3, 4, 5
	b.State, b.Misfit, b.Stuck, b.Bytes, b.Seen = bpf.SockmapEndStateFIT, bpf.SockmapMisfitREADER, 1, 6, 7
	if err := m.Put(uint64(7), &v); err != nil {
		t.Fatal(err)
	}
	got, err := cuts.Get(7)
	if err != nil {
		t.Fatal(err)
	}
	// A time is only as good as a tick.
	if seen := ticks(7); (got.Seen - seen).Abs() > 1<<tickShift {
		t.Errorf("last seen %s, want %s", got.Seen, seen)
	}
	want := Shortcut{Seen: got.Seen, Ends: [2]ShortcutEnd{
		Client:  {Fit: true, Joined: true, Sent: 1 << 40, Messages: 2, Road: 3, Switches: 4},
		Backend: {Fit: true, Misfit: Reader, Stuck: true, Sent: 6},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("short cut (-want +got):\n%s", diff)
	}
	if got.Misfit() != Reader || got.Waits() {
		t.Errorf("misfit %q, waits %t", got.Misfit(), got.Waits())
	}
	if n, err := cuts.Len(); n != 1 || err != nil {
		t.Errorf("%d flows, %v, want 1", n, err)
	}
	if err := cuts.Delete(7); err != nil {
		t.Fatal(err)
	}
	if n, err := cuts.Len(); n != 0 || err != nil {
		t.Errorf("%d flows, %v, want none", n, err)
	}
}

func TestSockmapShortcutWaits(t *testing.T) {
	fit, joined, unfit := ShortcutEnd{Fit: true}, ShortcutEnd{Fit: true, Joined: true}, ShortcutEnd{Fit: true, Misfit: Reader}
	for _, c := range []struct {
		ends [2]ShortcutEnd
		want bool
	}{
		{[2]ShortcutEnd{fit, fit}, true}, {[2]ShortcutEnd{joined, fit}, true}, {[2]ShortcutEnd{joined, joined}, false},
		{[2]ShortcutEnd{fit, {}}, false}, {[2]ShortcutEnd{fit, unfit}, false}, {[2]ShortcutEnd{}, false},
	} {
		if s := (&Shortcut{Ends: c.ends}); s.Waits() != c.want {
			t.Errorf("%+v: waits %t, want %t", c.ends, s.Waits(), c.want)
		}
	}
}

// What one side sent by the short cut the other was delivered.
func TestSockmapFlowTakesWhatWentByTheShortcut(t *testing.T) {
	cut := Shortcut{Seen: 3 * time.Second}
	cut.Ends[Client].Sent, cut.Ends[Backend].Sent = 1000, 20
	f := Flow{Delivered: [2]uint64{Client: 1, Backend: 2}, Seen: time.Second}
	f.Take(cut)
	if f.Delivered != [2]uint64{Client: 21, Backend: 1002} || f.Seen != 3*time.Second || f.Shortcut != cut {
		t.Errorf("got %+v", f)
	}
	f = Flow{Seen: 5 * time.Second}
	f.Take(cut)
	if f.Seen != 5*time.Second {
		t.Errorf("last seen %s, want 5s: packets came later", f.Seen)
	}
}

func TestSockmapSettingsArePut(t *testing.T) {
	var o bpf.SockmapObjects
	spec, err := bpf.LoadSockmap()
	if err != nil {
		t.Fatal(err)
	}
	if err := spec.LoadAndAssign(&o, nil); err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() { _ = o.Close() })
	settings := NewShortcutSettings(o.SockmapSettings)
	for _, c := range []struct {
		name       string
		orders     ShortcutOrders
		ports      map[uint16]uint8
		mss4, mss6 uint16
	}{
		{"all", ShortcutOrders{Mark: 1 << 20, Packets: 16, Listeners: []uint16{443, 65535}, First: 65534, Last: 65535, MTU: 1500, Onward: []uint16{443}},
			map[uint16]uint8{443: portListener | portSegments, 65534: portSource, 65535: portListener | portSource}, 1460, 1440},
		{"no other device", ShortcutOrders{Mark: 1, Listeners: []uint16{1}, Onward: []uint16{1}}, map[uint16]uint8{1: portListener}, 0, 0},
		{"a huge device", ShortcutOrders{MTU: 1 << 20, Onward: []uint16{9}}, map[uint16]uint8{9: portSegments}, 65535, 65535},
		{"nothing is left of before", ShortcutOrders{}, nil, 0, 0},
	} {
		if err := settings.Put(c.orders); err != nil {
			t.Fatal(err)
		}
		want := bpf.SockmapSettings{Mark: c.orders.Mark, Packets: c.orders.Packets, Mss4: c.mss4, Mss6: c.mss6}
		for p, kind := range c.ports {
			want.Ports[p] = kind
		}
		var got bpf.SockmapSettings
		if err := o.SockmapSettings.Lookup(uint32(0), &got); err != nil {
			t.Fatal(err)
		}
		if got != want {
			for p := range want.Ports {
				if got.Ports[p] != want.Ports[p] {
					t.Errorf("%s: port %d is %d, want %d", c.name, p, got.Ports[p], want.Ports[p])
				}
			}
			t.Errorf("%s: mark %d, packets %d, segments %d and %d", c.name, got.Mark, got.Packets, got.Mss4, got.Mss6)
		}
	}
}
