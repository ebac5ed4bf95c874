// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// endpoint is the least that a file needs, for tests of something else.
const endpoint = "endpoints: [{name: a, url: tls://a.test, upstream: {url: tls://b.test:443}}]\n"

func TestParseFillsIn(t *testing.T) {
	cfg, err := Parse("f.yaml", []byte(`# a comment
engine: splice
listen: ["127.0.0.1", "::1", 203.0.113.0/24]
endpoints:
- name: a
  url: TLS://A.Test:8443
  alpn: [h2]
  metadata: {b: c}
  upstream:
    url: tls://[2001:DB8::1]:21001
    healthCheck: {type: tls}
  timeouts: {idle: 0, connect: 1s}
- name: b
  url: tls://*._X.test
  upstream:
    targets:
    - {url: tcp://Backend.test.:80, weight: 0}
    - {url: tcp://10.0.0.1:81}
timeouts:
  idle: 0
limits:
  acceptRate: 100
admin: {address: off}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := defaults().config
	want.Engine = "splice"
	want.FirstPort, want.LastPort = 40000, 59999
	want.Listen = []netip.Prefix{
		netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("203.0.113.0/24"),
	}
	zero, second := time.Duration(0), time.Second
	a, b := defaults().endpoint, defaults().endpoint
	a.Name, a.URL, a.ServerName, a.Port = "a", "TLS://A.Test:8443", "a.test", 8443
	a.Pos = Position{"f.yaml", 5, 3}
	a.ALPN = []string{"h2"}
	a.Metadata = map[string]string{"b": "c"}
	a.Timeouts = EndpointTimeouts{Connect: &second, Idle: &zero}
	a.Upstream.URL = "tls://[2001:DB8::1]:21001"
	a.Upstream.All = []Target{{URL: a.Upstream.URL, Weight: 1, Host: "2001:db8::1", Port: 21001, TLS: true}}
	a.Upstream.HealthCheck.Type, a.Upstream.HealthCheck.ServerName = "tls", "a.test"
	b.Name, b.URL, b.ServerName, b.Port = "b", "tls://*._X.test", "*._x.test", 443
	b.Pos = Position{"f.yaml", 13, 3}
	b.Upstream.Targets = []Target{
		{URL: "tcp://Backend.test.:80", Weight: 0, Host: "backend.test.", Port: 80},
		{URL: "tcp://10.0.0.1:81", Weight: 1, Host: "10.0.0.1", Port: 81},
	}
	b.Upstream.All = b.Upstream.Targets
	want.Endpoints = []Endpoint{a, b}
	want.Timeouts.Idle = 0
	want.Limits.AcceptRate, want.Limits.AcceptBurst = 100, 100
	want.Admin = Admin{Address: "off", AddressSet: true}
	if diff := cmp.Diff(&want, cfg, compare); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestParseReportsEverythingAtOnce(t *testing.T) {
	_, err := Parse("f.yaml", []byte(`engin: auto
listen: [10.0.0.1/24, "::1", "2001:db8::1"]
endpoints:
- name: One
  url: https://a.test
  upstream:
    targets:
    - {url: "tls://b.test", weigth: 2}
  timeouts: {idle: 30}
- name: two
  url: tls://two.test
  upstrem: {}
- three
fallback:
  noSNI: tvo
engin: auto
limits:
  acceptRate: many
  acceptRate: 5
log: {access: yes}
`))
	want := []string{
		`f.yaml:1:1: unknown key "engin", did you mean "engine"?`,
		`f.yaml:2:10: listen[0]: 10.0.0.1/24 has bits set behind the prefix, did you mean 10.0.0.0/24 or 10.0.0.1?`,
		`f.yaml:4:9: endpoints[0].name: expected lower-case letters, digits, "-" and ".", with a letter or digit at both ends of each part, found "One"`,
		`f.yaml:5:8: endpoints[0].url: https:// is not served, use tls://`,
		`f.yaml:8:13: endpoints[0].upstream.targets[0].url: the port is missing, expected tcp://HOST:PORT or tls://HOST:PORT`,
		`f.yaml:8:29: endpoints[0].upstream.targets[0]: unknown key "weigth", did you mean "weight"?`,
		`f.yaml:9:20: endpoints[0].timeouts.idle: expected a duration such as "1m30s" or "500ms", found "30" without a unit`,
		`f.yaml:12:3: endpoints[1]: unknown key "upstrem", did you mean "upstream"?`,
		`f.yaml:12:12: endpoints[1].upstream: url or targets is needed: where the connections go, as tls://HOST:PORT or tcp://HOST:PORT`,
		`f.yaml:13:3: endpoints[2]: expected a mapping with keys such as "name", found the string "three"`,
		`f.yaml:15:10: fallback.noSNI: no endpoint has the name "tvo", did you mean "two"?`,
		`f.yaml:16:1: unknown key "engin", did you mean "engine"?`,
		`f.yaml:18:15: limits.acceptRate: expected a whole number, found the string "many"`,
		`f.yaml:19:3: limits.acceptRate: key given twice, first on line 18`,
		`f.yaml:20:15: log.access: expected true or false, found the string "yes"`,
	}
	if err == nil {
		t.Fatal("no error")
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestParseRefuses has one mistake in each case, and its whole message.
func TestParseRefuses(t *testing.T) {
	url := func(url string) string {
		return "endpoints: [{name: a, upstream: {url: tls://b.test:443}, url: " + url + "}]"
	}
	upstream := func(upstream string) string {
		return "endpoints: [{name: a, url: tls://a.test, upstream: " + upstream + "}]"
	}
	target := func(url string) string { return upstream("{url: " + url + "}") }
	with := func(text string) string { return endpoint + text }
	two := func(a, b string) string {
		return fmt.Sprintf("endpoints:\n- {name: a, upstream: {url: tls://x.test:1}, %s}\n- {name: b, upstream: {url: tls://x.test:1}, %s}", a, b)
	}
	for _, tt := range []struct{ name, file, want string }{
		{"no endpoints", "endpoints: []", `1:12: endpoints: at least one endpoint is needed, with a name, a url and an upstream`},
		{"no name", "endpoints: [{url: tls://a.test, upstream: {url: tls://b.test:443}}]", `1:13: endpoints[0].name: a name for logs, metrics and fallbacks is needed`},
		{"no url", "endpoints: [{name: a, upstream: {url: tls://b.test:443}}]", `1:13: endpoints[0].url: the public name, as tls://NAME[:PORT] is needed`},
		{"no upstream", "endpoints: [{name: a, url: tls://a.test}]", `1:13: endpoints[0].upstream: url or targets is needed: where the connections go, as tls://HOST:PORT or tcp://HOST:PORT`},
		{"name not unique", "endpoints:\n- {name: a, url: tls://a.test, upstream: {url: tls://b.test:443}}\n- {name: a, url: tls://b.test, upstream: {url: tls://b.test:443}}",
			`3:10: endpoints[1].name: "a" is the name of another endpoint, at f:2:3`},

		{"unknown engine", with("engine: splise"), `2:9: engine: expected "auto", "packet" or "splice", found "splise", did you mean "splice"?`},
		{"sockmap as engine", with("engine: sockmap"), `2:9: engine: "sockmap" comes on top of engine "auto": say engine: auto and sockmap: on`},
		{"later engine", with("engine: copy"), `2:9: engine: engine "copy" is not in this version, use "auto", "packet" or "splice"`},
		{"sockmap", with("sockmap: yes"), `2:10: sockmap: expected "auto", "on" or "off", found "yes"`},
		{"sockmap queue", with("limits: {sockmapQueue: 1024}"), `2:24: limits.sockmapQueue: expected a number from 65536 to 67108864, found 1024`},
		{"cgroup", with("cgroup: sys/fs/cgroup"), `2:9: cgroup: expected an absolute path without "..", found "sys/fs/cgroup"`},
		{"state relative", with("kubernetes: {state: a/b}"), `2:21: kubernetes.state: expected an absolute path without "..", found "a/b"`},
		{"Secrets without a state", with("kubernetes: {stateSecrets: true}"), `2:28: kubernetes.stateSecrets: there is no state to keep Secrets in: give state a file`},
		{"a pool of everything", with("kubernetes: {addresses: [0.0.0.0]}"), `2:26: kubernetes.addresses[0]: expected addresses that can be given away one by one, found all of them`},
		{"a pool twice", with("kubernetes: {addresses: [10.0.0.0/8, 10.1.0.0/16]}"), `2:38: kubernetes.addresses[1]: 10.1.0.0/16 overlaps 10.0.0.0/8 (f:2:26)`},
		{"bpffs relative", with("bpffs: a/b"), `2:8: bpffs: expected an absolute path without "..", found "a/b"`},
		{"bpffs that climbs", with("bpffs: /a/../b"), `2:8: bpffs: expected an absolute path without "..", found "/a/../b"`},
		{"source ports", with("sourcePorts: 1x"), `2:14: sourcePorts: expected "FIRST-LAST", two ports, found "1x"`},
		{"few source ports", with("sourcePorts: 2000-2010"), `2:14: sourcePorts: "2000-2010" is 11 ports, at least 256 are needed: each flow to the same upstream address takes one`},
		{"source ports of services", with("sourcePorts: 80-2000"), `2:14: sourcePorts: ports below 1024 are for services`},
		{"empty engine", with("engine: ''"), `2:9: engine: expected "auto", "packet" or "splice", found ""`},

		{"url without scheme", url("a.test"), `1:63: endpoints[0].url: expected tls://NAME or tls://NAME:PORT, found "a.test"`},
		{"url of plain TCP", url("tcp://a.test"), `1:63: endpoints[0].url: tcp:// is not served, use tls://`},
		{"url without host", url("tls://"), `1:63: endpoints[0].url: the host is missing, expected tls://NAME or tls://NAME:PORT`},
		{"url with path", url("tls://a.test/"), `1:63: endpoints[0].url: expected tls://NAME or tls://NAME:PORT, found "/" behind it`},
		{"url with user", url("tls://u@a.test"), `1:63: endpoints[0].url: expected tls://NAME or tls://NAME:PORT, without a user`},
		{"url with port 0", url("tls://a.test:0"), `1:63: endpoints[0].url: expected a port from 1 to 65535, found "0"`},
		{"url with port 65536", url("tls://a.test:65536"), `1:63: endpoints[0].url: expected a port from 1 to 65535, found "65536"`},
		{"url with empty port", url("'tls://a.test:'"), `1:63: endpoints[0].url: the port is missing behind ":"`},
		{"url of an IPv4 address", url("tls://10.0.0.1"), `1:63: endpoints[0].url: expected a name, found the IP address "10.0.0.1": clients send no server name for an address`},
		{"url of an IPv6 address", url("'tls://[::1]:443'"), `1:63: endpoints[0].url: expected a name, found the IP address "::1": clients send no server name for an address`},
		{"url with trailing dot", url("tls://a.test."), `1:63: endpoints[0].url: expected a name without a dot at its end, found "a.test."`},
		{"url of a star", url("'tls://*'"), `1:63: endpoints[0].url: "*" alone is not served, use fallback.unknownName for names that nothing else takes`},
		{"url with star in the middle", url("tls://a.*.test"), `1:63: endpoints[0].url: a "*" must be the whole first label, as in "*.example.com", found "a.*.test"`},
		{"url with partial star", url("tls://a*.test"), `1:63: endpoints[0].url: a "*" must be the whole first label, as in "*.example.com", found "a*.test"`},
		{"url with empty label", url("tls://a..test"), `1:63: endpoints[0].url: the name "a..test" has an empty label`},
		{"url with space", url("tls://a b.test"), `1:63: endpoints[0].url: the name "a b.test" has the character ' '`},
		{"url with non-ASCII name", url("tls://ä.test"), `1:63: endpoints[0].url: the name "ä.test" has the character 'ä', write it in its ASCII form ("xn--...")`},
		{"url with Kelvin sign", url("tls://\u212a.test"), `1:63: endpoints[0].url: the name "` + "\u212a" + `.test" has the character '` + "\u212a" + `', write it in its ASCII form ("xn--...")`},
		{"url with hyphen first", url("tls://-a.test"), `1:63: endpoints[0].url: the label "-a" begins or ends with "-"`},
		{"url with long label", url("tls://" + strings.Repeat("a", 64) + ".test"), `1:63: endpoints[0].url: the label "` + strings.Repeat("a", 64) + `" has 64 bytes, at most 63 are allowed`},
		{"url with long name", url("'tls://*." + strings.Repeat("a.", 125) + "te'"), `1:63: endpoints[0].url: the name has 254 bytes, at most 253 are allowed`},
		{"url below internal", url("tls://*.a.Internal"), `1:63: endpoints[0].url: names below .internal are reached by traffic policies only: write an AgentEndpoint for it (manifests)`},

		{"same url twice", two("url: tls://a.test", "url: tls://A.test:443"),
			`3:51: endpoints[1].url: tls://a.test:443 is taken by endpoint "a" at f:2:3: give each its own URL, or lists of alpn that do not overlap`},
		{"same url and protocol twice", two("url: tls://a.test, alpn: [h2, x]", "url: tls://a.test, alpn: [y, x]"),
			`3:75: endpoints[1].alpn[1]: "x" of tls://a.test:443 is taken by endpoint "a" at f:2:3`},
		{"protocol listed twice", two("url: tls://a.test, alpn: [h2, h2]", "url: tls://b.test"), `2:76: endpoints[0].alpn[1]: "h2" is listed twice`},
		{"empty protocol", two("url: tls://a.test, alpn: ['']", "url: tls://b.test"), `2:72: endpoints[0].alpn[0]: expected a protocol of 1 to 255 bytes, found 0`},

		{"upstream with url and targets", upstream("{url: tls://b.test:443, targets: [{url: tls://b.test:443}]}"), `1:52: endpoints[0].upstream: url and targets are both there, expected one of them`},
		{"upstream of http", target("https://b.test"), `1:58: endpoints[0].upstream.url: https:// is not spoken to upstreams, use tls:// or tcp://`},
		{"upstream with bare IPv6", target("tls://::1:443"), `1:58: endpoints[0].upstream.url: an IPv6 address must be in brackets: tls://[ADDRESS]:PORT`},
		{"upstream with name in brackets", target("'tls://[b.test]:443'"), `1:58: endpoints[0].upstream.url: expected an IPv6 address in brackets, found "b.test"`},
		{"upstream with open bracket", target("'tls://[::1'"), `1:58: endpoints[0].upstream.url: "]" is missing behind the address`},
		{"upstream with text behind bracket", target("'tls://[::1]443'"), `1:58: endpoints[0].upstream.url: expected tcp://HOST:PORT or tls://HOST:PORT, found "443" behind the address`},
		{"upstream that is almost an IPv4 address", target("tls://999.1.1.1:443"), `1:58: endpoints[0].upstream.url: "999.1.1.1" is neither an IP address nor a host name, whose last label cannot be a number`},
		{"upstream that inet_aton would take", target("tls://0x7F000001:443"), `1:58: endpoints[0].upstream.url: "0x7F000001" is neither an IP address nor a host name, whose last label cannot be a number`},
		{"upstream of an address with a dot behind it", target("tls://10.0.0.1.:443"), `1:58: endpoints[0].upstream.url: "10.0.0.1." is neither an IP address nor a host name, whose last label cannot be a number`},
		{"upstream of no address", target("tls://0.0.0.0:443"), `1:58: endpoints[0].upstream.url: 0.0.0.0 is no address to connect to`},
		{"targets without weight", upstream("{targets: [{url: tls://b.test:1, weight: 0}]}"), `1:62: endpoints[0].upstream.targets: at least one target needs a weight above 0`},
		{"weight out of range", upstream("{targets: [{url: tls://b.test:1, weight: 1001}]}"), `1:93: endpoints[0].upstream.targets[0].weight: expected a number from 0 to 1000, found 1001`},
		{"same target twice", upstream("{targets: [{url: tls://b.test:1}, {url: tcp://B.test:1}]}"), `1:92: endpoints[0].upstream.targets[1].url: the same server as endpoints[0].upstream.targets[0]`},
		{"target without url", upstream("{targets: [{weight: 1}]}"), `1:63: endpoints[0].upstream.targets[0].url: the server, as tls://HOST:PORT or tcp://HOST:PORT, is needed`},
		{"unknown load balancing", upstream("{url: tls://b.test:1, loadBalancing: roundrobin}"), `1:89: endpoints[0].upstream.loadBalancing: expected "roundRobin", "leastConnections", "randomTwoChoices" or "sourceHash", found "roundrobin", did you mean "roundRobin"?`},
		{"check of no type", upstream("{url: tls://b.test:1, healthCheck: {interval: 1s}}"), `1:87: endpoints[0].upstream.healthCheck.type: type is needed, tcp or tls: without it nothing is checked`},
		{"check of a wildcard", upstream("{url: tls://b.test:1, healthCheck: {type: tls, serverName: '*.a.test'}}"), `1:111: endpoints[0].upstream.healthCheck.serverName: expected one name, found the wildcard "*.a.test"`},

		{"unknown fallback", with("fallback: {notTLS: web}"), `2:20: fallback.notTLS: no endpoint has the name "web"`},
		{"alert to silence", with("refuse: {helloTimeout: alert}"), `2:24: refuse.helloTimeout: expected "close" or "reset": TLS has no alert for a client that says nothing`},
		{"alert to something else than TLS", with("refuse: {notTLS: alert}"), `2:18: refuse.notTLS: expected "close" or "reset": a client that does not speak TLS cannot read an alert`},

		{"listen on the same address twice", with("listen: ['::1', 127.0.0.1, '::1']"), `2:28: listen[2]: ::1/128 overlaps ::1/128 (f:2:10)`},
		{"listen inside a prefix", with("listen: [10.0.0.1, 10.1.0.0/16, 10.0.0.0/8]"), `2:33: listen[2]: 10.0.0.0/8 overlaps 10.0.0.1/32 (f:2:10)` + "\n" + `f:2:33: listen[2]: 10.0.0.0/8 overlaps 10.1.0.0/16 (f:2:20)`},
		{"listen on all and one", with("listen: [0.0.0.0, '::', 127.0.0.1]"), `2:25: listen[2]: 127.0.0.1/32 overlaps 0.0.0.0/32 (f:2:10)`},
		{"listen on a name", with("listen: [localhost]"), `2:10: listen[0]: expected an IP address or a prefix, found "localhost"`},
		{"listen with a port", with("listen: ['127.0.0.1:443']"), `2:10: listen[0]: expected an IP address or a prefix, found "127.0.0.1:443"`},
		{"listen on a zone", with("listen: ['fe80::1%lo']"), `2:10: listen[0]: expected an address without a zone, found "fe80::1%lo"`},
		{"listen on IPv4 inside IPv6", with("listen: ['::ffff:127.0.0.1']"), `2:10: listen[0]: expected an IPv4 address as such, found it inside IPv6: write 127.0.0.1`},
		{"listen on multicast", with("listen: [224.0.0.1]"), `2:10: listen[0]: 224.0.0.1 is a multicast address, no connection comes to it`},
		{"listen is no list", with("listen: 127.0.0.1"), `2:9: listen: expected a list, found the string "127.0.0.1"`},
		{"hosts is no mapping", with("hosts: [a.test]"), `2:8: hosts: expected a mapping of names to lists, found a list`},
		{"host with one address", with("hosts: {a.test: 10.0.0.1}"), `2:17: hosts.a.test: expected a list, found the string "10.0.0.1"`},
		{"host without addresses", with("hosts: {a.test: []}"), `2:17: hosts.a.test: at least one IP address is needed`},
		{"host with a name for an address", with("hosts: {a.test: [10.0.0.1, b.test]}"), `2:28: hosts.a.test[1]: expected an IP address, found "b.test"`},
		{"host with a port", with("hosts: {a.test: ['10.0.0.1:443']}"), `2:18: hosts.a.test[0]: expected an IP address, found "10.0.0.1:443"`},
		{"host with a number", with("hosts: {a.test: [10]}"), `2:18: hosts.a.test[0]: expected an IP address, found the number "10": put it in quotes`},
		{"host with a zone", with("hosts: {a.test: ['fe80::1%lo']}"), `2:18: hosts.a.test[0]: expected an address without a zone, found "fe80::1%lo"`},
		{"host with IPv4 inside IPv6", with("hosts: {a.test: ['::ffff:10.0.0.1']}"), `2:18: hosts.a.test[0]: expected an IPv4 address as such, found it inside IPv6: write 10.0.0.1`},
		{"host with no address", with("hosts: {a.test: ['::']}"), `2:18: hosts.a.test[0]: :: is no address to connect to`},
		{"host with the same address twice", with("hosts: {a.test: ['fd00::1', 'fd00:0::1']}"), `2:29: hosts.a.test[1]: fd00::1 is listed twice`},
		{"host that is none", with("hosts: {a b.test: [10.0.0.1]}"), `2:19: hosts.a b.test: the name "a b.test" has the character ' '`},
		{"host that is an address", with("hosts: {10.0.0.1: [10.0.0.2]}"), `2:19: hosts.10.0.0.1: expected a host name, whose last label cannot be a number, found "10.0.0.1"`},
		{"same host twice", with("hosts: {A.test: [10.0.0.1], a.test.: [10.0.0.2]}"), `2:38: hosts.a.test.: the same name as "A.test" at f:2:17`},
		{"same key twice", with("hosts: {a.test: [10.0.0.1], a.test: [10.0.0.2]}"), `2:29: hosts.a.test: key given twice, first on line 2`},
		{"manifests are no list", "manifests: a.yaml", `1:12: manifests: expected a list, found the string "a.yaml"`},
		{"empty manifest", with("manifests: ['']"), `2:13: manifests[0]: expected a file, found nothing`},
		{"same manifest twice", with("manifests: [a, b, ./a]"), `2:19: manifests[2]: the same path as manifests[0]`},
		{"trust in no address", with("proxyProtocol: {from: [0.0.0.0]}"), `2:24: proxyProtocol.from[0]: no connection comes from 0.0.0.0, use 0.0.0.0/0 for every address`},

		{"negative duration", with("timeouts: {idle: -1s}"), `2:18: timeouts.idle: expected 0s or more, found -1s`},
		{"hello without end", with("timeouts: {hello: 0}"), `2:19: timeouts.hello: expected 1ms or more, found 0s`},
		{"duration over a year", with("timeouts: {idle: 9000h}"), `2:18: timeouts.idle: expected 8760h0m0s (a year) or less, found 9000h0m0s`},
		{"duration of nothing", with("timeouts: {idle: }"), `2:18: timeouts.idle: expected a duration such as "1m30s" or "500ms", found nothing`},
		{"hello too large", with("limits: {helloBytes: 65537}"), `2:22: limits.helloBytes: expected a number from 512 to 65536, found 65537`},
		{"memory for less than a few hellos", with("limits: {helloMemory: 65535}"), `2:23: limits.helloMemory: expected a number from 1048576 to 1099511627776, found 65535`},
		{"burst without rate", with("limits: {acceptBurst: 5}"), `2:23: limits.acceptBurst: without acceptRate there is nothing to go over`},
		{"octal number", with("limits: {acceptRate: 010}"), `2:22: limits.acceptRate: expected a whole number in plain decimal digits, found "010"`},
		{"huge number", with("limits: {acceptRate: 99999999999999999999}"), `2:22: limits.acceptRate: expected a whole number, found the number "99999999999999999999"`},
		{"fraction", with("limits: {acceptRate: 1.5}"), `2:22: limits.acceptRate: expected a whole number, found the number "1.5"`},
		{"number for a string", with("log: {level: 5}"), `2:14: log.level: expected a string, found the number "5": put it in quotes`},
		{"admin without port", with("admin: {address: localhost}"), `2:18: admin.address: expected HOST:PORT or "off", found "localhost"`},

		{"unknown key without a likeness", with("log: {colour: red}"), `2:7: log: unknown key "colour", expected "format", "level" or "access"`},
		{"key of a list", with("[a]: b"), `2:1: expected a key, found a list`},
		{"metadata key twice", "endpoints: [{name: a, metadata: {x: y, x: z}, url: tls://a.test, upstream: {url: tls://b.test:443}}]", `1:40: endpoints[0].metadata.x: key given twice, first on line 1`},
		{"merge key", with("log: {<<: {level: info}}"), `2:7: log: merge keys (<<) are not supported, write the keys out`},
		{"anchor", with("log: &x {level: info}"), `2:6: log: anchors (&x) are not supported`},
		{"tag", with("log: {level: !level info}"), `2:14: log.level: expected a string, found a value of type "!level"`},
		{"second document", with("---\n" + endpoint), `2:1: a second document starts here, the file must be one document`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("f", []byte(tt.file))
			if err == nil {
				t.Fatalf("no error, want %s", tt.want)
			}
			if diff := cmp.Diff("f:"+tt.want, err.Error()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseRefusesAliases(t *testing.T) {
	_, err := Parse("f", []byte("log: &x {level: info}\nadmin: *x\n"+endpoint))
	want := "f:1:6: log: anchors (&x) are not supported\nf:2:8: admin: aliases (*x) are not supported, write the value out"
	if err == nil || err.Error() != want {
		t.Errorf("got error %v, want %s", err, want)
	}
}

func TestParseTakesSectionsWithoutContent(t *testing.T) {
	_, err := Parse("f", []byte(endpoint+"listen:\ntimeouts:\n  # idle: 1h\nlog:\n"))
	if err != nil {
		t.Error(err)
	}
}

func TestSyntaxErrorHasThePlaceOfTheMistake(t *testing.T) {
	long := strings.Repeat("# a line\n", 3000)
	for _, tt := range []struct{ name, file, want string }{
		{"empty", "", "1:1: the file is empty, at least"},
		{"comments only", "# a\n\n# b\n", "1:1: the file is empty, at least"},
		{"null", "---\n~\n", "1:1: the file is empty, at least"},
		{"wrong indentation", "a:\n- b: 1\n  c: 2\n d: 3\n- b: 4\n", "4:2: YAML syntax: did not find expected key"},
		{"list among keys", "a: 1\n- b\nc: 3\n", "2:1: YAML syntax: did not find expected key"},
		{"open list", "a: 1\nb: [1, 2\nc: 3\nd: 4\n", "2:1: YAML syntax: did not find expected ',' or ']'"},
		{"open quote", "a: 1\nb: \"x\n" + long + "c: 2\n", "2:1: YAML syntax: found unexpected end of stream"},
		{"mistake far down", long + "a: }\n" + long, "3001:1: YAML syntax: did not find expected node content"},
		{"tab", "a:\n\tb: 2\nc: 3\n", "2:2: YAML syntax: found character that cannot start any token"},
		{"control character", "a: 1\nb: \x01\nc: 2\n", "2:1: YAML syntax: control characters are not allowed"},
		{"not UTF-8", "a: 1\nb: \xff\nc: 2\n", "2:1: YAML syntax: invalid leading UTF-8 octet"},
		{"unknown alias", "a: 1\nb: *x\n", "2:1: YAML syntax: unknown anchor 'x' referenced"},
		{"mistake in a second document", "a: 1\n---\nb: }\n", "3:1: YAML syntax: did not find expected node content"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("f", []byte(tt.file))
			if err == nil || !strings.HasPrefix(err.Error(), "f:"+tt.want) {
				t.Errorf("got error %v, want f:%s", err, tt.want)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(filepath.Join(dir, "absent.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent file: got error %v", err)
	}
	if _, err := Load(dir); err == nil {
		t.Error("directory: no error")
	}
	file := filepath.Join(dir, "f.yaml")
	if err := os.WriteFile(file, []byte("engine: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Load(file)
	var list Errors
	if !errors.As(err, &list) || len(list) != 2 {
		t.Fatalf("got error %v, want two Errors", err)
	}
	want := &Error{Pos: Position{file, 1, 9}, Path: "engine", Msg: `expected a string, found the number "1": put it in quotes`}
	if diff := cmp.Diff(want, list[1]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func FuzzParse(f *testing.F) {
	files, err := filepath.Glob(filepath.Join(examples, "*.yaml"))
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(endpoint))
	f.Add([]byte("a: &x [*x, *x]\n<<: *x\n? [a]\n: !!int b\n---\n}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := Parse("f", data)
		if (cfg == nil) == (err == nil) {
			t.Fatalf("config %v, error %v", cfg, err)
		}
		if err == nil {
			return
		}
		list, ok := err.(Errors)
		if !ok || len(list) == 0 {
			t.Fatalf("error of type %T: %v", err, err)
		}
		for _, e := range list {
			if e.Pos.File != "f" || e.Pos.Line < 1 || e.Pos.Column < 1 || e.Msg == "" {
				t.Errorf("error without a place or message: %#v", e)
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	for _, n := range []int{1_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var file strings.Builder
			file.WriteString("endpoints:\n")
			for i := range n {
				fmt.Fprintf(&file, "- name: tenant-%d\n  url: tls://tenant-%d.example.com\n  upstream:\n    url: tls://10.0.%d.%d:8443\n",
					i, i, i>>8&255, i&255)
			}
			data := []byte(file.String())
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse("f", data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
