/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The part of the kernel's interface that the programs use, and no more: a full
 * dump of a kernel's types would be 3 MB of one kernel's accidents. Everything
 * here is stable (include/uapi/linux/bpf.h), so nothing is relocated at load.
 * libbpf's bpf_helper_defs.h wants the integer types to be there before it.
 */
#ifndef SPLICEWAY_VMLINUX_H
#define SPLICEWAY_VMLINUX_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;

enum {
	BPF_F_NO_PREALLOC = 1U << 0,
};

enum bpf_map_type {
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LPM_TRIE = 11,
	BPF_MAP_TYPE_SOCKMAP = 15,
};

enum sk_action {
	SK_DROP = 0,
	SK_PASS = 1,
};

struct bpf_sock;

/* The context of an sk_lookup program: one packet that looks for its listener. */
struct bpf_sk_lookup {
	union {
		struct bpf_sock *sk; /* chosen by a program that ran before */
		__u64 cookie;
	};
	__u32 family;
	__u32 protocol;
	__be32 remote_ip4;
	__be32 remote_ip6[4];
	__be16 remote_port;
	__u16 : 16;
	__be32 local_ip4;
	__be32 local_ip6[4];
	__u32 local_port; /* host byte order, unlike remote_port */
	__u32 ingress_ifindex;
};

/* Constants that BTF does not carry: they are macros in the kernel. */
#define NULL ((void *)0)
#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define EEXIST 17

#endif
