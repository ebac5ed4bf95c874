// SPDX-License-Identifier: Apache-2.0

// Package config reads the agent's file: one strict YAML document. Whatever is
// wrong with it is reported at once, each error with its line and column.
//
// It does not look at the machine: whether an address can be listened on, or a
// host name resolves, is for others to find out.
package config

import (
	"net/netip"
	"time"
)

// Config is the agent's file, decoded and checked, with every default filled in.
type Config struct {
	// Engine moves the bytes of passthrough flows: "packet" (the kernel, packet by
	// packet; flows that it cannot take have splice), "splice", or "auto" (the best
	// one that this host and flow allow). Default "auto".
	Engine string `yaml:"engine"`
	// Sockmap lets flows of engine auto, whose client and upstream are both processes
	// of this host, pass their bytes from socket to socket: "auto" (on kernels that are
	// known to do it right), "on" (on all that can), "off". Default "auto".
	Sockmap string `yaml:"sockmap"`
	// Cgroup is where the root of the host's cgroup v2 hierarchy is mounted, for
	// Sockmap. Default: found by itself, outside of containers.
	Cgroup string `yaml:"cgroup"`
	// BPFFS is where engine packet pins its state: an absolute path, in a BPF file
	// system. Agents on one host have one each. Default /sys/fs/bpf/spliceway.
	BPFFS string `yaml:"bpffs"`
	// SourcePorts is "FIRST-LAST": the ports that connections to upstreams of engine
	// packet come from, which the agent reserves (ip_local_reserved_ports). Default
	// 40000-59999.
	SourcePorts string `yaml:"sourcePorts"`
	// Listen is where connections are accepted, one listener for each address
	// and each port of the endpoints' URLs. An entry is an IPv4 or IPv6
	// address, or a prefix ("203.0.113.0/24") all of whose addresses are
	// served by one socket (needs BPF sk_lookup, Linux 5.9). "0.0.0.0" and
	// "::" stand for every address of the host's own in that family, and are
	// 0.0.0.0/32 and ::/128 here. No two entries overlap. Empty: all addresses
	// of both families.
	Listen []netip.Prefix `yaml:"listen"`
	// Endpoints are the names this agent serves. They may be empty if there are
	// Manifests or Kubernetes.
	Endpoints []Endpoint `yaml:"endpoints"`
	// Manifests are files and directories with Kubernetes objects: absolute, or
	// relative to the directory of the agent's file, and absolute or relative to
	// the working directory as that is here.
	Manifests []string `yaml:"manifests"`
	// Kubernetes is about the cluster whose objects are served with run --kube.
	Kubernetes Kubernetes `yaml:"kubernetes"`
	// Hosts has the addresses of host names that DNS is not asked for, in
	// targets' URLs: by name, in lower case and without the dot at the end here.
	Hosts map[string][]netip.Addr `yaml:"hosts"`
	// Fallback names the endpoints that take what no endpoint's URL matches.
	Fallback Fallback `yaml:"fallback"`
	// Refuse says how a connection that is not routed is ended.
	Refuse Refuse `yaml:"refuse"`
	// ProxyProtocol says from whom a PROXY header is expected.
	ProxyProtocol AcceptProxy `yaml:"proxyProtocol"`
	// ACME and SessionTickets are for endpoints that terminate TLS.
	ACME           ACME           `yaml:"acme"`
	SessionTickets SessionTickets `yaml:"sessionTickets"`
	Timeouts       Timeouts       `yaml:"timeouts"`
	Limits         Limits         `yaml:"limits"`
	Log            Log            `yaml:"log"`
	Admin          Admin          `yaml:"admin"`

	// FirstPort and LastPort are SourcePorts taken apart.
	FirstPort, LastPort uint16 `yaml:"-"`
}

// Kubernetes is how the objects of a cluster are served.
type Kubernetes struct {
	// Addresses are the pool from which each Gateway gets an address of its own, unless
	// it asks for one: addresses of this host, or prefixes that are routed to it. Empty:
	// Gateways share what Config.Listen has.
	Addresses []netip.Prefix `yaml:"addresses"`
	// Publish is what the status of Gateways tells as their addresses where there is no
	// pool: those by which clients reach the agents.
	Publish []netip.Addr `yaml:"publish"`
	// Ngrok has endpoint objects taken from ngrok's API group, too.
	Ngrok bool `yaml:"ngrok"`
	// State is the file that keeps what was last served, for a start while the API
	// server is away; empty: none. StateSecrets has Secrets kept there as well.
	State        string `yaml:"state"`
	StateSecrets bool   `yaml:"stateSecrets"`
	// MaxReferences bounds how many Secrets and ConfigMaps are watched because objects name
	// them, 1 to 65536; default 1024.
	MaxReferences int `yaml:"maxReferences"`
	// PreferSameNode has connections go to endpoints of the agent's own node, where a Service
	// has some that are ready.
	PreferSameNode bool `yaml:"preferSameNode"`

	// Set tells whether the file has the key.
	Set bool `yaml:"-"`
}

