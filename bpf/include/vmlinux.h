/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The part of the kernel's interface that the programs use, and no more: a full
 * dump of a kernel's types would be 3 MB of one kernel's accidents. What is stable
 * (include/uapi/linux) comes first; of what is internal to the kernel only the
 * fields that are read are here, and are found at load, wherever they are (CO-RE).
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
typedef __u16 __sum16;
typedef __u32 __wsum;
typedef _Bool bool;
enum { false, true };

enum {
	BPF_F_NO_PREALLOC = 1U << 0,
	BPF_F_INGRESS = 1U << 0, /* bpf_msg_redirect_hash */
};

/* Flags of bpf_map_update_elem and bpf_sk_storage_get. */
enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
	BPF_SK_STORAGE_GET_F_CREATE = 1,
};

enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_LPM_TRIE = 11,
	BPF_MAP_TYPE_SOCKMAP = 15,
	BPF_MAP_TYPE_SOCKHASH = 18,
	BPF_MAP_TYPE_SK_STORAGE = 24,
	BPF_MAP_TYPE_RINGBUF = 27,
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

/* The context of a tc program: one packet at a device. */
struct __sk_buff {
	__u32 len;
	__u32 pkt_type;
	__u32 mark;
	__u32 queue_mapping;
	__u32 protocol; /* of the link layer, network byte order */
	__u32 vlan_present;
	__u32 vlan_tci;
	__u32 vlan_proto;
	__u32 priority;
	__u32 ingress_ifindex; /* where it came in; 0: made on this host */
	__u32 ifindex;
	__u32 tc_index;
	__u32 cb[5];
	__u32 hash;
	__u32 tc_classid;
	__u32 data;
	__u32 data_end;
	__u32 napi_id;
	__u32 family;
	__u32 remote_ip4;
	__u32 local_ip4;
	__u32 remote_ip6[4];
	__u32 local_ip6[4];
	__u32 remote_port;
	__u32 local_port;
	__u32 data_meta;
	union {
		void *flow_keys;
		__u64 : 64;
	};
	__u64 tstamp;
	__u32 wire_len;
	__u32 gso_segs;
	union {
		void *sk;
		__u64 : 64;
	};
	__u32 gso_size;
};

struct bpf_sock_tuple {
	union {
		struct {
			__be32 saddr;
			__be32 daddr;
			__be16 sport;
			__be16 dport;
		} ipv4;
		struct {
			__be32 saddr[4];
			__be32 daddr[4];
			__be16 sport;
			__be16 dport;
		} ipv6;
	};
};

struct bpf_redir_neigh;

/* The context of an sk_msg program: one send. */
struct sk_msg_md {
	union {
		void *data;
		__u64 : 64;
	};
	union {
		void *data_end;
		__u64 : 64;
	};
	__u32 family;
	__u32 remote_ip4;
	__u32 local_ip4;
	__u32 remote_ip6[4];
	__u32 local_ip6[4];
	__u32 remote_port;
	__u32 local_port;
	__u32 size;
	union {
		struct bpf_sock *sk;
		__u64 : 64;
	};
};

/* Operations of a sock_ops program, and the callbacks that have to be asked for. */
enum {
	BPF_SOCK_OPS_TCP_CONNECT_CB = 3, /* before the SYN */
	BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB = 4,
	BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB = 5,
	BPF_SOCK_OPS_RTT_CB = 12,
};

enum {
	BPF_SOCK_OPS_RTT_CB_FLAG = 1 << 3,
};

/* The context of a sock_ops program: something happened to a connection. */
struct bpf_sock_ops {
	__u32 op;
	union {
		__u32 args[4];
		__u32 reply;
		__u32 replylong[4];
	};
	__u32 family;
	__u32 remote_ip4;
	__u32 local_ip4;
	__u32 remote_ip6[4];
	__u32 local_ip6[4];
	__u32 remote_port; /* network byte order, in the upper half on little-endian machines */
	__u32 local_port;  /* host byte order */
	__u32 is_fullsock;
	__u32 snd_cwnd;
	__u32 srtt_us;
	__u32 bpf_sock_ops_cb_flags;
	__u32 state;
	__u32 rtt_min;
	__u32 snd_ssthresh;
	__u32 rcv_nxt;
	__u32 snd_nxt;
	__u32 snd_una;
	__u32 mss_cache;
	__u32 ecn_flags;
	__u32 rate_delivered;
	__u32 rate_interval_us;
	__u32 packets_out;
	__u32 retrans_out;
	__u32 total_retrans;
	__u32 segs_in;
	__u32 data_segs_in;
	__u32 segs_out;
	__u32 data_segs_out;
	__u32 lost_out;
	__u32 sacked_out;
	__u32 sk_txhash;
	__u64 bytes_received;
	__u64 bytes_acked;
	union {
		struct bpf_sock *sk;
		__u64 : 64;
	};
};

