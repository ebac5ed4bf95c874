// SPDX-License-Identifier: Apache-2.0

// Package testenv builds real network conditions and real peers: namespaces
// joined by links of several kinds, faulty ones too, certificates, TLS
// backends, child processes, and the readings (packets, leaks, memory, CPU)
// that a test or a benchmark compares.
//
// It is not a mock of anything: bytes cross the kernel's own TCP stack. It is
// not part of the data path either, and the agent works without it. It does
// not import testing, because `spliceway demo` is built on it: every
// constructor returns an error, and the Must functions put a TB on top.
//
// # Plan of addresses
//
// A [Network] is clients and backends, each in a namespace of its own behind
// one gateway that forwards between them. N counts from 0.
//
//	                  host                 gateway's end of the link
//	client N          10.1.N.2/24          10.1.N.1/24          device clientN
//	                  fd00:1:N::2/64       fd00:1:N::1/64       (N in decimal digits)
//	backend N         10.2.N.2/24          10.2.N.1/24          device backendN
//	                  fd00:2:N::2/64       fd00:2:N::1/64
//	gateway           10.0.0.1/32, fd00::1/128 on its loopback: the address
//	                  that every host reaches, for the agent to listen on
//
// A host's device is eth0, with a default route to its end of the gateway. On
// a host's link .3 to .254 (and ::3 onwards) are free for [Host.AddAddress] and
// for a [RawPeer].
// A client that dials a backend's own address is routed by the gateway's
// kernel: the baseline that a relay is compared with.
//
// A [LinkKind] changes none of this: the addresses are on the device on top.
// With a [Router] its far end has the .1 (::1) of the host's link, and a link
// of its own leads to the gateway, whose device keeps its name:
//
//	                  router               gateway
//	of client N       10.3.N.2/24          10.3.N.1/24          device clientN
//	                  fd00:3:N::2/64       fd00:3:N::1/64
//	of backend N      10.4.N.2/24          10.4.N.1/24          device backendN
//	                  fd00:4:N::2/64       fd00:4:N::1/64
//
// One-armed, all are in 10.9.0.0/16 and fd00:9::/64, joined by a bridge in a
// namespace of its own:
//
//	client N          10.9.1.(N+2), fd00:9::1:(N+2)
//	backend N         10.9.2.(N+2), fd00:9::2:(N+2)
//	gateway           10.9.0.1, fd00:9::0:1                     device lan
//
// # Nasty networks
//
// [Device.Impair] loses, doubles, delays and reorders. On a [Wire] it does so
// by a seed, and a test may filter and inject frames. [RawPeer] sends what no
// kernel sends, [Namespace.DialSocket] and [Namespace.SetTCP] choose what a
// kernel agrees on in a handshake, and [Capture] shows what passed a device.
//
// # Privileges
//
// Namespaces need root, or CAP_NET_ADMIN, CAP_SYS_ADMIN and CAP_BPF. They are
// held by file descriptors only: nothing is mounted or named, and whatever
// happens to the process, the kernel removes them after it.
package testenv