// Endpoint is one public URL and where its connections go.
type Endpoint struct {
	// Name identifies the endpoint in logs, metrics and fallbacks: unique,
	// lower-case letters, digits, '-' and '.', at most 253 bytes, with a
	// letter or digit at both ends of each part between dots.
	Name string `yaml:"name"`
	// URL is tls://NAME[:PORT]: an exact name or "*." and a suffix, which
	// covers one or more labels. Default port 443.
	URL string `yaml:"url"`
	// ALPN narrows the endpoint to clients that offer one of these protocols.
	// Several endpoints may share a URL if their ALPN lists are disjoint; the
	// one without a list takes the rest.
	ALPN        []string          `yaml:"alpn"`
	Description string            `yaml:"description"`
	Metadata    map[string]string `yaml:"metadata"`
	// Engine overrides Config.Engine. Empty: the same.
	Engine string `yaml:"engine"`
	// Sockmap overrides Config.Sockmap. Empty: the same.
	Sockmap string `yaml:"sockmap"`
	// TLSTermination has the agent do TLS with the clients. nil: their bytes go to
	// the upstream as they are.
	TLSTermination *Termination     `yaml:"tlsTermination"`
	Upstream       Upstream         `yaml:"upstream"`
	Timeouts       EndpointTimeouts `yaml:"timeouts"`
	Limits         EndpointLimits   `yaml:"limits"`

	// ServerName and Port are URL taken apart: the name in lower case, with
	// its "*." if it is a wildcard.
	ServerName string `yaml:"-"`
	Port       uint16 `yaml:"-"`
	// Pos is where the endpoint stands: file:line:column.
	Pos Position `yaml:"-"`
}

// Upstream is where an endpoint's connections go: one URL, or several targets.
type Upstream struct {
	// URL is tcp://HOST:PORT or tls://HOST:PORT, which mean the same on an
	// endpoint that does not terminate TLS: the client's bytes as they are. On one
	// that does, tcp:// is what was inside, and tls:// is that in TLS again.
	URL     string   `yaml:"url"`
	Targets []Target `yaml:"targets"`
	// LoadBalancing picks among several targets: roundRobin (default),
	// leastConnections, randomTwoChoices, sourceHash.
	LoadBalancing string `yaml:"loadBalancing"`
	// Retries is how many further targets are tried when a connect fails.
	// 0 to 100; default 2.
	Retries     int         `yaml:"retries"`
	HealthCheck HealthCheck `yaml:"healthCheck"`
	Ejection    Ejection    `yaml:"ejection"`
	DNS         DNS         `yaml:"dns"`
	// ProxyProtocol puts a PROXY header before the client's bytes: "" (none),
	// "v1", "v2".
	ProxyProtocol string `yaml:"proxyProtocol"`
	// TLS is about targets with tls://, of an endpoint with TLSTermination.
	TLS *UpstreamTLS `yaml:"tls"`

	// All is Targets, or the one target that URL stands for.
	All []Target `yaml:"-"`
}

// Target is one upstream server name or address.
type Target struct {
	URL string `yaml:"url"`
	// Weight is the target's share, 0 to 1000; 0 takes no new connections.
	// Default 1.
	Weight int `yaml:"weight"`

	// Host (a DNS name in lower case or an IP address without brackets) and
	// Port are URL taken apart. A dot at the end of a DNS name is kept.
	Host string `yaml:"-"`
	Port uint16 `yaml:"-"`
	// TLS tells that the URL is tls://.
	TLS bool `yaml:"-"`
	// Refuse says why this target's share of the connections is refused; empty: it is
	// not.
	Refuse string `yaml:"-"`
	// Unready tells that Refuse is no mistake: there is nothing to connect to at the moment.
	Unready bool `yaml:"-"`
	// UpstreamTLS is the target's own in place of Upstream.TLS.
	UpstreamTLS *UpstreamTLS `yaml:"-"`
}

// HealthCheck is the active check of each address of each target.
type HealthCheck struct {
	// Type is "" (off), "tcp" (a connect) or "tls" (a whole handshake; the
	// certificate is not verified, the bytes behind it are the clients').
	Type     string        `yaml:"type"`
	Interval time.Duration `yaml:"interval"` // 100ms or more; default 5s
	Timeout  time.Duration `yaml:"timeout"`  // default 2s
	// HealthyThreshold and UnhealthyThreshold are how many equal results in
	// a row change the verdict. Defaults 2 and 3.
	HealthyThreshold   int `yaml:"healthyThreshold"`
	UnhealthyThreshold int `yaml:"unhealthyThreshold"`
	// ServerName is the SNI of a "tls" check. Default: the endpoint's name,
	// or none for a wildcard endpoint.
	ServerName string `yaml:"serverName"`
}

// Ejection takes an address out for a while after connects to it failed.
type Ejection struct {
	// Failures is how many failed connects in a row eject. 0: never. Default 3.
	Failures int `yaml:"failures"`
	// Duration is how long. Default 10s.
	Duration time.Duration `yaml:"duration"`
}

