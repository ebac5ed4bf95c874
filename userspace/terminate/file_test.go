// SPDX-License-Identifier: Apache-2.0

package terminate

import (
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// To open a named pipe would wait for who writes to it, and keep the agent from starting.
func TestFilesThatAreNone(t *testing.T) {
	p := newPKI(t)
	if err := unix.Mkfifo(p.dir+"/pipe", 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{p.dir + "/pipe", p.dir, p.dir + "/missing"} {
		o := p.mutual()
		o.CAFiles, o.Where = []string{file}, "f.yaml:1:2"
		if _, err := NewServer(o); err == nil || !strings.HasPrefix(err.Error(), "f.yaml:1:2: ") || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", file, err)
		}
		if _, err := NewTickets(TicketOptions{KeyFile: file}); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// Files are on disks that may hang; handshakes do not wait for them, neither when the keys
// of tickets are due.
func TestHandshakesDoNotWaitForFiles(t *testing.T) {
	p := newPKI(t)
	now := time.Now()
	clock := func() time.Time { return now }
	o := p.mutual()
	o.Tickets, o.Now = mustTickets(t, TicketOptions{Rotation: time.Minute, Now: clock}), clock
	s := mustServer(t, o)
	c, err := NewClient(ClientOptions{CAFile: p.caFile})
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.reloading.Lock()
	defer c.reloading.Unlock()
	now = now.Add(2 * time.Minute)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Config()
		c.Config("a.test", "")
	}()
	select {
	case <-done:
	case <-time.After(patience):
		t.Error("a handshake waits for a reload")
	}
}

// Handshakes go on while keys are exchanged and files are read again: for the race detector.
func TestConfigsUnderReloads(t *testing.T) {
	p := newPKI(t)
	var mu sync.Mutex
	now := time.Now()
	clock := func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		now = now.Add(time.Second)
		return now
	}
	o := p.mutual()
	o.Tickets, o.Now = mustTickets(t, TicketOptions{Rotation: time.Minute, Now: clock}), clock
	s := mustServer(t, o)
	other := newCA(t)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 500 {
				if s.Config() == nil {
					t.Error("no settings")
				}
			}
		})
	}
	for i := range 20 {
		content := p.ca.PEM()
		if i%2 == 0 {
			content = append(content, other.PEM()...)
		}
		p.write("ca.pem", content)
		if err := s.Reload(); err != nil {
			t.Error(err)
		}
	}
	all.Wait()
	if m := meet(t, s.Config(), p.clientConfig(p.client)); m.server != nil {
		t.Error(m.server)
	}
}
