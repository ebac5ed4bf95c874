// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/userspace/config"
	"github.com/spliceway/spliceway/userspace/telemetry"
)

// patience is far more than any step here takes.
const patience = 10 * time.Second

func TestPortOwnerNamesTheProcess(t *testing.T) {
	for _, tt := range []struct{ listen, ask string }{
		{"127.0.0.1:0", "127.0.0.1"},
		{"127.0.0.1:0", "0.0.0.0"},
		{"0.0.0.0:0", "127.0.0.1"},
		{"[::1]:0", "::1"},
		{"[::1]:0", "::"},
		{"[::]:0", "127.0.0.1"}, // dual stack
	} {
		t.Run(tt.listen+" asked by "+tt.ask, func(t *testing.T) {
			l, err := net.Listen("tcp", tt.listen)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			port := l.Addr().(*net.TCPAddr).AddrPort().Port()
			got := portOwner("/proc", netip.AddrPortFrom(netip.MustParseAddr(tt.ask), port))
			comm, err := os.ReadFile("/proc/self/comm")
			if err != nil {
				t.Fatal(err)
			}
			want := fmt.Sprintf("pid %d (%s) on ", os.Getpid(), strings.TrimSpace(string(comm)))
			if !strings.HasPrefix(got, want) {
				t.Errorf("got %q, want %q...", got, want)
			}
		})
	}
	if got := portOwner("/proc", netip.MustParseAddrPort("127.0.0.1:1")); got != "" {
		t.Errorf("a free port is owned by %q", got)
	}
	if got := portOwner(t.TempDir(), netip.MustParseAddrPort("127.0.0.1:1")); got != "" {
		t.Errorf("without /proc: %q", got)
	}
}

func TestExplainListenSaysWhatToDo(t *testing.T) {
	addr := netip.MustParseAddrPort("192.0.2.1:443")
	for errno, want := range map[unix.Errno]string{
		unix.EADDRINUSE:    "taken by",
		unix.EACCES:        "CAP_NET_BIND_SERVICE",
		unix.EADDRNOTAVAIL: "`listen`",
	} {
		err := explainListen(fmt.Errorf("listen: %w", errno), addr)
		if !errors.Is(err, errno) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %q, want %q in it", errno, err, want)
		}
	}
}