// DNS says how host names of targets are resolved.
type DNS struct {
	// Refresh is the interval between two lookups of a name: 1s or more.
	// Default 30s.
	Refresh time.Duration `yaml:"refresh"`
	// Family is "any" (default: both, happy eyeballs), "ipv4" or "ipv6".
	Family string `yaml:"family"`
}

// Fallback names endpoints by the outcome that they take; empty: refused.
type Fallback struct {
	UnknownName string `yaml:"unknownName"`
	NoSNI       string `yaml:"noSNI"`
	NotTLS      string `yaml:"notTLS"`
}

// Refuse says, for each outcome that ends a connection, how: "close" (FIN,
// default), "reset" (RST) or "alert" (the TLS alert that fits, then FIN).
type Refuse struct {
	UnknownName  string `yaml:"unknownName"`
	NoSNI        string `yaml:"noSNI"`
	Malformed    string `yaml:"malformed"`
	NotTLS       string `yaml:"notTLS"`       // close or reset: there is nobody to read an alert
	HelloTimeout string `yaml:"helloTimeout"` // close or reset: TLS has no alert for it
	TooLarge     string `yaml:"tooLarge"`
	OverLimit    string `yaml:"overLimit"`
	DialFailed   string `yaml:"dialFailed"`
	Denied       string `yaml:"denied"`       // by a traffic policy
	PolicyFailed string `yaml:"policyFailed"` // a traffic policy could not decide
}

// AcceptProxy says who may, and must, send a PROXY header.
type AcceptProxy struct {
	// From are the trusted networks. A connection from one of them must start
	// with a v1 or v2 header; from anywhere else it is not looked for.
	From []netip.Prefix `yaml:"from"`
}

// Timeouts of every connection. A duration of 0 means no limit where that is
// said, and none is longer than 8760h (a year).
type Timeouts struct {
	Hello     time.Duration `yaml:"hello"`     // from accept to the whole ClientHello (PROXY header included); default 3s
	Handshake time.Duration `yaml:"handshake"` // a TLS handshake, where TLS is terminated; default 10s
	Connect   time.Duration `yaml:"connect"`   // one connect to one address; default 5s
	Idle      time.Duration `yaml:"idle"`      // no byte in either direction; default 1h; 0: none
	HalfClose time.Duration `yaml:"halfClose"` // the same once one side has closed; default 5m; 0: none
	Drain     time.Duration `yaml:"drain"`     // from SIGTERM to the forced end of what still runs; default 30s
}

// EndpointTimeouts override Timeouts for one endpoint; nil: the same.
type EndpointTimeouts struct {
	Connect   *time.Duration `yaml:"connect"`
	Idle      *time.Duration `yaml:"idle"`
	HalfClose *time.Duration `yaml:"halfClose"`
}

// Limits of the whole agent. 0: no limit, unless it says otherwise.
type Limits struct {
	MaxConnections          int `yaml:"maxConnections"`          // at once; default 0
	MaxConnectionsPerClient int `yaml:"maxConnectionsPerClient"` // at once from one IPv4 address or one IPv6 /64; default 0
	AcceptRate              int `yaml:"acceptRate"`              // new connections per second; default 0
	AcceptBurst             int `yaml:"acceptBurst"`             // how many at once on top; default: AcceptRate
	// HelloBytes is the largest ClientHello, handshake header included.
	// 512 to 65536 (64 KiB); default 65536.
	HelloBytes int `yaml:"helloBytes"`
	// HelloMemory bounds what all hellos together may take of the agent's
	// memory while they are read, in bytes: 1048576 (1 MiB) or more. Default
	// 67108864 (64 MiB).
	HelloMemory int `yaml:"helloMemory"`
	// SockmapQueue is the bytes in a socket's receive queue from which on what is sent
	// to it goes by TCP, not from socket to socket. 65536 (64 KiB) to 67108864 (64
	// MiB); default 1048576 (1 MiB).
	SockmapQueue int `yaml:"sockmapQueue"`
	// OpenFiles is the open file limit to ask for at start: 1024 or more.
	// Default 1048576.
	OpenFiles int `yaml:"openFiles"`
}

// EndpointLimits of one endpoint. 0: no limit.
type EndpointLimits struct {
	MaxConnections int `yaml:"maxConnections"`
}

// Log says where and how the agent logs.
type Log struct {
	Format string `yaml:"format"` // json (default) or text
	Level  string `yaml:"level"`  // debug, info (default), warn, error
	// Access writes one line per connection. Default true.
	Access bool `yaml:"access"`
}

// Admin is the HTTP server for metrics and health.
type Admin struct {
	// Address is host:port; "off" for none. Default 127.0.0.1:9180. If the
	// default is taken by another process, the agent warns and runs without;
	// an address that is set must be had.
	Address string `yaml:"address"`
	// Pprof serves /debug/pprof/. Default false.
	Pprof bool `yaml:"pprof"`

	// AddressSet tells whether the file has the key.
	AddressSet bool `yaml:"-"`
}
