/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * ICMP errors about a spliced flow's packets come to the gateway, whose addresses
 * the packets bore, and must be heard by the end that made them.
 */
#ifndef SPLICEWAY_PACKET_ICMP_H
#define SPLICEWAY_PACKET_ICMP_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "packet.h"
#include "packet_maps.h"
#include "packet_parse.h"
#include "packet_translate.h"

#define ICMP_UNREACHABLE 3
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER 12
#define ICMPV6_ERROR_MAX 127

#define ICMP_HEADER 8

/* The headers of the packet that the error is about: what RFC 792 promises. */
struct quoted4 {
	struct iphdr ip;
	__be16 sport, dport;
	__be32 seq;
};

struct quoted6 {
	struct ipv6hdr ip;
	__be16 sport, dport;
	__be32 seq;
};

/*
 * p's key has the outer addresses and no ports. The quoted packet went out to side
 * under the tuple of that leg; its maker is the other side, and gets the error as
 * if the gateway had made it, about the packet as it was when it came in.
 */
static __noinline int icmp_error(struct __sk_buff *skb, const struct packet *p, __u32 l3)
{
	const struct leg *back;
	struct direction *d;
	struct tuple key = {};
	struct flow *f;
	__u8 type;
	__u32 side, at = p->l4 + ICMP_HEADER, check = p->l4 + 2;
	__wsum sum = 0, outer;
	__u64 id;

	if (bpf_skb_load_bytes(skb, p->l4, &type, sizeof(type)))
		return TC_ACT_UNSPEC;
	if (p->ipv6 ? type > ICMPV6_ERROR_MAX : type != ICMP_UNREACHABLE && type != ICMP_TIME_EXCEEDED && type != ICMP_PARAMETER)
		return TC_ACT_UNSPEC;
	if (p->ipv6) {
		struct quoted6 q;

		if (at + sizeof(q) > p->end || bpf_skb_load_bytes(skb, at, &q, sizeof(q)) || q.ip.nexthdr != IPPROTO_TCP)
			return TC_ACT_UNSPEC;
		__builtin_memcpy(key.src, q.ip.daddr, sizeof(key.src));
		__builtin_memcpy(key.dst, q.ip.saddr, sizeof(key.dst));
		key.sport = q.dport;
		key.dport = q.sport;
	} else {
		struct quoted4 q;

		if (at + sizeof(q) > p->end || bpf_skb_load_bytes(skb, at, &q, sizeof(q)) || q.ip.protocol != IPPROTO_TCP || q.ip.ihl != 5)
			return TC_ACT_UNSPEC;
		map_ipv4(key.src, q.ip.daddr);
		map_ipv4(key.dst, q.ip.saddr);
		key.sport = q.dport;
		key.dport = q.sport;
	}
	d = bpf_map_lookup_elem(&tuples, &key);
	if (!d)
		return TC_ACT_UNSPEC;
	id = d->flow;
	side = d->side & 1;
	f = bpf_map_lookup_elem(&flows, &id);
	if (!f || !is_of(f, side, &key) || state_of(f) != SPLICED)
		return TC_ACT_UNSPEC;
	/* What side's packets get is what the maker knows, the other way round. */
	back = &f->legs[side];

	if (p->ipv6) {
		struct quoted6 was, is;
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, at, &was, sizeof(was)) || bpf_skb_load_bytes(skb, l3, &ip, sizeof(ip)))
			return TC_ACT_UNSPEC;
		is = was;
		__builtin_memcpy(is.ip.saddr, back->to.dst, sizeof(is.ip.saddr));
		__builtin_memcpy(is.ip.daddr, back->to.src, sizeof(is.ip.daddr));
		is.sport = back->to.dport;
		is.dport = back->to.sport;
		is.seq = bpf_htonl(bpf_ntohl(was.seq) - f->legs[!side].seq_delta);
		sum = bpf_csum_diff((__be32 *)&was, sizeof(was), (__be32 *)&is, sizeof(is), 0);
		/* ICMPv6 has the outer addresses in its checksum (RFC 4443, section 2.3). */
		outer = bpf_csum_diff(ip.saddr, 32, (__be32 *)&back->to, 32, 0);
		__builtin_memcpy(ip.saddr, back->to.src, sizeof(ip.saddr));
		__builtin_memcpy(ip.daddr, back->to.dst, sizeof(ip.daddr));
		if (bpf_skb_store_bytes(skb, at, &is, sizeof(is), 0) ||
		    bpf_skb_store_bytes(skb, l3, &ip, sizeof(ip), 0) ||
		    bpf_l4_csum_replace(skb, check, 0, outer, BPF_F_PSEUDO_HDR) ||
		    bpf_l4_csum_replace(skb, check, 0, sum, 0))
			goto error;
		bpf_csum_update(skb, outer);
	} else {
		struct quoted4 was, is;
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, at, &was, sizeof(was)) || bpf_skb_load_bytes(skb, l3, &ip, sizeof(ip)))
			return TC_ACT_UNSPEC;
		is = was;
		is.ip.saddr = back->to.dst[3];
		is.ip.daddr = back->to.src[3];
		is.ip.check = csum_fold(csum_change(csum_change((__u16)~was.ip.check, was.ip.saddr, is.ip.saddr), was.ip.daddr, is.ip.daddr));
		is.sport = back->to.dport;
		is.dport = back->to.sport;
		is.seq = bpf_htonl(bpf_ntohl(was.seq) - f->legs[!side].seq_delta);
		sum = bpf_csum_diff((__be32 *)&was, sizeof(was), (__be32 *)&is, sizeof(is), 0);
		ip.check = csum_fold(csum_change(csum_change((__u16)~ip.check, ip.saddr, back->to.src[3]), ip.daddr, back->to.dst[3]));
		ip.saddr = back->to.src[3];
		ip.daddr = back->to.dst[3];
		if (bpf_skb_store_bytes(skb, at, &is, sizeof(is), 0) ||
		    bpf_skb_store_bytes(skb, l3, &ip, sizeof(ip), 0) ||
		    bpf_l4_csum_replace(skb, check, 0, sum, 0))
			goto error;
	}
	count(TRANSLATED_ICMP, 1);
	return forward(skb, l3, back->ifindex, back->way);
error:
	count(DROPPED_ERROR, 1);
	return TC_ACT_SHOT;
}

#endif
