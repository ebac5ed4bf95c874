// SPDX-License-Identifier: Apache-2.0

// Package bpf holds the programs that run in the kernel, as C and as what is
// generated from it. It is neither a way to load them (package loader) nor to
// speak to their maps (package maps), and nothing else should import it.
//
// listen.bpf.c has one program, steer_listen (sk_lookup), that leads connections
// to any address of a prefix to one listening socket. Its maps: prefixes (address
// prefix and port to slot), sockets (slot to socket) and verdicts (how often each
// outcome came).
//
// packet.bpf.c has the programs of the engine packet (tc), whose maps are described in
// include/packet_maps.h; sockmap.bpf.c those of the short cut between sockets of one
// host (sock_ops, sk_msg, an iterator and a tracepoint), which share them, and add
// those in include/sockmap_maps.h and four of their own.
//
// Generated code is committed, so that building needs no C compiler. After a
// change in a .c or .h file run go generate in this directory; it needs clang 19,
// llvm-strip 19 and the headers of libbpf (Debian: clang-19 llvm-19 libbpf-dev).
// A test fails if that was forgotten. The environment variables BPF2GO_CC and
// BPF2GO_STRIP name other tools, which make other bytes: commit only what the
// version above made.
//
// The C code is licensed GPL-2.0 OR BSD-2-Clause; the kernel is told "Dual
// BSD/GPL".
package bpf
