// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/spliceway/spliceway/testenv"
)

func TestStartFails(t *testing.T) {
	testenv.CheckLeaks(t)
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	_, target := listenOn(t, n.Backends[0])
	good := "endpoints:\n" + endpoint("a", sni("a.test"), target)
	taken, err := n.Gateway.Listen(netip.AddrPortFrom(n.IPv4, gatewayPort))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	me := fmt.Sprintf("pid %d (", os.Getpid())
	otherPort := strings.ReplaceAll(good, fmt.Sprint(gatewayPort), fmt.Sprint(gatewayPort+1))
	for _, tt := range []struct {
		name, config string
		want         []string
	}{
		{"on a port that is taken, and names who has it", good, []string{me, "10.0.0.1:9443", "`listen`"}},
		{"on a taken port of many", good + endpoint("b", fmt.Sprintf("tls://b.test:%d", gatewayPort+2), target), []string{me}},
		{"on an admin address that is taken", otherPort + "admin: {address: \"10.0.0.1:9443\"}\n", []string{"admin", "address already in use"}},
		{"on an address that the host does not have", "listen: [\"192.0.2.1\"]\n" + good, []string{"192.0.2.1", "`listen`"}},
		{"with every mistake of the file", "colour: red\nengine: warp\nlisten: [nowhere]\ntimeouts: {hello: 3}\n" +
			"endpoints:\n- {name: A, url: \"http://a.test\", upstream: {url: \"tcp://10.0.0.1\"}}\n- {}\nfallback: {noSNI: nobody}\n",
			[]string{":1:1: unknown key", ":2:9: engine", ":3:10: listen[0]", ":4:19: timeouts.hello", ":6:10: endpoints[0].name", ":6:18: endpoints[0].url", "endpoints[0].upstream.url", ":7:3: endpoints[1].name", ":8:19: fallback.noSNI"}},
		{"with a mistyped key beside the right one, and the mistakes below that", "endpoint: []\nendpoints:\n- {name: A, url: \"http://a.test\", upstream: {url: \"tcp://10.0.0.1\"}}\n",
			[]string{":1:1: unknown key", ":3:10: endpoints[0].name", ":3:18: endpoints[0].url"}},
		{"with a file that is no YAML", "endpoints: [", []string{"spliceway.yaml:1:"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := launch(t, n, tt.config)
			var exit *exec.ExitError
			if err := r.Wait(short(t)); !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Errorf("it ends with %v, want exit status 1", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(r.Log().String(), want) {
					t.Errorf("it does not say %q:\n%s", want, r.Log())
				}
			}
			if says("ready")(r.Log().String()) {
				t.Error("it said that it is ready")
			}
		})
	}
	t.Run("not for want of the default admin address", func(t *testing.T) {
		admin, err := n.Gateway.Listen(netip.MustParseAddrPort("127.0.0.1:9180"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = admin.Close() }()
		r := start(t, n, otherPort)
		if _, err := r.WaitLine(short(t), func(l string) bool { return strings.Contains(l, "running without metrics and health") }); err != nil {
			t.Error(err)
		}
	})
}