func TestWatchReportsNewContentOnly(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "f.yaml")
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	changed := func(w *fileWatch) bool {
		select {
		case <-w.changed:
			return true
		case <-time.After(5 * settleTime):
			return false
		}
	}
	write("f.yaml", "two")
	w, err := watchFile(file, []byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	if !changed(w) {
		t.Error("what changed between the load and the watch is not reported")
	}
	write("f.yaml", "two")
	if changed(w) {
		t.Error("the same content again is reported")
	}
	write("other", "x")
	if changed(w) {
		t.Error("another file is reported")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if changed(w) {
		t.Error("a file that is gone is reported")
	}
	write("new", "three")
	if err := os.Rename(filepath.Join(dir, "new"), file); err != nil {
		t.Fatal(err)
	}
	if !changed(w) {
		t.Error("a file that was replaced is not reported")
	}
}

// TestWatchFollowsALinkedDirectory is how a ConfigMap volume changes: the file is
// a link into a directory behind another link, which is exchanged.
func TestWatchFollowsALinkedDirectory(t *testing.T) {
	dir := t.TempDir()
	for _, version := range []string{"v1", "v2"} {
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, version, "f.yaml"), []byte(version), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, name string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("v1", "data")
	link("data/f.yaml", "f.yaml")
	w, err := watchFile(filepath.Join(dir, "f.yaml"), []byte("v1"))
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	link("v2", "data.new")
	if err := os.Rename(filepath.Join(dir, "data.new"), filepath.Join(dir, "data")); err != nil {
		t.Fatal(err)
	}
	select {
	case <-w.changed:
	case <-time.After(patience):
		t.Error("not reported")
	}
}

func TestAddresses(t *testing.T) {
	names := func(listen ...string) (all []string) {
		cfg := &config.Config{}
		for _, l := range listen {
			p, err := netip.ParsePrefix(l)
			if err != nil {
				t.Fatal(err)
			}
			cfg.Listen = append(cfg.Listen, p)
		}
		list, optional := addresses(cfg, []netip.AddrPort{netip.AddrPortFrom(netip.Addr{}, 443), netip.AddrPortFrom(netip.Addr{}, 8443)}, map[uint16]bool{443: true})
		for _, a := range list {
			all = append(all, a.String())
			if optional[a] != (a.port == 8443) {
				t.Errorf("%s is optional: %t", a, optional[a])
			}
		}
		return all
	}
	for _, tt := range []struct {
		listen, want []string
	}{
		{nil, []string{"0.0.0.0:443", "[::]:443", "0.0.0.0:8443", "[::]:8443"}},
		{[]string{"127.0.0.1/32"}, []string{"127.0.0.1:443", "127.0.0.1:8443"}},
		{[]string{"0.0.0.0/32", "::1/128"}, []string{"0.0.0.0:443", "[::1]:443", "0.0.0.0:8443", "[::1]:8443"}},
		{[]string{"203.0.113.0/24"}, []string{"203.0.113.0/24 port 443", "203.0.113.0/24 port 8443"}},
	} {
		if diff := cmp.Diff(tt.want, names(tt.listen...)); diff != "" {
			t.Errorf("%v: %s", tt.listen, diff)
		}
	}
}

// All addresses of a pool's prefix have one socket per port.
func TestAddressesOfAPool(t *testing.T) {
	cfg := &config.Config{Listen: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}
	cfg.Kubernetes.Addresses = []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("10.2.0.1/32")}
	var places []netip.AddrPort
	for _, p := range []string{"10.1.0.1:443", "10.1.0.2:443", "10.1.0.2:8443", "10.2.0.1:443", "10.3.0.1:443"} {
		places = append(places, netip.MustParseAddrPort(p))
	}
	var got []string
	list, _ := addresses(cfg, places, nil)
	for _, a := range list {
		got = append(got, a.String())
	}
	want := []string{"10.1.0.0/24 port 443", "10.1.0.0/24 port 8443", "10.2.0.1:443", "10.3.0.1:443"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestRoutesDecideAsTheAgentDoes(t *testing.T) {
	cfg, err := config.Parse("f.yaml", []byte(`
endpoints:
- {name: a, url: "tls://a.test", upstream: {url: "tls://10.0.0.1:443"}}
- {name: w, url: "tls://*.test", upstream: {url: "tls://10.0.0.2:443"}}
- {name: acme, url: "tls://a.test", alpn: [acme-tls/1], upstream: {url: "tls://10.0.0.3:443"}}
fallback: {noSNI: w}
`))
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewRoutes(Plan(cfg))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, sni, alpn string
		endpoint        string
		outcome         telemetry.Outcome
		why             string
	}{
		{"exact", "A.test", "", "a", telemetry.OutcomeRouted, "exact name"},
		{"ALPN", "a.test", "acme-tls/1", "acme", telemetry.OutcomeRouted, "exact name, ALPN acme-tls/1"},
		{"wildcard", "x.y.test", "", "w", telemetry.OutcomeRouted, "wildcard *.test"},
		{"no SNI has a fallback", "", "", "w", telemetry.OutcomeRouted, "fallback.noSNI: the client names no server"},
		{"unknown name has none", "other", "", "", telemetry.OutcomeUnknownName, "no endpoint has this name, and there is no fallback.unknownName"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, err := r.Decide(netip.Addr{}, 443, tt.sni, strings.Fields(tt.alpn))
			if err != nil {
				t.Fatal(err)
			}
			endpoint := ""
			if d.Endpoint != nil {
				endpoint = d.Endpoint.Name
			}
			if endpoint != tt.endpoint || d.Outcome != tt.outcome || d.Why != tt.why {
				t.Errorf("got %q, %s, %q; want %q, %s, %q", endpoint, d.Outcome, d.Why, tt.endpoint, tt.outcome, tt.why)
			}
		})
	}
	if _, err := r.Decide(netip.Addr{}, 443, "a..test", nil); err == nil {
		t.Error("a name that no hello may carry is decided about")
	}
}

// TestWatchSeesAChangeInAStormOfOthers: something else in the directory is written
// again and again, such as a log.
func TestWatchSeesAChangeInAStormOfOthers(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "f.yaml")
	if err := os.WriteFile(file, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := watchFile(file, []byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		gust := time.NewTicker(settleTime / 20)
		defer gust.Stop()
		for {
			select {
			case <-gust.C:
				if err := os.WriteFile(filepath.Join(dir, "log"), nil, 0o600); err != nil {
					t.Error(err)
				}
			case <-stop:
				return
			}
		}
	}()
	defer func() {
		close(stop)
		<-stopped
	}()
	if err := os.WriteFile(file, []byte("two"), 0o600); err != nil {
		t.Fatal(err)
	}
	select {
	case <-w.changed:
	case <-time.After(patience):
		t.Error("not reported as long as the storm lasts")
	}
}
