// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
//go:build ignore

/*
 * Established flows, forwarded packet by packet. The gateway's two TCP connections
 * of a flow, one to the client and one to the backend, are taken out from between
 * the two ends: what is left is a translation of addresses, ports, sequence
 * numbers and timestamps, and the ends are each other's peers.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "packet.h"
#include "packet_maps.h"
#include "packet_parse.h"
#include "packet_flip.h"
#include "packet_translate.h"
#include "packet_icmp.h"

static __always_inline bool was_reset(__u32 marks)
{
	return marks & (MARK_RST_CLIENT | MARK_RST_BACKEND) && (marks & MARK_RST_EXACT || !(marks & MARK_RST_DOUBTED));
}

/* May either end have forgotten the connection, as far as it is known here? */
static __always_inline bool over(const struct flow *f)
{
	const __u32 both = MARK_FIN_CLIENT | MARK_FIN_BACKEND;

	return (f->marks & both) == both || was_reset(f->marks);
}

/*
 * A client's packet while the agent still has the flow. True if it is spliced after
 * all: another packet was first.
 */
static __noinline bool client_spoke(struct __sk_buff *skb, __u64 id, struct flow *f, const struct packet *p)
{
	bool closes = p->flags & (TH_FIN | TH_SYN | TH_RST);
	enum state was;

	if (!p->payload && !closes)
		return false;
	if (!closes) {
		/* The hello once more, because its ACK was lost, is nothing new. */
		struct end a;

		if (!read_end(skb, &p->key, p->ipv6, &a) && !after(p->seq + p->payload, a.rcv_nxt))
			return state_of(f) == SPLICED;
	}
	was = transit(f, ARMED, DECLINED);
	if (was == FLIPPING)
		was = transit(f, FLIPPING, DECLINED);
	if (was == ARMED || was == FLIPPING) {
		if (state_of(f) == DECLINED)
			emit(id, EVENT_DECLINED, closes ? CLOSING : CLIENT_SPOKE, 0);
		return state_of(f) == SPLICED;
	}
	return was == SPLICED;
}

static __always_inline int ingress(struct __sk_buff *skb, __u32 l3)
{
	struct direction *d;
	struct packet p;
	enum parsed parsed;
	struct flow *f;
	enum state state;
	__u32 side;
	__u64 id;

	parsed = parse(skb, &p, l3);
	if (parsed == NOT_OURS)
		return TC_ACT_UNSPEC;
	if (parsed == ICMP)
		return icmp_error(skb, &p, l3);
	d = bpf_map_lookup_elem(&tuples, &p.key);
	if (!d)
		return TC_ACT_UNSPEC;
	id = d->flow;
	side = d->side & 1;
	f = bpf_map_lookup_elem(&flows, &id);
	if (!f || !is_of(f, side, &p.key))
		return TC_ACT_UNSPEC;
	state = state_of(f);
	if (parsed != SEGMENT) {
		/* The guard sees to it that the kernel does not answer. */
		if (state == SPLICED)
			count(parsed == FRAGMENT ? PASSED_FRAGMENT : PASSED_MALFORMED, 1);
		return TC_ACT_UNSPEC;
	}
	if (state == ARMED || state == FLIPPING) {
		if (side == CLIENT ? !client_spoke(skb, id, f, &p) : !try_flip(skb, id, f, &p)) {
			count(PASSED_ARMED, 1);
			return TC_ACT_UNSPEC;
		}
		/* B may as well hear that it has nothing to send any more. */
		if (side == BACKEND && !p.payload && !(p.flags & (TH_FIN | TH_RST)))
			return TC_ACT_UNSPEC;
		state = SPLICED;
	}
	if (state != SPLICED) {
		count(state == DONE ? PASSED_DONE : PASSED_ARMED, 1);
		return TC_ACT_UNSPEC;
	}
	if ((p.flags & (TH_SYN | TH_ACK)) == TH_SYN && over(f)) {
		/* A new connection on an old tuple: it is to be routed like any other. */
		if (transit(f, SPLICED, DONE) == SPLICED)
			emit(id, EVENT_REPLACED, OK, 0);
		count(PASSED_SYN, 1);
		return TC_ACT_UNSPEC;
	}
	note(skb, id, f, side, &p);
	return translate(skb, f, side, &p, l3);
}

/*
 * Hook: tc ingress (tcx or clsact) of a device with link-layer addresses.
 *
 * Verdict: TC_ACT_UNSPEC for what is not a spliced flow's, which leaves it to the
 * next program and then to the kernel. A spliced flow's packet is redirected, on
 * the loopback device passed up, and dropped only where a router would drop it.
 */
SEC("tc")
int packet_ingress(struct __sk_buff *skb)
{
	return ingress(skb, ETH_HLEN);
}

/* The same for a device without a link-layer header: tun, ipip, wireguard. */
SEC("tc")
int packet_ingress_raw(struct __sk_buff *skb)
{
	return ingress(skb, 0);
}

static __always_inline int egress(struct __sk_buff *skb, __u32 l3)
{
	struct direction *d;
	struct tuple back;
	struct packet p;
	struct flow *f;
	enum state state;
	__u64 id;

	/* What came in by a device is forwarded: our own work, or somebody else's. */
	if (skb->ingress_ifindex)
		return TC_ACT_UNSPEC;
	if (parse(skb, &p, l3) != SEGMENT)
		return TC_ACT_UNSPEC;
	__builtin_memcpy(back.src, p.key.dst, sizeof(back.src));
	__builtin_memcpy(back.dst, p.key.src, sizeof(back.dst));
	back.sport = p.key.dport;
	back.dport = p.key.sport;
	d = bpf_map_lookup_elem(&tuples, &back);
	if (!d)
		return TC_ACT_UNSPEC;
	id = d->flow;
	f = bpf_map_lookup_elem(&flows, &id);
	if (!f || !is_of(f, d->side & 1, &back))
		return TC_ACT_UNSPEC;
	state = state_of(f);
	if (state != SPLICED && state != FLIPPING)
		return TC_ACT_UNSPEC;
	count(DROPPED_GUARD, 1);
	return TC_ACT_SHOT;
}

/*
 * Hook: tc egress of the same devices: the guard. Retransmissions, probes and resets
 * of the kernel's own two sockets, or of a kernel that has no socket, do not get out
 * once a flow is spliced. Everything else passes.
 */
SEC("tc")
int packet_egress(struct __sk_buff *skb)
{
	return egress(skb, ETH_HLEN);
}

SEC("tc")
int packet_egress_raw(struct __sk_buff *skb)
{
	return egress(skb, 0);
}

/* Changes a flow's state if it is what the agent takes it for; it may have changed. */
SEC("syscall")
int packet_transit(struct transition *t)
{
	__u64 id = t->flow;
	struct flow *f = bpf_map_lookup_elem(&flows, &id);

	t->was = f ? transit(f, t->from, t->to) : FREE;
	return 0;
}

/* Leads one side's packets to another device. */
SEC("syscall")
int packet_reroute(struct transition *t)
{
	__u64 id = t->flow;
	struct flow *f = bpf_map_lookup_elem(&flows, &id);

	t->was = FREE;
	if (!f)
		return 0;
	t->was = state_of(f);
	f->legs[t->side & 1].ifindex = t->ifindex;
	f->legs[t->side & 1].way = t->way;
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