struct iphdr {
	__u8 ihl : 4, version : 4;
	__u8 tos;
	__be16 tot_len;
	__be16 id;
	__be16 frag_off;
	__u8 ttl;
	__u8 protocol;
	__sum16 check;
	__be32 saddr;
	__be32 daddr;
};

struct ipv6hdr {
	__be32 ver_class_flow;
	__be16 payload_len;
	__u8 nexthdr;
	__u8 hop_limit;
	__be32 saddr[4];
	__be32 daddr[4];
};

struct tcphdr {
	__be16 source;
	__be16 dest;
	__be32 seq;
	__be32 ack_seq;
	__u8 reserved : 4, doff : 4;
	__u8 flags;
	__be16 window;
	__sum16 check;
	__be16 urg_ptr;
};

/* The kernel's own, found by name at load. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct net_device {
	int ifindex;
	unsigned int flags;
};

struct dst_entry {
	struct net_device *dev;
};

struct proto {
	unsigned long *memory_pressure; /* 0: there is none */
};

struct netns_ipv4 {
	int sysctl_tcp_rmem[3];
};

struct net {
	struct netns_ipv4 ipv4;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct sock_common {
	possible_net_t skc_net;
	volatile unsigned char skc_state;
	struct proto *skc_prot;
	unsigned long skc_flags; /* bits of enum sock_flags */
};

struct file {
	unsigned int f_flags;
};

struct socket {
	struct file *file;
	struct sock *sk;
};

typedef struct {
	int counter;
} atomic_t;

struct list_head {
	struct list_head *next;
};

struct sk_psock {
	struct list_head ingress_msg; /* what came by a redirect and is not read */
};

enum sock_flags {
	SOCK_ZEROCOPY = 30, /* one kernel's value */
};

typedef struct {
	int owned; /* a process is at it */
} socket_lock_t;

struct sock {
	struct sock_common __sk_common;
	socket_lock_t sk_lock;
	struct dst_entry *sk_dst_cache;
	int sk_rx_dst_ifindex; /* where packets came in last */
	struct {
		atomic_t rmem_alloc; /* bytes in the receive queue */
	} sk_backlog;
	int sk_rcvbuf;
	int sk_rcvlowat;
	__u8 sk_userlocks : 4;
	unsigned char sk_shutdown;
	void *sk_user_data;
	struct socket *sk_socket; /* NULL: nobody has accepted it, or it is closed */
};

struct inet_sock {
	struct sock sk;
};

struct inet_connection_sock {
	struct inet_sock icsk_inet;
	__u32 icsk_pmtu_cookie; /* path MTU */
	const struct tcp_ulp_ops *icsk_ulp_ops;
};

struct tcp_options_received {
	__u32 ts_recent;
	__u16 tstamp_ok : 1;
	__u16 sack_ok : 3;
	__u16 snd_wscale : 4;
	__u16 rcv_wscale : 4;
	__u16 user_mss;  /* TCP_MAXSEG */
	__u16 mss_clamp; /* the peer's MSS, or user_mss if that is less */
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	__u32 copied_seq;
	__u32 rcv_nxt;
	__u32 snd_una;
	__u32 write_seq;
	__u32 max_window;
	__u32 tsoffset;
	__u64 bytes_acked;
	__u64 bytes_received;
	__u16 advmss; /* our MSS */
	__u8 ecn_flags;
	__u8 tcp_usec_ts : 1; /* Linux 6.7 */
	__u8 recvmsg_inq : 1; /* TCP_INQ; one of two flags since 5.19 */
	struct tcp_options_received rx_opt;
};

struct task_struct;

struct pt_regs {
	unsigned long orig_ax; /* x86: number of the system call */
	int syscallno;         /* arm64 */
};

struct bpf_iter_meta;

struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	struct sock *sk;
	void *value;
};

#pragma clang attribute pop

/* Constants that BTF does not carry: they are macros in the kernel. */
#define NULL ((void *)0)
#define AF_INET 2
#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86DD
#define ETH_HLEN 14
#define TC_ACT_UNSPEC -1 /* the next program's turn; tcx: TCX_NEXT */
#define TC_ACT_OK 0
#define TC_ACT_SHOT 2
#define TCP_ESTABLISHED 1
#define TCP_FIN_WAIT1 4
#define TCP_FIN_WAIT2 5
#define TCP_CLOSE_WAIT 8
#define RCV_SHUTDOWN 1
#define SEND_SHUTDOWN 2
#define O_NONBLOCK 04000
#define SOCK_RCVBUF_LOCK 2 /* SO_RCVBUF was set */
#define AF_INET6 10
#define IPPROTO_TCP 6
#define TCP_MAXSEG 2
#define IFF_LOOPBACK 8
#define EEXIST 17

#endif
