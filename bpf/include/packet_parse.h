/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Finds the TCP header of a packet, and what it says. */
#ifndef SPLICEWAY_PACKET_PARSE_H
#define SPLICEWAY_PACKET_PARSE_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "packet.h"

#define TH_FIN 0x01
#define TH_SYN 0x02
#define TH_RST 0x04
#define TH_ACK 0x10
#define TH_URG 0x20
#define TH_ECE 0x40
#define TH_CWR 0x80

#define IP_FRAGMENT 0x3fff /* more fragments, or an offset */
#define IPPROTO_ICMP 1
#define IPPROTO_ICMPV6 58
#define IPPROTO_HOPOPTS 0

/* Headers that must be in reach at once: IPv6 with one extension, TCP without options. */
#define HEADERS_MAX (ETH_HLEN + 40 + 8 + 20)

enum parsed {
	NOT_OURS,  /* nothing that a flow could have */
	SEGMENT,   /* a TCP header */
	ICMP,      /* ICMP or ICMPv6, its header at l4 */
	MALFORMED, /* TCP, but not a whole header */
	FRAGMENT,
};

struct packet {
	struct tuple key;
	__u32 l4;      /* offset */
	__u32 end;     /* offset after the last byte of the IP packet */
	__u32 options; /* bytes of TCP options */
	__u32 payload; /* bytes after the TCP header */
	__u32 seq, ack;
	__u16 window;
	__u8 flags;
	bool ipv6;
};

/*
 * An offset of a header, with its bound in sight of the verifier, which loses it
 * when the offset is kept on the stack.
 */
static __always_inline __u64 bound(__u64 offset)
{
	asm volatile("%0 &= 127" : "+r"(offset));
	return offset;
}

static __always_inline void map_ipv4(__be32 to[4], __be32 address)
{
	to[0] = 0;
	to[1] = 0;
	to[2] = bpf_htonl(0xffff);
	to[3] = address;
}

/*
 * l3 is where the network header is: a constant of the program. All packet
 * pointers are void after it.
 */
static __always_inline enum parsed parse(struct __sk_buff *skb, struct packet *p, __u32 l3)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	struct tcphdr *th;
	__u32 doff;
	__u8 proto;

	/* A tag that is still there belongs to another device. */
	if (skb->vlan_present)
		return NOT_OURS;
	p->ipv6 = skb->protocol == bpf_htons(ETH_P_IPV6);
	if (p->ipv6) {
		struct ipv6hdr *ip;

		if (data + l3 + sizeof(*ip) + sizeof(*th) > end) {
			if (bpf_skb_pull_data(skb, skb->len < HEADERS_MAX ? skb->len : HEADERS_MAX))
				return NOT_OURS;
			data = (void *)(long)skb->data;
			end = (void *)(long)skb->data_end;
		}
		ip = data + l3;
		if ((void *)(ip + 1) > end)
			return NOT_OURS;
		__builtin_memcpy(p->key.src, ip->saddr, sizeof(p->key.src));
		__builtin_memcpy(p->key.dst, ip->daddr, sizeof(p->key.dst));
		proto = ip->nexthdr;
		p->l4 = l3 + sizeof(*ip);
		p->end = l3 + sizeof(*ip) + bpf_ntohs(ip->payload_len);
		if (proto == IPPROTO_HOPOPTS) { /* jumbograms, that is large GSO packets */
			__u8 *option = (void *)(ip + 1);

			if ((void *)(option + 8) > end || option[1])
				return NOT_OURS;
			proto = option[0];
			p->l4 += 8;
		}
		if (!ip->payload_len)
			p->end = skb->len;
	} else if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip;

		if (data + l3 + sizeof(*ip) + sizeof(*th) > end) {
			if (bpf_skb_pull_data(skb, skb->len < HEADERS_MAX ? skb->len : HEADERS_MAX))
				return NOT_OURS;
			data = (void *)(long)skb->data;
			end = (void *)(long)skb->data_end;
		}
		ip = data + l3;
		if ((void *)(ip + 1) > end || ip->ihl < 5)
			return NOT_OURS;
		map_ipv4(p->key.src, ip->saddr);
		map_ipv4(p->key.dst, ip->daddr);
		proto = ip->protocol;
		p->l4 = l3 + ip->ihl * 4;
		p->end = ip->tot_len ? l3 + bpf_ntohs(ip->tot_len) : skb->len;
		if (ip->frag_off & bpf_htons(IP_FRAGMENT)) {
			/* Only the first has ports; the others' do not matter. */
			if (proto != IPPROTO_TCP || (ip->frag_off & bpf_htons(0x1fff)))
				return NOT_OURS;
			th = data + p->l4;
			if ((void *)(th + 1) > end)
				return NOT_OURS;
			p->key.sport = th->source;
			p->key.dport = th->dest;
			return FRAGMENT;
		}
	} else {
		return NOT_OURS;
	}
	if (proto == (p->ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return ICMP;
	if (proto != IPPROTO_TCP)
		return NOT_OURS;
	th = data + p->l4;
	if ((void *)(th + 1) > end)
		return NOT_OURS;
	p->key.sport = th->source;
	p->key.dport = th->dest;
	p->seq = bpf_ntohl(th->seq);
	p->ack = bpf_ntohl(th->ack_seq);
	p->window = bpf_ntohs(th->window);
	p->flags = th->flags;
	doff = th->doff * 4;
	if (doff < sizeof(*th) || p->end > skb->len || p->l4 + doff > p->end)
		return MALFORMED;
	p->options = doff - sizeof(*th);
	p->payload = p->end - p->l4 - doff;
	return SEGMENT;
}

#endif
