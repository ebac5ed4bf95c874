/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Rewrites a packet of a spliced flow from one leg's terms to the other's. */
#ifndef SPLICEWAY_PACKET_TRANSLATE_H
#define SPLICEWAY_PACKET_TRANSLATE_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "packet.h"
#include "packet_maps.h"
#include "packet_parse.h"

#define BPF_F_PSEUDO_HDR (1ULL << 4)

#define OPTION_END 0
#define OPTION_NOP 1
#define OPTION_SACK 5
#define OPTION_TIMESTAMPS 8
#define OPTIONS_MAX 40

/* NOP, NOP, timestamps: what Linux sends when there is nothing else. */
#define OPTIONS_USUAL 12
#define OPTIONS_USUAL_START bpf_htonl(0x0101080a)

#define ECN_MASK 3
#define ECN_CE 3

/* What is added to the fields of a packet. */
struct shift {
	__u32 seq, ack, tsval, tsecr;
};

static __always_inline struct shift shift_of(const struct flow *f, __u32 side)
{
	const struct leg *own = &f->legs[side & 1], *other = &f->legs[!side];

	return (struct shift){
		.seq = own->seq_delta,
		.ack = -other->seq_delta,
		.tsval = own->tsval_delta,
		.tsecr = -other->tsval_delta,
	};
}

/* One's complement arithmetic: RFC 1624. */
static __always_inline __wsum csum_add(__wsum sum, __u32 with)
{
	__u64 s = (__u64)sum + with;

	return (__u32)s + (__u32)(s >> 32);
}

static __always_inline __wsum csum_change(__wsum sum, __u32 from, __u32 to)
{
	return csum_add(csum_add(sum, ~from), to);
}

