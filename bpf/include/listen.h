/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What listen.bpf.c shares with user space. Go gets these types by BTF: a change
 * here changes package bpf at the next generation, and package maps no longer
 * compiles until it agrees.
 */
#ifndef SPLICEWAY_LISTEN_H
#define SPLICEWAY_LISTEN_H

#include "vmlinux.h"

/*
 * How many prefix and port pairs can be steered at once. Each costs a listening
 * socket, so files run out first; the array of sockets takes 8 bytes for each.
 */
#define PREFIXES_MAX 16384

/*
 * The bits of a prefix before its address: port and family, matched whole. An
 * address prefix of n bits has a prefixlen of PREFIX_EXACT_BITS + n.
 */
#define PREFIX_EXACT_BITS 32

/*
 * All addresses of a prefix, at one port. The first member is the LPM trie's
 * own; the trie compares the rest bit by bit from the first byte on.
 */
struct prefix {
	__u32 prefixlen;
	__u16 port;   /* host byte order */
	__u16 family; /* AF_INET or AF_INET6 */
	__u8 addr[16]; /* network byte order; IPv4 in the first 4, the rest 0 */
};

/*
 * How one lookup ended. Every way through the program counts as exactly one of
 * these, and all but ASSIGNED leave the packet to the kernel's own lookup. The
 * order is an interface: append only, before VERDICTS.
 */
enum verdict {
	NOT_TCP,   /* another protocol */
	NO_PREFIX, /* no prefix holds this address and port */
	ASSIGNED,  /* led to the prefix's socket */
	NO_SOCKET, /* the prefix's socket is closed */
	TAKEN,     /* an earlier sk_lookup program had chosen a socket */
	REFUSED,   /* the kernel would not have the socket (bpf_sk_assign) */
	VERDICTS,
};

#endif
