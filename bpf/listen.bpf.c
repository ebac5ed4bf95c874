// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
//go:build ignore

/*
 * One listening socket for all addresses of a prefix.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include "listen.h"

/*
 * prefix -> index into sockets.
 * Written by user space: an entry is put after its socket, and goes before it.
 * Read by steer_listen. The longest prefix wins.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, PREFIXES_MAX);
	__type(key, struct prefix);
	__type(value, __u32);
} prefixes SEC(".maps");

/*
 * index -> listening socket (user space puts a descriptor and reads a cookie).
 * Written by user space, and by the kernel, which takes a socket out when it is
 * closed. Read by steer_listen.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, PREFIXES_MAX);
	__type(key, __u32);
	__type(value, __u64);
} sockets SEC(".maps");

/*
 * verdict -> number of lookups that ended so, on each CPU.
 * Written by steer_listen, read by user space, never reset.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, VERDICTS);
	__type(key, enum verdict);
	__type(value, __u64);
} verdicts SEC(".maps");

static __always_inline enum verdict steer(struct bpf_sk_lookup *ctx)
{
	struct prefix key = {};
	struct bpf_sock *sk = NULL;
	__u32 *slot;
	long err;

	if (ctx->protocol != IPPROTO_TCP)
		return NOT_TCP;

	key.port = ctx->local_port;
	key.family = ctx->family;
	if (ctx->family == AF_INET) {
		__be32 ip = ctx->local_ip4;

		key.prefixlen = PREFIX_EXACT_BITS + 32;
		__builtin_memcpy(key.addr, &ip, sizeof(ip));
	} else {
		__be32 ip[4] = { ctx->local_ip6[0], ctx->local_ip6[1],
				 ctx->local_ip6[2], ctx->local_ip6[3] };

		key.prefixlen = PREFIX_EXACT_BITS + 128;
		__builtin_memcpy(key.addr, ip, sizeof(ip));
	}

	/*
	 * User space may take the prefix out and empty its slot between the two
	 * lookups. Then the prefix that has come in its place is found by asking
	 * again; once is enough, as a slot is emptied after its prefix is gone.
	 */
	for (int i = 0; i < 2 && !sk; i++) {
		slot = bpf_map_lookup_elem(&prefixes, &key);
		if (!slot)
			return NO_PREFIX;
		sk = bpf_map_lookup_elem(&sockets, slot);
	}
	if (!sk)
		return NO_SOCKET;

	/* Without flags the choice of an earlier program stays: EEXIST. */
	err = bpf_sk_assign(ctx, sk, 0);
	bpf_sk_release(sk);
	if (err == -EEXIST)
		return TAKEN;
	return err ? REFUSED : ASSIGNED;
}

/*
 * Hook: sk_lookup of a network namespace. The kernel runs it where a packet
 * belongs to no connection and is about to look for a listener: SYNs, and the
 * ACKs that bring a SYN cookie back. Packets of connections never come here.
 *
 * Verdict: SK_PASS, always. A socket is assigned if the packet is TCP, its
 * destination lies in one of the prefixes, and no program chose before. In any
 * other case the kernel does what it would have done without us, which is a
 * better answer than a drop.
 *
 * Assigning comes before the kernel's own lookup, and there is no helper here to
 * ask for other listeners: within a prefix our socket wins over one that another
 * process has bound to the exact address.
 *
 * Before: user space has put a listening TCP socket of the prefix's family. The
 * prefix must be local to the host (a route of type local), or no packet to it
 * gets this far.
 */
SEC("sk_lookup")
int steer_listen(struct bpf_sk_lookup *ctx)
{
	enum verdict v = steer(ctx);
	__u64 *count = bpf_map_lookup_elem(&verdicts, &v);

	if (count)
		(*count)++;
	return SK_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