static __always_inline __sum16 csum_fold(__wsum sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static __always_inline __u32 load32(const __u8 *b)
{
	return (__u32)b[0] << 24 | (__u32)b[1] << 16 | (__u32)b[2] << 8 | b[3];
}

static __always_inline void add32(__u8 *b, __u32 n)
{
	__u32 v = load32(b) + n;

	b[0] = v >> 24;
	b[1] = v >> 16;
	b[2] = v >> 8;
	b[3] = v;
}

struct options {
	__u8 bytes[104]; /* 40 are used: with a masked index and what is behind it still inside */
	__u32 len;
	__u32 at;
	struct shift shift;
	bool ack;
};

/* One option; bpf_loop's callback: 1 stops it. */
static long translate_option(__u32 i, struct options *o)
{
	__u32 at = o->at, len, block;

	if (at >= o->len || at >= OPTIONS_MAX)
		return 1;
	switch (o->bytes[at & 63]) {
	case OPTION_END:
		return 1;
	case OPTION_NOP:
		o->at = at + 1;
		return 0;
	}
	if (at + 1 >= o->len)
		return 1;
	len = o->bytes[(at + 1) & 63];
	if (len < 2 || at + len > o->len)
		return 1;
	if (o->bytes[at & 63] == OPTION_TIMESTAMPS && len == 10 && at <= OPTIONS_MAX - 10) {
		add32(&o->bytes[(at & 31) + 2], o->shift.tsval);
		/* Without ACK it means nothing (RFC 7323, section 3.2). */
		if (o->ack)
			add32(&o->bytes[(at & 31) + 6], o->shift.tsecr);
	} else if (o->bytes[at & 63] == OPTION_SACK) {
		for (block = 0; block < 4; block++) {
			__u32 edge = at + 2 + 8 * block;

			if (edge + 8 > at + len || edge > OPTIONS_MAX - 8)
				break;
			add32(&o->bytes[edge & 63], o->shift.ack);
			add32(&o->bytes[(edge + 4) & 63], o->shift.ack);
		}
	}
	o->at = at + len;
	return 0;
}

/*
 * Translates options in any layout; what is no option any more is left as it is.
 * Returns the change of the checksum. All packet pointers are void after it.
 */
static __noinline __wsum translate_options(struct __sk_buff *skb, __u32 offset, __u32 len, const struct shift *shift, bool ack)
{
	struct options o = { .shift = *shift, .ack = ack };
	__u32 before[OPTIONS_MAX / 4] = {};
	__s64 change;

	if (len < 4 || len > OPTIONS_MAX)
		return 0;
	if (bpf_skb_load_bytes(skb, offset, o.bytes, len))
		return 0;
	__builtin_memcpy(before, o.bytes, sizeof(before));
	o.len = len;
	bpf_loop(OPTIONS_MAX, translate_option, &o, 0);
	change = bpf_csum_diff(before, sizeof(before), (__be32 *)o.bytes, sizeof(before), 0);
	if (change < 0 || bpf_skb_store_bytes(skb, offset, o.bytes, len, 0))
		return 0;
	return change;
}

static __always_inline __u16 rescale(__u16 window, const struct leg *l)
{
	__u32 w = ((__u32)window << (l->wscale_in & 15)) >> (l->wscale_out & 15);

	return w > 0xffff ? 0xffff : w;
}

/*
 * The network header: addresses, time to live, ECN. False: the packet ends here.
 * change is of what TCP's checksum does not cover, for IPv6: IPv4 has its own.
 */
static __always_inline bool translate_ip(void *header, void *end, const struct leg *l, bool ipv6, __wsum *uncovered)
{
	bool no_ecn = l->flags & LEG_NO_ECN;

	if (ipv6) {
		struct ipv6hdr *ip = header;
		__be32 *hops, was;

		if ((void *)(ip + 1) > end)
			return false;
		if (ip->hop_limit <= 1) {
			count(DROPPED_TTL, 1);
			return false;
		}
		hops = (__be32 *)header + 1;
		was = *hops;
		ip->hop_limit--;
		*uncovered = csum_change(0, was, *hops);
		if (no_ecn) {
			__u32 class = bpf_ntohl(ip->ver_class_flow);

			if ((class >> 20 & ECN_MASK) == ECN_CE) {
				count(DROPPED_CE, 1);
				return false;
			}
			was = ip->ver_class_flow;
			ip->ver_class_flow = bpf_htonl(class & ~(ECN_MASK << 20));
			*uncovered = csum_change(*uncovered, was, ip->ver_class_flow);
		}
		__builtin_memcpy(ip->saddr, l->to.src, sizeof(ip->saddr));
		__builtin_memcpy(ip->daddr, l->to.dst, sizeof(ip->daddr));
	} else {
		struct iphdr *ip = header;
		__wsum sum;

		if ((void *)(ip + 1) > end)
			return false;
		if (ip->ttl <= 1) {
			count(DROPPED_TTL, 1);
			return false;
		}
		sum = csum_add((__u16)~ip->check, l->address_csum);
		sum = csum_change(sum, bpf_htons(ip->ttl << 8), bpf_htons((ip->ttl - 1) << 8));
		ip->ttl--;
		if (no_ecn) {
			if ((ip->tos & ECN_MASK) == ECN_CE) {
				count(DROPPED_CE, 1);
				return false;
			}
			sum = csum_change(sum, bpf_htons(ip->tos), bpf_htons(ip->tos & ~ECN_MASK));
			ip->tos &= ~ECN_MASK;
		}
		ip->saddr = l->to.src[3];
		ip->daddr = l->to.dst[3];
		ip->check = csum_fold(sum);
	}
	return true;
}

/* Sends a translated packet on its way. */
static __always_inline int forward(struct __sk_buff *skb, __u32 l3, __u32 ifindex, __u8 way)
{
	switch (way) {
	case WAY_UP:
		return TC_ACT_OK;
	case WAY_RAW:
		return bpf_redirect(ifindex, 0);
	}
	/* bpf_redirect_neigh takes a link-layer header off and wants to find one. */
	if (!l3 && bpf_skb_change_head(skb, ETH_HLEN, 0)) {
		count(DROPPED_ERROR, 1);
		return TC_ACT_SHOT;
	}
	return bpf_redirect_neigh(ifindex, NULL, 0, 0);
}

/*
 * The whole packet, from side. Headers change in place; checksums change by the
 * difference, through the helpers that know whether the packet's is whole, is to be
 * completed by the device, or was taken by it (inet_proto_csum_replace_by_diff).
 */
static __always_inline int translate(struct __sk_buff *skb, struct flow *f, __u32 side, const struct packet *p, __u32 l3)
{
	struct leg *l = &f->legs[side & 1];
	struct shift shift = shift_of(f, side);
	__wsum sum = 0, uncovered = 0;
	struct tcphdr *th;
	void *data, *end;
	__be32 *options;
	__u64 l4 = bound(p->l4);

	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (p->options) {
		options = data + l4 + sizeof(*th);
		if (p->options != OPTIONS_USUAL || (void *)options + OPTIONS_USUAL > end || *options != OPTIONS_USUAL_START) {
			sum = translate_options(skb, l4 + sizeof(*th), p->options, &shift, p->flags & TH_ACK);
			data = (void *)(long)skb->data;
			end = (void *)(long)skb->data_end;
		} else {
			__be32 tsval = bpf_htonl(bpf_ntohl(options[1]) + shift.tsval);

			sum = csum_change(sum, options[1], tsval);
			options[1] = tsval;
			if (p->flags & TH_ACK) {
				__be32 tsecr = bpf_htonl(bpf_ntohl(options[2]) + shift.tsecr);

				sum = csum_change(sum, options[2], tsecr);
				options[2] = tsecr;
			}
		}
	}
	th = data + l4;
	if (data + l3 > end || (void *)(th + 1) > end) {
		count(DROPPED_ERROR, 1);
		return TC_ACT_SHOT;
	}
	if (!translate_ip(data + l3, end, l, p->ipv6, &uncovered))
		return TC_ACT_SHOT;

	{
		__be32 seq = bpf_htonl(p->seq + shift.seq);
		__be32 ports = (__u32)l->to.sport | (__u32)l->to.dport << 16;
		__be16 window = bpf_htons(rescale(p->window, l));

		sum = csum_change(sum, th->seq, seq);
		th->seq = seq;
		if (p->flags & TH_ACK || (p->flags & (TH_SYN | TH_RST)) == TH_SYN) {
			bool syn = !(p->flags & TH_ACK);
			__be32 ack = bpf_htonl((syn ? (__u32)f->moved[side & 1].acked : p->ack) + shift.ack);

			sum = csum_change(sum, th->ack_seq, ack);
			th->ack_seq = ack;
			if (syn) {
				/*
				 * One end has forgotten the connection. The other, which
				 * would answer a SYN with a challenge ACK (RFC 5961,
				 * section 4), answers an ACK that is out of the window so,
				 * too; and if it has forgotten it as well, a SYN would make
				 * a connection that nobody has routed.
				 */
				sum = csum_change(sum, bpf_htons(th->flags), bpf_htons(TH_ACK));
				th->flags = TH_ACK;
			}
		}
		sum = csum_change(sum, (__u32)th->source | (__u32)th->dest << 16, ports);
		th->source = l->to.sport;
		th->dest = l->to.dport;
		sum = csum_change(sum, th->window, window);
		th->window = window;
		if (l->flags & LEG_NO_ECN) {
			sum = csum_change(sum, bpf_htons(th->flags), bpf_htons(th->flags & ~(TH_ECE | TH_CWR)));
			th->flags &= ~(TH_ECE | TH_CWR);
		}
	}
	l4 += __builtin_offsetof(struct tcphdr, check);
	if (bpf_l4_csum_replace(skb, l4, 0, l->address_csum, BPF_F_PSEUDO_HDR) || bpf_l4_csum_replace(skb, l4, 0, sum, 0)) {
		count(DROPPED_ERROR, 1);
		return TC_ACT_SHOT;
	}
	/*
	 * The helper takes a change of the pseudo header for one that nothing else
	 * makes up for, which holds for IPv4 with its header checksum. Where the device
	 * summed up the packet, put that right.
	 */
	if (p->ipv6)
		bpf_csum_update(skb, csum_add(l->address_csum, uncovered));
	count(TRANSLATED, 1);
	return forward(skb, l3, l->ifindex, l->way);
}

/* Sequence numbers: is a after b? RFC 9293, section 3.4. */
static __always_inline bool after(__u32 a, __u32 b)
{
	return (__s32)(a - b) > 0;
}

/* The most that a side can have announced to take, and one more: a probe of a closed window. */
static __always_inline __u32 window_max(const struct flow *f, __u32 side)
{
	return (0xffffU << (f->legs[side & 1].wscale_in & 15)) + 1;
}

/*
 * Is a sequence number one that the receiver could have announced a window for? Who
 * does not see the connection can only guess at one (RFC 5961, section 3).
 */
static __always_inline bool plausible(const struct flow *f, __u32 side, __u32 seq)
{
	__u32 ahead = seq + f->legs[side & 1].seq_delta - (__u32)f->moved[!side].acked;

	return ahead < window_max(f, !side);
}

/*
 * Notes what a packet says about the flow's life, and emits its end. FIN and RST
 * count if they are plausible; whether the receiver believed an RST shows in what
 * comes after.
 */
static __always_inline void note(struct __sk_buff *skb, __u64 id, struct flow *f, __u32 side, const struct packet *p)
{
	struct moved *own = &f->moved[side & 1], *other = &f->moved[!side];
	__u32 marks = *(volatile __u32 *)&f->marks, new = 0, now = ticks();

	__sync_fetch_and_add(&own->packets, skb->gso_segs > 1 ? skb->gso_segs : 1);
	if (p->flags & TH_RST) {
		if (plausible(f, side, p->seq)) {
			new = side == CLIENT ? MARK_RST_CLIENT : MARK_RST_BACKEND;
			if (p->seq + f->legs[side & 1].seq_delta == (__u32)other->acked)
				new |= MARK_RST_EXACT;
			f->closed = now;
		}
	} else {
		/* An ACK from nowhere is not believed (RFC 9293, section 3.10.7.4), and changes nothing here. */
		bool ack = p->flags & TH_ACK && plausible(f, side, p->seq + p->payload + !!(p->flags & TH_FIN));
		__u32 more = p->ack - (__u32)own->acked;

		if (own->seen != now)
			own->seen = now;
		/* Who asks back for an inexact RST does so by a bare ACK (RFC 5961, section 3.2). */
		if (marks & (MARK_RST_CLIENT | MARK_RST_BACKEND) && ack && !p->payload)
			new |= MARK_RST_DOUBTED;
		/*
		 * Nor one of more than a window after the last: it cannot have been sent.
		 * Both writers of a race write what is true; the later packet mends it.
		 */
		ack = ack && (more <= window_max(f, side) || (__s32)more < 0);
		if (ack && (__s32)more > 0)
			own->acked += more;
		if (p->flags & TH_FIN && plausible(f, side, p->seq + p->payload)) {
			own->fin = p->seq + p->payload + 1;
			new |= side == CLIENT ? MARK_FIN_CLIENT : MARK_FIN_BACKEND;
			if (side == BACKEND && !(marks & MARK_FIN_CLIENT))
				new |= MARK_FIRST_BACKEND;
		}
		/* Has the other side's FIN arrived here? */
		if ((side == CLIENT ? marks & MARK_FIN_BACKEND : marks & MARK_FIN_CLIENT) && ack &&
		    !after(other->fin + f->legs[!side].seq_delta, p->ack))
			new |= side == CLIENT ? MARK_FIN_ACKED_BACKEND : MARK_FIN_ACKED_CLIENT;
	}
	new &= ~marks;
	if (!new)
		return;
	marks = __sync_fetch_and_or(&f->marks, new) | new;
	if (new & (MARK_FIN_ACKED_CLIENT | MARK_FIN_ACKED_BACKEND) &&
	    marks & MARK_FIN_ACKED_CLIENT && marks & MARK_FIN_ACKED_BACKEND) {
		f->closed = now;
		emit(id, EVENT_ENDED, OK, 0);
	} else if (new & (MARK_RST_CLIENT | MARK_RST_BACKEND)) {
		emit(id, EVENT_ENDED, OK, 0);
	}
}

#endif
