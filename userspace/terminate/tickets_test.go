// SPDX-License-Identifier: Apache-2.0

package terminate

import (
	"crypto/tls"
	"slices"
	"testing"
	"time"
)

// opens tells whether the keys of the moment open what was sealed with key.
func opens(k *Tickets, key [32]byte, now time.Time) bool {
	k.version(now)
	keys, _ := k.keysFor(nil)
	return slices.Contains(keys, key)
}

// However rarely somebody asks: a key seals for one rotation, and opens for two more.
func TestHowLongATicketKeyOpens(t *testing.T) {
	const rotation = time.Hour
	for name, asked := range map[string][]time.Duration{
		"asked all the time":    {1, 59 * time.Minute, time.Hour, 90 * time.Minute, 2 * time.Hour, 2*time.Hour + 59*time.Minute},
		"asked once in between": {2*time.Hour + 30*time.Minute},
		"not asked":             nil,
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			now := start
			k := mustTickets(t, TicketOptions{Rotation: rotation, Now: func() time.Time { return now }})
			keys, _ := k.keysFor(nil)
			first := keys[0]
			for _, d := range asked {
				if now = start.Add(d); !opens(k, first, now) {
					t.Errorf("after %s it does not open", d)
				}
				if keys, _ := k.keysFor(nil); (keys[0] == first) != (d < rotation) {
					t.Errorf("after %s: it seals %t", d, keys[0] == first)
				}
			}
			if now = start.Add(3 * rotation); opens(k, first, now) {
				t.Error("after three rotations it opens")
			}
			if keys, _ := k.keysFor(nil); len(keys) == 0 {
				t.Error("no key is left")
			}
		})
	}
}

// crypto/tls draws keys of its own where it is given none.
func TestWithoutTicketsNoSessionIsResumed(t *testing.T) {
	p := newPKI(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		s := mustServer(t, p.options())
		c := p.clientConfig()
		c.MaxVersion = version
		if m := resume(t, s.Config(), s.Config(), c); m.server != nil || m.state.DidResume {
			t.Errorf("%s: %v, resumed %t", tls.VersionName(version), m.server, m.state.DidResume)
		}
	}
}

// crypto/tls itself looks at what a session's client has shown. That is not relied on.
func TestTicketKeysDependOnWhatIsWantedOfClients(t *testing.T) {
	p := newPKI(t)
	seen := make(map[[32]byte]ClientAuth)
	k := mustTickets(t, TicketOptions{})
	for _, auth := range []ClientAuth{NoClientCert, Request, RequireAny, RequireAndVerify} {
		o := p.mutual()
		o.ClientAuth, o.Tickets = auth, k
		keys, _ := k.keysFor(mustServer(t, o).current.Load().context)
		if other, ok := seen[keys[0]]; ok {
			t.Errorf("modes %d and %d have one key", other, auth)
		}
		seen[keys[0]] = auth
	}
}
